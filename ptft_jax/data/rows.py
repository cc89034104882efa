"""The rows of a source: which ids fill which row, made into arrays by an objective's builder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ptft_jax.data.builders import Builder
from ptft_jax.data.builders.causal import Causal
from ptft_jax.data.builders.pictures import Labelled, Pictures
from ptft_jax.data.packing import Plan, Windows
from ptft_jax.data.store import Store

Rows = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class RowSet:
    """The rows of one source: index-addressed, of equal length.

    Attributes:
      store: token ids.
      plan: which of them fill which row.
      builder: what an objective makes of them.
      length: positions of a row.
      segmented: rows have "positions" and "segments"; else a row is one window of a stream, attended as a whole.
      reference: [rows, ...] each, by its name in a batch, what another model makes of each row (`ptft_jax.training.reference`); None =
        nothing.
      pairs: of a builder that pairs, the most pairs that a row can say it holds; at least those that one does.
    """

    store: Store
    plan: Plan | Windows
    builder: Builder
    length: int
    segmented: bool
    pairs: int = 0
    reference: Mapping[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def packed(self) -> bool:
        """Whether a row holds several pieces."""
        return self.segmented and self.plan.report.pieces > len(self.plan)

    @property
    def spans(self) -> np.ndarray:
        """int64 [pieces, 2]: start and stop in the flat ids of all pieces of all rows."""
        return self.plan.all_spans()

    @property
    def sequential(self) -> bool:
        """Whether ids are predicted from those before them, so that a piece's first is no target."""
        return bool(self.builder.overlap)

    def learned(self) -> int | None:
        """The sum of all rows' weights; None where chance decides it again for each row that is drawn."""
        store, spans = self.store, self.spans
        able = store.counted(spans, self.builder.able, first=not self.sequential)
        found = self.builder.learned(spans[:, 1] - spans[:, 0], able, store.trained is not None)
        return None if found is None else int(found.sum())

    def empty(self) -> np.ndarray:
        """int64 [n]: which of the store's empty answers the rows have to learn, by their numbers."""
        places, spans = self.store.empty, self.spans[np.argsort(self.spans[:, 0], kind="stable")]
        last = np.searchsorted(spans[:, 0], places, side="right" if not self.sequential else "left") - 1
        return np.flatnonzero((last >= 0) & (places < spans[np.maximum(last, 0), 1]))

    def row(self, index: int, key: Sequence[int] = ()) -> Rows:
        """One row: inputs, targets int32 [T], weights float32 [T]; positions (from 0 in every piece) and segments
        (1, 2, ...; 0 = padding) int32 [T] where segmented; whatever else the builder makes.

        `key` decides what is random about it; the same key gives the same row. A labelled row has instead targets
        int32 [], its class, or float32 [], its number, and weights float32 []; a scored one see `_of_pairs`.
        """
        out: Rows = {}
        at = 0
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key))) if self.builder.random else None
        for number, (start, stop) in enumerate(self.plan[index], 1):
            ids = np.asarray(self.store.ids[start:stop], np.int32)
            trained = None if self.store.trained is None else np.asarray(self.store.trained[start:stop])
            piece = self.builder.piece(ids, trained, rng)
            size = len(piece["inputs"])
            if self.segmented:
                piece["positions"] = np.arange(size, dtype=np.int32)
                piece["segments"] = np.full(size, number, np.int32)
            for name, values in piece.items():
                if name not in out:
                    out[name] = np.zeros((self.length, *values.shape[1:]), values.dtype)
                out[name][at : at + size] = values
            at += size
        if self.builder.labelled:
            example = int(np.searchsorted(self.store.offsets, self.plan[index][0, 0], side="right")) - 1
            out |= {"targets": self.store.labels[example], "weights": np.float32(1)}
        if self.builder.matched:
            out["weights"] = np.ones((), np.float32)
        if self.builder.stepped:
            out["right"] = self._right(self.plan[index])
        return out | (self._of_pairs(self.plan[index]) if self.builder.scored else {})

    def _right(self, spans: np.ndarray) -> np.ndarray:
        """bool [T]: which positions end a step that is right, of pieces that lie one after the other."""
        out, at = np.zeros(self.length, bool), 0
        for start, stop in spans:
            first, last = np.searchsorted(self.store.right, (start, stop))
            out[at + self.store.right[first:last] - start] = True
            at += stop - start
        return out

    def _of_pairs(self, spans: np.ndarray) -> Rows:
        """What rows say of their pairs, float32 [P]: which there are, what they weigh, and by how much the better answer is ahead."""
        there, margins = (np.arange(self.pairs) < len(spans) // 2).astype(np.float32), np.zeros(self.pairs, np.float32)
        if self.store.labels is not None:
            examples = (np.searchsorted(self.store.offsets, spans[::2, 0], side="right") - 1) // 2
            margins[: len(examples)] = self.store.labels[examples]
        return {"pairs": there, "weights": there, "margins": margins}

    def batch(self, indices: np.ndarray, keys: Sequence[Sequence[int]]) -> Rows:
        """Several rows, stacked; `keys` as for `row`."""
        if isinstance(self.builder, Causal):
            made = self._shifted(*self.plan.of(indices))
        elif isinstance(self.builder, Pictures):
            made = stacked([self._picture(self.builder, int(i), key) for i, key in zip(indices, keys)])
        else:
            made = stacked([self.row(int(i), key) for i, key in zip(indices, keys)])
        if self.builder.neighbors is not None:
            made["neighbors"] = self.builder.neighbors.of_rows(made["inputs"], made.get("segments"))
        return {**made, **{name: array[indices] for name, array in (self.reference or {}).items()}}

    def _picture(self, builder: Pictures, index: int, key: Sequence[int]) -> Rows:
        """A row of an image; what is mixed with it is any of this source's, whichever process and batch the row is of."""

        def labelled(row: int) -> Labelled:
            [[start, stop]] = self.plan[row]
            example = int(np.searchsorted(self.store.offsets, start, side="right")) - 1
            label = -1 if self.store.labels is None else int(self.store.labels[example])
            return builder.parted(np.asarray(self.store.ids[start:stop]), label)

        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        return builder.row(labelled(index), rng, lambda r: labelled(int(r.integers(len(self.plan)))))

    def _shifted(self, spans: np.ndarray, pieces: np.ndarray) -> Rows:
        """Rows for next-token prediction, the common case: what `row` makes piece by piece, all at once. Arguments as of
        `Plan.of`."""
        count = len(pieces)
        sizes = spans[:, 1] - spans[:, 0] - 1
        before = np.cumsum(sizes) - sizes  # positions of all pieces before each
        first = np.cumsum(pieces) - pieces  # number of each row's first piece
        number = np.arange(len(spans)) - np.repeat(first, pieces)
        place = np.repeat(np.arange(count) * self.length - before[first], pieces) + before
        order = np.arange(sizes.sum()) - np.repeat(before, sizes)
        source = np.repeat(spans[:, 0], sizes) + order
        target = np.repeat(place, sizes) + order
        trained = self.store.trained

        def spread(values, dtype):
            out = np.zeros(count * self.length, dtype)
            out[target] = values
            return out.reshape(count, self.length)

        made = {
            "inputs": spread(self.store.ids[source], np.int32),
            "targets": spread(self.store.ids[source + 1], np.int32),
            "weights": spread(1.0 if trained is None else trained[source + 1], np.float32),
        }
        if self.segmented:
            made["positions"] = spread(order, np.int32)
            made["segments"] = spread(np.repeat(number + 1, sizes), np.int32)
        if self.builder.judged:
            assert self.store.labels is not None
            examples = np.searchsorted(self.store.offsets, source + 1, side="right") - 1
            made["good"] = spread(self.store.labels[examples] > 0, np.bool_)
        if self.builder.paired:
            made["pairs"] = (np.arange(self.pairs) < pieces[:, None] // 2).astype(np.float32)
        if self.builder.rated:
            assert self.store.labels is not None
            examples = (np.searchsorted(self.store.offsets, spans[::2, 0], side="right") - 1) // 2
            made["labels"] = np.zeros((count, self.pairs), np.float32)
            made["labels"][made["pairs"] > 0] = np.where(self.store.labels[examples] > 0, 1, -1)
        return made


def stacked(rows: Sequence[Rows]) -> Rows:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
