"""Texts of images: where an image stands, what is learned, what is known without looking, and the same on any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model import decode
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.spec import IMAGE
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.base import evaluated
from ptft_jax.objectives.vision_lm import VisionLM, successors
from ptft_jax.params.rules import flatten, unflatten
from tests.helpers import LENGTH, SPEC, VOCAB, random_batch, train

TOWER = (
    ("max_length", 5), ("layers", 2), ("width", 16), ("heads", 2), ("causal", False), ("image_size", 8), ("patch_size", 4), ("channels", 1),
)  # fmt: skip
TAKEN = 4
SMALL = dict(layers=1, width=16, heads=2, kv_heads=2, tower=TOWER)
FROZEN = (("projector/.*", 1.0), (".*", 0.0))


def batch_of(seed, rows=16):
    """Rows whose image follows one token; the last two fill the batch up."""
    rng, batch = np.random.default_rng(seed), random_batch(seed, rows)
    batch["inputs"][:, 1 : 1 + TAKEN] = IMAGE
    batch["targets"][:, :TAKEN] = 0
    batch["weights"][:, :TAKEN] = 0
    batch["weights"][-2:] = 0
    return batch | {"images": rng.integers(0, 256, (rows, 8, 8, 1)).astype(np.uint8)}


@functools.cache
def made():
    model = Transformer(dataclasses.replace(SPEC, **SMALL, init_std=0.3))
    return model, jax.jit(model.init)(jax.random.key(1))


@pytest.mark.parametrize("choice", [{"projector": "linear", "projector_merge": 2}, {"tower_skip": 1}])
def test_an_image_stands_where_its_positions_are(choice):
    """As a plain model with the image's vectors as further tokens of its vocabulary; and without an image it is the model without a tower."""
    spec = dataclasses.replace(SPEC, **SMALL, init_std=0.3, tied=False, **choice)
    model, taken = Transformer(spec), 1 if "projector_merge" in choice else TAKEN
    params = jax.jit(model.init)(jax.random.key(1))
    assert any(p.startswith("tower/layer_1/") for p in flatten(params)) == ("tower_skip" not in choice)
    trunk, batch = model._trunk(params), batch_of(0, 2)
    tokens = batch["inputs"].copy()
    tokens[tokens == IMAGE] = 3
    tokens[:, 2 : 2 + taken] = IMAGE
    found = jax.jit(model)(params, Inputs(jnp.asarray(tokens), images=jnp.asarray(batch["images"])))
    vectors = np.asarray(jax.jit(lambda images: trunk.projector(trunk.tower(images)))(batch["images"]))
    assert vectors.shape == (2, taken, 16)
    plain = Transformer(dataclasses.replace(spec, tower=(), vocab_size=VOCAB + taken))
    run, own = jax.jit(plain), {p: a for p, a in flatten(params).items() if not p.startswith(("tower/", "projector/"))}
    for row in range(2):
        more = np.concatenate([own["embed/tokens/embedding"], vectors[row]])
        kernel = np.pad(own["head/kernel"], ((0, 0), (0, taken)))
        ids = tokens[row : row + 1].copy()
        ids[ids == IMAGE] = VOCAB + np.arange(taken)
        expected = run(unflatten(own | {"embed/tokens/embedding": more, "head/kernel": kernel}), jnp.asarray(ids))
        np.testing.assert_allclose(found[row], expected[0, :, :VOCAB], rtol=2e-5, atol=2e-5)
    text = random_batch(3, 2)["inputs"]
    alone = Transformer(dataclasses.replace(spec, tower=()))
    np.testing.assert_array_equal(jax.jit(model)(params, text), jax.jit(alone)(unflatten(own), text))


def measured(objective, params, batch):
    return evaluated(objective, (), made()[0], params, batch)


def test_what_is_measured():
    """By logits of single rows, each with its own image and with another's."""
    model, params = made()
    batch = batch_of(1, 6)
    other, several = (np.asarray(a) for a in successors(jnp.asarray(batch["weights"])))
    assert sorted(other[:4]) == [0, 1, 2, 3] and not (other[:4] == np.arange(4)).any()
    assert list(several) == [1, 1, 1, 1, 0, 0]
    single = jax.jit(model)
    sums = {"": [0.0, 0, 0], "_other_images": [0.0, 0, 0]}
    for row, (name, image) in ((r, i) for r in range(4) for i in (("", r), ("_other_images", other[r]))):
        tokens, images = jnp.asarray(batch["inputs"][row][None]), jnp.asarray(batch["images"][image][None])
        log_p = np.asarray(jax.nn.log_softmax(single(params, Inputs(tokens, images=images))[0]), np.float64)
        there = batch["weights"][row] > 0
        if name == "" and row < 2:  # rows that are right throughout
            batch["targets"][row][there] = log_p.argmax(-1)[there]
        targets = batch["targets"][row][there]
        sums[name][0] -= (log_p[there, targets] * batch["weights"][row][there]).sum()
        sums[name][1] += batch["weights"][row].sum()
        sums[name][2] += (log_p.argmax(-1)[there] == targets).all()
    tables = jax.jit(functools.partial(measured, VisionLM(chunk=5)))(params, batch)
    np.testing.assert_allclose(tables["nll"], sums[""][:2], rtol=1e-5)
    np.testing.assert_allclose(tables["nll_other_images"], sums["_other_images"][:2], rtol=1e-5)
    np.testing.assert_array_equal(tables["exact"], [sums[""][2], 4])
    np.testing.assert_array_equal(tables["exact_other_images"], [sums["_other_images"][2], 4])
    assert sums[""][2] >= 2 > sums["_other_images"][2]


def test_what_is_written_is_the_likeliest_token_by_token():
    """Prompts of unequal lengths, each after its own image, beside forward passes without a cache."""
    model, params = made()
    images = batch_of(2, 3)["images"]
    prompts = [[5, *[IMAGE] * TAKEN, *range(7, 7 + n)] for n in (1, 6, 3)]
    sampling = decode.Sampling(temperature=0)
    found = decode.generate(model, params, prompts, max_new_tokens=5, sampling=sampling, images=list(images), places=2)
    run = jax.jit(model)
    for prompt, image, row in zip(prompts, images, found):
        ids = list(prompt)
        for _ in range(5):
            padded = jnp.asarray([ids + [0] * (LENGTH - len(ids))])
            logits = run(params, Inputs(padded, images=jnp.asarray(image[None])))
            ids.append(int(logits[0, len(ids) - 1].argmax()))
        assert row.ids == ids[len(prompt) :]
    blank = decode.generate(
        model, params, prompts[:1], max_new_tokens=5, sampling=sampling, images=[np.zeros_like(images[0])]
    )
    assert blank[0].ids != found[0].ids


OTHERS = {"fsdp": dict(devices=8, fsdp=4, micro=2), "pmap": dict(devices=8, kind="pmap")}


@pytest.mark.parametrize("other", ["fsdp", pytest.param("pmap", marks=pytest.mark.slow)])
def test_meshes_and_micro_batches_change_nothing(other):
    options = dict(
        objective=VisionLM(), rates=FROZEN, batches=[batch_of(n) for n in range(2)], steps=2, dropout=0.0, **SMALL
    )
    alone, found = train(**options), train(**options, **OTHERS[other])
    found.assert_equal_to(alone)
    start, end = (flatten(found.partition.merge(s.trainable, s.frozen)) for s in (found.start, found.state))
    moved = {path for path in end if not np.array_equal(np.asarray(start[path]), np.asarray(end[path]))}
    assert moved == {path for path in end if path.startswith("projector/")}
