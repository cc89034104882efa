"""Reading another library's config.json: values with their defaults, and clear errors for what has no counterpart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError, nearest

# Their names of activations; the first of ours' names is what is written back.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


class Fields:
    """A config.json, read by name. `where` names it in messages."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values, self.where = values, where

    def need(self, name: str) -> Any:
        """The value, which must be there. Raises UserError."""
        value = self.values.get(name)
        if value is None:
            raise UserError(f"{self.where}: config.json has no {name!r}{nearest(name, self.values)}")
        return value

    def get(self, name: str, default: Any) -> Any:
        """The value, or the default that the other library gives where it is absent or null."""
        value = self.values.get(name)
        return default if value is None else value

    def refuse(self, **only: Any) -> None:
        """Raises UserError where a field has another value than the only one that is supported here."""
        for name, value in only.items():
            if self.values.get(name) not in (None, value):
                raise UserError(
                    f"{self.where}: config.json: {name} = {self.values[name]!r} is not supported, only {value!r}"
                )

    def activation(self, *names: str, default: str) -> str:
        """Our name of the activation in the first of the fields that is there."""
        value = next((self.values[n] for n in names if self.values.get(n) is not None), default)
        if value not in ACTIVATIONS:
            raise UserError(
                f"{self.where}: config.json: {names[0]} = {value!r} is not supported, only {', '.join(ACTIVATIONS)}"
                f"{nearest(str(value), ACTIVATIONS)}"
            )
        return ACTIVATIONS[value]


def activation_name(ours: str) -> str:
    """Their name of our activation."""
    return {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "silu": "silu", "relu": "relu"}[ours]
