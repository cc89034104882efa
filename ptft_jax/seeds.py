"""Seeds of the things in a run that are random one by one, made of the one that its user gives."""

from __future__ import annotations

import enum

import numpy as np


class Use(enum.IntEnum):
    """What a seed is for."""

    ORDER = 1  # of a source's rows in an epoch: numbers of the source and the epoch
    ANSWER = 2  # in a conversation: how many messages there are before it


def mixed(seed: int, use: Use, *place: int) -> int:
    """A seed of 32 bits for one use at one place, which is as many numbers as `Use` says.

    A hash of all of them (numpy's SeedSequence, whose results never change), not a sum: two uses or places of one seed are
    unrelated, and so is one of one seed to another of another.
    """
    return int(np.random.SeedSequence((seed, int(use), *place)).generate_state(1)[0])
