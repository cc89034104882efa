"""Models of images: positions by hand, patches that are seen, pixels as they are kept, and heads."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.inputs import Inputs
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.model.vision import masked_flops, normalized, patches, waves
from ptft_jax.params.rules import flatten
from ptft_jax.planning import flops

SPEC = ModelSpec(
    vocab_size=0, max_length=17, layers=2, width=16, heads=2, causal=False, head="classes", classes=3, image_size=8, patch_size=2,
    channels=3, positions="sine", pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.2,),
)  # fmt: skip
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)


def made(**changes):
    model = Transformer(dataclasses.replace(SPEC, **changes))
    return model, model.init(jax.random.key(0))


def test_positions_are_those_of_the_paper():
    """By the definition, of the patch in row 2 and column 1 of 3 x 3, behind a class token."""
    found = waves(8, 3, 1)
    assert found.shape == (10, 8) and not found[0].any()
    column, row = 1.0, 2.0
    expected = [math.sin(column), math.sin(column / 100), math.cos(column), math.cos(column / 100)]
    expected += [math.sin(row), math.sin(row / 100), math.cos(row), math.cos(row / 100)]
    np.testing.assert_allclose(found[1 + 2 * 3 + 1], expected, rtol=1e-6)
    assert "embed/positions/embedding" not in flatten(made()[1])


def test_patches_are_rows_of_pixels():
    found = np.asarray(patches(jnp.asarray(IMAGES), 2))
    np.testing.assert_array_equal(found[1, 4 * 2 + 3], IMAGES[1, 4:6, 6:8].reshape(-1))


def test_pixels_as_they_are_kept_and_as_they_are_normalized():
    model, params = made()
    floats = (IMAGES.astype(np.float32) / 255 - np.asarray([0.4, 0.5, 0.6], np.float32)) / np.float32(0.2)
    np.testing.assert_allclose(normalized(jnp.asarray(IMAGES), SPEC), floats, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(params, IMAGES), model(params, floats), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["sine", "learned"])
def test_what_is_seen(positions):
    """All patches in order are the image; in another order the class token sees the same; what is not seen changes nothing."""
    model, params = made(positions=positions)
    run = jax.jit(model.hidden)
    whole = run(params, Inputs(IMAGES))
    order = np.tile(np.arange(16, dtype=np.int32), (2, 1))
    np.testing.assert_allclose(run(params, Inputs(IMAGES, visible=order)), whole, atol=1e-6)
    turned = run(params, Inputs(IMAGES, visible=order[:, ::-1]))
    np.testing.assert_allclose(turned[:, 0], whole[:, 0], atol=1e-5)
    np.testing.assert_allclose(turned[:, 1:], whole[:, :0:-1], atol=1e-5)
    changed = IMAGES.copy()
    changed[:, :2] = 0  # the patches 0 to 3
    some = run(params, Inputs(IMAGES, visible=order[:, 4:9]))
    assert some.shape == (2, 6, 16)
    np.testing.assert_array_equal(run(params, Inputs(changed, visible=order[:, 4:9])), some)


def test_noise_is_added_to_what_goes_into_the_first_block():
    model, params = made()
    streams = jax.jit(model.streams)
    noise = np.random.default_rng(1).normal(size=(2, 17, 16)).astype(np.float32)
    found = streams(params, Inputs(IMAGES, noise=noise))[0] - streams(params, Inputs(IMAGES))[0]
    np.testing.assert_allclose(found, noise, atol=1e-5)


def test_what_heads_read():
    """The class token, the mean of the patches, or both, through one linear layer; of registers and class tokens neither is a patch."""
    for changes, pick in (
        ({"pooling": "token"}, lambda h: h[:, 0]),
        ({"pooling": "mean"}, lambda h: h[:, 1:].mean(axis=1)),
        (
            {"pooling": "both", "registers": 2, "max_length": 19},
            lambda h: np.concatenate([h[:, 0], h[:, 3:].mean(1)], 1),
        ),
        ({"pooling": "mean", "class_token": False, "max_length": 16}, lambda h: h.mean(axis=1)),
    ):
        model, params = made(**changes)
        hidden = np.asarray(model.hidden(params, IMAGES))
        head = params["head"]["classes"]
        expected = pick(hidden) @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(model(params, IMAGES), expected, rtol=1e-4, atol=1e-6)
    model, params = made(head="vector", vector_width=5)
    expected = np.asarray(model.hidden(params, IMAGES))[:, 0] @ params["head"]["projection"]["kernel"]
    np.testing.assert_allclose(model(params, IMAGES), expected, rtol=1e-4, atol=1e-6)


def test_what_a_query_that_tells_nothing_apart_reads():
    """The mean of all values, and what the MLP, which begins without a say here, makes of it."""
    model, params = made(head="vector", pooling="attention", class_token=False, max_length=16)
    pool = params["head"]["pool"]["attention"]
    for layer in (pool["query"], pool["mlp"]["down"]):
        layer["kernel"] = jnp.zeros_like(layer["kernel"])
    hidden = np.asarray(model.hidden(params, IMAGES))
    values = hidden @ pool["value"]["kernel"] + pool["value"]["bias"]
    expected = values.mean(1) @ pool["out"]["kernel"] + pool["out"]["bias"]
    np.testing.assert_allclose(model(params, IMAGES), expected, rtol=1e-3, atol=1e-6)


def test_factors_on_what_sublayers_add():
    """Of 1 they change nothing; of 0 nothing is added to what patches became."""
    plain, params = made()
    model, scaled = made(layer_scale=1.0)
    for path, a in flatten(params).items():
        np.testing.assert_array_equal(flatten(scaled)[path], a)
    np.testing.assert_allclose(model(scaled, IMAGES), plain(params, IMAGES), rtol=1e-5)
    for name in ("attention_scale", "mlp_scale"):
        assert (scaled["blocks"][name]["scale"] == 1).all()
        scaled["blocks"][name]["scale"] *= 0
    streams = model.streams(scaled, IMAGES)
    np.testing.assert_array_equal(streams[-1], streams[0])


def test_what_a_decoder_predicts():
    """Of all patches; where nothing was seen of a patch, by its place alone: equal images give equal pixels, and other ones others."""
    changes = dict(head="pixels", decoder_layers=1, decoder_width=8, decoder_heads=2)
    model, params = made(**changes)
    visible = jnp.asarray([[0, 3, 5], [2, 3, 15]])
    hidden = model.hidden(params, Inputs(IMAGES, visible=visible))
    found = model.pixels(params, hidden, visible)
    assert found.shape == (2, 16, 12) and found.dtype == jnp.float32
    swapped = model.pixels(params, hidden[::-1], visible[::-1])
    np.testing.assert_allclose(swapped[::-1], found, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-6


def test_operations_of_masked_images_are_those_of_the_traced_program():
    changes = dict(head="pixels", decoder_layers=2, decoder_width=8, decoder_heads=2)
    model, params = made(**changes)
    visible = jnp.asarray([[0, 3, 5], [2, 3, 15]])

    def run(params):
        return model.pixels(params, model.hidden(params, Inputs(IMAGES, visible=visible)), visible)

    assert flops.of_jaxpr(jax.make_jaxpr(run)(params)) == 2 * masked_flops(model.spec.resolved, 3)
