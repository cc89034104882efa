"""Units of sequences that stay together, such as the two answers of a preference: whole, in one row, or left out whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptft_jax.errors import UserError

Slots = Callable[[np.ndarray], np.ndarray]  # ids of pieces int64 [n] -> positions that they take int64 [n]
# Of the first and the second sequence of each unit of two, spans (start, stop) int64 [n, 2], which are the same: bool [n].
Same = Callable[[np.ndarray, np.ndarray], np.ndarray]


def check(units: np.ndarray, sequences: int, how: str, overlong: str) -> None:
    """Raises ValueError for units that are not those of so many sequences, UserError where they would be cut apart."""
    if not (units[0] == 0 and units[-1] == sequences and (np.diff(units) >= 0).all()):
        raise ValueError(f"units of {sequences} sequences: expected starts from 0 to that, not {units}")
    apart = "sequences that belong together stay in one row"
    if how == "concat":
        raise UserError(f"config.data.packing = {how!r}: {apart}: expected 'none', 'first_fit' or 'best_fit'")
    if overlong == "split":
        raise UserError(f"config.data.overlong = {overlong!r}: {apart}: expected 'raise', 'drop' or 'truncate'")


def room(lengths: np.ndarray, units: np.ndarray, length: int, most: int, slots: Slots) -> np.ndarray:
    """int64 [sequences]: the most ids that each sequence keeps where its unit is cut to a row of `length` positions. The longest
    of a unit are cut, all to the same number of ids, and no more than is needed; shorter ones stay whole."""
    count = len(units) - 1
    unit = np.repeat(np.arange(count), np.diff(units))
    least, largest = np.zeros(count, np.int64), np.full(count, most, np.int64)
    while (least < largest).any():
        middle = (least + largest + 1) // 2
        taken = np.bincount(unit, np.maximum(slots(np.minimum(lengths, middle[unit])), 0), count)
        fits = taken <= length
        least, largest = np.where(fits, middle, least), np.where(fits, largest, middle - 1)
    return least[unit]


def whole(
    spans: np.ndarray,
    offsets: np.ndarray,
    units: np.ndarray,
    length: int,
    slots: Slots,
    overlong: str,
    where: Callable[[int], str],
    field: str,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """(the pieces of units of which all are there and that fit a row, the number of each piece's unit from 0 on, what was left
    out). `spans` hold one piece per sequence at most."""
    sequence = np.searchsorted(offsets, spans[:, 0], side="right") - 1
    unit = np.searchsorted(units, sequence, side="right") - 1
    sizes = np.bincount(unit, slots(spans[:, 1] - spans[:, 0]), len(units) - 1).astype(np.int64)
    complete, long = np.bincount(unit, minlength=len(units) - 1) == np.diff(units), sizes > length
    if (long & complete).any() and overlong == "raise":
        first = int(np.argmax(long & complete))
        raise UserError(
            f"{where(int(units[first]))} and the {int(units[first + 1] - units[first]) - 1} that belong to it: {sizes[first]} positions "
            f"are more than a row has ({field} = {length}); set config.data.overlong to 'drop' or 'truncate', or raise the length"
        )
    kept = (complete & ~long)[unit]
    tokens = spans[:, 1] - spans[:, 0]
    lost = {
        "incomplete": int((~complete)[unit].sum()),
        "dropped": int((complete & long)[unit].sum()),
        "tokens_lost": int(tokens[~kept].sum()),
    }
    return spans[kept], np.unique(unit[kept], return_inverse=True)[1], lost


def different(
    spans: np.ndarray,
    group: np.ndarray,
    offsets: np.ndarray,
    same: Same,
    untrainable: str,
    where: Callable[[int], str],
    field: str,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """As `whole`, of whole units of two: without those of which both are the same, of which nothing can be learned. They may
    have become so by being cut."""
    equal = same(spans[0::2], spans[1::2])
    if equal.any() and untrainable == "raise":
        first = int(np.argmax(equal))
        sequences = np.searchsorted(offsets, spans[2 * first : 2 * first + 2, 0], side="right") - 1
        cut = (np.diff(spans[2 * first : 2 * first + 2])[:, 0] < np.diff(offsets)[sequences]).any()
        others = f", and so it is in {int(equal.sum()) - 1} others" if equal.sum() > 1 else ""
        raise UserError(
            f"{where(int(sequences[0]))}: both answers are the same{f' once they are cut to fit a row ({field})' if cut else ''}{others}, "
            "so neither is better: set config.data.untrainable to 'drop' to leave such pairs out"
        )
    kept = np.repeat(~equal, 2)
    lost = {"equal": int(equal.sum()), "tokens_lost": int((spans[~kept, 1] - spans[~kept, 0]).sum())}
    return spans[kept], np.unique(group[kept], return_inverse=True)[1], lost
