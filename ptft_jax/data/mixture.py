"""Which source a row of a run is drawn from, and which draw of that source it is: a pure function of the row's place.

A mixture is a tree of two-way choices, its leaves the sources. Of the rows that reach a node, a share r goes left, and
which ones is as even as integers allow: after n rows floor(1/2 + sum of r) have gone left. So the counts of every
source before any step follow from sums over the steps before it, which are made in blocks and remembered at their
edges; no row is ever drawn to know another. Shares are integers over 2 ** 32 and sums are exact: nothing depends on
where blocks begin, on the order in which steps are asked for, or on rounding.

How near a source stays to its share. Let a source's share of a node's rows be r and e the most that the node's own
count is ever off; then the source is off by at most 1/2 + r e, since a two-way choice is off by at most 1/2. From the
leaf up this sums to 1/2 * sum of p / p(v) over the nodes v from the leaf (share p of all rows) to just below the root,
whose count is exact. The tree joins the two lightest nodes first (Huffman 1952), so the weights on a path up grow at
least like the Fibonacci numbers (a node's aunt is no lighter than the node), and the sum is below 1/2 * (1 + 1 + 1/2 +
1/3 + 1/5 + ...) < 1.68: **a source is never more than 1.68 rows from its share, however many sources there are** (1/2
with two, 1 with three). Where weights change, r e is e (r + V), V the total variation of r so far (summation by
parts); with two sources the bound stays 1/2. A share itself is exact to 2 ** -33 a level of the tree.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.data import source_weights
from ptft_jax.data.source_weights import FIELD
from ptft_jax.errors import UserError, listed

BITS = 32  # a share is an integer over 2 ** BITS
_NO_LIMIT = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class Share:
    """One source of a mixture over a run.

    Attributes:
      name: the source.
      size: its rows.
      asked: share of the run's rows by the weights (and the temperature), before max_epochs, in [0, 1].
      drawn: how many rows were drawn from it.
      share: drawn, of all rows of the run.
      epochs: drawn / size.
    """

    name: str
    size: int
    asked: float
    drawn: int
    share: float
    epochs: float


@dataclasses.dataclass(frozen=True)
class _Block:
    """What is drawn in some steps that follow one another, in n stretches of constant shares: a step, or part of one.

    Attributes:
      steps: int64 [n], the step of each stretch.
      rows: int64 [n], how many rows it has.
      ratios: int64 [nodes, n], of each node's rows the share that goes left, over 2 ** BITS.
      phases: int64 [nodes, n + 1], fraction of a left row that each node has saved up before each stretch, and after
        the last, over 2 ** BITS.
      counts: int64 [sources, n + 1], rows drawn of each source before each stretch, and after the last.
      over: the first step that cannot be drawn whole, and why; None where there is none.
    """

    steps: np.ndarray
    rows: np.ndarray
    ratios: np.ndarray
    phases: np.ndarray
    counts: np.ndarray
    over: tuple[int, str] | None


class Mixture:
    """Which source, and which of its draws, each row of each step is.

    The draws of a source are 0, 1, 2, ... from the start of the run; draw // size is the epoch. With constant weights
    the sequence of all rows does not depend on the batch size.

    Args:
      names: of the sources, each once.
      weights: of each source: a number, or ((step, weight), ...), with straight lines between the points and constant
        before the first and after the last. Only their proportions matter.
      sizes: rows of each source.
      batch_size: rows of a step.
      temperature: where positive, weights are multiplied by size ** (1 / temperature): 1 gives every example the same
        chance, more evens out small and large sources (Raffel et al. 2020, section 3.5.2; with exponent 0.7, Devlin et
        al. 2018's multilingual BERT). 0 = weights as they are.
      max_epochs: where positive, a source is drawn no more once it was read so often, and the others share its weight
        in proportion (a cap on epochs as in UniMax, Chung et al. 2023). 0 = no limit.
      steps: of the run, all of which is then checked here; 0 = unknown.
      field: of the config, that names the sources.

    Raises:
      UserError: sources named twice; weights negative, not finite, or 0 all along; points not in order; at some step
        all weights are 0 or all sources have been read max_epochs times.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[Any],
        sizes: Sequence[int],
        *,
        batch_size: int,
        temperature: float = 0.0,
        max_epochs: float = 0.0,
        steps: int = 0,
        field: str = FIELD,
    ):
        self.names, self.sizes = tuple(names), np.asarray(sizes, np.int64)
        self._batch_size, self._max_epochs, self._field = batch_size, max_epochs, field
        _check_sources(self.names, sizes)
        self._schedules = source_weights.scaled(
            [source_weights.written(n, w, steps) for n, w in zip(names, weights)], names, sizes, temperature
        )
        self._caps = np.full(len(self.names), _NO_LIMIT)
        if max_epochs:
            self._caps[:] = [most_rows(max_epochs, size) for size in sizes]
        self._children = _tree([float(values.mean()) for _, values in self._schedules])
        # Small enough that sums over a block, below batch_size * block * 2 ** BITS, stay below 2 ** 63.
        self._block_steps = max(1, min(4096, 2**30 // batch_size))
        nodes = len(self._children)
        self._begins = {0: (np.full(nodes, 2 ** (BITS - 1), np.int64), np.zeros(len(self.names), np.int64))}
        self._last: tuple[int, _Block] | None = None
        if steps:
            self.counts(steps)

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(source int64 [batch_size], draw int64 [batch_size]): what each row of a step is.

        Raises:
          UserError: nothing is left to draw at this step.
        """
        block = self._block(step // self._block_steps)
        _check_over(block, step + 1)
        source = np.empty(self._batch_size, np.int64)
        draw = np.empty(self._batch_size, np.int64)
        done = 0
        for k in range(np.searchsorted(block.steps, step), np.searchsorted(block.steps, step, "right")):
            rows = int(block.rows[k])
            for i, places in enumerate(self._route(block.phases[:, k], block.ratios[:, k], rows)):
                source[done + places] = i
                draw[done + places] = block.counts[i, k] + np.arange(len(places))
            done += rows
        return source, draw

    def counts(self, step: int) -> np.ndarray:
        """int64 [sources]: rows drawn of each source before a step.

        Raises:
          UserError: nothing is left to draw at some step before it.
        """
        at, inside = divmod(step, self._block_steps)
        if not inside:
            return self._begin(at)[1].copy()
        block = self._block(at)
        _check_over(block, step)
        return block.counts[:, np.searchsorted(block.steps, step)].copy()

    def table(self, steps: int) -> list[Share]:
        """What a run of `steps` steps draws, a row a source."""
        drawn, total = self.counts(steps), steps * self._batch_size
        asked = np.zeros(len(self.names))
        for first in range(0, steps, self._block_steps):
            weights = self._weights(np.arange(first, min(first + self._block_steps, steps)))
            asked += (weights / weights.sum(0)).sum(1)
        return [
            Share(name, size, a / steps, n, n / total, n / size)
            for name, size, a, n in zip(self.names, self.sizes.tolist(), asked.tolist(), drawn.tolist())
        ]

    def _weights(self, steps: np.ndarray) -> np.ndarray:
        """float64 [sources, n]."""
        return np.stack([source_weights.values_at(schedule, steps) for schedule in self._schedules])

    def _ratios(self, weights: np.ndarray) -> np.ndarray:
        """int64 [nodes, n] of float64 [sources, n]: the share of each node's rows that goes left, over 2 ** BITS."""
        weight = list(weights)
        ratios = np.zeros((len(self._children), weights.shape[1]), np.int64)
        for node, (left, right) in enumerate(self._children):
            total = weight[left] + weight[right]
            weight.append(total)
            share = np.divide(weight[left], total, out=np.zeros_like(total), where=total > 0)
            ratios[node] = np.rint(share * 2**BITS)
        return ratios

    def _advance(
        self, phases: np.ndarray, counts: np.ndarray, ratios: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """phases int64 [nodes, n + 1] and counts int64 [sources, n + 1] before each stretch, and after the last."""
        sources = len(self.names)
        reach = [rows] * (sources + len(self._children))  # rows that reach each node; all reach the root, the last
        after = np.empty((len(phases), len(rows) + 1), np.int64)
        after[:, 0] = phases
        for node in reversed(range(len(self._children))):
            left, right = self._children[node]
            total = phases[node] + np.cumsum(reach[sources + node] * ratios[node])
            after[node, 1:] = total & (2**BITS - 1)
            reach[left] = np.diff(total >> BITS, prepend=0)
            reach[right] = reach[sources + node] - reach[left]
        drawn = np.concatenate([counts[:, None], np.stack(reach[:sources])], 1)
        return after, np.cumsum(drawn, 1)

    def _route(self, phases: np.ndarray, ratios: np.ndarray, rows: int) -> list[np.ndarray]:
        """For each source the places, of a stretch's `rows`, that are its own, in order."""
        sources = len(self.names)
        places = [np.arange(rows)] * (sources + len(self._children))
        for node in reversed(range(len(self._children))):
            here = places[sources + node]
            total = phases[node] + np.arange(1, len(here) + 1) * ratios[node]
            goes_left = np.diff(total >> BITS, prepend=0).astype(bool)
            left, right = self._children[node]
            places[left], places[right] = here[goes_left], here[~goes_left]
        return places[:sources]

    def _begin(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        """(phases, counts) before a block."""
        known = at
        while known not in self._begins:
            known -= 1
        for k in range(known, at):
            block = self._block(k)
            _check_over(block, (k + 1) * self._block_steps)
            self._begins[k + 1] = block.phases[:, -1].copy(), block.counts[:, -1].copy()
        return self._begins[at]

    def _block(self, at: int) -> _Block:
        # Threads may come here at once: they would do the same work and store the same.
        last = self._last
        if last is None or last[0] != at:
            last = self._last = (at, self._make_block(at))
        return last[1]

    def _make_block(self, at: int) -> _Block:
        """Draws a block's steps in parts, each ending where a source has been read max_epochs times."""
        phases, counts = self._begin(at)
        step, done, end = at * self._block_steps, 0, (at + 1) * self._block_steps
        parts, over = [], None
        while step < end and over is None:
            steps = np.arange(step, end)
            rows = np.full(len(steps), self._batch_size)
            rows[0] -= done
            active = counts < self._caps
            weights = np.where(active[:, None], self._weights(steps), 0.0)
            ratios = self._ratios(weights)
            (after, drawn), keep = self._advance(phases, counts, ratios, rows), len(steps)
            empty = ~(weights > 0).any(0)
            if empty.any():
                keep = int(np.argmax(empty))
                over = int(steps[keep]), self._nothing_left(int(steps[keep]), active)
            reached = ((drawn[:, 1:] >= self._caps[:, None]) & active[:, None]).any(0)
            if reached[:keep].any():
                keep, over = int(np.argmax(reached)), None
                # The step in which it happens, cut after the row with which it does.
                routes = self._route(after[:, keep], ratios[:, keep], int(rows[keep]))
                needed = self._caps - drawn[:, keep]
                cut = 1 + min(int(r[n - 1]) for r, n, a in zip(routes, needed, active) if a and n <= len(r))
                rows[keep] = cut
                keep += 1
                after, drawn = self._advance(phases, counts, ratios[:, :keep], rows[:keep])
                done = cut + (done if keep == 1 else 0)
                step, done = int(steps[keep - 1]) + done // self._batch_size, done % self._batch_size
            else:
                step, done = step + keep, 0
            parts.append((steps[:keep], rows[:keep], ratios[:, :keep], after[:, :keep], drawn[:, :keep]))
            phases, counts = after[:, keep], drawn[:, keep]
        columns = [np.concatenate(column, -1) for column in zip(*parts)]
        columns[3] = np.concatenate([columns[3], phases[:, None]], 1)
        columns[4] = np.concatenate([columns[4], counts[:, None]], 1)
        return _Block(*columns, over)

    def _nothing_left(self, step: int, active: np.ndarray) -> str:
        if active.all():
            return f"{FIELD}: all weights are 0 at step {step}"
        read = listed(f"{n}: {c} rows" for n, c, a in zip(self.names, self._caps, active) if not a)
        rest = [n for n, a in zip(self.names, active) if a]
        others = f"; the others have weight 0 there: {', '.join(rest)}" if rest else ""
        if self._field != FIELD:
            return (
                f"config.data.max_epochs = {self._max_epochs:g}: nothing is left to draw at step {step}: {self.names[0]} has "
                f"{int(self.sizes[0]):,} rows, which have then been read so often. Allow more epochs, fewer steps (training.steps "
                f"of at most {step}, or training.epochs = {self._max_epochs:g}), or add data"
            )
        return (
            f"{FIELD}: nothing is left to draw at step {step}: config.data.max_epochs = {self._max_epochs:g} has been "
            f"reached by{read}{others}\nAllow more epochs or fewer steps, or add data"
        )


def most_rows(max_epochs: float, size: int) -> int:
    """How often rows of a source of `size` rows may be drawn, where each may be read `max_epochs` times."""
    return min(max(1, round(max_epochs * size)), _NO_LIMIT)


def _check_over(block: _Block, stop: int) -> None:
    """Raises UserError where the steps before `stop` cannot all be drawn."""
    if block.over and block.over[0] < stop:
        raise UserError(block.over[1])


def _check_sources(names: tuple[str, ...], sizes: Sequence[int]) -> None:
    if not names:
        raise UserError(f"{FIELD} names no source")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{FIELD} names a source more than once: {', '.join(twice)}; give it one weight")
    for name, size in zip(names, sizes):
        if size < 1:
            raise UserError(f"{FIELD}: {name} has no rows")


def _tree(weights: list[float]) -> list[tuple[int, int]]:
    """The two children of each inner node, a node after its children. Leaves are 0 .. n - 1, inner nodes n, n + 1, ..."""
    heap = [(weight, leaf) for leaf, weight in enumerate(weights)]
    heapq.heapify(heap)
    children: list[tuple[int, int]] = []
    while len(heap) > 1:
        (a, left), (b, right) = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (a + b, len(weights) + len(children)))
        children.append((left, right))
    return children
