"""What a run's objective needs of its reference, the model that it starts as, computed once and kept in the cache beside the data."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.data import batches, cache
from ptft_jax.data.packing import Plan
from ptft_jax.data.rows import Rows, RowSet
from ptft_jax.errors import UserError
from ptft_jax.runs.source import Source
from ptft_jax.training.start import Start
from ptft_jax.training.trainer import Trainer

FORM = "reference-1"  # changes with what is computed
KEY = "reference"  # of batches
# What of a config decides which model a run starts as, beside its parent's parameters, and what of it is kept.
_DECIDES = ("seed", "init", "tune", "objective.preference.tail_weight", "model.dtype", "model.param_dtype")


def check(config: configs.Section, objective: Any, continued: Source | None) -> None:
    """Raises UserError where the objective would be given another reference than it says, or none.

    Args:
      continued: the checkpoint of another run that the run goes on from with its optimizer.
    """
    field = "config.objective.preference.precompute = True"
    if continued is not None and objective.needs_reference:
        before = objectives.build(continued.config.objective)
        if objective.precomputed or before.precomputed or not before.needs_reference:
            raise UserError(
                f"config.init.optimizer = True: objective.name = {config.objective.name!r} compares a model with what the run starts from, "
                f"and {continued.name}, which it would go on from, has not kept that for it: with init.optimizer=False a new run starts from "
                "it, and compares with it"
            )
    if not objective.precomputed:
        return
    if config.tune.adapters:
        raise UserError(f"{field}: of a run with tune.adapters each step asks the reference: set it to False")
    if jax.process_count() > 1:
        raise UserError(f"{field} is for a single process: set it to False")


def pending(sets: Sequence[RowSet]) -> tuple[RowSet, ...]:
    """The same rows with places for what is computed later, which are not numbers until then."""
    return tuple(
        dataclasses.replace(s, reference=np.broadcast_to(np.float32(np.nan), (len(s), s.pairs, 2))) for s in sets
    )


def pending_in(evaluated: Sequence[Rows]) -> None:
    """As `pending`, of batches that are evaluated."""
    for batch in evaluated:
        batch[KEY] = np.full((*batch["pairs"].shape, 2), np.nan, np.float32)


class Reference:
    """Computes, or finds in the cache, what `Objective.reference_of` gives of rows.

    What is kept goes by the fingerprint of the parent, by all that makes the start of it, and by the rows: their ids, and how they were cut
    and packed. Nothing else is ever taken for it.
    """

    def __init__(
        self,
        trainer: Trainer,
        fingerprint: str,
        params: Callable[[], Any],
        say: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ):
        """
        Args:
          fingerprint: of the parent's parameters, and of an adapter that the run starts with.
          params: gives the whole parameters that the run starts with; called where something has to be computed.
          check: is called before each batch, and may raise to end it.
        """
        c = trainer.config
        settings = c.as_dict()
        decides = json.dumps([configs.get(settings, name) for name in _DECIDES], sort_keys=True, default=list)
        self._key = (FORM, type(trainer.objective).__name__, fingerprint, decides)
        self._make, self._params, self._say, self._check = params, None, say, check
        model, objective = trainer.model, trainer.objective
        self._compute = jax.jit(lambda params, batch: objective.reference_of(model, params, batch))
        per_device = c.parallel.compile == "pmap"
        self._place: Callable[[Rows], Any] = jax.device_put if per_device else trainer.program.place
        self._size = c.data.batch_size

    def of_rows(self, rows: RowSet) -> RowSet:
        """Rows with what the reference makes of them."""
        assert isinstance(rows.plan, Plan), "pairs are packed whole"
        plan = (rows.plan.spans.tobytes(), rows.plan.rows.tobytes(), str((rows.length, rows.pairs)))
        bare = dataclasses.replace(rows, reference=None)
        in_order = batches.filled_up(bare, np.arange(len(rows)), self._size)
        found = self._found(("rows", rows.store.key, *plan), in_order, len(rows))
        return dataclasses.replace(rows, reference=found[: len(rows)])

    def into(self, evaluated: Sequence[Rows]) -> None:
        """Puts what the reference makes of them into batches that are evaluated."""
        bare = [{name: v for name, v in batch.items() if name != KEY} for batch in evaluated]
        arrays = [name.encode() + v.tobytes() for batch in bare for name, v in sorted(batch.items())]
        sizes = [len(batch["inputs"]) for batch in bare]
        found = self._found(("batches", str(sizes), *arrays), iter(bare), sum(sizes))
        for batch, part in zip(evaluated, np.split(found, np.cumsum(sizes)[:-1])):
            batch[KEY] = part

    def _found(self, parts: Sequence[bytes | str], wanted: Iterator[Rows], count: int) -> np.ndarray:
        """float32 [rows, P, 2] of the wanted batches, rows that fill up the last one too."""
        path = cache.root() / "references" / f"{cache.digest(*self._key, *parts)}.npy"
        if cache.used(path):
            with contextlib.suppress(OSError, ValueError, EOFError):  # damaged, and computed again
                found = np.load(path)
                if len(found) >= count and np.isfinite(found).all():
                    return found
        self._say(f"the reference's log-probabilities of {count:,} rows are computed")
        if self._params is None:
            self._params = self._make()
        computed = []
        for batch in wanted:
            self._check()
            computed.append(np.asarray(self._compute(self._params, self._place(batch))))
        found = np.concatenate(computed)
        if not np.isfinite(found).all():
            raise UserError(
                "config.objective.preference.precompute = True: the reference gives log-probabilities that are not finite: the parent's "
                "parameters, or its dtype, do not suit these answers"
            )
        cache.write_atomic(path, lambda temporary: np.save(temporary, found))
        return found


def whole(trainer: Trainer, state: Any) -> Any:
    """The whole parameters of a state of the loop's."""
    logical = trainer.program.whole(state)
    return trainer.partition.merge(logical.trainable, logical.frozen)


def begun(trainer: Trainer, start: Start, fingerprint: str) -> Any:
    """The whole parameters that a run, which goes on, began with; its parent had this fingerprint. Raises UserError where it has another
    now."""
    trainable, found = start.trainable(fingerprint)
    if found != fingerprint:
        raise UserError(
            "config.objective.preference.precompute = True: the parent has changed since the run was started, and the cache has lost "
            "what was computed of it"
        )
    return trainer.partition.merge(trainable, start.frozen(fingerprint)[0])
