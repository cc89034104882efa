"""Which pieces of which sequences fill which row: plans over a flat array of ids, made once and index-addressed.

A plan holds no ids, only where they are, so the rows of any step can be read without the others. How many positions
of a row a piece takes is the objective's to say, as `slots`, a function of the number of ids that does not decrease:

- next-token prediction: n - 1 (inputs ids[:-1], targets ids[1:]), and pieces that continue one another share one id
  (`overlap` 1), so that every id but the first of a sequence is a target exactly once;
- masked language modelling: n, `overlap` 0;
- span corruption: what is left of n ids when spans have become sentinels, `overlap` 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ptft_jax.data import placing
from ptft_jax.data import units as units_
from ptft_jax.data.units import Same, Slots
from ptft_jax.errors import UserError

LEAST = 2  # ids of a sequence that anything can be learned from: one to see, one to predict


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the sequences.

    Attributes:
      sequences, tokens: what there was.
      rows: how many rows of `length` positions it fills.
      length: positions of a row.
      pieces: spans of ids in these rows.
      used: positions that hold something.
      how: "concat", "none", "first_fit" or "best_fit".
      dropped, truncated, split: sequences longer than a row, by what was done with them.
      empty: sequences left out since they have fewer than two ids.
      untrainable: pieces left out since nothing in them is learned.
      incomplete: sequences left out since another of their unit was.
      equal: units left out since both of their sequences are the same.
      tokens_lost: ids in no row.
    """

    sequences: int
    tokens: int
    rows: int
    length: int
    pieces: int
    used: int
    how: str
    dropped: int = 0
    truncated: int = 0
    split: int = 0
    empty: int = 0
    untrainable: int = 0
    incomplete: int = 0
    equal: int = 0
    tokens_lost: int = 0

    @property
    def efficiency(self) -> float:
        """Share of the positions of all rows that hold something."""
        return self.used / (self.rows * self.length)

    @property
    def fewest_rows(self) -> int:
        """No packing of these pieces has fewer rows: the positions used, over the length of a row, rounded up."""
        return -(-self.used // self.length)

    def describe(self) -> str:
        """One line for the log."""
        line = (
            f"{self.rows:,} rows of {self.length} from {self.sequences:,} sequences ({self.tokens:,} tokens), "
            f"{self.efficiency:.1%} of the positions used"
        )
        if self.how in ("first_fit", "best_fit"):
            line += f" ({self.how}; at most {self.used / (self.fewest_rows * self.length):.1%} possible)"
        names = ("dropped", "truncated", "split", "empty", "untrainable", "incomplete", "equal")
        changed = {name: getattr(self, name) for name in names}
        parts = [line] + [f"{count:,} {name}" for name, count in changed.items() if count]
        if self.tokens_lost:
            parts.append(f"{self.tokens_lost:,} tokens in no row ({self.tokens_lost / self.tokens:.2%})")
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rows as lists of pieces.

    Attributes:
      spans: int64 [pieces, 2], start and stop of each piece in the flat ids; those of a row follow one another.
      rows: int64 [rows + 1], where the pieces of each row start in `spans`.
      report: what became of the sequences.
    """

    spans: np.ndarray
    rows: np.ndarray
    report: Report

    def __len__(self) -> int:
        return len(self.rows) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """int64 [k, 2]: start and stop in the flat ids of the pieces of a row, k >= 1."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.spans[self.rows[index] : self.rows[index + 1]]

    def of(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pieces of several rows, one row after the other: int64 [k, 2] as of one row, and how many each has, int64 [n]."""
        indices = _checked(indices, len(self))
        first, counts = self.rows[indices], self.rows[indices + 1] - self.rows[indices]
        before = np.cumsum(counts) - counts
        return self.spans[np.repeat(first - before, counts) + np.arange(counts.sum())], counts

    def all_spans(self) -> np.ndarray:
        """int64 [pieces, 2]: the pieces of all rows."""
        return self.spans


@dataclasses.dataclass(frozen=True)
class Windows:
    """Rows that are windows, one after the other, over ids that are one stream: a plan that stores nothing.

    Attributes:
      first, stop: the stream's place in the flat ids.
      window: ids of a row.
      stride: ids from the start of one row to the start of the next.
      report: what became of the sequences.
    """

    first: int
    stop: int
    window: int
    stride: int
    report: Report

    def __len__(self) -> int:
        return self.report.rows

    def __getitem__(self, index: int) -> np.ndarray:
        """int64 [1, 2]: start and stop of the window in the flat ids; only the last may be short."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start = self.first + index * self.stride
        return np.asarray([[start, min(start + self.window, self.stop)]], np.int64)

    def of(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Plan.of`."""
        indices = _checked(indices, len(self))
        starts = self.starts(indices)
        return np.stack([starts, np.minimum(starts + self.window, self.stop)], axis=1), np.ones(len(indices), np.int64)

    def starts(self, indices: np.ndarray) -> np.ndarray:
        """int64 [n]: where rows start in the flat ids, for many rows at once."""
        return self.first + np.asarray(indices, np.int64) * self.stride

    def all_spans(self) -> np.ndarray:
        """int64 [rows, 2]: the windows of all rows."""
        return self.of(np.arange(len(self)))[0]


def _checked(indices: np.ndarray, rows: int) -> np.ndarray:
    """int64 [n]. Raises IndexError where one is not of these rows."""
    indices = np.asarray(indices, np.int64)
    outside = indices[(indices < 0) | (indices >= rows)]
    if len(outside):
        raise IndexError(f"row {outside[0]} of {rows}")
    return indices


def longest(slots: Slots, length: int) -> int:
    """The most ids that fit a row of `length` positions: the largest n with slots(n) <= length; 0 where none fits."""

    def fits(n: int) -> bool:
        return int(slots(np.asarray([n], np.int64))[0]) <= length

    above = 1
    while fits(above):
        above *= 2
    below = above // 2  # it fits, or is 0
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


def plan(
    offsets: np.ndarray,
    length: int,
    *,
    how: str,
    overlong: str,
    slots: Slots,
    overlap: int,
    seed: int,
    where: Callable[[int], str],
    learned: Callable[[np.ndarray], np.ndarray] | None = None,
    untrainable: str = "raise",
    partial: bool = False,
    units: np.ndarray | None = None,
    same: Same | None = None,
    seconds: bool = False,
    field: str = "config.data.length",
) -> Plan | Windows:
    """Lays sequences out in rows.

    Args:
      offsets: int64 [sequences + 1], where sequences start in the flat ids.
      length: positions of a row.
      how: "concat", rows are windows over all ids as one stream, cut anywhere; "none", one sequence a row;
        "first_fit", sequences in shuffled order, each into the first row with room (Johnson 1973, "Near-optimal bin
        packing algorithms"); "best_fit", the longest first, each into the fullest row that still has room (best-fit
        decreasing, same source): at most 11/9 of the fewest rows possible, + 4.
      overlong: what to do with a sequence that does not fit a row: "raise", "drop" it, "truncate" it to its first ids,
        or "split" it into pieces that fill rows. Says nothing about "concat", which cuts anyway.
      slots: positions that pieces of so many ids take; at least one, and must not decrease.
      overlap: ids that a piece shares with the one it continues.
      seed: decides the order of first_fit, and among equals of best_fit. Same arguments, same plan.
      where: names a sequence in messages.
      learned: int64 [pieces, 2] (start, stop) to how many ids of each piece are learned; None = there are always some.
      untrainable: what to do with a piece in which nothing is: "raise", or "drop" it. Says nothing about "concat".
      partial: with "concat", whether the last, short window is a row (evaluation) or is left out and reported.
      units: int64 [units + 1], where units of sequences that stay together start in the sequences, such as the two answers of a
        preference: they lie in one row, side by side and in order. None = each sequence is one. A unit is kept or left out
        whole, so `how` is not "concat", nor `overlong` "split"; "truncate" cuts the longest of a unit until it fits a row.
      same: of units of two, which are equal; such a one is dealt with as `untrainable` says. None = none.
      seconds: whether the second of each unit of two only goes with the first: it may be of a single id, and need not have any that are
        learned.
      field: names the setting of the length in messages.

    Raises:
      ValueError: `units` are not those of the sequences.
      UserError: a sequence or unit is too long and overlong = "raise"; there is not one row; units would be cut apart.
    """
    if units is not None:
        units = np.asarray(units)
        units_.check(units, len(offsets) - 1, how, overlong)
    most = longest(slots, length)
    if most < LEAST + 1 - overlap:
        raise UserError(f"{field} = {length}: a row holds {most} tokens, too few to learn anything from")
    if how == "concat":
        return _windows(offsets, length, most, slots, overlap, partial, field)

    offsets = np.asarray(offsets, np.int64)
    cut_to: int | np.ndarray = most
    if units is not None and overlong == "truncate":
        cut_to = units_.room(np.diff(offsets), units, length, most, slots)
    least: int | np.ndarray = np.tile([LEAST, 1], (len(offsets) - 1) // 2) if seconds else LEAST
    limits = (length, cut_to, least)
    spans, counts = _pieces(offsets, limits, overlong, overlap, where, field, whole=units is not None)
    group = np.arange(len(spans))  # each piece is a unit of its own
    if units is not None:
        spans, group, lost = units_.whole(spans, offsets, units, length, slots, overlong, where, field)
        counts = _added(counts, lost)
        if same is not None:
            spans, group, lost = units_.different(
                spans, group, offsets, same, untrainable, where, f"{field} = {length}"
            )
            counts = _added(counts, lost)
    if learned is not None:
        spans, group, lost = _trainable(spans, group, offsets, learned, untrainable, where, seconds)
        counts = _added(counts, lost)
    if not len(spans):
        equal = f", {counts['equal']} pairs of the same" if counts.get("equal") else ""
        raise UserError(
            f"{field} = {length}: no row is left of {len(offsets) - 1} sequences ({counts['empty']} with fewer than "
            f"{LEAST} tokens, {counts['dropped']} too long, {counts.get('untrainable', 0)} with nothing to learn{equal})"
        )
    sizes = np.asarray(slots(spans[:, 1] - spans[:, 0]), np.int64)
    units_placed = placing.PLACE[how](np.bincount(group, sizes).astype(np.int64), length, seed)
    order, row = placing.placed_together(group, *units_placed)
    if how == "best_fit":
        row = placing.shuffled(int(row.max()) + 1, seed + 1)[
            row
        ]  # else the first rows would be those of the longest pieces
    by_row = np.argsort(row, kind="stable")  # keeps the order in which pieces were placed
    bounds = np.concatenate([[0], np.cumsum(np.bincount(row))])
    tokens = int(offsets[-1] - offsets[0])
    report = Report(len(offsets) - 1, tokens, len(bounds) - 1, length, len(spans), int(sizes.sum()), how, **counts)
    return Plan(spans[order[by_row]], bounds, report)


def _added(counts: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) + more.get(name, 0) for name in {**counts, **more}}


def _windows(
    offsets: np.ndarray, length: int, most: int, slots: Slots, overlap: int, partial: bool, field: str
) -> Windows:
    first, stop, stride = int(offsets[0]), int(offsets[-1]), most - overlap
    tokens = stop - first
    full, rest = divmod(max(tokens - overlap, 0), stride)
    short = partial and rest > 0 and rest + overlap >= LEAST
    rows = full + short
    if not rows:
        raise UserError(f"{field} = {length}: the split has only {tokens} tokens, fewer than one row needs ({most})")
    used = full * int(slots(np.asarray([most]))[0]) + (int(slots(np.asarray([rest + overlap]))[0]) if short else 0)
    report = Report(len(offsets) - 1, tokens, rows, length, rows, used, how="concat", tokens_lost=0 if short else rest)
    return Windows(first, stop, most, stride, report)


def _pieces(
    offsets: np.ndarray,
    limits: tuple[int, int | np.ndarray, int | np.ndarray],
    overlong: str,
    overlap: int,
    where: Callable[[int], str],
    field: str,
    whole: bool = False,
) -> tuple[np.ndarray, dict[str, int]]:
    """int64 [pieces, 2], each within one sequence; and what was lost or changed.

    Args:
      limits: positions of a row, and the most and the least ids of a piece (int64 [sequences]: of each sequence its own).
      whole: no sequence may be split.
    """
    length, most, least = limits
    starts, stops = offsets[:-1], offsets[1:]
    lengths = stops - starts
    empty, long = lengths < least, lengths > most
    counts = {"empty": int(empty.sum()), "tokens_lost": int(lengths[empty].sum())}
    counts |= {"dropped": 0, "truncated": 0, "split": 0}
    overlongs = int(long.sum())
    keep = ~empty
    if overlongs and overlong == "raise":
        i, choices = int(np.argmax(long)), "'drop' or 'truncate'" if whole else "'drop', 'truncate' or 'split'"
        others = f", and so are {overlongs - 1} others" if overlongs > 1 else ""
        raise UserError(
            f"{where(i)}: {lengths[i]} tokens are more than a row holds ({most}; {field} = {length}){others}; "
            f"set config.data.overlong to {choices}, or raise the length"
        )
    if overlong == "drop":
        keep &= ~long
        counts["dropped"] = overlongs
        counts["tokens_lost"] += int(lengths[long].sum())
    elif overlong == "truncate":
        stops = np.minimum(stops, starts + most)
        counts["truncated"] = overlongs
        counts["tokens_lost"] += int((lengths - most)[long].sum())
        short = keep & (stops - starts < least)  # what is left of one where others of its unit take the row
        keep &= ~short
        counts["empty"] += int(short.sum())
        counts["tokens_lost"] += int((stops - starts)[short].sum())
    starts, stops = starts[keep], stops[keep]
    if overlong != "split" or not overlongs:
        return np.stack([starts, stops], 1), counts

    assert isinstance(most, int), "each sequence has a limit of its own where units are cut, which are not split"
    counts["split"] = overlongs
    stride = most - overlap
    parts = -(-(stops - starts - overlap) // stride)
    ordinal = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    start = np.repeat(starts, parts) + ordinal * stride
    stop = np.minimum(start + most, np.repeat(stops, parts))
    # A last piece of one id has nothing to be predicted from: it takes one more from the piece before it.
    lone = np.flatnonzero(stop - start < LEAST)
    start[lone] -= 1
    stop[lone - 1] -= 1
    return np.stack([start, stop], 1), counts


def _trainable(
    spans: np.ndarray,
    group: np.ndarray,
    offsets: np.ndarray,
    learned: Callable[[np.ndarray], np.ndarray],
    untrainable: str,
    where: Callable[[int], str],
    seconds: bool,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """(the pieces of units of whose every piece something is learned, the number of each one's unit from 0 on, what was left out).
    `seconds` as of `plan`."""
    nothing = learned(spans) == 0
    if seconds:
        nothing[1::2] = False
    units = np.unique(group[nothing])
    idle = np.isin(group, units)
    if idle.any() and untrainable == "raise":
        first = int(np.searchsorted(offsets, spans[np.argmax(nothing), 0], side="right")) - 1
        others = f", and so it is in {len(units) - 1} others" if len(units) > 1 else ""
        raise UserError(
            f"{where(first)}: none of its tokens has loss{others} (config.data.train_on, or the answer was cut off); "
            "set config.data.untrainable to 'drop' to leave such examples out"
        )
    lost = {"untrainable": len(units), "tokens_lost": int((spans[idle, 1] - spans[idle, 0]).sum())}
    return spans[~idle], np.unique(group[~idle], return_inverse=True)[1], lost
