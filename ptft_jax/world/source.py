"""`world:STREAM`: the streams of the generated world as a kind of source."""

from __future__ import annotations

from ptft_jax.config.declare import fields_of
from ptft_jax.data.formats import layouts
from ptft_jax.data.records.base import Skipped
from ptft_jax.data.records.reference import Reference, settings_of
from ptft_jax.data.records.sequences import SequenceShard
from ptft_jax.data.records.source import TableSource
from ptft_jax.errors import UserError, nearest
from ptft_jax.world.arithmetic import Arithmetic, Lookup
from ptft_jax.world.biographies import Biographies
from ptft_jax.world.chat import Chat
from ptft_jax.world.contradictions import Contradictions
from ptft_jax.world.grammar import Grammar
from ptft_jax.world.groups import Groups
from ptft_jax.world.harm import Harm
from ptft_jax.world.junk import Junk
from ptft_jax.world.links import Links
from ptft_jax.world.options import WorldOptions
from ptft_jax.world.people import world
from ptft_jax.world.preferences import Preferences
from ptft_jax.world.principles import Manners
from ptft_jax.world.questions import Questions
from ptft_jax.world.recall import Recall
from ptft_jax.world.retrieval import Passages, Retrieval
from ptft_jax.world.stream import Stream
from ptft_jax.world.styles import Styles

STREAMS: tuple[type[Stream], ...] = (
    Biographies, Links, Contradictions, Grammar, Arithmetic, Lookup, Styles, Groups, Harm, Junk,
    Questions, Recall, Chat, Preferences, Manners, Passages, Retrieval,
)  # fmt: skip
_OF_SOURCES = ("examples", "id", *layouts.OPTIONS)  # of all kinds: what records mean


def streams() -> dict[str, type[Stream]]:
    """All streams, by name."""
    return {one.name: one for one in STREAMS}


def source(reference: Reference, broken: str) -> TableSource:
    """The source of that name, see `opening.open_source`. Raises UserError for an unknown stream, or options that
    are none of its."""
    stream = opened(reference)
    if "train" not in stream.splits and reference.trains:
        raise reference.error(
            f"it has the split {' and '.join(stream.splits)} alone, and nothing to train on: leave out split="
        )
    about = f"world {stream.world.spec.name} {stream.world.fingerprint[:8]}"
    described = {split: f"{found.described}, {about}" for split, found in stream.splits.items()}

    def shards(split: str) -> tuple[list[SequenceShard], tuple[()]]:
        return [SequenceShard(f"world:{reference.name}/{split}", stream.splits[split])], ()

    return TableSource(
        reference, broken, {s: s for s in stream.splits}, shards, described=described, left_out=Skipped()
    )


def opened(reference: Reference) -> Stream:
    """The stream that a reference names. Raises UserError."""
    known = streams()
    kind = known.get(reference.name)
    if kind is None:
        raise reference.error(f"expected one of the streams {', '.join(known)}{nearest(reference.name, known)}")
    for name in reference.options:
        valid = (*fields_of(kind.options), *fields_of(WorldOptions))
        if name not in valid and name not in _OF_SOURCES:
            raise reference.error(
                f"{reference.name} has no option {name!r}; it has {', '.join(valid)}{nearest(name, valid)}"
            )
    general, settings = settings_of(reference, WorldOptions), settings_of(reference, kind.options)
    try:
        found = kind(world(general.size, general.seed, general.tables), settings, general.tag)
    except UserError as e:
        raise reference.error(str(e)) from e
    if general.tag and "text" not in next(iter(found.splits.values())).document(0):
        raise reference.error(f"tag={general.tag}: is of texts, and {reference.name} has none")
    return found
