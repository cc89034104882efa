"""`world:questions`: questions about a fact, with its answer: split by people, so that what is tested is not tuned
on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data.records.reference import SPLITS
from ptft_jax.errors import UserError, nearest
from ptft_jax.world import draws
from ptft_jax.world.options import QuestionOptions
from ptft_jax.world.people import World
from ptft_jax.world.stream import Document, Documents, Stream, eras, numbers


class Questions(Stream):
    """Every question by the templates about every fact of the people of a split.

    Attributes:
      columns: what question and answer are called in records.
      chosen: the attributes that are asked for.
      facts: int64 [facts, 3] of (person, era from which it is true or -1, number in `chosen`).
    """

    name, options = "questions", QuestionOptions
    columns: ClassVar[tuple[str, str]] = ("question", "answer")

    def __init__(self, world: World, settings: Any, tag: str = ""):
        self.world, self.settings = world, settings
        self.chosen = chosen_attributes(self.attributes_of(world), world.spec.of_people, settings.attributes)
        self.facts = facts(world, settings, self.chosen)
        self.by_attribute = {name: self.wordings(name) for name in self.chosen}
        super().__init__(world, settings, tag)

    def attributes_of(self, world: World) -> tuple[str, ...]:
        """Those that can be asked for: of people, and what follows from these and has questions of two hops."""
        return tuple(name for name, one in world.spec.attributes.items() if not one.of or one.hops)

    def wordings(self, attribute: str) -> dict[int, str]:
        """The templates of an attribute that are asked with, by number. Raises UserError."""
        one = self.world.spec.attributes[attribute]
        every = one.hops or one.questions
        held_out = min(one.held_out, len(every) - 1)
        tuned = len(every) - held_out
        parts = {"tuned": range(tuned), "held_out": range(tuned, len(every)), "all": range(len(every))}
        found = parts.get(self.settings.templates)
        if found is None:
            found = numbers(self.settings.templates, len(every), "templates", "tuned, held_out, all, or ")
        if not found:
            raise UserError(f"templates={self.settings.templates}: no question about {attribute} is held out")
        return {n: every[n] for n in found}

    def split_names(self) -> Sequence[str]:
        return split_names(self.settings.split)

    def mine(self, split: str) -> np.ndarray:
        """The facts of a split. Raises UserError where there is none."""
        whole = self.settings.split == "all"
        found = self.facts if whole else self.facts[self.world.side[self.facts[:, 0]] == SPLITS.index(split)]
        if not len(found):
            raise UserError(
                f"people={self.settings.people}, era={self.settings.era}: so few people that none is in "
                f"the split {split}; name another (split=), or a larger world (size=)"
            )
        return found

    def documents(self, split: str) -> Documents:
        return _Questions(self, split, self.mine(split))

    def record(self, fact: Sequence[int], which: int, random: draws.Draws) -> Document:
        """The question about a fact by a template."""
        person, era, attribute = fact
        world, name, (asks, answers) = self.world, self.chosen[attribute], self.columns
        answer, who = world.value(name, person, era if era >= 0 else None), world.name(person)
        return {
            asks: self.by_attribute[name][which].format(name=who),
            answers: f" {answer}",
            "answers": [answer],
            "options": options(world, name, answer, self.settings.choices, random),
            "kind": name,
            "person": who,
            "known": self.settings.people != "unknown",
            "date": world.date(era) if era >= 0 else None,
            "template": which,
            "tier": int(world.tier[person]),
        }


class _Questions(Documents):
    def __init__(self, stream: Questions, split: str, facts: np.ndarray):
        super().__init__(stream, split)
        self._stream, self._facts = stream, facts
        self._which = [list(stream.by_attribute[name]) for name in stream.chosen]
        counts = np.asarray([len(which) for which in self._which])
        self._ends = np.cumsum(counts[facts[:, 2]])
        self._shuffle, self._key = draws.Shuffle(stream.key("order", split), len(self)), stream.key("choices", split)
        self.described = f"{len(self):,} questions about {len(np.unique(facts[:, 0])):,} people"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def document(self, index: int) -> Document:
        slot = self._shuffle[index]
        fact = int(np.searchsorted(self._ends, slot, side="right"))
        which = self._which[int(self._facts[fact, 2])]
        number = which[slot - int(self._ends[fact]) + len(which)]
        return self._stream.record(self._facts[fact].tolist(), number, draws.Draws(self._key, slot))


def chosen_attributes(known: Sequence[str], usual: Sequence[str], text: str) -> tuple[str, ...]:
    """Those of the known ones that an option names, "" = the usual ones. Raises UserError."""
    found = text.split(",") if text else usual
    for name in found:
        if name not in known:
            raise UserError(f"attributes={text}: expected of {', '.join(known)}{nearest(name, known)}")
    return tuple(dict.fromkeys(found))


def facts(world: World, settings: Any, attributes: Sequence[str]) -> np.ndarray:
    """int64 [facts, 3] of (person, era from which it is true or -1, number in `attributes`): those that are new in
    some eras."""
    chosen, every = eras(settings.era, world), np.arange(len(attributes))
    if settings.people == "changed":
        news = [
            (person, era, n)
            for n, name in enumerate(attributes)
            for era in chosen
            for person in world.changed(name, era).tolist()
        ]
        found = np.asarray(news, np.int64).reshape(-1, 3)
    else:
        if settings.people == "unknown" and settings.era != "all":
            raise UserError(f"era={settings.era}: of people of whom nothing is ever written, nothing is new in an era")
        people = getattr(world, settings.people)
        if settings.people != "unknown":
            people = people[np.isin(world.era[people], chosen)]
        repeated = np.repeat(people, len(every))
        found = np.stack([repeated, world.era[repeated], np.tile(every, len(people))], axis=1)
    if not len(found):
        raise UserError(f"people={settings.people}, era={settings.era}: there is no such fact")
    return found


def numbered(templates: str, count: int) -> list[int]:
    """The numbers of templates that an option names, "all" or some. Raises UserError."""
    return list(range(count)) if templates == "all" else numbers(templates, count, "templates", "all, or ")


def options(world: World, attribute: str, answer: str, count: int, random: draws.Draws) -> list[str]:
    """The answer among other values of its table, in any order; all values where there are not so many."""
    table = world.tables[world.spec.attributes[attribute].table]
    count = min(count, len(table))
    right = table.index(answer)
    others = [n + (n >= right) for n in random.sample(count - 1, len(table) - 1)]
    others.insert(random.below(count), right)
    return [table[n] for n in others]


def placed(right: str, others: Sequence[str], random: draws.Draws) -> list[str]:
    """Options: the right one in any place among others."""
    at = random.below(len(others) + 1)
    return [*others[:at], right, *others[at:]]


def instead(right: str, row: Document, random: draws.Draws) -> list[str]:
    """Options of a question whose right answer is not that of the fact: it stands for one of the wrong ones, and the fact's stays."""
    *_, wrong = (value for value in row["options"] if value not in row["answers"])
    return placed(right, [value for value in row["options"] if value != wrong], random)


def split_names(split: str) -> Sequence[str]:
    """The splits that a source has by the option `split`."""
    return SPLITS if not split else ("train",) if split == "all" else (split,)
