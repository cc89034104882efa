"""Positions and patches for other sizes: by what has to stay, and by Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.params import resizing

RNG = np.random.default_rng(0)
FIELDS = dict(image_size=8, patch_size=2, class_token=True, distillation="none", head="classes")
HERE = lambda path, shape: jax.sharding.SingleDeviceSharding(jax.devices()[0])  # noqa: E731


@pytest.mark.parametrize("old,new", [(4, 8), (4, 6), (8, 3)])
def test_images_are_resized_as_by_pillow(old, new):
    image = pytest.importorskip("PIL.Image")
    pixels = RNG.normal(size=(old, old)).astype(np.float32)
    theirs = np.asarray(image.fromarray(pixels).resize((new, new), image.Resampling.BILINEAR))
    ours = resizing.resize_matrix(old, new) @ pixels.reshape(-1)
    np.testing.assert_allclose(ours.reshape(new, new), theirs, atol=1e-5)


def test_larger_patches_give_the_same_vectors():
    """Of a patch that was made larger exactly; smaller ones are the least-squares solution over patches of independent pixels."""
    kernel = RNG.normal(size=(4 * 4 * 3, 5)).astype(np.float32)
    patch = RNG.normal(size=(4 * 4, 3))
    larger = resizing.resize_matrix(4, 7) @ patch
    found = np.asarray(resizing.patches(jnp.asarray(kernel), 4, 7))
    np.testing.assert_allclose(larger.reshape(-1) @ found, patch.reshape(-1) @ kernel, rtol=1e-4, atol=1e-4)
    down = resizing.resize_matrix(4, 3)
    smaller = np.asarray(resizing.patches(jnp.asarray(kernel), 4, 3)).reshape(9, 15)
    expected = np.linalg.lstsq(down.T, kernel.reshape(16, 15).astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(smaller, expected, atol=1e-4)


def test_positions_are_interpolated_and_what_is_before_them_stays():
    """Of a linear slope the middle of it is the same slope; the class token's is as it was."""
    rows, columns = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    table = np.concatenate([[[9.0, -9.0]], np.stack([rows, columns], -1).reshape(-1, 2)]).astype(np.float32)
    found = np.asarray(resizing.positions(jnp.asarray(table), 1, 16))
    assert found.shape == (1 + 16 * 16, 2)
    np.testing.assert_array_equal(found[0], table[0])
    inner = found[1:].reshape(16, 16, 2)[5:11, 5:11]
    places = (np.arange(5, 11) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(inner[..., 0], np.repeat(places[:, None], 6, 1), atol=1e-4)
    np.testing.assert_allclose(inner[..., 1], np.repeat(places[None], 6, 0), atol=1e-4)


def test_what_changes_and_what_does_not():
    flat = {
        "embed/patches/kernel": jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32),
        "embed/positions/embedding": jnp.asarray(RNG.normal(size=(17, 6)), jnp.float32),
        "head/classes/kernel": jnp.zeros((6, 3)),
    }
    for sizes, changed in (
        ({}, set()),
        ({"image_size": 12}, {"embed/positions/embedding"}),
        ({"image_size": 16, "patch_size": 4}, {"embed/patches/kernel"}),
        ({"patch_size": 4}, set(flat) - {"head/classes/kernel"}),
    ):
        found = resizing.resized(flat, FIELDS, {**FIELDS, **sizes}, HERE)
        assert {path for path in flat if found[path] is not flat[path]} == changed
    with pytest.raises(UserError, match="the decoder predicts patches of 2 pixels, not of 4"):
        resizing.resized(flat, {**FIELDS, "head": "pixels"}, {**FIELDS, "head": "pixels", "patch_size": 4}, HERE)
