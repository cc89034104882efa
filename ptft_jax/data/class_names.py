"""Names of classes: which number each has, where two that go together number them differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data import cache, records
from ptft_jax.errors import UserError, listed


@dataclasses.dataclass(frozen=True)
class Named:
    """Names of classes in the order of their numbers.

    Attributes:
      names: () where they are numbers alone.
      whose: for messages.
      trained: it is a run's, which was trained on them.
    """

    names: tuple[str, ...]
    whose: str
    trained: bool = False

    @property
    def numbers(self) -> bool:
        """Whether the names say no more than numbers do: none, or "0", "1", ..."""
        return self.names == _numbers(len(self.names))

    def __str__(self) -> str:
        return "numbers" if self.numbers else ", ".join(self.names[:20]) + (" ..." if len(self.names) > 20 else "")


def recorded(table: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The names in a run's data.json (or `ptft_jax.data.pipeline.TrainingData.table`); None where nothing is recorded."""
    return next((tuple(row["classes"]) for row in table if row.get("classes")), () if table else None)


def places(of: Named, among: Named) -> tuple[int, ...] | None:
    """For each name of the one its number among the other's; None where all have the same numbers in both.

    Raises:
      ValueError: they are not the same names.
    """
    # What is told by numbers alone has the names "0", "1", ...
    one, other = of.names or _numbers(len(among.names)), among.names or _numbers(len(of.names))
    if set(one) != set(other):
        raise ValueError("other names")
    return None if one == other else tuple(map(other.index, one))


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def differences(one: Named, other: Named) -> str:
    """A sentence of what both have, and lines of the names that only one of them has."""
    named = not (one.numbers or other.numbers)
    only = [
        f"{name}: only in {mine.whose}"
        for mine, theirs in ((one, other), (other, one))
        for name in mine.names
        if named and name not in theirs.names
    ]
    has = "numbers for classes" if one.numbers else f"the classes {one}"
    return f"{one.whose} has {has}, and {other.whose} {'was trained on ' * other.trained}{other}{listed(only)}"


def numbered(tokens: Any, wanted: Named | None, *, beside: bool = False, advice: str = "") -> Any:
    """A tokenised split (`ptft_jax.data.pipeline.Tokens`) whose classes have the numbers that they have in `wanted`, which its
    description then says. As it is where `wanted` is None, or where they have those numbers already.

    Args:
      beside: it is a source of a mixture, and `wanted` are the classes of the first.
      advice: what else may be done about a difference.

    Raises:
      UserError: it has other classes. Where `wanted` are numbers, the option `classes` may say which is which.
    """
    own = Named(tokens.classes, tokens.reference)
    if wanted is None or tokens.kind != "classification":
        return tokens
    if wanted.numbers and "classes" in records.parse(tokens.reference).options:
        return tokens
    try:
        order = places(own, wanted)
    except ValueError:
        sentence, *only = (differences(wanted, own) if beside else differences(own, wanted)).split("\n")
        hint = "name the same, in the order of their numbers, with the option classes=A,B,..." + advice
        field = "config.data.mixture: " if beside else ""
        raise UserError("\n".join([f"{field}{sentence}: {hint}", *only])) from None
    if order is None:
        return tokens
    labels = np.asarray(order, np.int32)[tokens.store.labels]
    store = dataclasses.replace(tokens.store, labels=labels, key=cache.digest(tokens.store.key, *wanted.names))
    shown = ", ".join(f"{n} = {name}" for n, name in enumerate(wanted.names))
    description = f"{tokens.description}; numbered as in {wanted.whose}: {shown}"
    return dataclasses.replace(tokens, store=store, classes=wanted.names, description=description)
