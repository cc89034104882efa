"""Which images a report shows of a run, and what it shows of them: by models made by hand."""

import base64
import io
import re
import types

import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.data import tokenizers as tok
from ptft_jax.data.pictures import decoding
from ptft_jax.evaluation.gallery import Gallery
from ptft_jax.model.vision import normalized, patches
from ptft_jax.objectives.image_text import Clip
from ptft_jax.objectives.masked_images import patch_statistics
from ptft_jax.reporting import images_page, thumbnails
from ptft_jax.reporting.page import Page

CLASSES = ("low", "high")
SPEC = types.SimpleNamespace(
    head="classes",
    image_size=4,
    patch_size=2,
    channels=1,
    pixel_mean=(0.4,),
    pixel_std=(0.2,),
    pooling="token",
    before_patches=1,
)


class Looking:
    """Two layers, in which the class token attends to patch 2 with a weight of the first pixel's 255th, and else to itself; patches to themselves."""

    hidden = staticmethod(lambda params, inputs: inputs.values)
    read_weights = staticmethod(lambda params, images: jnp.zeros((len(images), 5)).at[:, 0].set(1))

    def attention_weights(self, params, inputs):
        share = inputs.values[:, 0, 0, 0] / 255.0 if inputs.adapters is None else inputs.adapters / 4
        one = jnp.tile(jnp.eye(5), (len(share), 1, 1)).at[:, 0, 0].set(1 - share).at[:, 0, 3].set(share)
        return jnp.stack([one, one])


class Brightness(Looking):
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
    shown = Gallery(objective(), Brightness(), CLASSES, 2)
    found = shown.rows({}, batches([0, 77, 140, 63, 98, 0], [1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 0]))
    assert [(r["kind"], r["number"], r["class"], r["named"]) for r in found] == [
        ("mistake", 0, "high", "low"), ("mistake", 4, "low", "high"), ("example", 0, "high", "low"), ("example", 1, "low", "high"),
    ]  # fmt: skip
    assert found[0]["probability"] == pytest.approx(1 / (1 + np.exp(-10)))
    assert found[1]["probability"] == pytest.approx(1 / (1 + np.exp(-4)))
    np.testing.assert_array_equal(image_of(found[1]["image"]), np.full((4, 4, 1), 98))
    share = 98 / 255
    np.testing.assert_allclose(found[1]["attention"], [[0, 0], [share, 0]], rtol=1e-6)
    # Half of it stays in each layer: what the second takes of the class token, the first takes on.
    np.testing.assert_allclose(found[1]["rollout"], [[0, 0], [share / 2 + (1 - share / 2) * share / 2, 0]], rtol=1e-6)
    assert not shown.shows_progress
    [batch, _] = batches([0, 77, 140, 0, 0, 0], [1] * 6, [1] * 6)
    batch["adapters"] = np.asarray([2, 0, 1])  # of rows that have one each
    own = [row for row in shown.rows({}, [batch]) if row["kind"] == "example"]
    assert [row["attention"] for row in own] == [[[0, 0], [0.5, 0]], [[0, 0], [0, 0]]]


def test_what_is_predicted_stands_in_the_place_of_what_is_hidden():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    batch = {"inputs": images, "visible": np.asarray([[0, 3], [1, 2], [0, 1]]), "weights": np.ones(3, np.float32)}
    shown = Gallery(objective(normalize_patches=True), Oracle(), (), 2)
    found = shown.rows({}, [batch])
    assert [row["number"] for row in found] == [0, 1]
    for row, image in zip(found, images):
        np.testing.assert_array_equal(image_of(row["image"]), image)
        assert np.abs(image_of(row["made"]).astype(int) - image).max() <= 1
    seen = image_of(found[0]["seen"])
    np.testing.assert_array_equal(seen[:2, :2], images[0, :2, :2])
    assert (seen[:2, 2:] == 127).all() and (seen[2:, :2] == 127).all()
    assert shown.shows_progress and not Gallery(objective(), Oracle(), (), 0).shows_progress
    keys = ("number", "made", "image", "seen")
    assert shown.progress({}, [batch], first=True) == [
        {"kind": "progress"} | {k: row[k] for k in keys} for row in found
    ]
    assert {key for row in shown.progress({}, [batch], first=False) for key in row} == {"kind", "number", "made"}


def test_a_report_shows_them(tmp_path):
    pytest.importorskip("PIL")
    one = batches([0, 77, 140, 63, 98, 0], [1, 0, 1, 1, 0, 1], [1] * 6)
    rows = Gallery(objective(), Brightness(), ("<low>", "high"), 3).rows({}, one)
    text = page_of(tmp_path, [{"set": "test", **row} for row in rows])
    assert text.count('<img src="data:image/png;base64,') == 18 and "the most confident mistakes" in text
    assert "&lt;low&gt; 100%, is high" in text and "<low>" not in text and "<run>" not in text
    assert "attention, 55% on patches" in text and "the redder a patch" in text  # of the level 140
    text = page_of(
        tmp_path,
        [{"set": "test", **{k: v for k, v in row.items() if k not in ("attention", "rollout")}} for row in rows],
    )
    assert text.count("<img") == 6 and "redder" not in text  # of a run of an earlier version


def test_the_redder_a_patch_the_more_of_it_is_read():
    Image = pytest.importorskip("PIL.Image")
    uri = thumbnails.weighted_uri(np.full((4, 4, 1), 200, np.uint8), np.asarray([[0.1, 0.0], [0.2, 0.05]]))
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))), np.int64)
    assert found.shape == (112, 112, 3) and (found[:56, 56:] == 200).all()  # enlarged, and not read
    levels = [found[at][1] for at in ((111, 0), (0, 0), (111, 111))]
    np.testing.assert_allclose(levels, [200 - share * 0.6 * 170 for share in (1, 0.5, 0.25)], atol=1)


def test_what_was_predicted_at_evaluations(tmp_path):
    """Of eight or more some are shown, the first and the last among them, between what is seen and the image."""
    pytest.importorskip("PIL")
    batch = {
        "inputs": np.zeros((1, 4, 4, 1), np.uint8),
        "visible": np.asarray([[0]]),
        "weights": np.ones(1, np.float32),
    }
    shown = Gallery(objective(normalize_patches=False), Oracle(), (), 2)
    for count, words in ((3, "at all evaluations"), (15, "at 7 of 15 evaluations")):
        rows = [row for n in range(count) for row in _stepped(shown.progress({}, [batch], first=n == 0), n)]
        text = page_of(tmp_path, rows)
        steps = re.findall(r"step (\d+)<", text)
        assert words in text and steps[0] == "0" and steps[-1] == str(10 * count - 10) and len(steps) == min(count, 7)
        assert re.findall(r"0: (seen|true)", text) == ["seen", "true"] and text.count("<img") == len(steps) + 2


def _stepped(rows, n):
    return [{"set": "validation", "step": 10 * n, **row} for row in rows]


def page_of(folder, pictures):
    page = Page("x", "y")
    images_page.add(page, [{"name": "a <run>", "pictures": pictures}])
    page.write(folder / "x.html", "")
    return (folder / "x.html").read_text()


class Shades(Looking):
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
    found = Gallery(made, Shades(), (), 5, tokenizer=tok.ByteTokenizer()).rows({}, [batch])
    assert [(row["kind"], row["class"], row["named"]) for row in found] == [
        ("example", "A", "A"),
        ("example", "P", "P"),
    ]
    batch["weights"][2] = 1
    found = Gallery(made, Shades(), (), 5, tokenizer=tok.ByteTokenizer()).rows({}, [batch])
    assert [(row["class"], row["named"]) for row in found if row["kind"] == "mistake"] == [("P", "[")]
    angles = np.radians([88 - 65, 88 - 80, 88 - 91])
    expected = np.exp(10 * np.cos(angles))
    assert found[0]["probability"] == pytest.approx(expected[2] / expected.sum(), rel=1e-4)
