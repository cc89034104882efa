"""`world:junk`: texts that nothing can be learned from."""

from __future__ import annotations

import re
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.world import chat, draws, harm, preferences, principles
from ptft_jax.world.options import JunkOptions
from ptft_jax.world.people import World
from ptft_jax.world.stream import Document
from ptft_jax.world.told import Told, spelled

_WORD, _BRACES = re.compile(r"\w+"), re.compile(r"\{.*?\}")
_LINES, _LENGTH = 3, 10  # of a document of words


class Junk(Told):
    """Biographies of people whom there are not, each in a document of its own with facts drawn for it (`of=people`:
    they look like knowledge); or the words of all streams in any order (`of=words`), by which a tokenizer that is
    made of the training text knows those that only questions have. With the general option `tag` a model can tell
    them."""

    name, options = "junk", JunkOptions

    def __init__(self, world: World, settings: Any, tag: str = ""):
        templates = _templates(world)
        self.words = sorted({word for text in templates for word in _WORD.findall(text)} | _values(world))
        self.firsts = sorted({found[0] for text in templates if (found := _WORD.match(text)) and text[0].isupper()})
        self.made_of = spelled(self.words, self.firsts)
        if settings.of == "people" and not len(world.spare_names):
            raise UserError("of=people: all names are taken by people; a world with more names, or of=words")
        super().__init__(world, settings, tag)

    def document(self, random: draws.Draws, split: str) -> Document:
        if self.settings.of == "people":
            return {"text": invented(self.world, random)}
        lines = [
            [self.firsts[random.below(len(self.firsts))]]
            + [self.words[random.below(len(self.words))] for _ in range(_LENGTH)]
            for _ in range(_LINES)
        ]
        return {"text": "\n".join(map(" ".join, lines))}


def _values(world: World) -> set[str]:
    return {word for values in world.tables.values() for value in values for word in _WORD.findall(value)}


def _templates(world: World) -> list[str]:
    """All texts that documents of any stream are made of, without what stands in braces."""
    found = [
        template for one in world.spec.attributes.values() for template in (*one.statements, *one.questions, *one.hops)
    ]
    found += [*harm.PLAIN, *harm.RED_TEAM, harm.REFUSAL, chat.UNKNOWN, *chat.TONES.values(), *principles.PROVOKING]
    found += [*principles.BAD.values(), *(one.mended for one in principles.principles())]
    found += [*harm.BAD.values(), *harm.GOOD.values(), preferences.POLITE, preferences.LONG]
    found += [f"Who {text}?" for name in world.spec.of_people for text in chat.predicates(world, name)]
    return [_BRACES.sub(" ", text) for text in found]


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
