"""What the verbs of data do with images: a contact sheet, counts, and no folder of tokens."""

import io
import json
import re
import sys

import numpy as np
import pytest

from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.pictures import ClassedPictures, MaskedPictures
from ptft_jax.data.pictures.augment import Augment
from ptft_jax.verbs.data import sheets
from tests.data.pictures.test_augment import row_set
from tests.processes import run

Image = pytest.importorskip("PIL.Image")


def shown(builder):
    rows = row_set(builder)
    batch = rows.batch(np.arange(3), [(0, n) for n in range(3)])
    return [
        sheets.shown(
            f"row {n} <b>",
            rows.store.ids.reshape(11, 8, 8, 1)[n],
            {k: v[n] for k, v in batch.items()},
            ("a", "b", "c&"),
            builder,
            tok.ByteTokenizer(),
        )
        for n in range(3)
    ]


def test_sheets():
    found = shown(ClassedPictures(8, 8, 1, 5))
    assert [one.words for one in found] == ["class 0 (a)", "class 1 (b)", "class 2 (c&)"]
    sheet = np.asarray(Image.open(io.BytesIO(sheets.png(found))))
    kept = np.repeat(np.repeat(found[1].kept, 14, 0), 14, 1)[..., 0]  # 112 pixels high
    left = 4 + 112 + 4
    np.testing.assert_array_equal(sheet[4:116, left : left + 112, 0], kept)
    np.testing.assert_array_equal(sheet[120:232, left : left + 112, 0], kept)  # below it, as it is not varied
    page = sheets.page("a <title>", found)
    assert page.count("data:image/png;base64,") == 6 and "<b>" not in page and "c&amp;" in page
    [mixed, *_] = shown(ClassedPictures(8, 8, 1, 5, Augment(mixup=1.0)))
    share, other = re.fullmatch(r"(0\.\d\d) class 0 \(a\) \+ (0\.\d\d) class \d \(.*\)", mixed.words).groups()
    assert float(share) + float(other) == pytest.approx(1)
    [masked, *_] = shown(MaskedPictures(8, 8, 1, 17, Augment(), 2, 0.75))
    assert masked.words == "4 of 16 patches are seen" and (masked.seen == 127).sum() >= 12 * 4 - 2


@pytest.mark.heavy
def test_commands(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.integers(0, 256, (60, 8, 8, 3), np.uint8), y=np.arange(60) % 3)

    def ptft(*words):
        return run(sys.executable, "-m", "ptft_jax.cli", *words, XLA_FLAGS="", PTFT_CACHE=str(tmp_path / "cache"))

    done = ptft("data", "stats", f"--data=images:{tmp_path}/x.npz", "--json")
    found = json.loads(done.stdout)["images"][f"images:{tmp_path}/x.npz"]
    assert set(found["classes"]) == {"0", "1", "2"} and len(found["mean"]) == 3 and 0.45 < found["mean"][0] < 0.55
    done = ptft("data", "show", f"--data=images:{tmp_path}/x.npz", "--rows=2", "--as=json", f"--html={tmp_path}/x.html")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 2 and all(re.fullmatch(r"class \d", row["is"]) for row in rows)
    assert (tmp_path / "x.html").read_text().count("<img") == 4
    done = ptft(
        "data", "prepare", f"--source=images:{tmp_path}/x.npz", f"--out={tmp_path}/prepared", "--tokenizer=byte"
    )
    assert done.returncode == 2 and "images are not prepared" in done.stderr and not (tmp_path / "prepared").exists()
