"""`world:biographies`: all that is true of a person, in one document."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.world import draws
from ptft_jax.world.options import BiographyOptions
from ptft_jax.world.people import World
from ptft_jax.world.stream import Document, Documents, Rounds, Stream, eras

_VERSIONS = 1 << 20  # more than a person has documents


class Biographies(Stream):
    """What is new in some eras: people who are first written about there, and what is another fact from then on.

    Validation and test have one document each about the same people, in other words.
    """

    name, options = "biographies", BiographyOptions

    def __init__(self, world: World, settings: Any, tag: str = ""):
        before = world.spec.eras.before
        chosen = eras(settings.era, world) if settings.era else range(before)
        subjects = [
            (person, int(world.era[person]), ()) for person in np.flatnonzero(np.isin(world.era, chosen)).tolist()
        ]
        for era in chosen:
            news: dict[int, list[str]] = {}
            for name in world.versions:
                for person in world.changed(name, era).tolist():
                    news.setdefault(person, []).append(name)
            subjects += [(person, era, tuple(names)) for person, names in sorted(news.items())]
        if not subjects:
            raise UserError(
                f"era={settings.era}: nothing is new there: nobody is first written about, and nothing changes"
            )
        self.subjects = subjects
        super().__init__(world, settings, tag)

    def documents(self, split: str) -> Documents:
        times = np.ones(len(self.subjects), np.int64)
        if split == "train" and self.settings.tiers:
            times = np.asarray([self.world.tier[person] for person, *_ in self.subjects])
        elif split == "train":
            times *= self.settings.exposures or self.world.size.exposures
        return _Biographies(self, split, times)


class _Biographies(Documents):
    def __init__(self, stream: Biographies, split: str, times: np.ndarray):
        super().__init__(stream, split)
        settings, world = stream.settings, stream.world
        self._subjects, self._rounds = stream.subjects, Rounds(stream.key("rounds", split), times)
        self._multi = settings.multi if split == "train" else 0
        self._permute, self._full_name = settings.permute, settings.full_name
        self._key, self._all = stream.key("words", split), world.spec.of_people
        self.described = f"{len(self):,} biographies of {len({p for p, *_ in self._subjects}):,} people"
        self._pronouns = world.spec.pronoun, world.spec.pronoun[:1].upper() + world.spec.pronoun[1:]

    def __len__(self) -> int:
        return self._rounds.total

    def document(self, index: int) -> Document:
        number, time = self._rounds[index]
        person, era, news = self._subjects[number]
        world = self.world
        version = time % self._multi if self._multi else time
        random = draws.Draws(self._key, number * _VERSIONS + version)
        names = news or self._all
        words, order = random.number(), random.order(len(names)) if self._permute else range(len(names))
        name, sentences = world.name(person), []
        for place, n in enumerate(order):
            one = world.spec.attributes[names[n]]
            words, which = divmod(words, len(one.statements))
            template, called = one.statements[which], name
            if place and not self._full_name:
                called = self._pronouns[template.startswith("{name}")]
            sentences.append(template.format(**{"name": called, one.name: world.value(one.name, person, era)}))
        return {"text": " ".join(sentences), "person": name, "date": world.date(era)}
