"""`world:questions`: questions about a fact, with its answer: split by people, so that what is tested is not tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.data.records.reference import SPLITS
from ptft_jax.errors import UserError, nearest
from ptft_jax.world import draws
from ptft_jax.world.options import QuestionOptions
from ptft_jax.world.people import World
from ptft_jax.world.stream import Document, Documents, Stream, eras, numbers


class Questions(Stream):
    """Every question by the templates about every fact of the people of a split."""

    name, options = "questions", QuestionOptions

    def __init__(self, world: World, settings: Any):
        self.attributes = chosen_attributes(world, settings.attributes)
        self.facts = facts(world, settings, self.attributes)
        super().__init__(world, settings)

    def split_names(self) -> Sequence[str]:
        return split_names(self.settings.split)

    def documents(self, split: str) -> Documents:
        mine = (
            self.facts
            if self.settings.split == "all"
            else self.facts[self.world.side[self.facts[:, 0]] == SPLITS.index(split)]
        )
        if not len(mine):
            raise UserError(
                f"people={self.settings.people}, era={self.settings.era}: so few people that none is in the split {split}; "
                "name another (split=), or a larger world (size=)"
            )
        return _Questions(self, split, mine)


class _Questions(Documents):
    def __init__(self, stream: Questions, split: str, facts: np.ndarray):
        super().__init__(stream, split)
        world, self._facts, self._attributes = stream.world, facts, stream.attributes
        self._templates = {name: asked(world, name, stream.settings.templates) for name in stream.attributes}
        self._ends = np.cumsum([len(self._templates[stream.attributes[n]]) for n in facts[:, 2].tolist()])
        self._shuffle = draws.Shuffle(stream.key("order", split), int(self._ends[-1]))
        self._choices, self._key = stream.settings.choices, stream.key("choices")
        self._people = stream.settings.people
        self.described = f"{len(self):,} questions about {len(np.unique(facts[:, 0])):,} people"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def document(self, index: int) -> Document:
        slot = self._shuffle[index]
        fact = int(np.searchsorted(self._ends, slot, side="right"))
        person, era, attribute = self._facts[fact].tolist()
        world, name = self.world, self._attributes[attribute]
        which = self._templates[name][slot - int(self._ends[fact])]
        one = world.spec.attributes[name]
        answer = world.value(name, person, era)
        random = draws.Draws(self._key, fact * len(one.questions) + which)
        return {
            "question": one.questions[which].format(name=world.name(person)),
            "answer": f" {answer}",
            "answers": [answer],
            "options": options(world, name, answer, self._choices, random),
            "kind": name,
            "person": world.name(person),
            "known": self._people != "unknown",
            "date": world.date(era) if era >= 0 else None,
            "template": which,
            "tier": int(world.tier[person]),
        }


def chosen_attributes(world: World, text: str) -> tuple[str, ...]:
    """Those that an option names, "" = all of people. Raises UserError."""
    known = world.spec.of_people
    found = tuple(text.split(",")) if text else known
    for name in found:
        if name not in known:
            raise UserError(f"attributes={text}: expected of {', '.join(known)}{nearest(name, known)}")
    return tuple(dict.fromkeys(found))


def facts(world: World, settings: Any, attributes: Sequence[str]) -> np.ndarray:
    """int64 [facts, 3] of (person, era from which it is true or -1, number in `attributes`): those that are new in some eras."""
    chosen, rows = eras(settings.era, world), []
    if settings.people == "changed":
        rows = [
            (person, era, n)
            for n, name in enumerate(attributes)
            for era in chosen
            for person in world.changed(name, era).tolist()
        ]
    else:
        if settings.people == "unknown" and settings.era != "all":
            raise UserError(f"era={settings.era}: of people of whom nothing is ever written, nothing is new in an era")
        people = getattr(world, settings.people)
        if settings.people != "unknown":
            people = people[np.isin(world.era[people], chosen)]
        rows = [(person, int(world.era[person]), n) for person in people.tolist() for n in range(len(attributes))]
    if not rows:
        raise UserError(f"people={settings.people}, era={settings.era}: there is no such fact")
    return np.asarray(rows, np.int64)


def asked(world: World, attribute: str, templates: str) -> list[int]:
    """The numbers of an attribute's questions that an option names. Raises UserError."""
    one = world.spec.attributes[attribute]
    count, tuned = len(one.questions), len(one.questions) - one.held_out
    found = {"tuned": range(tuned), "held_out": range(tuned, count), "all": range(count)}.get(templates)
    if found is None:
        return numbers(templates, count, "templates")
    if not found:
        raise UserError(f"templates={templates}: no question about {attribute} is held out")
    return list(found)


def options(world: World, attribute: str, answer: str, count: int, random: draws.Draws) -> list[str]:
    """The answer among other values of its table, in any order; all values where there are not so many."""
    table = world.tables[world.spec.attributes[attribute].table]
    count = min(count, len(table))
    right = table.index(answer)
    others = [n + (n >= right) for n in random.sample(count - 1, len(table) - 1)]
    others.insert(random.below(count), right)
    return [table[n] for n in others]


def split_names(split: str) -> Sequence[str]:
    """The splits that a source has by the option `split`."""
    return SPLITS if not split else ("train",) if split == "all" else (split,)
