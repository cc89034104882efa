"""What can be chosen of indexes, and of questions that are read with passages: options of a source, `?retrieve=INDEX&NAME=VALUE`."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared, fields_of
from ptft_jax.config.field import Field, natural, one_of, positive, whole_share

POOLINGS = ("mean", "last")
_OFTEN = ("found", "always", "never")


class RetrieveOptions(Options):
    """Of every source of questions: what stands before them."""

    retrieve: str = declared(Field("", "the folder of an index, whose passages stand before the questions"))
    k: int = declared(positive(3, "passages that are looked up for each question"))
    distractors: int = declared(natural(0, "further passages, drawn at random from the rest"))
    right: str = declared(
        one_of("found", "the passages that answer: as they are found, one always there, or never", *_OFTEN)
    )
    outdated: str = declared(one_of("found", "those that tell what was true before, likewise", *_OFTEN))
    no_answer: float = declared(
        whole_share(0.0, "of the questions whose right passages are left out, and whose answer says so")
    )
    misses: str = declared(
        one_of(
            "answer", "what is to be said where no right passage was found: the answer, or that", "answer", "unknown"
        )
    )
    learn: str = declared(
        one_of(
            "answer", "what stands behind the question: its answer, or the passage that tells it", "answer", "passage"
        )
    )
    unknown: str = declared(Field("I do not know.", "the answer where no passage tells it"))
    order: str = declared(
        one_of("best_first", "of the passages", "best_first", "best_last", "shuffled"),
    )
    passage: str = declared(
        Field(
            "[{n}] {text}\n",
            "how one is written, with {text} and maybe {n}, {id}",
            valid=lambda v: "{text}" in v,
            expected="a text with {text}",
        )
    )
    cite: bool = declared(Field(False, "the answer is followed by the number of a passage that tells it: Paris [2]"))


def names() -> tuple[str, ...]:
    """Of all options, for `ptft_jax.data.records.reference`."""
    return tuple(fields_of(RetrieveOptions))
