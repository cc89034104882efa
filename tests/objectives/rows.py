"""Rows made by builders, alone and packed, for tests of objectives."""

import numpy as np

from ptft_jax.data.builders.causal import Causal
from ptft_jax.data.builders.masked import Masked
from ptft_jax.data.builders.prefix import Prefix
from ptft_jax.data.builders.spans import SpanCorruption
from ptft_jax.objectives.causal_lm import CausalLM, PrefixLM
from ptft_jax.objectives.denoising import MaskedLM
from ptft_jax.objectives.denoising import SpanCorruption as Denoising
from tests.helpers import VOCAB

WORDS = 50  # ids below are ordinary; those from here on sentinels, the mask, the end
# The bytes above are control tokens here, so that all ids fit into a tiny vocabulary.
MARKS = bytes([0] * WORDS + [1] * (VOCAB - WORDS))
SENTINELS, MASK, END = tuple(range(50, 60)), 60, 61

BUILDERS = {
    "causal_lm": (Causal(), CausalLM()),
    "prefix_lm": (Prefix(), PrefixLM()),
    "masked_lm": (Masked(MASK, MARKS, rate=0.3), MaskedLM()),
    "span_corruption": (SpanCorruption(SENTINELS, END, 0.2, 2.0), Denoising()),
}


def pieces(name, sizes, seed=0):
    """Built pieces of random texts of so many ids."""
    rng = np.random.default_rng(seed)
    return [BUILDERS[name][0].piece(rng.integers(0, WORDS, n).astype(np.int32), None, rng) for n in sizes]


def alone(piece):
    """A row of one piece."""
    return {k: v[None] for k, v in piece.items()}


def packed(pieces, length):
    """A row of several pieces, filled up with padding: positions restarted, segments counted from 1."""
    sizes = [len(p["inputs"]) for p in pieces]
    row = {k: np.concatenate([p[k] for p in pieces]) for k in pieces[0]}
    row["positions"] = np.concatenate([np.arange(n) for n in sizes])
    row["segments"] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    return {k: np.pad(v, (0, length - sum(sizes)))[None] for k, v in row.items()}
