"""Data as others leave them: compressed in other ways, on other machines, and named in two ways."""

import bz2
import gzip
import lzma

import fsspec
import pytest

from ptft_jax.config.sources import SOURCES
from ptft_jax.data import trained_on
from ptft_jax.data.records import identity, open_records, open_source
from ptft_jax.errors import UserError
from tests.data.records import writing

ROWS = [{"text": f"text {n}"} for n in range(40)]
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_are_read(cache, tmp_path, ending):
    data = writing.lines(ROWS)
    (tmp_path / "x.jsonl").write_bytes(data)
    (tmp_path / f"y.jsonl{ending}").write_bytes(PACKERS[ending](data))
    (tmp_path / "text").mkdir()
    (tmp_path / f"text/x.txt{ending}").write_bytes(PACKERS[ending](data.replace(b"{", b"")))
    plain, packed = (list(open_source(f"jsonl:{tmp_path}/{name}").whole()) for name in ("x.jsonl", f"y.jsonl{ending}"))
    assert plain == packed == ROWS
    assert open_source(f"text:{tmp_path}/text").whole()[0]["text"] == data.replace(b"{", b"").decode()
    cut = tmp_path / f"cut.jsonl{ending}"
    cut.write_bytes(PACKERS[ending](data)[:-9])
    with pytest.raises(UserError, match=f"cut.jsonl{ending}: cannot be decompressed"):
        open_source(f"jsonl:{cut}").whole()
    with pytest.raises(UserError, match="are the same file by name, compressed or not"):
        (tmp_path / "y.jsonl").write_bytes(data)
        open_source(f"jsonl:{tmp_path}/y.*")


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_hidden_files_elsewhere_are_as_those_here(cache, memory, tmp_path):
    names = ("a.jsonl", "sub/b.jsonl", ".cache/c.jsonl", "sub/.d.jsonl")
    for n, name in enumerate(names):
        data = writing.lines(ROWS[10 * n : 10 * n + 10])
        memory.pipe(f"/outside/{name}", data)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for pattern in ("**/*.jsonl", "*/*.jsonl", "*.jsonl", ".cache/*.jsonl"):
        here, there = (open_source(f"jsonl:{base}/{pattern}") for base in (tmp_path, "memory://outside"))
        texts = [sorted(record["text"] for record in source.whole()) for source in (here, there)]
        assert texts[0] == texts[1], pattern


def test_a_file_that_came_after_a_listing_is_seen(cache, memory, monkeypatch):
    """As of file systems that remember what a folder held."""
    asked = []
    monkeypatch.setattr(type(memory), "invalidate_cache", lambda self, path=None: asked.append(path))
    memory.pipe("/outside/a.jsonl", writing.lines(ROWS[:20]))
    assert len(open_source("jsonl:memory://outside").whole()) == 20 and asked
    memory.pipe("/outside/b.jsonl", writing.lines(ROWS[20:]))
    assert len(open_source("jsonl:memory://outside").whole()) == 40


def test_two_spellings_are_one_source(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(writing.lines(ROWS))
    spelled = ["jsonl:a.jsonl", "jsonl:./a.jsonl", f"jsonl:{tmp_path}/a.jsonl", f"jsonl:file://{tmp_path}/a.jsonl"]
    assert len({identity(reference) for reference in spelled}) == 1
    apart = ["jsonl:a.jsonl", "csv:a.jsonl", "jsonl:b.jsonl", "jsonl:a.jsonl?examples=5", "jsonl:s3://b/a.jsonl"]
    assert len({identity(reference) for reference in apart}) == len(apart)
    assert identity("jsonl:a.jsonl?id=-&examples=5") == identity("jsonl:./a.jsonl?examples=5&id=-")
    for other in spelled[1:]:
        with pytest.raises(UserError, match="config.data.mixture names a source more than once: jsonl:a.jsonl and"):
            trained_on.refuse_twice([spelled[0], other], SOURCES)
    assert len(open_records(spelled[1], "train", held_out=0.1)) > 20
