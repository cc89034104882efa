"""Probes of runs on images: which images they learn from, what they read, and what is refused."""

import types

import jax
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data.pictures import settled
from ptft_jax.errors import UserError
from ptft_jax.evaluation import probes, zero_shot
from ptft_jax.model import spec as specs
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.reporting import neighbors_page

SPEC = specs.ModelSpec(
    vocab_size=0, max_length=5, layers=1, width=16, heads=2, causal=False, head="pixels", positions="sine", image_size=8,
    patch_size=4, channels=1, decoder_layers=1, decoder_width=8, decoder_heads=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Which half of an image is bright, or none; images of training and others."""
    rng, found = np.random.default_rng(0), {}
    for split, count in (("train", 90), ("val", 6), ("test", 30)):
        labels = np.arange(count) % 3
        images = rng.integers(0, 80, (count, 8, 8))
        images[labels == 0, :4] += 150
        images[labels == 1, 4:] += 150
        found |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    path = tmp_path_factory.mktemp("arrays") / "halves.npz"
    np.savez(path, **found)
    return path


def loaded(spec=SPEC):
    """A run with random parameters, of masked images."""
    values = configs.default().to_dict()
    values["model"] |= {name: getattr(spec, name) for name in values["model"] if hasattr(spec, name)}
    values["objective"]["name"] = "masked_images"
    settled.complete(values)
    config = configs.check(values)
    model = Transformer(spec)
    source = types.SimpleNamespace(name="runs/masked", config=config)
    return types.SimpleNamespace(model=model, params=model.init(jax.random.key(0)), source=source)


def test_what_is_measured_is_what_scikit_learn_measures_of_the_states(arrays, tmp_path, cache):
    linear = pytest.importorskip("sklearn.linear_model")
    run = loaded()
    learning = [probe for probe in probes.PROBES if probe != "prompts"]  # which needs a tower for texts
    found = probes.evaluate(run, f"images:{arrays}", "test", probes=learning, shots=(2, 0))
    assert {k: found[k] for k in ("split", "examples", "learned_from", "pooling")} == {
        "split": "test", "examples": 30, "learned_from": 90, "pooling": "token",
    }  # fmt: skip
    data = np.load(arrays)
    states = {
        split: np.asarray(run.model.hidden(run.params, Inputs(data[f"x_{split}"][..., None])))[:, 0]
        for split in ("train", "test")
    }
    mean, deviation = states["train"].mean(0), states["train"].std(0)
    theirs = linear.RidgeClassifier(alpha=found["probe/ridge/all/strength"])
    theirs.fit((states["train"] - mean) / deviation, data["y_train"])
    assert found["probe/ridge/all"] == theirs.score((states["test"] - mean) / deviation, data["y_test"])
    neighbors = pytest.importorskip("sklearn.neighbors").KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda far: np.exp(-far / 0.07)
    )
    neighbors.fit(states["train"], data["y_train"])
    assert found["probe/knn/all"] == pytest.approx(neighbors.score(states["test"], data["y_test"]), abs=0.04)
    beside = []
    options = dict(probes=("knn",), shots=(2,), pooling="token", neighbors=beside)
    alone = probes.evaluate(run, f"images:{arrays}", "test", **options)
    assert alone["probe/knn/2"] == found["probe/knn/2"]  # whether or not all tokens are read
    assert len({one["number"] for one in beside}) == 12
    nearest = pytest.importorskip("sklearn.neighbors").NearestNeighbors(
        n_neighbors=8, metric="cosine", algorithm="brute"
    )
    chosen = states["test"][[one["number"] for one in beside]]
    far, _ = nearest.fit(states["train"]).kneighbors(chosen)
    every = pytest.importorskip("sklearn.metrics.pairwise").cosine_distances(chosen, states["train"])
    for one, far_8, far_all in zip(beside, far, every):
        np.testing.assert_array_equal(one["image"], data["x_test"][one["number"], ..., None])
        assert one["class"] == str(data["y_test"][one["number"]])
        assert len({near["number"] for near in one["nearest"]}) == 8
        np.testing.assert_allclose([near["cosine"] for near in one["nearest"]], 1 - far_8, atol=1e-6)
        np.testing.assert_allclose(far_all[[near["number"] for near in one["nearest"]]], far_8, atol=1e-6)
        for near in one["nearest"]:
            np.testing.assert_array_equal(near["image"], data["x_train"][near["number"], ..., None])
            assert near["class"] == str(data["y_train"][near["number"]])
    neighbors_page.write("a run", alone, beside, tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert text.count("<img") == 12 * 9 and text.count("another class") == sum(
        near["class"] != one["class"] for one in beside for near in one["nearest"]
    )


def test_images_of_fewer_are_among_those_of_more():
    classes = np.arange(60) % 3
    order = probes._order(classes, (), (5,), 0, "x")
    for count in (1, 2, 5):
        chosen = order < count
        assert (np.bincount(classes[chosen]) == count).all()
    assert (order < 2).sum() == 6 and not ((order < 1) & ~(order < 2)).any()
    assert (probes._order(classes, (), (5,), 1, "x") != order).any()


def test_prompts_are_padded_as_captions_are():
    """By a stand-in whose vectors are the token behind a text, and the one that ends it."""
    tokenizer = types.SimpleNamespace(
        pad_id=3, end_id=4, prefix_ids=(), encode_all=lambda texts, special: [[1]] * len(texts)
    )
    for causal, behind in ((False, 3), (True, 4)):
        spec = types.SimpleNamespace(text_length=5, text_causal=causal)
        model = types.SimpleNamespace(
            spec=spec, texts=lambda params, captions, ends: captions[:, 1:3].astype("float32")
        )
        one = types.SimpleNamespace(tokenizer=tokenizer, model=model, params={})
        found = zero_shot._of_classes(one, ("x",), ("{}",))
        np.testing.assert_allclose(found, np.asarray([[4, behind]]) / np.hypot(4, behind), rtol=1e-6)


def test_what_is_refused(arrays, tmp_path, cache):
    run, source = loaded(), f"images:{arrays}"
    for options, message in (
        (
            {"probes": ("rigde",)},
            "--probe=rigde: expected of ridge, linear, attention, knn, prompts .did you mean 'ridge'",
        ),
        ({"probes": ("knn",), "shots": (31,)}, "--probe_shots=31: .* has 30 images of the class 0 to learn from"),
        ({"probes": ()}, "--probe: none is named"),
        ({"probes": ("prompts",)}, "--probe=prompts: .* has no tower for texts .model.text_layers = 0."),
        ({"probes": ("knn",), "split": "train"}, "--split=train: probes learn from it"),
    ):
        with pytest.raises(UserError, match=message):
            probes.evaluate(run, source, **options)
    np.savez(tmp_path / "bare.npz", x=np.random.default_rng(0).integers(0, 256, (60, 8, 8)).astype(np.uint8))
    with pytest.raises(UserError, match="probes learn classes, and these images have none"):
        probes.evaluate(run, f"images:{tmp_path}/bare.npz", probes=("knn",))
