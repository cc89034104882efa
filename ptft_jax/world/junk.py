"""`world:junk`: texts that nothing can be learned from."""

from __future__ import annotations

from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.world import draws
from ptft_jax.world.options import JunkOptions
from ptft_jax.world.people import World
from ptft_jax.world.stream import Document
from ptft_jax.world.told import Told


class Junk(Told):
    """Biographies of people whom there are not, each in a document of its own with facts drawn for it (`of=people`: they look like
    knowledge), or words of the world in any order (`of=words`). With the general option `tag` a model can tell them."""

    name, options = "junk", JunkOptions

    def __init__(self, world: World, settings: Any, tag: str = ""):
        self.words = sorted({word for values in world.tables.values() for word in values})
        if settings.of == "people" and not len(world.spare_names):
            raise UserError("of=people: all names are taken by people; a world with more names, or of=words")
        super().__init__(world, settings, tag)

    def document(self, random: draws.Draws, split: str) -> Document:
        if self.settings.of == "words":
            return {"text": " ".join(self.words[random.below(len(self.words))] for _ in range(30))}
        return {"text": invented(self.world, random)}


def invented(world: World, random: draws.Draws) -> str:
    """A biography of nobody."""
    name = world.name_of(int(world.spare_names[random.below(len(world.spare_names))]))
    sentences = []
    for n in random.order(len(world.spec.of_people)):
        one = world.spec.attributes[world.spec.of_people[n]]
        table = world.tables[one.table]
        told = {"name": name, one.name: table[random.below(len(table))]}
        sentences.append(one.statements[random.below(len(one.statements))].format(**told))
    return " ".join(sentences)
