"""Into which row each piece goes: the packings, functions of sizes alone.

Each takes the sizes int64 [pieces], the length of a row and a seed, and gives (the order in which pieces are placed, the row of
each in that order), int64 [pieces] both.
"""

from __future__ import annotations

import bisect

import numpy as np


def shuffled(count: int, seed: int) -> np.ndarray:
    """The numbers below `count` in an order that the seed decides, int64 [count]."""
    # numpy promises that the streams of RandomState never change; those of Generator may, and a plan with them.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed))).permutation(count)


def one_each(sizes: np.ndarray, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A row for each, in their order."""
    del length, seed
    return np.arange(len(sizes)), np.arange(len(sizes))


def first_fit(sizes: np.ndarray, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(order in which pieces are placed, row of each in that order), int64 [pieces] both.

    A tree of maxima over the room of all rows finds the first row with room in O(log rows); about 2 s for a million
    pieces. Rows not begun are leaves of full room, so beginning one needs no case of its own.
    """
    order = shuffled(len(sizes), seed)
    # Of first-fit's rows at most one is half empty or more, so there are fewer than 2 * total / length + 1.
    leaves = 1 << (min(len(sizes), 2 * int(sizes.sum()) // length + 1)).bit_length()
    room = [length] * (2 * leaves)  # node i has children 2i, 2i + 1; room[i] is the most room of a row below it
    rows = np.empty(len(sizes), np.int64)
    for k, size in enumerate(sizes[order].tolist()):
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < size:
                node += 1
        rows[k] = node - leaves
        room[node] -= size
        while node > 1:
            left, right = room[node & -2], room[node | 1]
            node >>= 1
            most = left if left > right else right
            if room[node] == most:
                break
            room[node] = most
    return order, rows


def best_fit(sizes: np.ndarray, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(order in which pieces are placed, row of each in that order), int64 [pieces] both.

    Pieces of one size are placed together (the idea of Krell et al. 2021, "Efficient sequence packing without
    cross-contamination", who pack histograms of lengths). The fullest row with room for a piece stays the fullest with
    room for the next of that size until it has none, so each of the rows of equal room takes as many as it holds, and
    the work is by sizes and amounts of room, not by pieces.
    """
    order = shuffled(len(sizes), seed)
    order = order[np.argsort(-sizes[order], kind="stable")]
    values, counts = np.unique(-sizes, return_counts=True)  # the largest first
    rows = np.empty(len(sizes), np.int64)
    by_room: dict[int, list[np.ndarray]] = {}  # room -> rows that have it
    rooms: list[int] = []  # its keys, sorted
    begun = placed = 0

    def put(room: int, which: np.ndarray) -> None:
        if len(which):
            if room not in by_room:
                bisect.insort(rooms, room)
            by_room.setdefault(room, []).append(which)

    for size, count in zip((-values).tolist(), counts.tolist()):
        while count:
            at = bisect.bisect_left(rooms, size)
            room = rooms[at] if at < len(rooms) else length
            each = room // size
            if at < len(rooms):
                which = by_room[room].pop()
                if not by_room[room]:
                    del by_room[room], rooms[at]
            else:
                which = np.arange(begun, begun - (-count // each))
                begun += len(which)
            needed = min(len(which), -(-count // each))
            put(room, which[needed:])
            filled = min(count, needed * each)
            rows[placed : placed + filled] = np.repeat(which[:needed], each)[:filled]
            last = filled - (needed - 1) * each  # pieces in the last of these rows
            put(room - each * size, which[: needed - 1])
            put(room - last * size, which[needed - 1 : needed])
            placed, count = placed + filled, count - filled
    return order, rows


PLACE = {"none": one_each, "first_fit": first_fit, "best_fit": best_fit}


def placed_together(group: np.ndarray, order: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order, row) of pieces from those of their units; `group` is the unit of each piece, and does not decrease."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    pieces = np.argsort(place[group], kind="stable")
    return pieces, row[place[group][pieces]]
