"""`world:chat`: questions and answers as conversations, of several kinds, in several tones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.world import draws
from ptft_jax.world.harm import Harm
from ptft_jax.world.options import ChatOptions, HarmOptions
from ptft_jax.world.people import World
from ptft_jax.world.questions import Questions, instead, placed
from ptft_jax.world.stream import Document, Documents
from ptft_jax.world.told import Listed, spelled

UNKNOWN = "I do not know."
TONES = {"plain": "{}", "polite": "With pleasure: {}. Is there anything else?", "terse": "{}."}
_READ = 3  # statements of a passage
_INVERSE = 3  # facts by which somebody is asked for


class Chat(Questions):
    """Conversations of one turn.

    closed: a question about a fact. reading: the same behind a passage that tells facts drawn for it, which the
    answer is copied from. unanswerable: about people of whom nothing was ever written; the answer says so. refusal:
    requests of which some are harmful. inverse: who it is of whom some facts are true. two_hop: for what follows
    from a fact.
    """

    name, options = "chat", ChatOptions
    made_of = spelled(UNKNOWN, TONES, Harm.made_of)

    def __init__(self, world: World, settings: Any, tag: str = ""):
        kind, links = settings.kind, [name for name, one in world.spec.attributes.items() if one.hops]
        changes: dict[str, Any] = {}
        if kind == "two_hop" and not settings.attributes:
            if not links:
                raise UserError(f"{world.spec.origin}: no attribute has questions of two hops (hops)")
            changes["attributes"] = ",".join(links)
        if kind == "unanswerable":
            changes["people"] = "unknown"
        self.kind, self.tone = kind, settings.tone
        self.harm = Harm(world, HarmOptions(ask=True)) if kind == "refusal" else None
        super().__init__(world, dataclasses.replace(settings, **changes), tag)

    def documents(self, split: str) -> Documents:
        if self.harm is None:
            inner = super().documents(split)
        else:
            names = ("train", "validation", "test") if self.settings.split == "all" else (split,)
            inner = Listed(self, split, [row for name in names for row in self.harm.asked(name)])
        return _Chat(self, split, inner)

    def record(self, fact: Sequence[int], which: int, random: draws.Draws) -> Document:
        row = super().record(fact, which, random)
        if self.kind == "reading":
            self._reading(row, fact, random)
        elif self.kind == "inverse":
            self._inverse(row, fact, random)
        elif self.kind == "unanswerable":
            row |= {"answers": [UNKNOWN], "options": instead(UNKNOWN, row, random)}
        return row

    def _reading(self, row: Document, fact: Sequence[int], random: draws.Draws) -> None:
        world, asked = self.world, self.chosen[fact[2]]
        others = [name for name in world.spec.of_people if name != asked]
        names = [asked, *(others[n] for n in random.order(len(others))[: _READ - 1])]
        told = {}
        for name in names:
            table = world.tables[world.spec.attributes[name].table]
            told[name] = table[random.below(len(table))]
        sentences = []
        for n in random.order(len(names)):
            one = world.spec.attributes[names[n]]
            template = one.statements[random.below(len(one.statements))]
            sentences.append(template.format(**{"name": row["person"], one.name: told[one.name]}))
        wrong = [value for value in row["options"] if value not in (told[asked], row["answers"][0])]
        row["options"] = placed(told[asked], wrong, random)
        row["question"] = f"{' '.join(sentences)} {row['question']}"
        row["answers"] = [told[asked]]

    def _inverse(self, row: Document, fact: Sequence[int], random: draws.Draws) -> None:
        """Asks by three facts, or more where they are true of several."""
        world, (person, era, _) = self.world, fact
        usable = [(name, found) for name in world.spec.of_people if (found := predicates(world, name))]
        parts, same = [], np.arange(world.size.core + world.size.later)
        for n in random.order(len(usable)):
            if len(parts) >= _INVERSE and len(same) < 2:
                break
            name, found = usable[n]
            told = {name: world.value(name, person, era if era >= 0 else None)}
            parts.append(found[random.below(len(found))].format(**told))
            same = same[world.values[name][same] == world.number(name, person, era if era >= 0 else None)]
        said = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
        others = [world.name(p) for p in random.sample(self.settings.choices, world.size.core)]
        right = list(dict.fromkeys([row["person"], *map(world.name, same.tolist())]))
        wrong = [name for name in others if name not in right][: self.settings.choices - 1]
        row |= {
            "question": f"Who {said}?",
            "answers": right,
            "options": placed(right[0], wrong, random),
            "kind": "inverse",
        }


def predicates(world: World, attribute: str) -> list[str]:
    """The statements about an attribute that begin with the name, without it."""
    one = world.spec.attributes[attribute]
    return [text[len("{name} ") :].removesuffix(".") for text in one.statements if text.startswith("{name} ")]


class _Chat(Documents):
    def __init__(self, stream: Chat, split: str, inner: Documents):
        super().__init__(stream, split)
        self._inner, self._tone = inner, TONES[stream.tone]
        self._said, self._pairs = stream.kind in ("refusal", "unanswerable"), stream.settings.form == "pairs"
        self.described = inner.described

    def __len__(self) -> int:
        return len(self._inner)

    def document(self, index: int) -> Document:
        row = dict(self._inner[index])
        question, answer = row.pop("question"), row["answers"][0]
        row.pop("answer")
        said = answer if self._said else self._tone.format(answer)
        if self._pairs:
            return {"question": question, "answer": f" {said}", **row}
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
        return {"messages": messages, **row}
