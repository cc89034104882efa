"""Rows of tabs: quoted or not, none is swallowed; and what is no text."""

import csv
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data.records import open_records
from ptft_jax.errors import UserError
from tests.data.records import writing


def write(tmp_path, data, name="x.tsv"):
    (tmp_path / "data").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data" / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return f"csv:{tmp_path}/data/{name}"


def rows(reference, **options):
    parts = writing.opened(reference, **options)
    found = [(parts[s].where(i), r) for s in writing.SPLITS for i, r in enumerate(parts[s])]
    return [r for _, r in sorted(found, key=lambda pair: int(pair[0].rsplit(" ", 1)[1]))]


UNQUOTED = ["id\ttext", *(f"{n}\t{quote}said {n}" for n, quote in enumerate(["", '"', "'", '""'] * 10))]


def test_a_mark_at_the_start_of_a_cell_swallows_no_line(cache, tmp_path):
    """40 rows, as pandas and pyarrow read them where they are told that nothing is quoted."""
    import pandas
    import pyarrow.csv

    data = "\n".join(UNQUOTED) + "\n"
    reference = write(tmp_path, data)
    found = rows(reference)
    told = pandas.read_csv(io.StringIO(data), sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False)
    assert found == told.to_dict("records") and len(found) == 40
    options = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
    types = pyarrow.csv.ConvertOptions(column_types={"id": pyarrow.string(), "text": pyarrow.string()})
    table = pyarrow.csv.read_csv(io.BytesIO(data.encode()), parse_options=options, convert_options=types)
    assert found == table.to_pylist()
    untold = pandas.read_csv(io.StringIO(data), sep="\t", dtype=str)
    assert len(untold) < 40, "which is what goes wrong"
    assert rows(f"{reference}?quoting=no") == found


def test_a_file_that_is_quoted_line_by_line_is_read_so(cache, tmp_path):
    cells = [
        (str(n), random.Random(n).choice(['a "b" c', "a\tb", "plain", '"', "", "it's", 'x"', '""'])) for n in range(40)
    ]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t", quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n").writerows(
        [("id", "text"), *cells]
    )
    assert rows(write(tmp_path, text.getvalue())) == [{"id": n, "text": t} for n, t in cells]


CELL = st.text(
    st.sampled_from("ab\" \tcé'") | st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0\t"), max_size=8
)


@settings(max_examples=25, deadline=None)
@given(cells=st.lists(st.tuples(CELL, CELL), min_size=4, max_size=12), how=st.sampled_from(["all", "minimal", "none"]))
def test_what_was_written_is_read(tmp_path_factory, cells, how):
    folder = tmp_path_factory.mktemp("tsv")
    if how == "none":
        cells = [tuple(cell.replace("\t", "_") for cell in row) for row in cells]
    cells = [(f"{n}{a}", b) for n, (a, b) in enumerate(cells)]
    lines = [("a", "b"), *cells]
    if how == "none":
        data = "".join(f"{a}\t{b}\n" for a, b in lines)
    else:
        text = io.StringIO(newline="")
        quoting = csv.QUOTE_ALL if how == "all" else csv.QUOTE_MINIMAL
        csv.writer(text, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(lines)
        data = text.getvalue()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTFT_CACHE", str(folder / "cache"))
        said = {"all": "yes", "minimal": "yes", "none": "no"}[how]
        expected = [{"a": a, "b": b} for a, b in cells]
        reference = write(folder, data)
        assert sum(len(p) for p in writing.opened(reference, held_out=0.4).values()) == len(cells), "no row is lost"
        assert rows(f"{reference}?quoting={said}", held_out=0.4) == expected
        starts = [cell.startswith('"') for line in data.splitlines() for cell in line.split("\t")]
        if how != "none" or not any(starts):
            assert rows(reference, held_out=0.4) == expected


def test_a_cell_across_lines_is_an_error_unless_it_is_asked_for(cache, tmp_path):
    lines = [f"{n}\ttext {n}\n" for n in range(20)]
    reference = write(tmp_path, "id\ttext\n" + "".join(lines[:10]) + '10\t"two\nlines"\n' + "".join(lines[11:]))
    with pytest.raises(
        UserError, match=r"x.tsv, line 13: 1 cell, and the header has 2; quotation marks are text .*quoting=yes"
    ):
        rows(reference)
    found = rows(f"{reference}?quoting=yes")
    assert found[10] == {"id": "10", "text": "two\nlines"} and len(found) == 20
    skipped = open_records(reference, "train", held_out=0.1, broken="skip").skipped
    assert skipped.count == 1 and "line 13" in skipped.first[0]
    with pytest.raises(UserError, match="quoting=maybe: expected yes or no"):
        rows(f"{reference}?quoting=maybe")


def test_commas_are_quoted_unless_it_is_said_otherwise(cache, tmp_path):
    data = "id,text\n" + "".join(f'{n},"said {n}\n' for n in range(20))
    reference = write(tmp_path, data, "x.csv")
    with pytest.raises(UserError, match="x.csv, line (2|20|21): "):
        rows(reference)
    assert rows(f"{reference}?quoting=no") == [{"id": str(n), "text": f'"said {n}'} for n in range(20)]


GOOD = "".join(f"{n}\ttext {n}\n" for n in range(20))
SIBLINGS = {
    "carriage returns alone, tabs": ("x.tsv", b"id\ttext\r1\ta\r2\tb\r", "line 1: a carriage return amid a row"),
    "carriage returns alone, commas": ("x.csv", b"id,text\r1,a\r2,b\r", "line 1: a carriage return amid a row"),
    "carriage returns alone, JSON": ("x.jsonl", b'{"text": "a"}\r{"text": "b"}\r', "line 1, column 15: .*carriage return alone"),
    "a zero byte, tabs": ("x.tsv", f"id\ttext\n{GOOD * 40}1\ta\0b\n".encode(), "line 802: a zero byte"),
    "a zero byte, commas": ("x.csv", f"id,text\n{GOOD * 40}1,a\0b\n".replace("\t", ",").encode(), "line 802: a zero byte"),
    "a zero byte, JSON": ("x.jsonl", b'{"text": "a"}\n' * 400 + b'{"text": "a\0"}\n', "line 401, column 12: not JSON: Invalid control"),
    "UTF-16, tabs": ("x.tsv", "id\ttext\n1\ta\n".encode("utf-16"), "UTF-16 text; convert it"),
    "UTF-16 without a mark": ("x.tsv", "id\ttext\n1\ta\n".encode("utf-16-le"), "binary, not text"),
    "Latin-1": ("x.tsv", f"id\ttext\n{GOOD}1\tcaf\xe9\n".encode("latin-1"), "line 22, column 6: not UTF-8"),
    "a column twice": ("x.tsv", b"id\ttext\tid\n1\ta\t2\n", "line 1: the header has the column 'id' twice"),
    "a cell too many": ("x.tsv", f"id\ttext\n{GOOD}1\ta\tb\n".encode(), "line 22: 3 cells, and the header has 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", SIBLINGS)
def test_what_is_no_text_or_no_row_is_named(cache, tmp_path, name):
    file, data, words = SIBLINGS[name]
    kind = "jsonl" if file.endswith("jsonl") else "csv"
    with pytest.raises(UserError, match=f"{file}(, |: ){words}"):
        rows(write(tmp_path, data, file).replace("csv:", f"{kind}:"))


def test_marks_of_editors_and_long_lines(cache, tmp_path):
    plain = rows(write(tmp_path, "id\ttext\n" + GOOD))
    assert rows(write(tmp_path, b"\xef\xbb\xbf" + f"id\ttext\n{GOOD}".encode().replace(b"\n", b"\r\n"))) == plain
    assert rows(write(tmp_path, b"\xef\xbb\xbf" + f'"id"\t"text"\n{GOOD}'.encode())) == plain
    long = "x" * 3_000_000
    for name, tab in (("x.tsv", "\t"), ("x.csv", ",")):
        data = f"id{tab}text\n" + GOOD.replace("\t", tab) + f"20{tab}{long}\n"
        assert rows(write(tmp_path, data, name))[20]["text"] == long
