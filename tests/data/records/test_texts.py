"""Texts: whole documents in splits, or the last lines of a few; the files behind them are not held."""

import pickle
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data import assets
from ptft_jax.data.records import open_records
from ptft_jax.data.records import texts as texts_module
from ptft_jax.errors import UserError
from tests.data.records import sides, writing

SPLITS = writing.SPLITS


def texts(records):
    return [r["text"] for r in records]


def test_few_documents_are_cut_at_lines(cache, tmp_path):
    path = tmp_path / "numbered.txt"
    path.write_text("".join(f"line {i} é\n" for i in range(200)))
    parts = writing.opened(f"text:{path}")
    lines = [texts(parts[s])[0].splitlines() for s in SPLITS]
    assert [len(part) for part in lines] == [160, 20, 20]
    assert [line for part in lines for line in part] == [f"line {i} é" for i in range(200)]
    assert parts["test"].where(0) == str(path) and parts["test"][0]["name"] == str(path)
    (tmp_path / "short.md").write_text("one\ntwo")  # too short to cut
    parts = writing.opened(f"text:{tmp_path}")
    assert sorted(map(len, texts(parts["train"]))) == sorted(
        [len("one\ntwo"), len("".join(x + "\n" for x in lines[0]))]
    )
    assert [len(parts[s]) for s in SPLITS] == [2, 1, 1]


def test_the_mark_that_editors_begin_files_with_is_no_text(cache, tmp_path):
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_text("é\n" * 40)
    marked.write_text("é\n" * 40, encoding="utf-8-sig")
    for split in SPLITS:
        both = [open_records(f"text:{path}", split, held_out=0.1) for path in (plain, marked)]
        assert texts(both[0]) == texts(both[1])
        assert both[0].fingerprint == both[1].fingerprint
    marked.write_bytes(b"\xef\xbb\xbfa\n\xff")
    with pytest.raises(UserError, match=r"byte 5 \(line 2\)"):
        open_records(f"text:{marked}", "train", held_out=0.1)


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.sampled_from(["a", "é\u2028b", " \rc", "  d", "\x0ce"]), min_size=3, max_size=30),
    share=st.floats(0.01, 0.4),
)
def test_no_part_of_a_document_is_lost(tmp_path_factory, lines, share):
    path = tmp_path_factory.mktemp("cut") / "x.txt"
    text = "".join(f"{i}{line}\n" for i, line in enumerate(lines))
    path.write_bytes(text.encode())
    parts = {s: texts(open_records(f"text:{path}", s, held_out=share)) for s in SPLITS}
    assert all(len(p) == 1 and p[0] for p in parts.values())
    assert "".join(parts[s][0] for s in SPLITS) == text


def test_many_documents_are_divided_whole(cache, tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"text number {i}\n")
    parts = writing.opened(f"text:{tmp_path}")
    expected = sides.divided([(f"text number {i}\n",) for i in range(20)], 0.1)
    assert {s: sorted(texts(parts[s])) for s in SPLITS} == {
        s: sorted(f"text number {i}\n" for i in indices) for s, indices in expected.items()
    }
    assert len({t for p in parts.values() for t in texts(p)}) == 20
    before = {s: texts(p) for s, p in parts.items()}
    for i in range(20):
        (tmp_path / f"{i}.txt").rename(tmp_path / f"z{(i * 7) % 20}.txt")
    moved = writing.opened(f"text:{tmp_path}")
    assert {s: texts(p) for s, p in moved.items()} == before, "names decide nothing"
    assert [moved[s].fingerprint for s in SPLITS] == [parts[s].fingerprint for s in SPLITS]
    for i in range(20):  # every text twice
        (tmp_path / f"again{i}.txt").write_text(f"text number {i}\n")
    doubled = {s: set(texts(p)) for s, p in writing.opened(f"text:{tmp_path}").items()}
    assert doubled == {s: set(p) for s, p in before.items()}, "equal texts are on one side"


def test_options_name_files_and_names_of_files_do_not_matter(cache, tmp_path):
    for name in ("train.py", "test_it.py", "val.py", "other.py"):
        (tmp_path / name).write_text("".join(f"{name} {i}\n" for i in range(10)))
    assert [len(p) for p in writing.opened(f"text:{tmp_path}").values()] == [4, 4, 4], "code has tests in it"
    parts = writing.opened(f"text:{tmp_path}?validation=val.py&test=test_it.py")
    assert [len(p) for p in parts.values()] == [2, 1, 1] and texts(parts["test"])[0].startswith("test_it.py 0\n")
    parts = writing.opened(f"text:{tmp_path}/other.py?validation=val.py")
    assert [len(texts(parts[s])[0].splitlines()) for s in SPLITS] == [9, 10, 1]


def test_files_are_read_when_they_are_asked_for(cache, tmp_path, monkeypatch):
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"{i}\n" * 400_000)
    source = open_records(f"text:{tmp_path}", "train", held_out=0.1)
    assert 10 < len(source) == sides.counts([(f"{i}\n" * 400_000,) for i in range(20)], 0.1)[0]
    tracemalloc.start()
    try:
        again = pickle.loads(pickle.dumps(source))
        held = tracemalloc.get_traced_memory()[0]
        assert held < 400_000 and len(again) == len(source) and again[3] == source[3]
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(texts_module, "_read", lambda file: pytest.fail("read again"))
    assert writing.opened(f"text:{tmp_path}")["train"].fingerprint == source.fingerprint
    file = tmp_path / source[3]["name"]
    file.write_text("changed")
    with pytest.raises(UserError, match="the file changed while it was read"):
        source[3]


def test_standard_library():
    parts = writing.opened("stdlib:code")
    for split, records in parts.items():
        assert [(r["name"], r["text"]) for r in records] == assets.stdlib("code", split)
    assert parts["train"].where(0) == f"stdlib:code, {parts['train'][0]['name']}"
    names = [r["name"] for p in parts.values() for r in p]
    assert len(set(names)) == len(names) and min(map(len, parts.values())) > 0
    prose = open_records("stdlib:prose", "test", held_out=0.1)
    assert {r["name"] for r in prose} <= {r["name"] for r in parts["test"]} and texts(prose) != texts(parts["test"])
    with pytest.raises(UserError, match="stdlib has code, prose \\(did you mean 'prose'"):
        open_records("stdlib:pros", "test", held_out=0.1)


def test_plays(monkeypatch):
    genres = {"comedies/a": "A", "comedies/the-comedy-of-errors": "B", "tragedies/macbeth": "C", "histories/h": "D"}
    monkeypatch.setattr(assets, "plays", lambda: list(genres.items()))
    parts = writing.opened("shakespeare:general?examples=1")
    assert [texts(parts[s]) for s in SPLITS] == [["A"], ["B"], ["C"]]
    assert parts["test"].where(0) == "shakespeare:general, macbeth"
    with pytest.raises(UserError, match="examples=2: the train split has only 1"):
        open_records("shakespeare:general?examples=2", "train", held_out=0.1)
    with pytest.raises(UserError, match="shakespeare has general, histories, roses \\(did you mean 'roses'"):
        open_records("shakespeare:rose", "train", held_out=0.1)


def _write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda d: d / "verse.txt", "no such file or folder.*did you mean 'verses.txt'"),
        (lambda d: _write(d / "a.txt", b""), "empty files:\n.*a.txt"),
        (lambda d: _write(d / "a.txt", b" \n"), "empty files:\n.*a.txt"),
        (lambda d: _write(d / "b.txt", b"abc\0def\n"), "b.txt: binary, not text \\(a zero byte at offset 3\\)"),
        (lambda d: _write(d / "c.txt", b"ok\nnot \xff\n"), "c.txt: not UTF-8 text at byte 7 \\(line 2\\)"),
        (lambda d: _write(d / "d.txt", b"one line"), "1 line\\(s\\) cannot be split into train, validation and test"),
        (lambda d: _write(d / "e.txt", b"one line\n \n \n"), "the validation split has no text"),
        (lambda d: d / "empty", "holds no .txt"),
    ],
)
def test_bad_files(cache, tmp_path, make, words):
    (tmp_path / "verses.txt").write_text("x\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        open_records(f"text:{make(tmp_path)}", "train", held_out=0.1)
