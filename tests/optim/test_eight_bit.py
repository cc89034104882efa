"""Moments in 8 bits: codes by hand, and steps beside those of an independent form in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ptft_jax.optim import eight_bit
from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading
from tests.helpers import optimizer_config, quiet_train, stop_at, tiny_config, train


def by_hand(signed):
    """The 256 numbers, decade by decade, as the paper describes them: 2^i even parts of 0.1 to 1 (twice as many without a sign)."""
    found = {0.0, 1.0}
    for i in range(7):
        parts = 2**i * (1 if signed else 2)
        for j in range(parts):
            middle = (0.1 + 0.9 * (j + 0.5) / parts) * 10.0 ** (i - 6)
            found |= {middle, -middle} if signed else {middle}
    return np.array(sorted(found))


@pytest.mark.parametrize("signed", [True, False])
def test_numbers_are_coded_by_the_nearest_of_their_block(signed):
    """By looking at all 256, of blocks that are cut by slices; a block of zeros stays one."""
    book = by_hand(signed)
    assert len(book) == 256
    np.testing.assert_allclose(eight_bit.codebook(signed), book, rtol=1e-6)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 512)) * 10.0 ** rng.uniform(-8, 0, (2, 6, 512))
    x[0, 2:4, :128] = 0
    x = np.float32(x if signed else np.abs(x))
    size = (2, 128)
    codes, scales = eight_bit.coded(jnp.asarray(x), size, signed)
    assert codes.dtype == np.uint8 and codes.shape == x.shape and scales.shape == (2, 3, 4)
    got = np.asarray(eight_bit.decoded(codes, scales, size, signed))
    for l in range(2):
        for i in range(0, 6, 2):
            for j in range(0, 512, 128):
                part = np.float64(x[l, i : i + 2, j : j + 128])
                largest = np.abs(part).max()
                assert scales[l, i // 2, j // 128] == np.float32(largest)
                near = book[np.abs(part[..., None] / (largest or 1) - book).argmin(axis=-1)] * largest
                if not signed:
                    near = np.where((part > 0) & (near == 0), book[1] * largest, near)
                found = got[l, i : i + 2, j : j + 128]
                # Where two are equally near in float32, either.
                same = np.isclose(found, near, rtol=1e-5, atol=0)
                tie = np.isclose(np.abs(found - part), np.abs(near - part), rtol=1e-3, atol=1e-12)
                assert (same | tie).all() and same.mean() > 0.99
    assert not signed or not got[0, 2:4, :128].any()


@pytest.mark.parametrize(
    "shape, units, expected",
    [
        ((3, 64, 512), 1, (1, 256)), ((3, 512, 8), 1, (32, 8)), ((4096,), 0, (1, 256)), ((50257, 96), 0, (1, 96)),
        ((3, 32, 32), 1, None),  # of a layer 1,024
        ((30, 4096), 1, (1, 256)), ((3, 4099, 3), 1, None),  # 3 is the largest block that divides
        ((), 0, None),
    ],
)  # fmt: skip
def test_blocks_are_of_one_layer_and_divide_it(shape, units, expected):
    assert eight_bit.block(shape, units) == expected


def test_steps_are_those_of_numpy():
    """Adam of Kingma & Ba 2015, algorithm 1, with moments that are rounded between steps to the nearest of the 256."""
    rng = np.random.default_rng(1)
    b1, b2, eps, shape = 0.9, 0.95, 1e-8, (16, 256)
    start = {"small": jnp.zeros(3), "large": jnp.zeros(shape)}
    direction = eight_bit.kept(optax.scale_by_adam(b1, b2, eps), lambda path: 0)
    state, update = direction.init(start), jax.jit(direction.update)
    assert state.mu.codes.keys() == {"large"} and state.nu.plain.keys() == {"small"}

    def rounded(a, signed):
        book, largest = by_hand(signed), np.abs(a).max(axis=1, keepdims=True)
        codes = np.abs(a[..., None] / largest[..., None] - book).argmin(axis=-1)
        return book[codes if signed else np.maximum(codes, a > 0)] * largest

    m, v = np.zeros(shape), np.zeros(shape)
    for t in range(1, 6):
        g = rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 0, shape)
        out, state = update({"small": jnp.ones(3), "large": jnp.float32(g)}, state)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        expected = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        # One code more or less, where float32 rounds across a middle, in one of thousands.
        assert (~np.isclose(out["large"], expected, rtol=1e-3, atol=1e-4)).mean() < 2e-3, t
        np.testing.assert_allclose(out["small"], 1.0, rtol=1e-5)
        m, v = rounded(m, True), rounded(v, False)


def test_a_number_without_gradients_does_not_leap():
    """What has been rounded to 0 would be divided by: of the numbers whose gradients end, no update is larger than Adam's largest."""
    direction = eight_bit.kept(optax.scale_by_adam(0.9, 0.95, 1e-8), lambda path: 0)
    first = jnp.full((16, 256), 1e-4).at[:, 0].set(1.0)
    state = direction.init({"a": first})
    _, state = direction.update({"a": first}, state)
    out, _ = direction.update({"a": first * 0}, state)
    assert float(jnp.abs(out["a"]).max()) < 2


@pytest.mark.parametrize(
    "name", [pytest.param("adamw", marks=pytest.mark.heavy), pytest.param("lion", marks=pytest.mark.slow)]
)
def test_training_is_near_that_with_whole_moments(name):
    """Rounding a moment to 7 bits and a sign changes a step by percents; losses stay within 0.5% (Dettmers et al., table 1: no difference
    after whole runs). Codes are as they are on one device, and split as the parameter is."""
    big = dict(width=64, layers=1, mlp_width=128, heads=4, vocab_size=64, steps=12, total=24, rate=3e-3)
    plain, one, eight = (
        train(optimizer=optimizer_config(name=name, moments=moments), **big, **how)
        for moments, how in (("plain", {}), ("8bit", {}), ("8bit", dict(devices=8, fsdp=4, tensor=2)))
    )
    np.testing.assert_allclose(one.losses, plain.losses, rtol=5e-3)
    assert (one.losses != plain.losses)[3:].any()
    np.testing.assert_allclose(eight.losses, one.losses, rtol=1e-4)
    codes = eight.state.optimizer[1].mu.codes["blocks"]["mlp"]["up"]["kernel"]
    assert codes.dtype == np.uint8 and codes.addressable_shards[0].data.size * 8 == codes.size


@pytest.mark.heavy
def test_a_resumed_run_is_the_one_that_was_not_stopped(text_file, tmp_path, monkeypatch):
    """Bit by bit, with codes of parameters that are split over devices."""
    made = tiny_config(
        text_file, model__width=64, model__layers=1, training__steps=4, eval__every=0, checkpoint__every=1,
        parallel__fsdp=4, optimizer__moments="8bit", optimizer__warmup_steps=1,
    )  # fmt: skip
    quiet_train(made, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert quiet_train(made, tmp_path / "run")["reason"] == "max_seconds"
    assert quiet_train(made, tmp_path / "run")["finished"]
    whole, run = (flatten(loading.load(tmp_path / f"{name}@last").params) for name in ("whole", "run"))
    for path, array in whole.items():
        np.testing.assert_array_equal(array, run[path])
