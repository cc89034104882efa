"""All formats give the same records, at random as in sequence, in any thread and process."""

import concurrent.futures
import json
import multiprocessing
import os
import pickle
import random
import resource
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data.records import open_records
from tests.data.records import sides, writing
from tests.processes import ended, start

KINDS = ("jsonl", "gz", "zst", "list", "parquet", "arrow", "stream", "arrayrecord", "hf", "tfds")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # any character; half a one is no text
INTEGERS = st.integers(-(2**63), 2**63 - 1)
# One schema, for Parquet and Arrow have one: unicode, nulls, nesting.
RECORD = st.fixed_dictionaries(
    {
        "text": TEXT,
        "maybe": st.none() | TEXT,
        "number": st.none() | INTEGERS,
        "real": st.floats(allow_nan=False, allow_infinity=False),
        "flag": st.booleans(),
        "tags": st.lists(TEXT, max_size=3),
        "messages": st.lists(st.fixed_dictionaries({"role": TEXT, "content": st.none() | TEXT}), max_size=3),
        "turns": st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=3),
        "deep": st.fixed_dictionaries({"x": st.lists(st.lists(INTEGERS, max_size=2), max_size=2)}),
    }
)
# A value of every nested type, for formats that take their schema from values.
FIRST = dict(
    text="é", maybe="", number=0, real=0.1, flag=True, tags=[""], deep={"x": [[1]]},
    messages=[{"role": "", "content": ""}], turns=[{"role": "user", "content": "\0"}],
)  # fmt: skip


def numbered(count):
    return [{"id": i, "text": f"text {i} é\u2028\n", "of": {"even": i % 2 == 0, "none": None}} for i in range(count)]


def same_in_all(folder, records, kinds):
    fingerprints = set()
    for kind in kinds:
        reference = writing.write(kind, folder, train=records, validation=[FIRST], test=[FIRST])
        source = open_records(reference, "train", held_out=0.1)
        assert list(source) == records, kind
        order = list(range(len(records)))
        random.Random(len(records)).shuffle(order)
        assert [source[i] for i in order] == [records[i] for i in order], kind
        assert source[-1] == records[-1]
        with pytest.raises(IndexError):
            source[len(records)]
        fingerprints.add(source.fingerprint)
    assert len(fingerprints) == 1, "the fingerprint is of the content"


@settings(max_examples=15, deadline=None)
@given(records=st.lists(RECORD, max_size=8))
def test_files_give_the_same_records(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("kinds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTFT_CACHE", str(folder / "cache"))
        same_in_all(folder, [FIRST, *records], KINDS[:8])


@settings(max_examples=3, deadline=None)
@given(records=st.lists(RECORD, min_size=3, max_size=8))
def test_datasets_give_the_same_records(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("kinds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTFT_CACHE", str(folder / "cache"))
        same_in_all(folder, [FIRST, *records], ("jsonl", "hf", "tfds"))


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=10)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=8), tabs=st.booleans())
def test_cells_are_texts(tmp_path_factory, rows, tabs):
    """Quotes, delimiters and line ends inside cells."""
    folder = tmp_path_factory.mktemp("csv")
    records = [{"a, \n": a, "é": b} for a, b in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTFT_CACHE", str(folder / "cache"))
        reference = writing.write("csv", folder, train=records, validation=records, test=records)
        source = open_records(reference, "train", held_out=0.1)
        assert list(source) == records
        assert [source[i] for i in reversed(range(len(records)))] == records[::-1]


def test_places_are_what_a_person_looks_up(cache, tmp_path):
    records = numbered(12)
    text = writing.lines(records[:3]) + b"\n  \r\n" + writing.lines(records[3:])
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    (tmp_path / "x.csv").write_bytes(b'a,b\n1,"two\nlines"\n\n2,x\n' + b"".join(b"%d,y\n" % i for i in range(3, 12)))
    lines = open_records(f"jsonl:{tmp_path}/x.jsonl", "train", held_out=0.1)
    found = {lines[i]["id"]: lines.where(i) for i in range(len(lines))}
    number = {i: i + 1 if i < 3 else i + 3 for i in range(12)}
    assert found == {i: f"{tmp_path}/x.jsonl, line {number[i]}" for i in found}
    assert len(found) == sides.counts([(f"text {i} é\u2028\n",) for i in range(12)], 0.1)[0]
    rows = writing.opened(f"csv:{tmp_path}/x.csv")
    found = {r[i]["a"]: r.where(i) for r in rows.values() for i in range(len(r))}
    assert found["1"] == f"{tmp_path}/x.csv, line 2" and found["2"] == f"{tmp_path}/x.csv, line 5"
    for kind, place in {
        "parquet": "parquet/train.parquet, row 7",
        "stream": "stream/train.arrows, row 7",
        "arrayrecord": "arrayrecord/train.array_record, record 7",
        "hf": "hf/train, example 7",
        "list": "list/train.json, object 8",
        "tfds": "tfds written/train, example 7",
    }.items():
        reference = writing.write(kind, tmp_path, train=records, validation=records, test=records)
        assert open_records(reference, "train", held_out=0.1).where(7).endswith(place)


def test_several_files_are_one_sequence(cache, tmp_path):
    records, folder = numbered(30), tmp_path / "parts"
    folder.mkdir()
    for i in range(3):
        (folder / f"part-{i}.jsonl").write_bytes(writing.lines(records[10 * i : 10 * i + 10]))
    (folder / ".hidden.jsonl").write_text("no")
    for name in (folder, f"{folder}/part-?.jsonl"):
        parts = writing.opened(f"jsonl:{name}")
        assert sorted(r["id"] for p in parts.values() for r in p) == list(range(30))
        train = [r["id"] for r in parts["train"]]
        assert train == sorted(train), "the order of the files is kept inside a split"
        whole = {r["id"]: p.where(i) for p in parts.values() for i, r in enumerate(p)}
        assert whole[17] == f"{folder}/part-1.jsonl, line 8"
    (tmp_path / "all.jsonl").write_bytes(writing.lines(records))
    one = open_records(f"jsonl:{tmp_path}/all.jsonl", "test", held_out=0.1)
    assert one.fingerprint == parts["test"].fingerprint


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_more_files_than_may_be_open(cache, tmp_path, kind):
    """And behind a link, in a folder that links to one around it."""
    _, suffix, encode = writing.FILES[kind]
    real, named = tmp_path / "real", tmp_path / "named"
    real.mkdir()
    named.mkdir()
    for i in range(120):
        (real / f"{i:03}{suffix}").write_bytes(encode([{"id": i}]))
    (named / "link").symlink_to(real)
    (real / "loop").symlink_to(named)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 70, hard))
    try:
        found = []
        for split in writing.SPLITS:  # what one leaves open is closed before the next
            found += [record["id"] for record in open_records(f"{kind}:{named}", split, held_out=0.1)]
        assert sorted(found) == list(range(120))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "stream", "arrayrecord", "hf", "tfds"])
def test_threads_and_other_processes_read_the_same(cache, tmp_path, kind):
    reference = writing.write(kind, tmp_path, train=numbered(200))
    source = open_records(reference, "train", held_out=0.1)
    expected = list(source)
    order = list(range(len(source))) * 3
    random.Random(0).shuffle(order)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, order)) == [expected[i] for i in order]
    again = pickle.loads(pickle.dumps(source))
    assert list(again) == expected and again.fingerprint == source.fingerprint and again.where(3) == source.where(3)


def _read(source):
    return [source[i]["id"] for i in range(len(source))]


def test_a_spawned_process_reads_it(cache, tmp_path):
    source = open_records(writing.write("jsonl", tmp_path, train=numbered(50)), "train", held_out=0.1)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(_read, source).result() == _read(source)


def test_two_processes_index_at_once(cache, tmp_path):
    reference = writing.write("gz", tmp_path, train=numbered(3000))
    code = f"from ptft_jax.data.records import open_records as o; r = o({reference!r}, 'train', held_out=0.1); "
    code += "print(r.fingerprint, len(list(r)))"
    runs = ended(*(start(sys.executable, "-c", code) for _ in range(3)))
    assert len({run.stdout for run in runs}) == 1 and not any(run.returncode for run in runs), runs
    assert sorted(p.name for p in cache.glob("records/*/*")) == ["rows", "skipped.json"]
    assert not list(cache.glob("**/.*")), "no half-written file is left"


def test_a_large_file_is_not_held(cache, tmp_path):
    """50 MB; what is held of it while it is indexed and read is a hundredth."""
    path = tmp_path / "large.jsonl"
    with open(path, "w", encoding="utf-8") as f:
        for i in range(10_000):
            f.write(json.dumps({"n": i, "text": f"{i} " * 1000}) + "\n")
    size = path.stat().st_size
    assert size > 45e6
    tracemalloc.start()
    try:
        source = open_records(f"jsonl:{path}", "train", held_out=0.1)
        assert source[5]["text"].startswith(f"{source[5]['n']} ") and source.fingerprint
        assert tracemalloc.get_traced_memory()[1] < size / 20
    finally:
        tracemalloc.stop()


def test_an_index_is_made_once(cache, tmp_path, monkeypatch):
    from ptft_jax.data.records import json_lines

    reference = writing.write("jsonl", tmp_path, train=numbered(50))
    first = open_records(reference, "train", held_out=0.1)
    monkeypatch.setattr(json_lines.JsonFile, "scan", lambda self: pytest.fail("indexed again"))
    second = open_records(reference, "train", held_out=0.1)
    assert list(second) == list(first) and second.fingerprint == first.fingerprint
    (tmp_path / "jsonl" / "train.jsonl").rename(tmp_path / "elsewhere.jsonl")
    moved = open_records(f"jsonl:{tmp_path}/elsewhere.jsonl", "train", held_out=0.1)
    assert moved.fingerprint == first.fingerprint and moved.where(0) == f"{tmp_path}/elsewhere.jsonl, line 1"


def test_columns_can_be_chosen(cache, tmp_path):
    records = [{"id": i, "text": str(i), "image": bytes([255, i])} for i in range(9)]
    for kind in ("parquet", "arrow", "hf"):
        reference = writing.write(kind, tmp_path, train=records, validation=records, test=records)
        assert list(open_records(f"{reference}?columns=text,id", "train", held_out=0.1)) == [
            {"text": str(i), "id": i} for i in range(9)
        ]


def test_types_that_arrow_has_and_json_has_not(cache, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "typed").mkdir()
    typed = {
        "map": pa.array([[("a", 1), ("b", 2)]], pa.map_(pa.string(), pa.int32())),
        "word": pa.array(["é"], pa.dictionary(pa.int8(), pa.large_string())),
        "time": pa.array([0], pa.timestamp("s", "UTC")),
        "half": pa.array([0.5], pa.float16()),
        "fixed": pa.array([[1, 2]], pa.list_(pa.uint8(), 2)),
    }
    table = pa.table(typed)
    for split in writing.SPLITS:
        pq.write_table(table, tmp_path / "typed" / f"{split}.parquet")
        with pa.ipc.new_stream(str(tmp_path / "typed" / f"{split}.arrows"), table.schema) as writer:
            writer.write_table(table)
            words = pa.DictionaryArray.from_arrays(
                pa.array([1, 0], pa.int8()), pa.array(["ab", "c"], pa.large_string())
            )
            more = pa.table(
                {name: [column[0], column[0]] if name != "word" else words for name, column in typed.items()}
            )
            writer.write_table(more.cast(table.schema))  # with other words in its dictionary, as streams may
    time = "1970-01-01T00:00:00+00:00"
    first = {"map": {"a": 1, "b": 2}, "word": "é", "time": time, "half": 0.5, "fixed": [1, 2]}
    (found,) = open_records(f"parquet:{tmp_path}/typed", "train", held_out=0.1)
    assert found == first and [type(value) for value in found.values()] == [dict, str, str, float, list]
    rows = open_records(f"arrow:{tmp_path}/typed", "train", held_out=0.1)
    assert list(rows) == [first, {**first, "word": "c"}, {**first, "word": "ab"}]


def test_dates_and_decimals_are_their_texts(cache, tmp_path):
    import datetime
    import decimal

    record = {"day": datetime.date(2026, 1, 2), "cost": decimal.Decimal("1.50"), "bytes": "é".encode()}
    reference = writing.write("parquet", tmp_path, train=[record], validation=[record], test=[record])
    (found,) = open_records(reference, "train", held_out=0.1)
    assert found == {"day": "2026-01-02", "cost": "1.50", "bytes": "é"}


def test_array_records_of_plain_text(cache, tmp_path):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "x.array_record-00000-of-00001"), "group_size:1")
    for i in range(12):
        writer.write(f"{{text}} {i} é".encode())
    writer.close()
    parts = writing.opened(f"arrayrecord:{tmp_path}?content=text")
    assert {r["text"] for p in parts.values() for r in p} == {f"{{text}} {i} é" for i in range(12)}
