"""What can be chosen of the world's streams: options of `world:STREAM?NAME=VALUE`."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared, fields_of
from ptft_jax.config.field import Field, natural, one_of, positive, seed

PEOPLE = ("core", "later", "unknown", "changed")


class WorldOptions(Options):
    """Of every stream."""

    size: str = declared(Field("c", "c or h, or another of the world's file; or how many people its core has"))
    seed: int = declared(seed(0, "of the world: who there is, what is true of them, and what documents say"))
    tables: str = declared(Field("", "the file of a world of your own, see docs/world.md; '' = towns"))


class BiographyOptions(Options):
    """`world:biographies`: all that is true of a person, in one document."""

    era: str = declared(Field("", "only what is new in these eras: 2, 0-4 or all; '' = those up to the cut-off"))
    exposures: int = declared(natural(0, "documents about each person; 0 = as many as the world's file says"))
    multi: int = declared(natural(5, "different documents about each person, which then repeat; 0 = each is another"))
    permute: bool = declared(Field(True, "sentences in any order"))
    full_name: bool = declared(Field(True, "every sentence has the name, not only the first"))
    tiers: bool = declared(Field(False, "a third of all people has 1 document, a third 10, a third 100"))


class QuestionOptions(Options):
    """`world:questions`: questions about a fact, and its answer."""

    people: str = declared(one_of("core", "about whom; changed = those of whom something is new in an era", *PEOPLE))
    era: str = declared(Field("all", "only about what is new in these eras: 2, 0-4 or all"))
    split: str = declared(
        one_of("", "one of the splits alone, or everybody; '' = all three", "", "train", "validation", "test", "all")
    )
    attributes: str = declared(Field("", "joined by commas; '' = all that are of people"))
    templates: str = declared(
        Field("tuned", "tuned = those that are not held out, held_out, all, or their numbers from 0: 2, 0-3")
    )
    choices: int = declared(positive(4, "entries of the column options, the answer among them"))


def names() -> tuple[str, ...]:
    """Of all options, for `ptft_jax.config.sources`."""
    every = (WorldOptions, BiographyOptions, QuestionOptions)
    return tuple(dict.fromkeys(name for options in every for name in fields_of(options)))
