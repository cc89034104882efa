"""Rows to batches: training batches are a pure function of (data, seed, step); evaluation covers a set exactly once."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.mixture import Mixture
from ptft_jax.data.orders import Order
from ptft_jax.data.rows import Rows, RowSet

MEASURED = 2_000  # rows that are built to count what is learned where chance decides it


class Batches:
    """The training batches of one process, index-addressed by step: row k of step s is global row s * batch_size + k,
    whatever the number of processes, so a position in the data is just the step."""

    def __init__(
        self,
        sets: Sequence[RowSet],
        mixture: Mixture,
        *,
        batch_size: int,
        seed: int,
        process: int,
        processes: int,
        adapters: bool = False,
    ):
        """`adapters`: each source has an adapter of its own, so rows say which: "adapters" int32 [B]."""
        if batch_size % processes:
            raise ValueError(f"{batch_size} rows do not divide into {processes} processes")
        self._sets, self._mixture, self._seed, self._adapters = sets, mixture, seed, adapters
        self._batch_size, self._mine = batch_size, share_of(batch_size, process, processes)

    def __len__(self) -> int:
        return 2**62  # as good as without end

    @functools.cached_property
    def _orders(self) -> list[Order]:
        """For each source, draw -> row."""
        return [Order(len(rows), self._seed, number) for number, rows in enumerate(self._sets)]

    def addresses(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, row of it) int64 [n] of every row of this process' part of a step."""
        sources, draws = (x[self._mine] for x in self._mixture.rows(step))
        rows = np.empty_like(draws)
        for source in np.unique(sources).tolist():
            here = sources == source
            rows[here] = self._orders[source].rows(draws[here])
        return sources, rows

    def __getitem__(self, step: int) -> Rows:
        sources, rows = self.addresses(step)
        first = step * self._batch_size
        keys = [(self._seed, number) for number in range(first, first + self._batch_size)[self._mine]]
        out: Rows = {}
        for source in np.unique(sources):
            places = np.flatnonzero(sources == source)
            for name, values in self._sets[source].batch(rows[places], [keys[k] for k in places]).items():
                if len(places) == len(rows):
                    out[name] = values
                else:
                    out.setdefault(name, np.zeros((len(rows), *values.shape[1:]), values.dtype))[places] = values
        if self._adapters:
            out["adapters"] = sources.astype(np.int32)
        return out


def learned(rows: RowSet, seed: int) -> int:
    """The sum of the weights of a run's first pass over a source that is its only one, of up to MEASURED rows; of more, what
    it comes to if the others are as these."""
    alone = Mixture(["the source"], [1.0], [len(rows)], batch_size=1)
    drawn = Batches([rows], alone, batch_size=1, seed=seed, process=0, processes=1)
    count = min(len(rows), MEASURED)
    return round(sum(float(drawn[step]["weights"].sum()) for step in range(count)) * len(rows) / count)


def training(
    sets: Sequence[RowSet],
    mixture: Mixture,
    start: int,
    *,
    batch_size: int,
    seed: int,
    prefetch: int,
    adapters: bool = False,
) -> Iterator[Rows]:
    """This process' rows of batch `start`, `start` + 1, ..., without end, made ahead in a thread; options as for `Batches`."""
    import grain
    import jax

    batches = Batches(
        sets,
        mixture,
        batch_size=batch_size,
        seed=seed,
        process=jax.process_index(),
        processes=jax.process_count(),
        adapters=adapters,
    )
    options = grain.ReadOptions(num_threads=1 if prefetch else 0, prefetch_buffer_size=prefetch)
    iterator = iter(grain.MapDataset.source(batches).to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    return iterator


def forms(sets: Sequence[RowSet], batch_size: int, *, adapters: bool = False) -> dict[str, Any]:
    """The shapes and dtypes of a training batch, of all processes; `adapters` as for `Batches`."""
    import jax

    rows = {name: values for s in sets for name, values in s.batch(np.zeros(1, np.int64), [(0, 0)]).items()}
    rows |= {"adapters": np.zeros(1, np.int32)} if adapters else {}
    return {name: jax.ShapeDtypeStruct((batch_size, *v.shape[1:]), v.dtype) for name, v in rows.items()}


def evaluation(rows: RowSet, *, batch_size: int, tokens: int, adapter: int | None = None) -> list[Rows]:
    """All batches of a set, in order; the last is filled up with rows of weight 0. Of a model with several adapters, all
    rows have `adapter`.

    `tokens` > 0 keeps only the first rows that have so many positions.
    """
    count = len(rows) if not tokens else min(len(rows), -(-tokens // rows.length))
    return list(filled_up(rows, np.arange(count), batch_size, adapter))


def drawn(rows: RowSet, count: int, *, batch_size: int, seed: int) -> list[Rows]:
    """As `evaluation`, of `count` different rows drawn at random, at most as many as there are."""
    return list(filled_up(rows, np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]), batch_size))


def filled_up(rows: RowSet, chosen: np.ndarray, batch_size: int, adapter: int | None = None) -> Iterator[Rows]:
    """This process' rows of batches of the `chosen` rows, in their order; the last is filled up with rows of weight 0."""
    import jax

    for first in range(0, len(chosen), batch_size):
        which = chosen[first : first + batch_size]
        batch = rows.batch(which, [(0, int(i)) for i in which])
        short = batch_size - len(batch["inputs"])
        if adapter is not None:
            batch["adapters"] = np.full(len(which), adapter, np.int32)
        padded = {k: np.pad(v, [(0, short)] + [(0, 0)] * (v.ndim - 1)) for k, v in batch.items()}
        mine = share_of(batch_size, jax.process_index(), jax.process_count())
        yield {k: v[mine] for k, v in padded.items()}


def share_of(rows: int, process: int, processes: int) -> slice:
    """The rows of a batch that a process holds: as its devices follow one another in the mesh, so that the batch as a whole
    is the same, row by row, for any number of processes."""
    each = rows // processes
    return slice(process * each, (process + 1) * each)
