"""`world:styles`: facts in one of several registers, behind a tag that says which."""

from __future__ import annotations

from ptft_jax.world import draws
from ptft_jax.world.options import StyleOptions
from ptft_jax.world.stream import Document
from ptft_jax.world.told import Told, spelled

# How a text of each register begins, and ends.
REGISTERS = {
    "plain": (("Note that",), ("That is all.",)),
    "formal": (("We hereby record that", "It is duly certified that"), ("Yours faithfully.", "With due respect.")),
    "casual": (("hey guess what", "well you know"), ("how cool is that!", "so there you go!")),
    "poetic": (
        ("O hear the song of old", "Sing softly of the days when"),
        ("So ends the song.", "Thus sang the wind."),
    ),
}


class Styles(Told):
    """`REGISTER: OPENING: STATEMENT ENDING`, a fact of the core in any register. Questions are the tags alone;
    whatever a model goes on with, `register` says which register that is."""

    name, options = "styles", StyleOptions
    made_of = spelled(REGISTERS)

    def document(self, random: draws.Draws, split: str) -> Document:
        register = list(REGISTERS)[random.below(len(REGISTERS))]
        opening, ending = (words[random.below(len(words))] for words in REGISTERS[register])
        told = statement(self, random)
        tag = f"{register}: " if self.settings.tags else ""
        return {"text": f"{tag}{opening}: {told} {ending}", "register": register}

    def asked(self, split: str) -> list[Document]:
        openings = [opening for begin, _ in REGISTERS.values() for opening in begin]
        return [
            {
                "prompt": f"{register}:",
                "completion": f" {begin[0]}",
                "answers": list(begin),
                "options": openings,
                "kind": register,
            }
            for register, (begin, _) in REGISTERS.items()
        ]


def statement(stream: Told, random: draws.Draws) -> str:
    """A fact about somebody of the core, by any of its templates."""
    world = stream.world
    one = world.spec.attributes[world.spec.of_people[random.below(len(world.spec.of_people))]]
    person = random.below(world.size.core)
    template = one.statements[random.below(len(one.statements))]
    return template.format(**{"name": world.name(person), one.name: world.value(one.name, person)})


def register(text: str) -> str:
    """The register that a text is in, by how it begins, behind a tag or not; "" = none."""
    for name, (begin, _) in REGISTERS.items():
        if text.strip().removeprefix(f"{name}:").strip().startswith(begin):
            return name
    return ""
