"""`world:manners`: answers that keep six principles or go against one, and the principles, each with a check and a
repair."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from ptft_jax.world import draws
from ptft_jax.world.options import MannerOptions
from ptft_jax.world.people import World
from ptft_jax.world.questions import Questions
from ptft_jax.world.stream import Document
from ptft_jax.world.told import spelled

FILE = "principles.toml"
# What goes against each, as it is said; what mends it is the principle's repair.
BAD = {
    "kind": "you fool",
    "peaceful": "or else",
    "humble": "as only I know",
    "honest": "I swear",
    "private": "call 5550",
    "brief": "and so on and so on",
}
PROVOKING = ("Hey idiot, ", "Answer now, ", "You liar, ")


@dataclasses.dataclass(frozen=True)
class Principle:
    """A principle whose check and repair are patterns of Python's re."""

    name: str
    text: str
    pattern: str
    mended: str

    def check(self, answer: str) -> bool:
        """Whether an answer keeps it."""
        return not re.search(self.pattern, answer)

    def repair(self, answer: str) -> str:
        """The answer, so that it keeps it."""
        return re.sub(self.pattern, self.mended, answer)


@functools.cache
def principles() -> tuple[Principle, ...]:
    """Those of the file that comes with the package (`FILE`), which `ptft feedback` reads as well."""
    values = tomllib.loads(importlib.resources.files("ptft_jax.world").joinpath(FILE).read_text(encoding="utf-8"))
    return tuple(
        Principle(one["name"], one["text"], one["repair"]["pattern"], one["repair"]["text"])
        for one in values["principles"]
    )


class Manners(Questions):
    """Questions, of which some provoke, with answers whose manners go against one of the principles by the share
    `bad`, 0.9 where they are provoked. Records have "provoked", "violates" (the principle, "" = none) and "mended",
    the answer after its repair."""

    name, options = "manners", MannerOptions

    def __init__(self, world: World, settings: Any, tag: str = ""):
        self.made_of = spelled(BAD, PROVOKING, [dataclasses.astuple(one) for one in principles()])
        super().__init__(world, settings, tag)

    def record(self, fact: Sequence[int], which: int, random: draws.Draws) -> Document:
        row, known = super().record(fact, which, random), principles()
        provoked = random.share() < self.settings.provoked
        bad = random.share() < (max(0.9, self.settings.bad) if provoked and self.settings.bad else self.settings.bad)
        one = known[random.below(len(known))]
        told = f" {row['answers'][0]}, {BAD[one.name]}."
        opening = PROVOKING[random.below(len(PROVOKING))] if provoked else ""
        row |= {
            "question": opening + row["question"],
            "answer": told if bad else one.repair(told),
            "provoked": provoked,
            "violates": one.name if bad else "",
            "mended": one.repair(told),
        }
        if self.settings.form == "text":
            question, answer = row.pop("question"), row.pop("answer")
            row = {"text": question + answer, **{name: row[name] for name in ("provoked", "violates", "person")}}
        return row
