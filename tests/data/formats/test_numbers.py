"""Labels that are numbers: who reads them so, what they become, and what is refused, with its place."""

import json

import numpy as np
import pytest

from ptft_jax.data import tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError

LEARNS = ("regression",)


def of_source(reference, learns=LEARNS):
    opened = tokenize.Formatted.of(reference, learns=learns).whole("train")
    return opened.format.name, tokenize.tokenized(opened, tok.ByteTokenizer(), template="", train_on="assistant")


def lines(folder, *labels, **more):
    rows = [{"text": f"t{n}", "label": label, **more} for n, label in enumerate(labels)]
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{folder}/x.jsonl"


def cells(folder, *labels, header="sentence1,sentence2,label"):
    (folder / "x.csv").write_text("\n".join([header, *(f"a{n},b{n},{label}" for n, label in enumerate(labels))]) + "\n")
    return f"csv:{folder}/x.csv"


def test_numbers_are_kept_as_float32(tmp_path, cache):
    """Whole ones among others, negative ones, 0."""
    labels = [4.75, 5, -1.5, 0, 1e-3]
    name, store = of_source(lines(tmp_path, *labels))
    assert name == "regression" and store.labels.dtype == np.float32
    np.testing.assert_array_equal(store.labels, np.asarray(labels, np.float32))
    name, store = of_source(lines(tmp_path, 3, 1, 0))
    assert name == "regression" and store.labels.tolist() == [3.0, 1.0, 0.0]


def test_pairs_of_a_file_without_types(tmp_path, cache):
    """GLUE's STS-B; a column of another name is named."""
    name, store = of_source(cells(tmp_path, "5.000", "4.75", "-0", " 2e-1 "))
    assert name == "regression-pairs"
    np.testing.assert_array_equal(store.labels, np.asarray([5, 4.75, 0, 0.2], np.float32))
    scored = cells(tmp_path, "2.5", "1", header="sentence1,sentence2,score")
    assert of_source(f"{scored}?label=score")[1].labels.tolist() == [2.5, 1.0]


def test_others_read_them_as_before(tmp_path, cache):
    assert of_source(lines(tmp_path, 3, 1, 0), ("classification",))[0] == "classification"
    assert of_source(lines(tmp_path, 0.5, 1.5), ("text",))[0] == "text"
    assert of_source(lines(tmp_path, 3, 1) + "?format=regression", ())[1].labels.dtype == np.float32


BAD = {
    "a text": ([1.5, "high", 2.0], "x.jsonl, line 2: column 'label' is 'high': expected a number"),
    "a number as text": ([1.5, "2.5"], "x.jsonl, line 2: column 'label' is '2.5': expected a number"),
    "not a number": ([1.5, float("nan")], "x.jsonl, line 2: NaN, which is not JSON"),
    "infinite": ([1.5, float("inf")], "x.jsonl, line 2: Infinity, which is not JSON"),
    "beyond float32": ([1.5, 1e39], "x.jsonl, line 2: column 'label' is 1e[+]39: expected a number that is finite"),
    "beyond floats": ([1.5, 10**400], "x.jsonl, line 2: column 'label' is 1000.*: expected a number that is finite"),
    "null": ([1.5, None], "x.jsonl, line 2: column 'label' is null"),
    "a truth": ([1.5, True], "x.jsonl, line 2: column 'label' is not a number"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("late", [False, True])
def test_bad_labels(name, late, tmp_path, cache):
    labels, message = BAD[name]
    if late:
        labels, message = (
            [1.5] * 120 + labels[1:],
            message.replace("line 2", "line 121").replace("not a", "True: expected a"),
        )
    with pytest.raises(UserError, match=f"(?s){message}"):
        of_source(lines(tmp_path, *labels))


@pytest.mark.parametrize(
    "label, words", [("high", "'high': expected a number"), ("nan", "'nan': expected .* finite"), ("", "")]
)
def test_bad_cells(label, words, tmp_path, cache):
    with pytest.raises(UserError, match=rf"(?s)x.csv, .*3: column 'label' is {words or '(empty|null)'}"):
        of_source(cells(tmp_path, "1.5", label))


def test_a_missing_label_is_told_with_its_place(tmp_path, cache):
    (tmp_path / "x.jsonl").write_text('{"text": "a", "label": 1.5}\n{"text": "b"}\n')
    with pytest.raises(UserError, match="(?s)x.jsonl, line 2"):
        of_source(f"jsonl:{tmp_path}/x.jsonl")


def test_a_column_of_parquet(tmp_path, cache):
    import pyarrow
    from pyarrow import parquet

    def of(labels):
        table = pyarrow.table({"sentence1": list("abc"), "sentence2": list("def"), "label": labels})
        parquet.write_table(table, tmp_path / "x.parquet")
        return of_source(f"parquet:{tmp_path}/x.parquet")

    name, store = of(pyarrow.array([0.25, 5.0, -1.0], pyarrow.float32()))
    assert name == "regression-pairs" and store.labels.tolist() == [0.25, 5.0, -1.0]
    with pytest.raises(UserError, match="x.parquet, row 1: NaN or an infinite number"):
        of(pyarrow.array([0.25, float("nan"), 1.0]))
