"""Seeds: which numbers are some, the random key of each, and those of the things in a run that are random one by one."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

MOST = 2**63 - 1


class Use(enum.IntEnum):
    """What a seed is for."""

    ORDER = 1  # of a source's rows in an epoch: numbers of the source and the epoch
    ANSWER = 2  # in a conversation: how many messages there are before it
    ANSWERS = 3  # of an evaluation: its step
    ROLLOUT = 4  # answers that are trained on: the number of the rollout and, above 0, how often prompts were drawn again for it
    WRITER = 5  # whether a model or the data have the answers that are trained on: the number of the rollout
    TURN = 6  # of an answer in which tools are called, after the first one: its number
    FEEDBACK = 8  # of data that a model makes: what it does, and which time or principle it is


def key(seed: int, **options: Any) -> Any:
    """The JAX key of a seed from 0 to `MOST`. JAX itself looks at the lower 32 bits alone, so that seeds that differ above
    them would draw the same; `options` are those of `jax.random.key`."""
    import jax

    made = jax.random.key(seed % 2**32, **options)
    return jax.random.fold_in(made, seed >> 32) if seed >> 32 else made


def pair(seed: int) -> tuple[Any, Any]:
    """The two keys that a seed's is split into: of a run's parameters, and of the run. One program makes both."""
    import jax

    low, high = np.uint32(seed % 2**32), np.uint32(seed >> 32)
    return jax.jit(_pair)(low, high if high else None)


def _pair(low: Any, high: Any) -> tuple[Any, Any]:
    import jax

    made = jax.random.key(low)
    first, second = jax.random.split(made if high is None else jax.random.fold_in(made, high))
    return first, second


def mixed(seed: int, use: Use, *place: int) -> int:
    """A seed of 32 bits for one use at one place, which is as many numbers as `Use` says.

    A hash of all of them (numpy's SeedSequence, whose results never change), not a sum: two uses or places of one seed are
    unrelated, and so is one of one seed to another of another.
    """
    return int(np.random.SeedSequence((seed, int(use), *place)).generate_state(1)[0])
