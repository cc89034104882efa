"""How images are varied: by Pillow where it does the same, by what has to stay, and the same for whichever process makes a row."""

import dataclasses

import numpy as np
import pytest

from ptft_jax.data import batches, filling, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.pictures import ClassedPictures, MaskedPictures
from ptft_jax.data.mixture import Mixture
from ptft_jax.data.options import DataOptions
from ptft_jax.data.packing import plan
from ptft_jax.data.pictures import augment, operations
from ptft_jax.data.pictures.augment import Augment, resized
from ptft_jax.data.rows import RowSet
from ptft_jax.data.store import Store

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (24, 24, 3), np.uint8)
EVERYTHING = Augment(
    crop=0.3, shift=2, turn=20.0, scale=0.2, flip=0.5, color=0.4, operations=2, erase=0.5, mixup=0.4, cutmix=1.0
)  # fmt: skip


def rng(*key):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


@pytest.mark.parametrize(
    "box,size", [((0, 0, 24, 24), 8), ((3, 5, 17, 20), 16), ((2, 2, 8, 8), 13), ((0, 0, 24, 24), 24)]
)
def test_parts_are_resized_as_by_pillow(box, size):
    image = pytest.importorskip("PIL.Image")
    left, top, right, bottom = box
    theirs = np.asarray(image.fromarray(IMAGE).resize((size, size), image.Resampling.BILINEAR, box=box))
    ours = resized(IMAGE, (top, bottom), (left, right), size)
    # Pillow's weights are fixed-point numbers.
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_nothing_is_the_image_itself():
    assert (Augment().varied(IMAGE, 24, rng(0)) == IMAGE).all()
    assert (Augment().varied(IMAGE, 16, rng(0)) == IMAGE[4:20, 4:20]).all()


def test_moves_and_mirrors():
    found = {Augment(flip=1.0).varied(IMAGE, 24, rng(n)).tobytes() for n in range(5)}
    assert found == {IMAGE[:, ::-1].tobytes()}
    for n in range(10):
        moved = Augment(shift=3).varied(IMAGE, 24, rng(n))
        places = [
            (d, r)
            for d in range(-3, 4)
            for r in range(-3, 4)
            if (moved[6:18, 6:18] == IMAGE[6 - d : 18 - d, 6 - r : 18 - r]).all()
        ]
        assert len(places) == 1


def test_turned_and_made_larger():
    """A quarter turn is NumPy's; of twice the size each pixel is between those that it came from; a blob in the middle stays there."""
    for angle, times in ((90, 1), (-90, -1), (180, 2)):
        made = augment._turned(IMAGE, np.deg2rad(angle), np.ones(2))
        np.testing.assert_array_equal(made, np.rot90(IMAGE, times))
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None, None], 24, 1)
    wide = augment._turned(ramp, 0.0, np.asarray([2.0, 1.0]))[:, 0, 0]
    np.testing.assert_allclose(wide, 115 + (np.arange(24) - 11.5) * 5, atol=1)
    blob = np.zeros((24, 24, 1), np.uint8)
    blob[9:15, 9:15] = 200
    for n in range(10):
        made = Augment(turn=30.0, scale=0.2).varied(blob, 24, rng(n)).astype(float)[..., 0]
        assert 200 * 36 / 1.45 < made.sum() < 200 * 36 * 1.45 and (made != blob[..., 0]).any()
        for axis in (0, 1):
            assert made.sum(1 - axis) @ np.arange(24) / made.sum() == pytest.approx(11.5, abs=0.2)


def test_parts_have_the_area_that_is_asked_for(monkeypatch):
    """The share of the area and the form of 400 parts are within their bounds, and spread over them."""
    seen = []
    monkeypatch.setattr(
        "ptft_jax.data.pictures.augment.resized",
        lambda image, rows, columns, size: seen.append((*rows, *columns)) or image,
    )
    for n in range(400):
        Augment(crop=0.25).varied(np.zeros((100, 100, 1), np.uint8), 8, rng(n))
    tall, wide = (np.asarray([s[i + 1] - s[i] for s in seen]) for i in (0, 2))
    area, ratio = tall * wide / 10_000, wide / tall
    assert 0.24 < area.min() < 0.28 and 0.9 < area.max() <= 1 and 0.5 < area.mean() < 0.65
    assert 0.73 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.37
    assert all(0 <= s[0] < s[1] <= 100 and 0 <= s[2] < s[3] <= 100 for s in seen)


def test_colors_stay_grey_where_they_are_grey():
    flat = np.full((8, 8, 3), 100, np.uint8)
    for n in range(10):
        found = Augment(color=0.5).varied(flat, 8, rng(n))
        assert (found == found[0, 0, 0]).all() and 50 <= found[0, 0, 0] <= 150


def test_mixed_images_have_the_share_that_is_said():
    black, white = np.zeros((20, 20, 1), np.uint8), np.full((20, 20, 1), 255, np.uint8)
    for mixing in (Augment(mixup=0.5), Augment(cutmix=1.0), Augment(mixup=0.2, cutmix=1.0)):
        shares = []
        for n in range(60):
            mixed, share = mixing.mixed(black, white, rng(n))
            assert 1 - mixed.mean() / 255 == pytest.approx(share, abs=0.5 / 255)
            shares.append(share)
        assert min(shares) < 0.3 and max(shares) > 0.7


def test_operations_keep_form_and_range():
    made = {operations.one(IMAGE, 9.0, rng(n)).tobytes() for n in range(80)}
    assert len(made) > 15
    ramp = np.repeat(np.arange(100, 164, dtype=np.uint8)[:, None, None], 8, 1)
    assert operations._spread(ramp).min() == 0 and operations._spread(ramp).max() == 255
    level = operations._equalized(ramp)
    assert level.min() == 0 and level.max() == 255 and (np.diff(level[:, 0, 0].astype(int)) >= 0).all()
    assert (operations._moved(IMAGE, ((1, 0, 3), (0, 1, 0)))[:-3] == IMAGE[3:]).all()


def row_set(builder, count=11):
    values = builder.values
    ids = np.random.default_rng(1).integers(0, 256, count * values, np.uint8)
    offsets = np.arange(count + 1, dtype=np.int64) * values
    store = Store(ids, offsets, None, np.arange(count, dtype=np.int32) % 3, np.arange(count, dtype=np.int64), "key")
    made = plan(
        offsets, builder.length, how="none", overlong="raise", slots=builder.slots, overlap=0, seed=0, where=str
    )
    return RowSet(store, made, builder, builder.length, False)


def test_rows_are_the_same_in_any_process_and_after_any_start():
    """A step's rows, made by one process, by two, by four, and alone."""
    rows = row_set(ClassedPictures(8, 12, 3, 5, EVERYTHING))
    mixture = Mixture(["x"], [1.0], [len(rows)], batch_size=8)

    def of(step, process=0, processes=1):
        return batches.Batches([rows], mixture, batch_size=8, seed=3, process=process, processes=processes)[step]

    for step in (0, 7):
        whole = of(step)
        assert whole["inputs"].shape == (8, 8, 8, 3) and whole["inputs"].dtype == np.uint8
        for processes in (2, 4):
            parts = [of(step, process, processes) for process in range(processes)]
            for name, values in whole.items():
                np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), values)
    assert (of(0)["inputs"] != of(1)["inputs"]).any()
    for prefetch in (0, 3):
        made = next(batches.training([rows], mixture, 7, batch_size=8, seed=3, prefetch=prefetch))
        assert all((made[name] == values).all() for name, values in of(7).items())


def test_mixed_classes_are_those_of_the_images():
    rows = row_set(ClassedPictures(8, 8, 1, 5, Augment(mixup=1.0)))
    batch = rows.batch(np.arange(11), [(0, n) for n in range(11)])
    for n in range(11):
        share, other = float(batch["share"][n]), int(batch["other"][n])
        one, all_ = (
            rows.store.ids.reshape(11, 8, 8, 1)[n].astype(float),
            rows.store.ids.reshape(11, 8, 8, 1).astype(float),
        )
        off = [np.abs(one * share + second * (1 - share) - batch["inputs"][n]).max() for second in all_]
        partner = int(np.argmin(off))
        assert off[partner] <= 0.51 and partner % 3 == other and batch["targets"][n] == n % 3


def test_what_is_seen_of_masked_images():
    rows = row_set(MaskedPictures(8, 8, 1, 17, Augment(), 2, 0.75))
    batch = rows.batch(np.arange(11), [(0, n) for n in range(11)])
    visible = batch["visible"]
    assert (
        visible.shape == (11, 4) and (np.diff(visible, axis=1) > 0).all() and visible.min() >= 0 and visible.max() < 16
    )
    many = np.concatenate(
        [rows.batch(np.arange(11), [(1, 11 * k + n) for n in range(11)])["visible"] for k in range(60)]
    )
    counts = np.bincount(many.reshape(-1), minlength=16)  # each patch one time in four
    assert np.abs(counts / len(many) - 0.25).max() < 5 * (0.25 * 0.75 / len(many)) ** 0.5


def test_what_is_measured_is_not_varied(cache):
    """Evaluation has images as they are kept; training has them varied."""
    pytest.importorskip("matplotlib")
    from ptft_jax import config as configs

    values = configs.default().to_dict()
    values["data"]["images"].update(size=12, channels=1)
    data: DataOptions = configs.check(values).data
    tokens = source_splits.tokenized(
        data, "images:letters?draws=1&size=12", "test", tok.ByteTokenizer(), ("labelled-images",)
    )
    builder = ClassedPictures(12, 12, 1, 5, dataclasses.replace(EVERYTHING, crop=0.5))
    measured, trained = (filling.filled(data, tokens, builder, partial=partial).rows for partial in (True, False))
    kept = tokens.store.ids.reshape(-1, 12, 12, 1)
    batch = measured.batch(np.arange(60), [(0, n) for n in range(60)])
    np.testing.assert_array_equal(batch["inputs"], kept)
    assert "share" not in batch and tokens.store.ids.dtype == np.uint8
    assert (trained.batch(np.arange(60), [(0, n) for n in range(60)])["inputs"] != kept).any()
