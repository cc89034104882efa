"""From a config's data section to rows: sources opened, tokenized, cut, packed and mixed, and a table of what came of it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ptft_jax.config import spans
from ptft_jax.data import (
    cache,
    class_names,
    filling,
    source_splits,
    stepped,
    trained_on,
)
from ptft_jax.data import survey as surveys
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders import Builder
from ptft_jax.data.class_names import Head
from ptft_jax.data.mixture import Mixture, most_rows
from ptft_jax.data.options import DataOptions
from ptft_jax.data.rows import RowSet
from ptft_jax.data.source_weights import FIELD, weight_at
from ptft_jax.errors import UserError

FORM = "data-2"  # part of every run's data key: changes with what decides which records are trained on, and their order


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a run is trained on.

    Attributes:
      sets: the rows of each source; all segmented, or none.
      mixture: which row of which set a batch has.
      key: digest that names the data in checkpoints.
      tokens: how many ids are in rows.
      table: a row a source: what it holds, what was lost, its share of the run.
      head: the classes that all of it agrees with.
      steps: of the run: as given, or as many as its epochs make.
      updates: steps that learn from the same rows.
    """

    sets: tuple[RowSet, ...]
    mixture: Mixture
    key: str
    tokens: int
    table: list[dict[str, Any]]
    head: Head
    steps: int
    updates: int = 1

    def drawn(self, steps: int) -> list[dict[str, Any]]:
        """What the first so many steps read: {"source", "rows", "share", "epochs"} of each source."""
        if not steps:
            return []
        return [
            {"source": x.name, "rows": x.drawn, "share": x.share, "epochs": x.epochs}
            for x in self.mixture.table(-(-steps // self.updates))
        ]


@dataclasses.dataclass(frozen=True)
class Draws:
    """How rows are drawn whose records the model itself answers.

    Attributes:
      rows: of a batch; each has several answers.
      updates: steps that learn from the same answers.
      chosen: gives those rows of a source that can be answered.
      again: how often rows may be drawn in the place of some of a batch.
    """

    rows: int
    updates: int
    chosen: Callable[[filling.Filled], filling.Filled]
    again: int = 0


def training(
    data: DataOptions,
    tokenizer: tok.Tokenizer,
    builder: Builder,
    *,
    steps: int,
    seed: int,
    head: Head = class_names.NEW,
    epochs: float = 0.0,
    draws: Draws | None = None,
) -> TrainingData:
    """The training data of `config.data` for a run of `steps` steps, labels as `head` numbers its classes; `epochs`: where not 0,
    so many passes over all rows are the steps; `draws`: where the model answers them. Raises UserError."""
    sources = trained_on.weighted(data)
    per_batch, updates = (data.batch_size, 1) if draws is None else (draws.rows, draws.updates)
    again = draws is not None and bool(draws.again)
    if again and data.max_epochs:
        raise UserError(
            f"config.data.max_epochs = {data.max_epochs:g}: how often prompts are asked is not known before some are drawn again "
            "(objective.policy.resample): leave one of them at 0"
        )
    for reference, weight in sources:
        weight_at(reference, weight, 0)  # well-formed, before anything takes time?
        if (updates > 1 or again) and isinstance(weight, (list, tuple)):
            why = "prompts are drawn again (objective.policy.resample)"
            if updates > 1:
                why = "several steps learn from the same rows (objective.policy.updates)"
            raise UserError(
                f"{FIELD}: {reference}: a weight that changes with the steps: expected a number where {why}"
            )
    trained_on.refuse_twice([reference for reference, _ in sources], data.tables.sources)
    found = surveyed(data, builder.kinds)
    parts = [
        source_splits.tokenized(data, reference, "train", tokenizer, builder.kinds, found[reference].train)
        for reference, _ in sources
    ]
    if data.train_tokens:
        if len(parts) > 1:
            raise UserError("config.data.train_tokens is for a single source; a mixture's take the option ?examples=N")
        parts = [
            dataclasses.replace(parts[0], store=parts[0].store.first(data.train_tokens, cut=parts[0].kind == "text"))
        ]
    for n, part in enumerate(parts if builder.labelled else ()):
        parts[n], head = class_names.numbered(part, head)
    sets = [filling.filled(data, part, builder, partial=False, seed=seed) for part in parts]
    sets = sets if draws is None else list(map(draws.chosen, sets))
    if builder.stepped:
        stepped.refuse_alike([s.rows for s in sets], FIELD if data.mixture else "config.data.source")
    segmented, pairs = any(s.rows.segmented for s in sets), max(s.rows.pairs for s in sets)
    names, sizes = [reference for reference, _ in sources], [len(s.rows) for s in sets]
    if epochs:
        spans.check_epochs(epochs, None, 0, data.max_epochs)
        limit = sum(most_rows(data.max_epochs, size) for size in sizes) if data.max_epochs else None
        steps = spans.steps_of_epochs(epochs, sum(sizes), per_batch, limit=limit) * updates
    mixture = Mixture(
        names,
        [weight for _, weight in sources],
        sizes,
        batch_size=per_batch,
        temperature=data.temperature if data.mixture else 0.0,
        max_epochs=data.max_epochs,
        steps=-(-steps // updates),
        field=FIELD if data.mixture else "config.data.source",
    )
    shares = mixture.table(max(-(-steps // updates), 1))
    table = [
        {
            **s.summary(seed),
            **{k: getattr(x, k) for k in ("asked", "drawn", "share", "epochs")},
            **found[s.tokens.reference].facts,
        }
        for s, x in zip(sets, shares)
    ]
    keys = [part.store.key for part in parts]
    if builder.neighbors is not None:
        builder.neighbors.check()
        keys.append(builder.neighbors.fingerprint)
    return TrainingData(
        tuple(dataclasses.replace(s.rows, segmented=segmented, pairs=pairs) for s in sets),
        mixture,
        f"{FORM}:{keys[0] if len(keys) == 1 else cache.digest(*keys)}",
        sum(map(_tokens, sets)),
        table,
        head,
        steps,
        updates,
    )


def _tokens(part: filling.Filled) -> int:
    """The ids in rows; of images what the model makes of them."""
    rows, report = part.rows, part.rows.plan.report
    return len(rows) * rows.length if rows.builder.pictured else report.tokens - report.tokens_lost


def refuse_other(was: str, now: str, workdir: pathlib.Path) -> None:
    """Raises UserError where a run, started on the data with the key `was`, cannot go on with those of the key `now`."""
    if was == now:
        return
    if was.partition(":")[0] != FORM:
        raise UserError(
            f"{workdir}: the run was started by an earlier release, which divides sources and orders data in another way: "
            "finish it with that release, or start a new run, which may start from this one (init.from)"
        )
    raise UserError(f"{workdir}: the training data are not those the run was started with (files changed?)")


def surveyed(data: DataOptions, learns: Sequence[str] = ()) -> dict[str, surveys.Surveyed]:
    """What is to be known of the sources of `config.data`, and what of train is left out of it; `learns`: kinds of data. Raises
    UserError."""
    return surveys.survey(
        [reference for reference, _ in trained_on.weighted(data)], [data.source] if data.source else [], data, learns
    )
