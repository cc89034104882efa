"""Every bad input is an error that names the file and the place, or is counted and listed where the user says so."""

import gzip
import json
import os
import pickle
import random
import sys

import pytest
import zstandard

from ptft_jax.data import tokenize
from ptft_jax.data.records import open_records, parse
from ptft_jax.errors import UserError
from tests.data.records import writing
from tests.processes import run

GOOD = [{"text": f"text {i}"} for i in range(20)]


def load(reference, split="train", **options):
    return open_records(reference, split, **({"held_out": 0.1} | options))


@pytest.mark.parametrize(
    "line, words",
    [
        (b'{"text": "a" "b"}', "line 4, column 14: not JSON: Expecting ',' delimiter"),
        (b'{"text": "unfinished', "line 4, column 10: not JSON: Unterminated string"),
        (b'["a"]', "line 4: a list, expected an object"),
        (b'"a"', "line 4: a text, expected an object"),
        (b"12", "line 4: a number, expected an object"),
        (b"null", "line 4: null, expected an object"),
        (b'{"text": NaN}', "line 4: NaN, which is not JSON"),
        (b'{"text": [1, -Infinity]}', "line 4: -Infinity, which is not JSON"),
        (b'{"text": 1e999}', "line 4: NaN or an infinite number"),
        (b'{"text": 1, "x": {"b": 1, "a": 2, "b": 3}}', "line 4: the key 'b' is there twice"),
        (b'{"text": "caf\xe9"}', "line 4, column 14: not UTF-8 text \\(byte 0xe9\\): this line is in another encoding"),
        (b'{"text": "\\ud800"}', "line 4: half a character"),
        (b'{"text": ' + b"[" * 100_000, "line 4: values nested too deep"),
        (b'{"text": ' + b"1" * 5000 + b"}", "line 4: not JSON: Exceeds the limit"),
        (b'{"text": "x"}\r{"text": "y"}', "line 4, column 15: not JSON: Extra data"),
    ],
)
def test_a_broken_line_is_named_or_skipped(cache, tmp_path, line, words):
    lines = writing.lines(GOOD).splitlines(keepends=True)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join([*lines[:2], b"\n", line + b"\n", *lines[2:]]))
    for _ in range(2):
        with pytest.raises(UserError, match=f"x.jsonl, {words}.*data.broken=skip"):
            load(f"jsonl:{path}")
    for _ in range(2):  # made, then from the cache
        parts = writing.opened(f"jsonl:{path}", broken="skip")
        assert sorted(r["text"] for p in parts.values() for r in p) == sorted(r["text"] for r in GOOD)
        skipped = parts["train"].skipped
        assert skipped.count == 1 and len(skipped.first) == 1 and skipped.first[0].startswith(f"{path}, line 4")
    with pytest.raises(UserError, match=f"x.jsonl, {words}.*data.broken=skip"):
        load(f"jsonl:{path}")  # an index that was made for skipping does not hide it


def test_many_broken_lines_are_counted(cache, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(writing.lines(GOOD) + b"no\n" * 50)
    (tmp_path / "y.jsonl").write_bytes(b"no\n" + writing.lines([{"text": "another"}]))
    records = load(f"jsonl:{tmp_path}/?.jsonl", broken="skip")
    assert records.skipped.count == 51 and len(records.skipped.first) == records.skipped.MOST
    path.write_bytes(b"no\n" * 50)
    with pytest.raises(UserError, match="x.jsonl: none of its 50 records can be read; the first is line 1, column 1"):
        load(f"jsonl:{path}", broken="skip")


@pytest.mark.parametrize(
    "content, words",
    [
        (b'[{"a": 1},\n {"a": 2} {"a": 3}]', "line 2, column 11: not JSON: Expecting ',' delimiter"),
        (b'[{"a": 1},\n {"a"', "line 2, column 6: not JSON"),
        (b'[{"a": 1}]\n]', "line 2, column 1: not JSON: Extra data"),
        (b'[{"a": 1},\n "\xff"]', "line 2, column 3: not UTF-8 text"),
        (b"[]", "holds no record"),
        (b'[{"a": 1},]', "line 1, column 11: not JSON"),
    ],
)
def test_a_broken_list_cannot_be_skipped(cache, tmp_path, content, words):
    (tmp_path / "x.json").write_bytes(content)
    for broken in ("raise", "skip"):
        with pytest.raises(UserError, match=f"x.json.*{words}"):
            load(f"jsonl:{tmp_path}/x.json", broken=broken)


def test_broken_objects_of_a_list(cache, tmp_path):
    objects = [json.dumps(r) for r in GOOD]
    (tmp_path / "x.json").write_text("\ufeff[" + ",\n".join([*objects[:3], '{"é": NaN}', "3", *objects[3:]]) + " ] \n")
    with pytest.raises(UserError, match="x.json, object 4: NaN"):
        load(f"jsonl:{tmp_path}/x.json")
    parts = writing.opened(f"jsonl:{tmp_path}/x.json", broken="skip")
    assert sorted(r["text"] for p in parts.values() for r in p) == sorted(r["text"] for r in GOOD)
    assert parts["test"].skipped.first == [
        f"{tmp_path}/x.json, object 4: NaN, which is not JSON",
        f"{tmp_path}/x.json, object 5: a number, expected an object: {{...}}",
    ]


@pytest.mark.parametrize(
    "row, words",
    [
        (b"only one", "line 5: 1 cell, and the header has 2"),
        (b"a,b,c", "line 5: 3 cells, and the header has 2"),
        (b'"a"x,b', "line 5: not a row of cells"),
        (b'"two\nlines \xff",b', "line 6, column 7: not UTF-8 text"),
    ],
)
def test_a_broken_row(cache, tmp_path, row, words):
    rows = [b'%d,"x\ny"\n' % i for i in range(1, 13)]
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n" + rows[0] + b"\n" + row + b"\n" + b"".join(rows[1:]))
    with pytest.raises(UserError, match=f"x.csv, {words}"):
        load(f"csv:{path}")
    parts = writing.opened(f"csv:{path}", broken="skip")
    assert sorted(int(r["a"]) for p in parts.values() for r in p) == list(range(1, 13))
    assert parts["train"].skipped.count == 1


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("x.csv", b"a,b,a\n1,2,3\n", "x.csv, line 1: the header has the column 'a' twice"),
        ("x.csv", b"a,,b\n1,2,3\n", "x.csv, line 1: column 2 of the header has no name"),
        ("x.csv", b"a;b\n1;2\n", "x.csv, line 1: one column called 'a;b'.*between ';'"),
        ("x.tsv", b"a,b\n1,2\n", "x.tsv, line 1: one column called 'a,b'.*between ','"),
        ("x.csv", b"a,b\n", "x.csv: holds no record"),
        ("x.csv", b"\n\n", "x.csv, line 1: no header"),
        ("x.csv", b'a,b\n1,2\n"open,3\n4,5\n', "x.csv, line 3: a quoted cell that starts in this row has no closing"),
        ("x.csv", b"caf\xe9,b\n", "x.csv, line 1, column 4: not UTF-8"),
        ("x.csv", b"a,b\0\n", "x.csv: binary, not text \\(a zero byte at offset 3\\)"),
        ("x.jsonl", b"", "x.jsonl: the file is empty"),
        ("x.jsonl", b"\n \n", "x.jsonl: holds no record"),
        ("x.jsonl", b'{"a": "\0"}', "x.jsonl: binary, not text"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), "x.jsonl: UTF-16 text; convert it to UTF-8"),
        ("x.jsonl.gz", b"not gzip", "x.jsonl.gz: cannot be decompressed"),
        ("x.jsonl.gz", gzip.compress(writing.lines(GOOD), mtime=0)[:-12], "x.jsonl.gz: cannot be decompressed"),
        ("x.jsonl.gz", gzip.compress(b"", mtime=0), "x.jsonl.gz: the file is empty"),
        ("x.jsonl.zst", b"not zstd", "x.jsonl.zst: cannot be decompressed"),
        (
            "x.jsonl.zst",
            zstandard.compress(writing.lines(GOOD))[:-1],
            "x.jsonl.zst: cannot be decompressed: .*cut short",
        ),
        ("x.jsonl.zst", zstandard.compress(writing.lines(GOOD)) * 2 + b"junk", "x.jsonl.zst: cannot be decompressed"),
        ("x.parquet", b"PAR1 no", "x.parquet: not a Parquet file"),
        ("x.arrow", b"ARROW1 no", "x.arrow: not an Arrow file or stream"),
        ("x.arrows", writing.FILES["stream"][2](GOOD)[:-30], "x.arrows: not an Arrow file or stream"),
        ("x.feather", b"FEA1 old", "x.feather: Feather's first version, which is not read"),
        ("x.array_record", b"no", "x.array_record: not an ArrayRecord file"),
    ],
)
def test_bad_files(cache, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    kind = {"csv": "csv", "tsv": "csv", "parquet": "parquet", "array_record": "arrayrecord"}
    kind |= {"arrow": "arrow", "arrows": "arrow", "feather": "arrow"}
    for broken in ("raise", "skip"):
        with pytest.raises(UserError, match=words):
            load(f"{kind.get(name.split('.')[1], 'jsonl')}:{tmp_path}/{name}", broken=broken)


def test_values_that_json_has_not(cache, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = [0.5] * 3 + [float("nan")] + [0.5] * 8
    pq.write_table(pa.table({"number": list(range(12)), "score": scores}), tmp_path / "x.parquet")
    pq.write_table(pa.table({"image": [b"\xff"]}), tmp_path / "y.parquet")
    with pytest.raises(UserError, match="x.parquet, row 3: NaN"):
        load(f"parquet:{tmp_path}/x.parquet")
    parts = writing.opened(f"parquet:{tmp_path}/x.parquet", broken="skip")
    assert sorted(r["number"] for p in parts.values() for r in p) == [0, 1, 2, *range(4, 12)]
    with pytest.raises(UserError, match="row 0: column 'image' holds bytes that are not UTF-8 text .*columns=A,B"):
        load(f"parquet:{tmp_path}/y.parquet")
    with pytest.raises(UserError, match="no column 'scor'; it has number, score \\(did you mean 'score'"):
        load(f"parquet:{tmp_path}/x.parquet?columns=scor")


@pytest.mark.parametrize("kind", ["jsonl", "list", "arrayrecord", "parquet", "hf"])
def test_values_that_json_has_not_in_columns_that_are_not_read(cache, tmp_path, kind):
    """A score that is not a number, and bytes of an image, beside the text."""
    bad = [float("nan"), float("inf"), -float("inf")]
    rows = [{"text": f"text {i}", "score": bad[i % 3] if i % 4 == 0 else 0.5} for i in range(20)]
    if kind in ("parquet", "hf"):
        rows = [{**row, "image": bytes([255, i])} for i, row in enumerate(rows)]
    for broken in ("raise", "skip"):
        reference = writing.write(kind, tmp_path / broken, train=rows, validation=rows[:1], test=rows[:1])
        records = load(reference, broken=broken)
        assert [r["text"] for r in records] == [row["text"] for row in rows] and not records.skipped.count
        assert all("image" not in r for r in records)
        opened = tokenize.Opened.of(reference, "train", held_out=0.1, broken=broken)
        assert opened.format.columns == {"text": "text"} and len(opened.records) == 20
    with pytest.raises(UserError, match="NaN|infinite|Infinity|bytes that are not"):
        load(f"{reference}{'&' if '?' in reference else '?'}text=text&label=score&format=classification")


def test_a_number_that_json_has_not_where_it_is_read(cache, tmp_path):
    lines = writing.lines([{"messages": [{"role": "user", "content": "a", "weight": 1}]}] * 9)
    (tmp_path / "x.jsonl").write_bytes(lines + b'{"messages": [{"role": "user", "content": "b", "weight": NaN}]}\n')
    with pytest.raises(UserError, match="x.jsonl, line 10: NaN, which is not JSON"):
        load(f"jsonl:{tmp_path}/x.jsonl")


def test_a_damaged_array_record(cache, tmp_path):
    chance = random.Random(0)
    writing.write("arrayrecord", tmp_path, train=[{"text": chance.randbytes(200).hex()} for _ in range(100)])
    path = tmp_path / "arrayrecord" / "train.array_record"
    data = path.read_bytes()
    path.write_bytes(data[:5000] + bytes(100) + data[5100:])
    with pytest.raises(UserError, match="train.array_record: damaged: .*mismatch"):
        load(f"arrayrecord:{path}")


def test_array_records_that_are_no_json(cache, tmp_path):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    for data in (b'{"text": "a"}', b"plain", b"\xff"):
        writer.write(data)
    writer.close()
    with pytest.raises(UserError, match="x.array_record, record 1: not JSON.*content=text"):
        load(f"arrayrecord:{tmp_path}/x.array_record")
    with pytest.raises(UserError, match="record 2: not UTF-8 text \\(byte 0xff at 0\\)"):
        load(f"arrayrecord:{tmp_path}/x.array_record?content=text")
    with pytest.raises(UserError, match="content=txt: expected json or text \\(did you mean 'text'"):
        load(f"arrayrecord:{tmp_path}/x.array_record?content=txt")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_repeated_ids(cache, tmp_path, kind):
    folder = tmp_path / "ids"
    folder.mkdir()
    rows = [{"id": str(i), "text": f"t{i}"} for i in range(20)]
    rows[12]["id"] = "3"
    rows[17]["id"] = "3"
    _, suffix, encode = writing.FILES[kind]
    (folder / f"a{suffix}").write_bytes(encode(rows[:10]))
    (folder / f"b{suffix}").write_bytes(encode(rows[10:]))
    places = {"jsonl": (4, 3), "csv": (5, 4), "parquet": (3, 2)}[kind]
    words = (
        f"b{suffix}, [a-z]+ {places[1]}: the id '3' is that of .*a{suffix}, [a-z]+ {places[0]} too.*data.broken=skip"
    )
    with pytest.raises(UserError, match=words):
        load(f"{kind}:{folder}")
    parts = writing.opened(f"{kind}:{folder}", broken="skip")
    found = sorted(int(r["text"][1:]) for p in parts.values() for r in p)
    assert found == [i for i in range(20) if i not in (12, 17)]
    skipped = parts["validation"].skipped
    assert skipped.count == 2 and [f"b{suffix}" in s for s in skipped.first] == [True, True]
    assert sum(len(p) for p in writing.opened(f"{kind}:{folder}?id=text").values()) == 20
    assert sum(len(p) for p in writing.opened(f"{kind}:{folder}?id=-").values()) == 20
    with pytest.raises(UserError, match="id=nmae: no record has such a column"):
        writing.opened(f"{kind}:{folder}?id=nmae")


def test_records_without_an_id_repeat_nothing(cache, tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(f'{{"id": null, "text": "{i}"}}\n{{"text": "n{i}"}}\n' for i in range(9)))
    assert sum(map(len, writing.opened(f"jsonl:{tmp_path}/x.jsonl").values())) == 18


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_that_changes_while_it_is_read(cache, tmp_path, replace):
    reference = writing.write("jsonl", tmp_path, train=GOOD)
    path = tmp_path / "jsonl" / "train.jsonl"
    for touched in ("before it is opened", "after"):
        records = load(reference)
        pickled = pickle.dumps(records)
        if touched == "after":
            assert records[0]
        first = records.fingerprint
        content = path.read_bytes().replace(b"text 1", b"TEXT 1")
        if replace:
            (tmp_path / "new").write_bytes(content + b"\n")
            os.replace(tmp_path / "new", path)
            if touched == "after":  # the file that is open is still the old one
                assert records[0]["text"].startswith("text")
                continue
        else:
            path.write_bytes(content + b"\n")
        with pytest.raises(UserError, match="train.jsonl: the file changed while it was read"):
            records[0]
        with pytest.raises(UserError, match="changed while it was read"):
            pickle.loads(pickled)
        assert load(reference).fingerprint != first
        path.write_bytes(writing.lines(GOOD))


@pytest.mark.parametrize("kind", ["jsonl", "list", "gz", "csv", "parquet", "arrayrecord", "text"])
def test_a_file_that_changes_while_it_is_indexed(cache, tmp_path, monkeypatch, kind):
    """Nothing of it is kept under the digest of what it was."""
    from ptft_jax.data.records import files

    if kind == "text":
        (tmp_path / "text").mkdir()
        (tmp_path / "text" / "a.txt").write_text("a\nb\nc\n")
    reference = f"text:{tmp_path}/text" if kind == "text" else writing.write(kind, tmp_path, train=GOOD)
    (file,) = (tmp_path / kind).iterdir()
    os.utime(file, (0, 0))  # else the clock of the file system may not have moved on since
    real = files.content_digest

    def digest(path, name):
        found = real(path, name)
        file.write_bytes(file.read_bytes())  # the same, but that is not known
        return found

    monkeypatch.setattr(files, "content_digest", digest)
    with pytest.raises(UserError, match=f"{file.name}: the file changed while it was read"):
        load(reference)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.parent.name != "digests"]


def test_a_changed_file_is_noticed_whatever_is_remembered(cache, tmp_path, monkeypatch):
    """The digest of a file that has settled is remembered, by everything that a change alters."""
    from ptft_jax.data.records import files

    path = tmp_path / "x.jsonl"
    path.write_bytes(writing.lines(GOOD))
    monkeypatch.setattr(files, "_SETTLED", -1.0)
    first = load(f"jsonl:{path}")
    assert len(list((cache / "digests").iterdir())) == 1
    stat = path.stat()
    with open(path, "r+b") as f:  # same size, same time of change, same inode
        f.write(writing.lines(GOOD).replace(b"text 5", b"text x"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    while path.stat().st_ctime_ns == stat.st_ctime_ns:  # until the clock of the file system has moved on
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    assert load(f"jsonl:{path}").fingerprint != first.fingerprint
    monkeypatch.setattr(files.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    load(f"jsonl:{path}")


@pytest.mark.parametrize(
    "reference, words",
    [
        ("json:x", "expected one of jsonl, parquet.*\\(did you mean 'jsonl'"),
        ("x.jsonl", r"expected one of jsonl.*\(did you mean 'jsonl:x.jsonl'\?\)"),
        ("gs://b/x.csv.gz?id=-", r"\(did you mean 'csv:gs://b/x.csv.gz\?id=-'\?\)"),
        ("gs://b/x", "then ':' and a name$"),
        ("jsonl:", "needs a name after"),
        ("jsonl:x?txt=a", "jsonl has no option 'txt'.*\\(did you mean 'text'"),
        ("csv:x?columns=a", "csv has no option 'columns'"),
        ("jsonl:x?text=a&text=b", "option text is given twice"),
        ("jsonl:x?text=", "option text has no value"),
        ("jsonl:x?examples=0", "examples=0: expected a count"),
        ("jsonl:x?examples=all", "examples=all: expected a count"),
        ("shakespeare:general?train=a", "shakespeare has no option 'train'"),
        ("text:x?id=a", "text has no option 'id'"),
        ("tokens:x?examples=5", "tokens has no option 'examples'; it has none$"),
    ],
)
def test_bad_references(reference, words):
    with pytest.raises(UserError, match=words):
        parse(reference)


def test_references():
    found = parse("jsonl:data/part-?.jsonl?text=a%20b&validation=x%3Fy&id=-&examples=5")
    assert (found.kind, found.name) == ("jsonl", "data/part-?.jsonl")
    assert found.options == {"text": "a b", "validation": "x?y", "id": "-", "examples": "5"}
    assert found.id_column is None and found.examples == 5
    assert parse("parquet:gs://b/c?columns=a,b").columns == ("a", "b")
    assert parse("hf:a/b:c").name == "a/b:c"


def test_what_is_not_there(cache, tmp_path):
    (tmp_path / "chat.jsonl").write_bytes(writing.lines(GOOD))
    (tmp_path / "empty").mkdir()
    for name, words in {
        "chatt.jsonl": "no such file or folder \\(did you mean 'chat.jsonl'",
        "*.ndjson": "no such file or folder",
        "empty": "the folder .*empty holds no .jsonl, .ndjson, .json file",
        "chat.jsonl?validation=cat.jsonl": "no such file or folder: .*cat.jsonl \\(did you mean 'chat.jsonl'",
    }.items():
        with pytest.raises(UserError, match=words):
            load(f"jsonl:{tmp_path}/{name}")
    for split, options, words in [
        ("tests", {}, "expected one of train, validation, test \\(did you mean 'test'"),
        ("train", {"broken": "drop"}, "expected raise or skip"),
    ]:
        with pytest.raises(UserError, match=words):
            load(f"jsonl:{tmp_path}/chat.jsonl", split, **options)
    with pytest.raises(UserError, match="holds tokens, not records"):
        load(f"tokens:{tmp_path}")


def test_what_may_not_be_read(cache, tmp_path):
    path = tmp_path / "secret.jsonl"
    path.write_bytes(writing.lines(GOOD))
    path.chmod(0)
    code = (
        "import os\nfrom ptft_jax.data.records import files\n"
        "os.getuid() or os.setuid(65534)\n"  # root may read everything
        f"files.File.open({str(path)!r})"
    )
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(0o755)
    done = run(sys.executable, "-c", code, PTFT_CACHE="/nonexistent")
    assert "UserError" in done.stderr and "secret.jsonl: cannot be read: Permission denied" in done.stderr


def test_packages_that_are_missing(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs the package datasets.*pip install 'ptft_jax\\[hf\\]'"):
        load(f"hf:{tmp_path}")


def test_bad_hugging_face_datasets(cache, tmp_path, monkeypatch):
    import datasets

    with pytest.raises(UserError, match="was not written by save_to_disk"):
        load(f"hf:{tmp_path}")
    reference = writing.write("hf", tmp_path, train=GOOD)
    with pytest.raises(UserError, match="no such folder \\(did you mean 'hf'"):
        load(f"{reference}f")
    with pytest.raises(UserError, match="validation=vali: the splits are train"):
        load(f"{reference}?validation=vali")
    for file in (tmp_path / "hf" / "train").glob("*.arrow"):
        file.write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(reference)

    def fail(name, config):
        raise ConnectionError(f"Couldn't reach {name} {config}")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        UserError, match="cannot be loaded from the hub.*ConnectionError: Couldn't reach some/name part"
    ):
        load("hf:some/name:part")
