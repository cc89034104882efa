"""From a config's data section to rows: sources opened, tokenised, cut, packed and mixed, with a table of what was lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ptft_jax.data import cache, packing, prepared, records, tokenise
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders import Builder
from ptft_jax.data.mixture import Mixture
from ptft_jax.data.rows import RowSet
from ptft_jax.data.store import Store
from ptft_jax.errors import UserError

PARENT = "parent"  # in a mixture: what the parent was trained on


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenised split of a source.

    Attributes:
      reference, split: which.
      store: its ids.
      kind: "text", "answers", "preference", "classification" or "tokens".
      description: its format, for people.
      where: index of an example -> its place, for messages.
      skipped: records that could not be read.
    """

    reference: str
    split: str
    store: Store
    kind: str
    description: str
    where: Callable[[int], str]
    skipped: records.Skipped


def tokenised(data: Any, reference: str, split: str, tokenizer: tok.Tokenizer) -> Tokens:
    """A split of a source as ids, by the settings of `config.data`. Raises UserError."""
    parsed = records.parse(reference)
    if parsed.kind == prepared.KIND:
        return prepared.tokens(parsed, split, tokenizer)
    opened = tokenise.Opened.of(reference, split, held_out=data.held_out, broken=data.broken)
    store = tokenise.tokenised(
        opened, tokenizer, template=data.template, train_on=data.train_on, workers=data.workers
    )
    rows = opened.records
    return Tokens(
        reference,
        split,
        store,
        opened.format.kind,
        opened.format.describe(),
        lambda example: rows.where(int(store.origins[example])),
        rows.skipped,
    )
