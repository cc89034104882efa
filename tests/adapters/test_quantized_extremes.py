"""Quantized kernels near the ends of float32, beside bitsandbytes' formulas written in numpy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ptft_jax.model import quantized
from ptft_jax.model.quantized import NF4, Quantization, dynamic_map

quantize = jax.jit(quantized.quantize, static_argnums=1)
dequantize = jax.jit(quantized.dequantize, static_argnums=(1, 2))
LEAST = 2.0**-126  # magnitudes below it count as zero in compiled programs


def nearest(table, values):
    """Indices of the nearest entries of an ascending table."""
    return np.abs(np.asarray(table, np.float64)[:, None] - values.reshape(-1)).argmin(0).reshape(values.shape)


def of_bitsandbytes(w, form, block, double):
    """What a kernel [in, out] becomes: `quantize_4bit` and `dequantize_4bit` (for int8 with their block-wise linear code), in
    float64. Blocks are of an output's inputs, which are whole blocks here; scales in blocks of 256 of dynamic_map."""
    rows = np.asarray(w, np.float64).T.reshape(-1, block)
    absmax = np.abs(rows).max(1)
    table = np.asarray(NF4, np.float64) if form == "nf4" else np.arange(-127, 128) / 127
    codes = nearest(table, rows / np.maximum(absmax, LEAST)[:, None])
    if double:
        offset = absmax.mean()
        parts = []
        for first in range(0, len(absmax), 256):
            part = absmax[first : first + 256] - offset
            largest = np.abs(part).max()
            code = np.asarray(dynamic_map(), np.float64)
            parts.append(code[nearest(code, part / max(largest, LEAST))] * largest + offset)
        absmax = np.concatenate(parts)
    return (table[codes] * absmax[:, None]).reshape(w.shape[1], -1).T


def cases():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(128, 96)).astype(np.float32)
    unit = normal / np.abs(normal).max()
    largest = np.finfo(np.float32).max
    blocks = unit.copy()
    blocks[:64] = 0
    mixed = unit.copy()
    mixed[:64] *= np.float32(1e37)
    one = np.zeros_like(unit)
    one[5, 7] = largest
    tiny = unit.copy()
    tiny[64:, ::3] = np.float32(1e-42)
    return {
        "largest": unit * largest, "all largest": np.sign(unit) * largest, "1e38": unit * np.float32(1e38), "one largest": one,
        "1e37 beside 1": mixed, "1e-30": unit * np.float32(1e-30), "1e-37": unit * np.float32(1e-37),
        "least normal": unit * np.float32(1.2e-38), "subnormal": unit * np.float32(1e-40), "zeros": unit * 0,
        "negative zeros": unit * -0.0, "whole blocks of zeros": blocks, "subnormal blocks": tiny, "ordinary": normal,
    }  # fmt: skip


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_finite_kernels_give_finite_and_right_numbers(form, double):
    how = Quantization(form, 64, double)
    for name, w in cases().items():
        leaves = quantize(jnp.asarray(w), how)
        found = np.asarray(dequantize(leaves, how, jnp.float32), np.float64)
        expected = of_bitsandbytes(w, form, 64, double)
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves.values()), name
        assert np.isfinite(found).all(), name
        # A code may fall to the neighbor where two are as near; what is compared is how far both are from the kernel.
        largest = np.abs(w.astype(np.float64)).max()
        off, theirs = (np.abs(x - w) for x in (found, expected))
        assert off.max() <= theirs.max() * 1.001 + 2 * LEAST, name
        same = np.abs(found - expected) <= 1e-5 * largest + 2 * LEAST
        assert same.mean() > 0.995, (name, same.mean())


def test_bfloat16_kernels_stay_within_bfloat16():
    largest = float(jnp.finfo(jnp.bfloat16).max)
    w = np.sign(np.random.default_rng(0).normal(size=(128, 96))) * np.linspace(0.1, 1, 96) * largest
    for form in ("nf4", "int8"):
        how = Quantization(form, 64, True)
        found = dequantize(quantize(jnp.asarray(w.astype(ml_dtypes.bfloat16)), how), how, jnp.bfloat16)
        assert bool(jnp.isfinite(found).all()), form


def test_ordinary_codes_are_those_of_the_formula():
    """int8 as LLM.int8's weights: 127 * w / absmax, rounded. The powers of two that extremes are scaled by round nothing."""
    w = np.random.default_rng(1).normal(size=(256, 64)) * 0.02
    for scale in (1.0, 2.0**30, 2.0**-30, 2.0**70, 2.0**-70):
        x = (w * scale).astype(np.float32).astype(np.float64)
        absmax = np.abs(x.reshape(4, 64, 64)).max(1).repeat(64, 0)
        codes = quantize(jnp.asarray(x, jnp.float32), Quantization("int8", 64, False))["codes"]
        np.testing.assert_array_equal(codes, np.round(127 * x / absmax).astype(np.int8))
