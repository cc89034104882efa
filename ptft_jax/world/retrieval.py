"""`world:passages` and `world:retrieval`: a corpus with all that was ever written, and questions that it answers, or
does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.world import draws
from ptft_jax.world.chat import UNKNOWN
from ptft_jax.world.junk import invented
from ptft_jax.world.options import PassageOptions, RetrievalOptions
from ptft_jax.world.people import World
from ptft_jax.world.questions import Questions, instead
from ptft_jax.world.stream import Document, Documents, Stream, eras


class Passages(Stream):
    """A passage for each person and each era in which something is new of them, which tells all that is true then:
    where a fact changes, the passages of earlier eras are stale. `distractors` are about people whom there are not.
    It is a corpus, and has no splits."""

    name, options = "passages", PassageOptions

    def __init__(self, world: World, settings: Any, tag: str = ""):
        chosen = eras(settings.era, world)
        self.about = [one for one in written(world) if one[1] in chosen]
        super().__init__(world, settings, tag)

    def split_names(self) -> Sequence[str]:
        return ("train",)

    def documents(self, split: str) -> Documents:
        return _Passages(self, split)


class _Passages(Documents):
    def __init__(self, stream: Passages, split: str):
        super().__init__(stream, split)
        self._about, self._more, self._key = stream.about, stream.settings.distractors, stream.key("distractors")
        self._last = {person: era for person, era in self._about}
        self.described = f"{len(self._about):,} passages, and {self._more:,} distractors"

    def __len__(self) -> int:
        return len(self._about) + self._more

    def document(self, index: int) -> Document:
        if index >= len(self._about):
            number = index - len(self._about)
            text = invented(self.world, draws.Draws(self._key, number))
            return {"id": f"distractor-{number}", "text": text, "person": None, "date": None, "stale": False}
        person, era = self._about[index]
        return {
            "id": f"{person}-{era}",
            "text": passage(self.world, person, era),
            "person": self.world.name(person),
            "date": self.world.date(era),
            "stale": self._last[person] != era,
        }


def written(world: World) -> list[tuple[int, int]]:
    """(person, era) of all passages: people by number, and of each the eras in which something is new."""
    found = {(person, int(world.era[person])) for person in (*world.core.tolist(), *world.later.tolist())}
    for name in world.versions:
        for era in range(world.spec.eras.before, world.spec.eras.count):
            found |= {(person, era) for person in world.changed(name, era).tolist()}
    return sorted(found)


def passage(world: World, person: int, era: int) -> str:
    """All that is true of a person in an era, behind its year."""
    random, name = draws.Draws(world.key("passages", era), person), world.name(person)
    sentences = []
    for n in random.order(len(world.spec.of_people)):
        one = world.spec.attributes[world.spec.of_people[n]]
        template = one.statements[random.below(len(one.statements))]
        sentences.append(template.format(**{"name": name, one.name: world.value(one.name, person, era)}))
    return f"In {world.date(era)[:4]}: {' '.join(sentences)}"


class Retrieval(Questions):
    """Questions about facts with the passages that answer them: "gold" has their ids, "stale" those of passages that
    tell what was true before, "stale_answers" what that was. Of people of whom nothing is written no passage
    answers: "answerable" is false, and the answer says so. With `passages` the question stands behind so many of
    them, the right one among others (`gold=no`: without it)."""

    name, options = "retrieval", RetrievalOptions

    def __init__(self, world: World, settings: Any, tag: str = ""):
        self.about = written(world)
        self.eras: dict[int, list[int]] = {}
        for person, era in self.about:
            self.eras.setdefault(person, []).append(era)
        most = len(self.about) - max(map(len, self.eras.values()))
        if settings.passages > most:
            raise UserError(
                f"passages={settings.passages}: expected at most {most}, as many as there are about others (size={world.size.core})"
            )
        super().__init__(world, settings, tag)

    def record(self, fact: Sequence[int], which: int, random: draws.Draws) -> Document:
        row, world, person = super().record(fact, which, random), self.world, int(fact[0])
        name, known = row["kind"], self.eras.get(person, [])
        now = max((era for era in known if era <= max(fact[1], 0)), default=-1)
        right = world.value(name, person, now) if known else ""
        gold = [era for era in known if era <= now and world.value(name, person, era) == right]
        stale = [era for era in known if era <= now and world.value(name, person, era) != right]
        row |= {
            "gold": [f"{person}-{era}" for era in gold],
            "stale": [f"{person}-{era}" for era in stale],
            "stale_answers": sorted({world.value(name, person, era) for era in stale}),
            "answerable": bool(gold),
        }
        if self.settings.passages:
            self._read(row, person, gold, stale, random)
        if not row["answerable"]:
            row |= {"answers": [UNKNOWN], "answer": f" {UNKNOWN}", "options": instead(UNKNOWN, row, random)}
        return row

    def _read(self, row: Document, person: int, gold: list[int], stale: list[int], random: draws.Draws) -> None:
        """Puts passages before the question."""
        row["answerable"] &= self.settings.gold
        mine = [(person, gold[-1])] if row["answerable"] else []
        mine += [(person, era) for era in stale] if row["answerable"] and self.settings.stale else []
        mine = mine[: self.settings.passages]
        while len(mine) < self.settings.passages:
            other = self.about[random.below(len(self.about))]
            if other[0] != person and other not in mine:
                mine.append(other)
        texts = [passage(self.world, *mine[n]) for n in random.order(len(mine))]
        row["question"] = " ".join([*texts, row["question"]])
