"""Which files a source has: splits by the words of their names, sets of numbered files, links, and what is left out."""

import gzip
import os
import pathlib
import sys
import tempfile

import pytest

from ptft_jax.data.records import open_records, open_source
from ptft_jax.data.records.listing import find, named
from ptft_jax.data.records.reference import parse
from ptft_jax.errors import UserError
from tests.data.records import writing
from tests.processes import run

ROWS = {".jsonl": lambda n: writing.lines([{"text": f"text {n}.{i}"} for i in range(10)])}


def put(folder, *names):
    """Files of ten texts each."""
    for n, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = ROWS[".jsonl"](n)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return f"jsonl:{folder}"


def found(reference):
    """Split -> names of its files, without the folder."""
    listing = find(parse(reference), (".jsonl",))
    base = parse(reference).name.rstrip("/")
    return {split: [os.path.relpath(name, base) for name in names] for split, names in listing.splits.items()}


NAMES = {
    "train": ["train", "train.jsonl", "gsm8k_train.jsonl", "x-train.parquet", "y.train.csv", "TRAIN", "My-Training.jsonl.gz",
              "z.train-00000-of-00003.parquet", "train_v2.json", "x_train_part_3.jsonl", "news-train.array_record-00000-of-00002",
              "train-00000-of-00001-a09b74b3ef9c3b56.parquet", "c4-train.00000-of-01024.json.gz", "gsm8k_train_v2.jsonl"],
    "validation": ["val", "x-val.parquet", "y.dev.csv", "z.validation-00000-of-00003.parquet", "dev_matched.tsv", "cola_dev.tsv",
                   "x_valid", "VALIDATION.JSONL", "wiki.valid.txt", "a b dev.csv"],
    "test": ["test_gsm8k", "gsm8k_test.jsonl", "TEST", "x.test", "gsm8k-test2.jsonl", "testing", "x_Test.JSONL", "test.en.jsonl",
             "x_test-00001.jsonl", "x_test.shard.4.jsonl"],
    None: ["latest.jsonl", "contest.jsonl", "protest", "greatest_hits", "device.csv", "evaluate", "trainer.jsonl", "tests",
           "attest-1.jsonl", "eval.jsonl", "gsm8ktest", "detrain", "x7test.jsonl", "00000.jsonl", ".jsonl"],
}  # fmt: skip
DOUBT = {
    "training_data_test_train": {"train", "test"}, "train_test.jsonl": {"train", "test"}, "test-dev.csv": {"test", "validation"},
    "my_test_data.jsonl": {"test"}, "multinli_1.0_dev_matched.jsonl": {"validation"}, "how_to_train_a_dog.jsonl": {"train"},
}  # fmt: skip


@pytest.mark.parametrize("split, name", [(split, name) for split, names in NAMES.items() for name in names])
def test_a_name_says_a_split_by_its_first_or_last_word(split, name):
    assert named(name) == (split, frozenset())


@pytest.mark.parametrize("name", DOUBT)
def test_a_name_that_may_mean_several_says_none(name):
    assert named(name) == (None, DOUBT[name])


LAYOUTS = {
    "ends": (["gsm8k_train.jsonl", "gsm8k_test.jsonl"], {"train": [0], "test": [1]}),
    "ends in folders": (["a/x-val.jsonl", "a/b/x-train.jsonl", "x.train.jsonl"], {"train": [1, 2], "validation": [0]}),
    "folders that end so": (["gsm8k_test/1.jsonl", "gsm8k_train/1.jsonl", "gsm8k_train/2.jsonl"], {"train": [1, 2], "test": [0]}),
    "both": (["data/train.jsonl", "data/x.dev.jsonl", "TEST/x_test.jsonl"], {"train": [0], "validation": [1], "test": [2]}),
    "a word in the middle of a file, where its folder says": (["train/my_test_set.jsonl", "train/b.jsonl"], {"train": [0, 1]}),
    "no split": (["latest.jsonl", "contest.jsonl", "protest.jsonl"], {"train": [0, 1, 2]}),
    "only what may be trained on": (["my_training_data.jsonl", "more.jsonl"], {"train": [0, 1]}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_are_the_split_that_they_are_called_after(cache, tmp_path, name):
    names, expected = LAYOUTS[name]
    reference = put(tmp_path / "data", *names)
    assert found(reference) == {split: sorted(names[i] for i in which) for split, which in expected.items()}
    assert find(parse(f"{reference}/**/*.jsonl"), (".jsonl",)).splits == find(parse(reference), (".jsonl",)).splits


REFUSED = {
    "some say a split": (["a_test.jsonl", "b.jsonl"], "some files are called after a split .*\n  .*b.jsonl"),
    "two words": (["training_data_test_train.jsonl", "b.jsonl"], "cannot be told which split.*train=.*\n  .*data_test_train"),
    "a word in the middle": (["my_test_data.jsonl", "my_train_data.jsonl"], "cannot be told which split.*\n  .*my_test_data"),
    "a folder and a file": (["train/x_test.jsonl", "train/x_train.jsonl"], "cannot be told which split.*\n  .*train/x_test"),
    "only held out": (["x_test.jsonl", "y_test.jsonl"], "no file is called 'train'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_do_not_fit_are_a_question(cache, tmp_path, name):
    names, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        find(parse(put(tmp_path / "data", *names)), (".jsonl",))
    answer = f"jsonl:{tmp_path}/data?train={names[0]}"
    assert found(answer) == {"train": [names[0]]}


def test_no_row_of_a_test_file_is_trained_on(cache, tmp_path):
    reference = put(tmp_path / "data", "gsm8k_train.jsonl", "gsm8k_test.jsonl")
    parts = writing.opened(reference)
    assert [r["text"] for r in parts["test"]] == [f"text 1.{i}" for i in range(10)]
    kept = [r["text"] for split in ("train", "validation") for r in parts[split]]
    assert sorted(kept) == [f"text 0.{i}" for i in range(10)]


SETS = {
    "whole, from 0": (["x-00000-of-00003.jsonl", "x-00001-of-00003.jsonl", "x-00002-of-00003.jsonl"], None),
    "whole, from 1": (["x-1-of-2.jsonl", "x-2-of-2.jsonl"], None),
    "two sets": (["x-0-of-1.jsonl", "y-0-of-1.jsonl", "a/x-0-of-2.jsonl", "a/x-1-of-2.jsonl"], None),
    "in two ways": (["x-0-of-2.jsonl", "x-1-of-2.jsonl.gz"], None),
    "the middle": (["x-00000-of-00003.jsonl", "x-00002-of-00003.jsonl"], "1 of 3 files.*partial=yes.*\n  .*x-00001-of-00003.jsonl$"),
    "the last": (["x.00000-of-00003.jsonl.gz", "x.00001-of-00003.jsonl.gz"], "\n  .*x.00002-of-00003.jsonl.gz$"),
    "the first": (["train-00001-of-00002.jsonl", "test.jsonl"], "1 of 2 files.*\n  .*train-00000-of-00002.jsonl$"),
    "all but one": (["x-00003-of-00008.jsonl"], "7 of 8 files of this set are missing"),
    "of another split": (["train-0-of-1.jsonl", "test-0-of-2.jsonl"], "test-.*1 of 2 files"),
    "twice": (["x-0-of-2.jsonl", "x-0-of-2.jsonl.gz", "x-1-of-2.jsonl"], "the same file by name, compressed or not"),
    "twice by width": (["x-0-of-2.jsonl", "x-00-of-2.jsonl", "x-1-of-2.jsonl"], "are the same part of one set"),
    "two totals": (["x-0-of-2.jsonl", "x-1-of-2.jsonl", "x-0-of-3.jsonl"], "sets of 2 and 3 files are mixed"),
    "too many": (["x-0-of-2.jsonl", "x-1-of-2.jsonl", "x-2-of-2.jsonl"], "has no such part:\n  .*x-2-of-2"),
    "without numbers": (["x.jsonl", "x.jsonl.gz"], "the same file by name, compressed or not"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_numbered_files_is_whole(cache, tmp_path, name):
    names, words = SETS[name]
    reference = put(tmp_path / "data", *names)
    for spelled in (reference, f"{reference}/**/*.jsonl*"):
        if words is None:
            assert sum(map(len, found(spelled.replace("/**/*.jsonl*", "")).values())) == len(names)
            continue
        with pytest.raises(UserError, match=words):
            find(parse(spelled), (".jsonl",))
    if words and ("missing" in words or "partial" in words):
        assert sum(map(len, found(f"{reference}?partial=yes").values())) == len(names)


def test_a_pattern_may_choose_some_of_a_set_that_is_there(cache, tmp_path):
    reference = put(tmp_path / "data", *(f"x-{n:05}-of-00004.jsonl" for n in range(4)))
    assert found(f"{reference}/x-0000[01]-of-00004.jsonl")["train"] == [
        "../x-00000-of-00004.jsonl",
        "../x-00001-of-00004.jsonl",
    ]
    assert found(f"{reference}/x-00002-of-00004.jsonl") == {"train": ["."]}, "a file that is named is what is meant"
    with pytest.raises(UserError, match="partial=maybe: expected yes or no"):
        found(f"{reference}?partial=maybe")


def test_what_is_not_read_is_counted_and_named(cache, tmp_path):
    folder = tmp_path / "data"
    reference = put(folder, "a.jsonl", "sub/b.jsonl", "sub/.hidden.jsonl", ".cache/x/c.jsonl")
    for name in ("a.parquet", "b.jsonl.lz4", "sub/README.md", "_SUCCESS"):
        (folder / name).write_bytes(b"x")
    left_out = open_source(reference).left_out
    assert left_out.count == 6
    assert {os.path.relpath(line.split(": ")[0], folder): line.split(": ", 1)[1].split(",")[0] for line in left_out.first} == {
        ".cache": "hidden", "sub/.hidden.jsonl": "hidden", "a.parquet": "another ending", "b.jsonl.lz4": "another ending",
        "sub/README.md": "another ending", "_SUCCESS": "another ending",
    }  # fmt: skip
    assert open_source(f"{reference}/a.jsonl").left_out.count == 0
    by_glob = open_source(f"{reference}/*")
    assert [line for line in by_glob.left_out.first if "sub: a folder" in line]
    with pytest.raises(UserError, match=r"s\* matches no file, only:\n  .*sub: a folder"):
        open_source(f"{reference}/s*")
    only = open_source(f"{reference}?train=a.jsonl").left_out
    assert [line for line in only.first if "sub/b.jsonl: named by none" in line]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.bz2").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds no .jsonl, .ndjson, .json file; it has \n  .*x.bz2"):
        open_source(f"jsonl:{tmp_path}/other")


@pytest.mark.parametrize("spelled", ["", "/**/*.jsonl", "/*/*.jsonl"])
def test_a_folder_that_may_not_be_read_is_an_error(cache, spelled):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        reference = put(folder / "data", "sub/a.jsonl", "secret/b.jsonl")
        (folder / "data/secret").chmod(0)
        done = _listed_by_another(reference + spelled)
        (folder / "data/secret").chmod(0o755)
    assert "UserError" in done.stderr and "secret: the folder cannot be read: Permission denied" in done.stderr, done


def _listed_by_another(reference):
    code = (
        "import os\nfrom ptft_jax.data.records import listing, parse\n"
        "os.getuid() or os.setuid(65534)\n"  # root may read everything
        f"print(listing.find(parse({reference!r}), ('.jsonl',)))"
    )
    return run(sys.executable, "-c", code, PTFT_CACHE="/nonexistent")


def test_links(cache, tmp_path):
    folder = tmp_path / "data"
    reference = put(folder, "a.jsonl", "sub/b.jsonl")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.jsonl").write_bytes(ROWS[".jsonl"](7))
    (folder / "far").symlink_to(tmp_path / "elsewhere")
    (folder / "sub/up").symlink_to(folder)  # a loop
    (folder / "z.jsonl").symlink_to("a.jsonl")
    (folder / "again").symlink_to("sub")
    source = open_source(reference)
    listing = find(parse(reference), (".jsonl",))
    assert [os.path.relpath(name, folder) for name in listing.splits["train"]] == [
        "a.jsonl",
        "again/b.jsonl",
        "far/c.jsonl",
    ]
    twice = {os.path.relpath(x.split(": ")[0], folder): x.split(": ")[1] for x in source.left_out.first}
    assert twice == {
        "sub/b.jsonl": f"the same file as {folder}/again/b.jsonl",
        "z.jsonl": f"the same file as {folder}/a.jsonl",
    }
    os.link(folder / "a.jsonl", folder / "hard.jsonl")
    assert open_source(reference).left_out.count == 3

    (folder / "gone.jsonl").symlink_to("nowhere.jsonl")
    with pytest.raises(UserError, match=r"gone.jsonl: cannot be read \(a link to nowhere.jsonl\): No such file"):
        open_source(reference)
    with pytest.raises(UserError, match="gone.jsonl: cannot be read"):
        open_source(f"{reference}/*.jsonl")
    (folder / "gone.jsonl").rename(folder / "gone.ckpt")
    assert [
        x for x in open_source(reference).left_out.first if "gone.ckpt: cannot be read (a link to nowhere.jsonl)" in x
    ]
    assert find(parse(f"{reference}/**/*.jsonl"), (".jsonl",)).left_out.count == 3
    (folder / "self").symlink_to("self")
    with pytest.raises(UserError, match="self: cannot be read .*[Ss]ymbolic links"):
        open_source(reference)


def test_a_link_to_a_file_of_another_split(cache, tmp_path):
    reference = put(tmp_path / "data", "train.jsonl")
    (tmp_path / "data/test.jsonl").symlink_to("train.jsonl")
    with pytest.raises(UserError, match="test.jsonl is test, and .*train.jsonl, a link to the same file, is train"):
        open_source(reference)


def test_what_is_no_file(cache, tmp_path):
    reference = put(tmp_path / "data", "a.jsonl")
    os.mkfifo(tmp_path / "data/b.jsonl")
    with pytest.raises(UserError, match="b.jsonl: neither a file nor a folder"):
        open_source(reference)
    (tmp_path / "data/b.jsonl").rename(tmp_path / "data/b.sock")
    assert open_source(reference).left_out.first == [f"{tmp_path}/data/b.sock: neither a file nor a folder"]


EMPTY = {
    "jsonl": b"", "blank": b"\n \n", "mark": b"\xef\xbb\xbf", "gz": gzip.compress(b"", mtime=0), "list": b"[]", "csv": b"",
    "header": b"a,text\n", "lines": b"\n\n", "parquet": None,
}  # fmt: skip
ENDINGS = {"blank": ".jsonl", "mark": ".jsonl", "gz": ".jsonl.gz", "list": ".json", "header": ".csv", "lines": ".csv"}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("broken", ["raise", "skip"])
def test_files_without_records_are_named_and_refuse_nothing(cache, tmp_path, name, broken):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ending = ENDINGS.get(name, f".{name}")
    kind = {".csv": "csv", ".parquet": "parquet"}.get(ending, "jsonl")
    folder, rows = tmp_path / "data", [{"a": str(i), "text": f"text {i}"} for i in range(20)]
    folder.mkdir()
    (folder / f"full{writing.FILES[kind][1]}").write_bytes(writing.FILES[kind][2](rows))
    empty = folder / f"empty{ending}"
    if kind == "parquet":
        pq.write_table(pa.table({"a": pa.array([], pa.string()), "text": pa.array([], pa.string())}), empty)
    else:
        empty.write_bytes(EMPTY[name])
    parts = writing.opened(f"{kind}:{folder}", broken=broken)
    assert sorted(r["text"] for p in parts.values() for r in p) == sorted(r["text"] for r in rows)
    assert parts["train"].empty == [str(empty)]
    with pytest.raises(UserError, match="the file is empty|holds no record|no header"):
        open_records(f"{kind}:{empty}", "train", held_out=0.1, broken=broken)
    (folder / f"full{writing.FILES[kind][1]}").unlink()
    (folder / f"more{ending}").write_bytes(empty.read_bytes())
    with pytest.raises(UserError, match="no file holds a record|holds no record"):
        open_records(f"{kind}:{folder}", "train", held_out=0.1, broken=broken)


def test_texts_without_words(cache, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, text in {"a.txt": "x\n" * 30, "b.txt": "", "c.md": " \n"}.items():
        (folder / name).write_text(text)
    for _ in range(2):  # read, then from the cache
        parts = writing.opened(f"text:{folder}")
        assert [len(p) for p in parts.values()] == [1, 1, 1]
        assert parts["test"].empty == [f"{folder}/b.txt", f"{folder}/c.md"]


@pytest.mark.parametrize(
    "pattern", ["**", "**/*.jsonl", "*/**/b*.jsonl", "sub/**", "**/deep/**/*.jsonl", "**/[ab].jsonl", "**/*"]
)
def test_patterns_of_any_depth_are_those_of_glob(cache, tmp_path, monkeypatch, pattern):
    """Where there are no links: with them, glob goes round."""
    import glob

    reference = put(
        tmp_path / "data",
        "a.jsonl",
        "sub/b.jsonl",
        "sub/deep/er/bc.jsonl",
        "sub/deep/a.jsonl",
        ".h/a.jsonl",
        "x/.h.jsonl",
    )
    for spelled in (f"{tmp_path}/data/{pattern}", pattern):
        monkeypatch.chdir(tmp_path / "data")
        expected = sorted(p for p in glob.glob(spelled, recursive=True) if os.path.isfile(p))
        listing = find(parse(f"jsonl:{spelled}"), (".jsonl",))
        assert listing.splits == {"train": expected} and not listing.left_out.count
    assert reference
