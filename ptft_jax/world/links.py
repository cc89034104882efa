"""`world:links`: what follows from an attribute of people, such as where an employer has its headquarters."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.world import draws
from ptft_jax.world.options import LinkOptions
from ptft_jax.world.people import World
from ptft_jax.world.stream import Document, Documents, Rounds, Stream


class Links(Stream):
    """A statement about each value of an attribute that others follow from, in so many documents."""

    name, options = "links", LinkOptions

    def __init__(self, world: World, settings: Any, tag: str = ""):
        self.facts = [
            (name, owner)
            for name, one in world.spec.attributes.items()
            if one.of
            for owner in range(len(world.values[name]))
        ]
        if not self.facts:
            raise UserError(f"{world.spec.origin}: no attribute follows from another (of = ...)")
        super().__init__(world, settings, tag)

    def documents(self, split: str) -> Documents:
        exposures = self.settings.exposures or self.world.size.exposures
        return _Links(self, split, np.full(len(self.facts), exposures if split == "train" else 1))


class _Links(Documents):
    def __init__(self, stream: Links, split: str, times: np.ndarray):
        super().__init__(stream, split)
        self._facts, self._rounds = stream.facts, Rounds(stream.key("rounds", split), times)
        self._key = stream.key("words", split)
        self.described = f"{len(self):,} statements about {len(self._facts):,} links"

    def __len__(self) -> int:
        return self._rounds.total

    def document(self, index: int) -> Document:
        number, _ = self._rounds[index]
        name, owner = self._facts[number]
        world, one = self.world, self.world.spec.attributes[name]
        subject = world.tables[world.spec.attributes[one.of].table][owner]
        value = world.tables[one.table][int(world.values[name][owner])]
        statement = one.statements[draws.Draws(self._key, index).below(len(one.statements))]
        return {"text": statement.format(**{one.of: subject, name: value})}
