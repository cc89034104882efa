"""Rows of reward models: both answers whole, each pair's margin beside it, and margins that are none."""

import json

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import builders, filling, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError

PAIRS = [(f"{n}?", "yes " + "x" * (n % 6), "no", n / 8) for n in range(40)]


def rows_of(source, length=40, **data):
    section = configs.check({"data": {"source": source, "length": length, **data}, "objective": {"name": "reward"}})
    bytes_ = tok.ByteTokenizer()
    builder = builders.build(section.objective, bytes_, True)
    tokens = source_splits.tokenized(section.data, source, "train", bytes_, builder.kinds)
    return filling.filled(section.data, tokens, builder, partial=False).rows


def written(folder, kind, pairs=PAIRS, names=("prompt", "chosen", "rejected", "margin")):
    path = folder / f"pairs.{kind}"
    if kind == "csv":
        path.write_text("\n".join([",".join(names), *(",".join(map(str, pair)) for pair in pairs)]) + "\n")
    else:
        path.write_text("".join(json.dumps(dict(zip(names, pair))) + "\n" for pair in pairs))
    return f"{kind}:{path}"


@pytest.mark.parametrize("kind, packing", [("jsonl", "best_fit"), ("csv", "first_fit"), ("jsonl", "none")])
def test_every_pair_is_whole_and_has_its_own_margin(kind, packing, tmp_path, cache):
    rows, margins = rows_of(written(tmp_path, kind), packing=packing), {(p + c, p + r): m for p, c, r, m in PAIRS}
    found, most = {}, 0
    for index in range(len(rows)):
        row = rows.row(index)
        count = int(row["pairs"].sum())
        most = max(most, count)
        np.testing.assert_array_equal(row["weights"], row["pairs"])
        assert row["segments"].max() == 2 * count and not row["margins"][count:].any()
        for pair in range(count):
            sides = [row["inputs"][row["segments"] == 2 * pair + side].tolist() for side in (1, 2)]
            assert all(ids[-1] == 256 and ids.count(256) == 1 for ids in sides), "scored at its end"
            found[tuple(bytes(ids[:-1]).decode() for ids in sides)] = float(row["margins"][pair])
    assert most == len(row["pairs"]) and (most > 1) == (packing != "none")
    assert found == {texts: margins[texts] for texts in found} and len(found) == rows.learned() > 25


def test_without_a_column_margins_are_0_and_another_name_is_an_option(tmp_path, cache):
    plain = rows_of(written(tmp_path, "jsonl", [pair[:3] for pair in PAIRS]))
    assert not plain.row(0)["margins"].any() and plain.row(0)["margins"].dtype == np.float32
    (tmp_path / "other").mkdir()
    source = written(tmp_path / "other", "jsonl", names=("prompt", "chosen", "rejected", "gap"))
    assert rows_of(f"{source}?margin=gap").row(1)["margins"].any()


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("much", "column 'margin' is text.*a number"),
        (None, "null"),
        (1e39, "finite"),
        (True, "yes or no.*a number"),
    ],
    ids=str,
)
def test_margins_that_are_none(wrong, words, tmp_path, cache):
    source = written(tmp_path, "jsonl", [*PAIRS[:20], (*PAIRS[20][:3], wrong), *PAIRS[21:]])
    with pytest.raises(UserError, match=rf"pairs.jsonl, line 21.*{words}"):
        rows_of(source)
