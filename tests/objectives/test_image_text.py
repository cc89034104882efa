"""Images beside captions: losses and gradients beside transformers' as they are stored, the same on any mesh, and recall by hand."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.spec import ModelSpec
from ptft_jax.objectives import recall
from ptft_jax.objectives.image_text import Clip, Siglip
from ptft_jax.params.rules import flatten
from tests.helpers import EVERYTHING, train

OBJECTIVES = {"clip": Clip(), "siglip": Siglip()}
STORED = json.loads(pathlib.Path(__file__).with_name("image_text.json").read_text())
SPEC = dict(
    vocab_size=12, max_length=5, layers=1, width=16, heads=2, kv_heads=0, causal=False, image_size=8, patch_size=4, channels=1, head="vector",
    vector_width=8, text_layers=1, text_width=16, text_heads=2, text_length=6,
)  # fmt: skip


class Given:
    """A model whose vectors are given: parameters are these, and what scores are made by."""

    logits = staticmethod(lambda params, hidden: hidden)
    texts = staticmethod(lambda params, captions, ends: params["texts"])
    pair_scale = staticmethod(lambda params: (jnp.exp(params["scale"]), params["bias"]))


def rows_of(count, seed=0, length=6):
    """Captions that differ, and end where `ends` says; the rest is padding by the token that ends them."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(3, length, count)
    captions = rng.integers(0, 11, (count, length))
    captions[np.arange(length) >= ends[:, None]] = 11
    return {"captions": captions.astype(np.int32), "ends": ends.astype(np.int32), "weights": np.ones(count, np.float32)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_transformers(name):
    """Also where rows fill the batch up, and a caption comes twice: such are no negatives."""
    kept = STORED[name]
    params = {what: jnp.asarray(kept[what], jnp.float32) for what in ("images", "texts", "scale", "bias")}

    def loss(params, batch):
        found = OBJECTIVES[name].loss_of(Given(), params, params["images"], batch)
        return found.total / found.weight

    batch = rows_of(len(kept["images"]))
    value, gradient = jax.value_and_grad(loss)(params, batch)
    np.testing.assert_allclose(value, kept["loss"], rtol=1e-6)
    for what, expected in kept["gradient"].items():
        np.testing.assert_allclose(gradient[what], expected, rtol=2e-5, atol=1e-6, err_msg=what)
    filled = {k: jnp.concatenate([jnp.asarray(a), jnp.asarray(a[:2])]) for k, a in batch.items()}
    filled["captions"], filled["weights"] = filled["captions"].at[-2:].set(5), filled["weights"].at[-2:].set(0)
    more = {k: jnp.concatenate([a, a[:2] + 1]) if jnp.ndim(a) > 1 else a for k, a in params.items()}
    np.testing.assert_allclose(loss(more, filled), kept["loss"], rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_captions_that_come_twice_are_no_negatives(name):
    """Of two rows with one caption each loses what it would lose without the other, but for what is below it: their own pairs."""
    kept = STORED[name]
    images, texts = (np.asarray(kept[what], np.float32)[:3] for what in ("images", "texts"))
    params = {"texts": texts, "scale": jnp.float32(1.0), "bias": jnp.float32(-2.0 if name == "siglip" else 0.0)}
    batch = rows_of(3)
    batch["captions"][2], batch["ends"][2] = batch["captions"][0], batch["ends"][0]
    found = OBJECTIVES[name].loss_of(Given(), params, images, batch)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    scores = np.e * unit[0] @ unit[1].T + params["bias"]
    total = 0.0
    for i in range(3):
        others = [j for j in range(3) if j != i and {i, j} != {0, 2}]
        if name == "siglip":
            total += np.log1p(np.exp(-scores[i, i])) + sum(np.log1p(np.exp(scores[j, i])) for j in others)
        else:
            both = [np.exp([line[i], *(line[j] for j in others)]) for line in (scores[i], scores[:, i])]
            total -= sum(np.log(e[0] / e.sum()) for e in both) / 2
    np.testing.assert_allclose(found.total, total, rtol=1e-5)


def measured(kind):
    """An objective with a "nll", which helpers.train reads."""

    class Measured(kind):
        def loss_of(self, *args, **options):
            loss = kind.loss_of(self, *args, **options)
            return loss._replace(metrics={"nll": loss.metrics["loss"], **loss.metrics})

    return Measured()


@functools.cache
def trained(name, **other):
    batches = [rows_of(16, seed) for seed in range(2)]
    for seed, batch in enumerate(batches):
        batch["inputs"] = np.random.default_rng(seed).integers(0, 256, (16, 8, 8, 1)).astype(np.uint8)
        batch["weights"][-3:] = 0
    bias = {"pair_bias": True, "text_causal": False} if name == "siglip" else {}
    objective = measured(type(OBJECTIVES[name]))
    return train(**SPEC, **bias, rates=EVERYTHING, objective=objective, batches=batches, **other)


@pytest.mark.parametrize(
    "name,devices",
    [
        ("siglip", 8),
        pytest.param("siglip", 4, marks=pytest.mark.heavy),
        pytest.param("clip", 8, marks=pytest.mark.heavy),
    ],
)
def test_negatives_are_those_of_the_whole_mesh(name, devices):
    alone, found = trained(name), trained(name, devices=devices, fsdp=devices // 2)
    np.testing.assert_allclose(found.losses, alone.losses, rtol=2e-5)
    np.testing.assert_allclose(found.grad_norms, alone.grad_norms, rtol=2e-4)
    start, end = (flatten(alone.partition.merge(s.trainable, s.frozen)) for s in (alone.start, alone.state))
    assert all(not np.array_equal(start[path], end[path]) for path in end)  # nothing is there that learns nothing


def test_cosines_are_multiplied_by_100_at_most():
    params = {"head/texts/scale": jnp.asarray([5.0]), "x": jnp.ones(2)}
    np.testing.assert_allclose(Clip().bounded(params)["head/texts/scale"], np.log(100.0), rtol=1e-6)
    assert Clip().bounded({"x": jnp.ones(2)}) == {} == Siglip().bounded(params)


def recalled(images, texts, of_images, of_texts, counted):
    """Recall of vectors at angles in a plane."""
    vectors = [np.stack([np.cos(a), np.sin(a)], 1) for a in (np.radians(images), np.radians(texts))]
    digests = [np.asarray(of, np.uint32) for of in (of_images, of_texts)]
    table = recall.tables(*map(jnp.asarray, (*vectors, *digests)), jnp.asarray(counted))[recall.VECTORS]
    return recall.values(np.asarray(table)), np.asarray(table)


def test_recall_by_hand():
    """Three images, two with one caption; a row that fills the batch up is none of them."""
    images = [[1, 1], [1, 2], [2**31, 1], [9, 9]]
    texts = [[1, 2**31], [3, 4], [1, 2**31], [5, 6]]
    found, table = recalled([0.0, 50.0, 100.0, 20.0], [10.0, 80.0, 10.0, 0.0], images, texts, [1.0, 1.0, 1.0, 0.0])
    # Images at 0 and 50 are nearest their captions (at 10 and 80), that at 100 is nearer the other; both captions have their image nearest
    # or next: 10 has 0; 80 has 100 first, then 50.
    assert found["text_recall_1"] == pytest.approx(2 / 3) and found["image_recall_1"] == pytest.approx(1 / 2)
    assert found["text_recall_5"] == found["image_recall_5"] == found["image_recall_10"] == 1.0
    lost = table * [np.nan, *[1.0] * (table.shape[1] - 1)]  # of images one coordinate
    assert recall.values(lost)["text_recall_1"] == recall.values(lost)["image_recall_1"] == 0


def test_an_image_with_several_captions_has_them_all():
    """Two images at 0 and 90; the first has captions at 60 and 10, the second at 40. Of captions 60 is nearer the wrong image, and so is 40; each image has
    one of its own nearest, or the wrong one: 10 is that of 0, and at 90 the nearest is 60."""
    images, texts = [[1, 1], [1, 1], [2, 2]], [[1, 0], [2, 0], [3, 0]]
    found, _ = recalled([0.0, 0.0, 90.0], [60.0, 10.0, 40.0], images, texts, [1.0, 1.0, 1.0])
    assert found["text_recall_1"] == pytest.approx(1 / 2) and found["image_recall_1"] == pytest.approx(1 / 3)
    assert found["text_recall_5"] == found["image_recall_5"] == 1.0


def test_a_tower_reads_no_further_than_the_end_of_a_text():
    from ptft_jax.model.transformer import Transformer

    model = Transformer(ModelSpec(**{k: v for k, v in SPEC.items() if k != "kv_heads"}))
    params = model.init(jax.random.key(0))
    batch = rows_of(3)
    other = np.where(np.arange(6) > batch["ends"][:, None], 3, batch["captions"])
    first, second = (model.texts(params, jnp.asarray(c), batch["ends"]) for c in (batch["captions"], other))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (3, 8)
