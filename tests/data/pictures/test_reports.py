"""What people reported of image pipelines elsewhere, at toy size."""

import io
import json

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import records, source_splits, survey
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.pictures import ClassedPictures
from ptft_jax.data.pictures.augment import Augment
from ptft_jax.data.pictures.decoding import decoded
from ptft_jax.errors import UserError
from tests.data.pictures.test_augment import row_set
from tests.data.pictures.test_sources import folder, png

Image = pytest.importorskip("PIL.Image")


def labels_of(reference, split, size=4):
    """(labels by number, names of the classes) of a split, as runs read it."""
    values = configs.default().to_dict()
    values["data"]["images"].update(size=size, channels=1)
    data = configs.check(values).data
    found = source_splits.tokenized(data, reference, split, tok.ByteTokenizer(), ("labelled-images",))
    return found.store.labels.tolist(), found.classes


def test_classes_of_another_split_go_by_their_names(tmp_path, cache):
    """ultralytics 26192, 13936 and pytorch-image-models 957: a split that lacks a class was numbered by its own folders."""
    folder(tmp_path / "x" / "train", classes=("a", "b", "c"), count=2)
    folder(tmp_path / "x" / "val", classes=("b", "c"), count=2)
    found, classes = labels_of(f"images:{tmp_path}/x", "validation")
    assert classes == ("a", "b", "c") and found == [1, 1, 2, 2]
    folder(tmp_path / "x" / "test", classes=("b", "d"), count=2)
    with pytest.raises(UserError, match="test/d/00.png: column 'label' is 'd': expected one of a, b, c"):
        labels_of(f"images:{tmp_path}/x", "test")


def test_folders_that_are_numbers_are_in_their_order(tmp_path, cache):
    """ImageNetV2 10: of folders 0 to 10, "10" came before "2"."""
    folder(tmp_path / "x", classes=[str(n) for n in range(11)], count=3)
    _, classes = labels_of(f"images:{tmp_path}/x", "train")
    assert classes == tuple(map(str, range(11)))


def test_hidden_folders_are_no_classes(tmp_path, cache):
    """mmpretrain 507: .ipynb_checkpoints was class 0."""
    folder(tmp_path / "x")
    (tmp_path / "x" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "x" / ".ipynb_checkpoints" / "a.png").write_bytes(png(1))
    assert labels_of(f"images:{tmp_path}/x", "train")[1] == ("cat", "dog")


def jpeg(exif):
    file = io.BytesIO()
    Image.new("L", (16, 8)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_damaged_exif_data(tmp_path):
    """Pillow 5528, 8348, 8605 and datasets 6739: they ended the program, whatever became of them."""
    good = Image.Exif()
    good[0x0112] = 6
    assert decoded(jpeg(good.tobytes())).shape == (16, 8, 1)
    other = Image.Exif()
    other[0x0112], other[0x9000] = 6, "not what it should be"  # another tag that is wrong does not matter
    assert decoded(jpeg(other.tobytes())).shape == (16, 8, 1)
    twice = b"Exif\x00\x00" + good.tobytes()
    for exif in (b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", twice):
        try:
            shape = decoded(jpeg(exif)).shape
        except ValueError as e:
            assert "EXIF data that cannot be read" in str(e) or "a damaged image" in str(e)
        else:
            assert shape in ((8, 16, 1), (16, 8, 1))


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bits_of_either_order_are_scaled(mode):
    """Pillow 3011, 5991 and unsloth 10094: all above 255 became white."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None]
    file = io.BytesIO()
    image = Image.frombytes(mode, (256, 1), ramp.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    image.save(file, "TIFF")
    np.testing.assert_array_equal(decoded(file.getvalue())[0, :, 0], np.arange(256))


def test_mixing_needs_no_even_batch_and_no_other_row():
    """pytorch-image-models 1304 and BirdSet 274: odd batches, and those of one image, were errors."""
    rows = row_set(ClassedPictures(8, 8, 1, 5, Augment(mixup=0.8, cutmix=1.0)), count=3)
    alone = rows.batch(np.asarray([1]), [(0, 7)])
    together = rows.batch(np.asarray([0, 1, 2]), [(0, 6), (0, 7), (0, 8)])
    assert all((together[name][1] == alone[name][0]).all() for name in alone)


def test_copies_in_test_data_are_found(tmp_path, cache):
    """As of texts: the same bytes in train and in test, whatever they are called and whichever class they have."""
    for split, first in (("train", 0), ("test", 40)):
        folder(tmp_path / "x" / split, count=3, first=first)
    for n, level in enumerate((0, 1, 2, 100, 101, 102)):  # all of train
        (tmp_path / "x" / "test" / "dog" / f"copy{n}.png").write_bytes(png(level))
    values = configs.default().to_dict()
    values["data"] |= {"source": f"images:{tmp_path}/x", "held_out": 0.2}
    [found] = survey.survey([f"images:{tmp_path}/x"], [], configs.check(values).data).values()
    leaks = found.facts["leaks"]
    assert leaks["texts"] == found.facts["splits"]["train"]["records"] > 0 and "train/" in leaks["first"][0]


def test_an_image_is_varied_anew_in_every_epoch():
    """pytorch-lightning 20412: workers that were seeded alike gave the same augmentation in each epoch."""
    rows = row_set(ClassedPictures(8, 12, 1, 5, Augment(crop=0.3, flip=0.5)), count=2)
    seen = {rows.batch(np.asarray([0]), [(0, epoch * 2)])["inputs"].tobytes() for epoch in range(6)}
    assert len(seen) > 3


def test_validation_images_in_one_folder_have_their_labels_from_a_list(tmp_path, cache):
    """FixRes 32: labels of ImageNet's validation images are in a list, and there was no way to read them."""
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    rows = [{"file_name": f"{i}.png", "label": "ab"[i % 2]} for i in range(6)]
    for name in ("train", "val"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reference = f"images:{tmp_path}/train.jsonl?validation=val.jsonl&id=-"
    assert len(records.open_source(reference).whole("validation")) == 6
    assert labels_of(reference, "validation")[0] == [0, 1] * 3
