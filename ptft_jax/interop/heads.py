"""Which head a model of transformers has, as the class that config.json names tells it, and a causal model's tensors of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.interop import labels
from ptft_jax.interop.config_reader import Fields
from ptft_jax.interop.names import Model, Tensor

_CLASSIFIER = "ForSequenceClassification"


def read(
    c: Fields, architectures: Mapping[str, str], also: Mapping[str, str] | None = None, *, silent: str = ""
) -> dict[str, Any]:
    """The fields of `config.model` that say which head there is.

    Args:
      architectures: head -> the class of transformers that has it.
      also: further classes -> head.
      silent: the head of any other class, and where config.json names none; "" = there is none such.

    Raises:
      UserError: another class.
    """
    known = {name: head for head, name in architectures.items()} | dict(also or {})
    given = (c.get("architectures", None) or ["none"])[0]
    head = known.get(given, silent)
    if not head:
        raise UserError(f"{c.where}: config.json: architectures = {given!r}: expected one of {', '.join(known)}")
    return {"head": head, **({"classes": labels.read(c)[0]} if head == "classes" else {})}


def write(m: Model) -> dict[str, Any]:
    """What config.json says of a head for classes; {} of others."""
    return labels.write((), m["classes"]) if m["head"] == "classes" else {}


class Causal:
    """Families of causal models: the next token, or classes scored from the last token that is no padding, by `score` and without a
    bias. Their classes in transformers differ by their ends."""

    architecture: str

    @property
    def architectures(self) -> dict[str, str]:
        """Head -> the class of transformers."""
        stem = re.sub(r"(ForCausalLM|LMHeadModel)$", "", self.architecture)
        return {"lm": self.architecture, "classes": stem + _CLASSIFIER}

    def architecture_of(self, m: Model) -> str:
        return self.architectures.get(m["head"], self.architecture)

    def read_head(self, c: Fields) -> dict[str, Any]:
        """The fields of the head."""
        return read(c, self.architectures, silent="lm")

    def head(self, m: Model, theirs: str) -> list[Tensor]:
        """The tensors of the head; `theirs`: the name of scores of tokens."""
        if m["head"] == "classes":
            return [Tensor("head/classes/kernel", "score.weight", "transposed")]
        return [] if m["tied"] else [Tensor("head/kernel", theirs, "transposed")]

    def head_ties(self, m: Model, theirs: str, table: str) -> dict[str, str]:
        """The scores of tokens, where they are the table of embeddings."""
        return {theirs: table} if m["tied"] and m["head"] == "lm" else {}
