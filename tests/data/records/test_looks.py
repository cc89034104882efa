"""Files that look like another kind than their source's, and the count of those that are not read."""

import bz2
import csv
import gzip
import io
import json
import zipfile

import pytest

from ptft_jax.data import overview, survey
from ptft_jax.data.records import open_records, open_source
from ptft_jax.data.records.looks import is_json_lines
from ptft_jax.errors import UserError

LINES = "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(40)).encode()
PROSE = "".join(f"Line {n}, and no more.\n" for n in range(40)).encode()


def table(rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as f:
        f.writestr("x.txt", data)
    return out.getvalue()


QUESTIONS = {  # what is asked for, the file, what it holds, the kind that is meant
    "lines as text": ("text", "x.jsonl", LINES, "jsonl:{file}"),
    "a list as text": ("text", "x.json", b'[{"text": "a"}]', "jsonl:{file}"),
    "packed lines as text": ("text", "x.ndjson.gz", gzip.compress(LINES), "jsonl:{file}"),
    "rows as text": ("text", "x.csv", table([("text",), ("a",)]), "csv:{file}"),
    "tabs as text": ("text", "x.TSV", b"text\nb\n", "csv:{file}"),
    "Parquet as text": ("text", "x.parquet", b"PAR1", "parquet:{file}"),
    "lines as rows": ("csv", "x.jsonl", LINES, "jsonl:{file}"),
    "rows as lines": ("jsonl", "x.csv", table([("text",), ("a",)]), "csv:{file}"),
    "lines as Parquet": ("parquet", "x.jsonl", LINES, "jsonl:{file}"),
    "lines in a text": ("text", "x.txt", b"\n" + LINES, "jsonl:{file}"),
    "marked lines in a text": ("text", "x.md", b"\xef\xbb\xbf" + LINES, "jsonl:{file}"),
    "lines called rows": ("csv", "x.csv", LINES, "jsonl:{file}?content=jsonl"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_another_kind_is_a_question(cache, tmp_path, name):
    kind, file, data, meant = QUESTIONS[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(UserError) as e:
        open_records(f"{kind}:{tmp_path}/{file}", "train", held_out=0.1)
    assert f"did you mean {meant.format(file=tmp_path / file)}?" in str(e.value)
    assert f"{kind}:{tmp_path}/{file}?content={kind}" in str(e.value)


@pytest.mark.parametrize(
    "reference, expected",
    {"text:{}/x.jsonl?content=text": LINES.decode(), "jsonl:{}/x.csv?content=jsonl": "text 0", "jsonl:{}/x.txt": "text 0"}.items(),
)  # fmt: skip
def test_what_was_said_is_read(cache, tmp_path, reference, expected):
    for name in ("x.jsonl", "x.csv", "x.txt"):
        (tmp_path / name).write_bytes(LINES)
    assert open_source(reference.format(tmp_path)).whole()[0]["text"] == expected
    with pytest.raises(UserError, match="content=csv: expected text"):
        open_source(f"text:{tmp_path}/x.jsonl?content=csv")


@pytest.mark.parametrize(
    "text, looks",
    {
        b"": False, b"{}\n": False, b"{x}\n": False, b"[1]\n[2]\n": False, b'{"a": 1}': True, b'{"a": 1}\nand prose\nmore': False,
        b'{"a": 1}\r\n{"b": 2}\r\n': True, PROSE: False, b"def f():\n    return {}\n": False, LINES[:-3]: True,
        b'{"a": 1}\n{"b": "' + b"x" * 100: True,
    }.items(),
)  # fmt: skip
def test_lines_of_json(text, looks):
    assert is_json_lines(text) is looks


@pytest.mark.parametrize(
    "line, looks",
    {
        b' {"a": [1, -2.5e3, null, {"b}": "\\"{[\\\\"}], "c": "\xc3\xa4\\n"}': True, b'{"a": 1} and prose': False, b'{"a": 1}{"b": 2}': False,
        b'{"a": [1}': False, b'{"a": "b': False, b'{}': False, b'{a: 1}': False, b'{"a": (1)}': False, b'{"a": 1}\\': False,
        b'{ "a": 1 }\r': True, b"[1]": False, b'{"a": "\n"}': False, b'{"a": 1}"b"': False, b'{"a": 1}}': False, b"{\\rtf1 a}": False,
    }.items(),
)  # fmt: skip
def test_a_line_that_is_longer_than_what_is_looked_at(line, looks):
    """However it is cut, and whatever follows; what is right is what json says of it."""
    try:
        right = line.count(b"\n") == 0 and bool(json.loads(line)) and line.lstrip().startswith(b"{")
    except ValueError:
        right = False
    assert right is looks
    for text in (line + b"\n", line + b"\nand more {", line):
        for size in (1, 2, 3, 5):
            start, *more = (text[at : at + size] for at in range(0, len(text), size))
            assert is_json_lines(start, iter(more)) is looks, (text, size)


@pytest.mark.parametrize("kind, size", [("text", 1 << 20), ("csv", 1 << 16)])
def test_long_lines_are_a_question_too(cache, tmp_path, kind, size):
    path = tmp_path / ("x.txt" if kind == "text" else "x.csv")
    long = json.dumps({"text": "x" * size}).encode() + b"\n"
    path.write_bytes(long + LINES)
    with pytest.raises(UserError, match=f"x.{path.suffix[1:]} holds lines of JSON: did you mean jsonl:"):
        open_records(f"{kind}:{path}", "train", held_out=0.1)


PACKED = {
    "gzip": (gzip.compress(PROSE), "compressed with gzip: its name has to end with .gz"),
    "bzip2": (bz2.compress(PROSE), "compressed with bzip2: its name has to end with .bz2"),
    "zip": (zipped(PROSE), "a zip archive: unpack it first"),
    "pdf": (b"%PDF-1.7\n\0", "a PDF: extract its text first"),
    "Parquet": (b"PAR1\0", "a Parquet file: did you mean parquet:?"),
    "Arrow": (b"ARROW1\0\0", "an Arrow file: did you mean arrow:?"),
}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("kind, file", [("text", "x.txt"), ("jsonl", "x.jsonl"), ("csv", "x.csv")])
def test_bytes_that_are_no_text_are_named(cache, tmp_path, name, kind, file):
    data, words = PACKED[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(UserError) as e:
        open_records(f"{kind}:{tmp_path}/{file}", "train", held_out=0.1)
    assert f"{file}: {words}" in str(e.value)


def test_a_folder_of_other_kinds_is_a_question(cache, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(LINES)
    with pytest.raises(UserError, match=rf"holds no .txt.*\(did you mean jsonl:{tmp_path}\?\)"):
        open_source(f"text:{tmp_path}")


def test_what_is_not_read_is_counted_by_reason(cache, tmp_path):
    for n in range(12):
        (tmp_path / f"{n}.txt").write_bytes(PROSE + str(n).encode())
        (tmp_path / f"{n}.html").write_bytes(PROSE)
        (tmp_path / f".{n}").write_bytes(PROSE)
    for name in ("a.js", "b.js", "LICENSE"):
        (tmp_path / name).write_bytes(PROSE)
    source = open_source(f"text:{tmp_path}")
    expected = {"hidden": 12, ".html (another ending)": 12, ".js (another ending)": 2, "without an ending": 1}
    assert source.left_out.count == 27 and source.left_out.reasons == expected
    facts = {"left_out_files": {"count": 27, "reasons": source.left_out.reasons, "first": source.left_out.first}}
    (said,) = survey.lines(facts)
    assert said.startswith(
        "27 not read: 12 .html (another ending); 12 hidden; 2 .js (another ending); 1 without an ending; the first: "
    )
    assert said.endswith("; and 24 more")
    earlier = {"left_out_files": {"count": 27, "first": source.left_out.first}}  # as earlier versions wrote it
    assert survey.lines(earlier)[0].startswith("27 not read: ") and "the first: " not in survey.lines(earlier)[0]


def test_records_that_are_left_out_are_said(cache):
    row = {"source": "s", "format": "f", "skipped": 2, "left_out": ["x, line 3: not JSON", "x, line 9: a list"]}
    assert overview.announced([row])[1:] == [
        "     2 records are left out (data.broken='skip'): x, line 3: not JSON; x, line 9: a list"
    ]
