"""Which images a report shows of a run, and what it shows of them: by models made by hand."""

import base64
import types

import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.data import tokenizers as tok
from ptft_jax.data.pictures import decoding
from ptft_jax.evaluation import gallery
from ptft_jax.model.vision import normalized, patches
from ptft_jax.objectives.image_text import Clip
from ptft_jax.objectives.masked_images import patch_statistics
from ptft_jax.reporting import run_report
from ptft_jax.reporting.page import Page

CLASSES = ("low", "high")
SPEC = types.SimpleNamespace(
    head="classes", image_size=4, patch_size=2, channels=1, pixel_mean=(0.4,), pixel_std=(0.2,)
)


class Brightness:
    """The odds of "high" are a seventh of the first pixel, less 10."""

    context_parts = 1

    spec = SPEC

    def logits(self, params, images):
        odds = images[:, 0, 0, 0] / 7.0 - 10
        return jnp.stack([jnp.zeros_like(odds), odds], axis=1)


class Oracle:
    """Predicts the true pixels, as the objective has them, and 0 of what is seen."""

    spec = types.SimpleNamespace(**{**vars(SPEC), "head": "pixels"})

    def pixels(self, params, images, visible):
        found = patches(normalized(images, self.spec), 2)
        mean, deviation = patch_statistics(found)
        return ((found - mean) / deviation).at[jnp.arange(len(visible))[:, None], visible].set(0)


def objective(**fields):
    """Whose hidden states are the images."""
    return types.SimpleNamespace(hidden=lambda model, params, batch: batch["inputs"], **fields)


def image_of(text):
    return decoding.decoded(base64.b64decode(text))


def batches(levels, targets, weights):
    images = np.asarray(levels, np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    row = {"inputs": images, "targets": np.asarray(targets, np.int32), "weights": np.asarray(weights, np.float32)}
    return [{k: v[n : n + 3] for k, v in row.items()} for n in (0, 3)]


def test_the_surest_mistakes_come_first():
    """Levels of 70 are even odds. The last row is there to fill the batch up."""
    found = gallery.rows(
        objective(),
        Brightness(),
        {},
        batches([0, 77, 140, 63, 98, 0], [1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 0]),
        CLASSES,
        2,
    )
    assert [(r["kind"], r["number"], r["class"], r["named"]) for r in found] == [
        ("mistake", 0, "high", "low"), ("mistake", 4, "low", "high"), ("example", 0, "high", "low"), ("example", 1, "low", "high"),
    ]  # fmt: skip
    assert found[0]["probability"] == pytest.approx(1 / (1 + np.exp(-10)))
    assert found[1]["probability"] == pytest.approx(1 / (1 + np.exp(-4)))
    np.testing.assert_array_equal(image_of(found[1]["image"]), np.full((4, 4, 1), 98))


def test_what_is_predicted_stands_in_the_place_of_what_is_hidden():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    batch = {"inputs": images, "visible": np.asarray([[0, 3], [1, 2], [0, 1]]), "weights": np.ones(3, np.float32)}
    found = gallery.rows(objective(normalize_patches=True), Oracle(), {}, [batch], (), 2)
    assert [row["number"] for row in found] == [0, 1]
    for row, image in zip(found, images):
        np.testing.assert_array_equal(image_of(row["image"]), image)
        assert np.abs(image_of(row["made"]).astype(int) - image).max() <= 1
    seen = image_of(found[0]["seen"])
    np.testing.assert_array_equal(seen[:2, :2], images[0, :2, :2])
    assert (seen[:2, 2:] == 127).all() and (seen[2:, :2] == 127).all()


def test_a_report_shows_them(tmp_path):
    pytest.importorskip("PIL")
    rows = gallery.rows(
        objective(),
        Brightness(),
        {},
        batches([0, 77, 140, 63, 98, 0], [1, 0, 1, 1, 0, 1], [1] * 6),
        ("<low>", "high"),
        3,
    )
    page = Page("x", "y")
    run_report._pictures(page, [{"name": "a <run>", "pictures": [{"set": "test", **row} for row in rows]}])
    page.write(tmp_path / "x.html", "")
    text = (tmp_path / "x.html").read_text()
    assert text.count('<img src="data:image/png;base64,') == 6 and "the most confident mistakes" in text
    assert "&lt;low&gt; 100%, is high" in text and "<low>" not in text and "<run>" not in text


class Shades:
    """An image's vector and a caption's are a point on a circle: the first pixel, and the first token, in degrees."""

    spec = types.SimpleNamespace(**{**vars(SPEC), "head": "vector", "text_layers": 1})
    logits = staticmethod(lambda params, images: _point(images[:, 0, 0, 0]))
    texts = staticmethod(lambda params, captions, ends: _point(captions[:, 0]))
    pair_scale = staticmethod(lambda params: (10.0, 0.0))


def _point(degrees):
    return jnp.stack([jnp.cos(jnp.radians(degrees)), jnp.sin(jnp.radians(degrees))], axis=1)


def test_images_are_shown_with_the_caption_that_is_nearest(monkeypatch):
    """A stands at 65 degrees, P at 80, and at 91 a bracket, which first fills the batch up: an image at 88 is nearest it, and is P's."""
    made = Clip()
    monkeypatch.setattr(Clip, "hidden", lambda self, model, params, batch: batch["inputs"])
    [batch, _] = batches([66, 88, 91, 0, 0, 0], [0] * 6, [1, 1, 0, 0, 0, 0])
    batch["captions"] = np.asarray([[65, 256], [80, 256], [91, 256]], np.int32)
    batch["ends"] = np.asarray([1, 1, 1], np.int32)
    found = gallery.rows(made, Shades(), {}, [batch], (), 5, tokenizer=tok.ByteTokenizer())
    assert [(row["kind"], row["class"], row["named"]) for row in found] == [
        ("example", "A", "A"),
        ("example", "P", "P"),
    ]
    batch["weights"][2] = 1
    found = gallery.rows(made, Shades(), {}, [batch], (), 5, tokenizer=tok.ByteTokenizer())
    assert [(row["class"], row["named"]) for row in found if row["kind"] == "mistake"] == [("P", "[")]
    angles = np.radians([88 - 65, 88 - 80, 88 - 91])
    expected = np.exp(10 * np.cos(angles))
    assert found[0]["probability"] == pytest.approx(expected[2] / expected.sum(), rel=1e-4)
