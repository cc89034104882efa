"""Tokenization that is interrupted goes on from there, to the same store."""

import numpy as np
import pytest

from ptft_jax.data import processes, store_writer, tokenize, unfinished
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.records import files
from ptft_jax.errors import UserError
from tests.data.test_tokenize import lines, made


@pytest.fixture
def impatient(monkeypatch):
    """What takes no time is work that is kept, in parts of 16 records."""
    monkeypatch.setattr(tokenize, "ALONE_FIRST", 0.0)
    monkeypatch.setattr(tokenize, "WORTH_IT", -1.0)
    monkeypatch.setattr(tokenize, "CHUNK", 16)


def counted(monkeypatch, stop=None):
    """The chunks that are encoded from now on; the one after `stop` of them is interrupted."""
    seen, real = [], tok.ByteTokenizer.encode_spans

    def encode(self, texts, *args):
        seen.append(len(texts))
        if len(seen) - 1 == stop:
            raise KeyboardInterrupt
        return real(self, texts, *args)

    monkeypatch.setattr(tok.ByteTokenizer, "encode_spans", encode)
    return seen


def interrupted(reference, monkeypatch, stop):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        counted(patch, stop)
        made(reference, workers=1)


@pytest.fixture
def expected(cache, tmp_path, monkeypatch):
    """200 records, and their store as it is made at once."""
    reference = lines(tmp_path / "chat.jsonl", 200)
    with monkeypatch.context() as patch:
        patch.setenv("PTFT_CACHE", str(tmp_path / "other"))
        return reference, made(reference, workers=1)


def check(found, expected, cache):
    for name in ("ids", "offsets", "trained", "origins"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.key == expected.key
    assert not list((cache / "unfinished").iterdir())


def test_records_that_are_done_are_not_encoded_again(expected, cache, monkeypatch, impatient):
    reference, whole = expected
    interrupted(reference, monkeypatch, stop=6)
    (folder,) = (cache / "unfinished").iterdir()
    assert folder.name == whole.key
    parts = sorted(int(part.name.split("-")[1]) for part in folder.iterdir())
    assert parts == [16, 32, 48, 64, 80], "but the first, which is made before it is known that there is much to do"
    again = counted(monkeypatch)
    check(made(reference, workers=1), whole, cache)
    assert len(again) == -(-len(whole.origins) // 16) - len(parts)


def test_a_damaged_part_is_made_again(expected, cache, monkeypatch, impatient):
    reference, whole = expected
    interrupted(reference, monkeypatch, stop=4)
    (part,) = cache.glob("unfinished/*/part-32-48")
    (part / "ids.bin").write_bytes((part / "ids.bin").read_bytes()[::-1])
    check(made(reference, workers=1), whole, cache)


def test_what_another_process_has_finished_is_taken(expected, cache, monkeypatch, impatient):
    reference, whole = expected
    interrupted(reference, monkeypatch, stop=4)
    real = store_writer.Writer.take

    def take(self, part):
        monkeypatch.setattr(store_writer.Writer, "take", real)
        check(made(reference, workers=1), whole, cache)  # as another process would, which then deletes the parts
        real(self, part)

    monkeypatch.setattr(store_writer.Writer, "take", take)
    check(made(reference, workers=1), whole, cache)


def test_what_is_wrong_leaves_nothing(cache, tmp_path, impatient):
    path = tmp_path / "bad.jsonl"
    lines(path, 100)
    with path.open("a") as f:
        f.writelines(f'{{"messages": [{{"role": "usr", "content": "x{i}"}}]}}\n' for i in range(40))
    with pytest.raises(UserError, match=r"role = 'usr'"):
        made(f"jsonl:{path}", workers=1)
    assert not list((cache / "unfinished").iterdir()) and not list((cache / "stores").iterdir())


def test_a_worker_that_was_ended_takes_nothing_along(expected, cache, monkeypatch, impatient):
    reference, whole = expected

    def ended(function, *arguments, **options):
        yield function(*map(next, map(iter, arguments)))
        raise processes.Ended("a worker process was ended")

    with monkeypatch.context() as patch, pytest.raises(processes.Ended):
        patch.setattr(processes, "mapped", ended)
        made(reference, workers=2)
    assert [part.name for part in cache.glob("unfinished/*/part-*")] == ["part-0-16"]
    check(made(reference, workers=1), whole, cache)


@pytest.mark.parametrize("damage", [False, True])
@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_long_text_goes_on_where_it_was(stop, damage, cache, tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_text("".join(f"line {n} é\n" for n in range(800)))

    def run():
        opened = tokenize.Opened.of(f"text:{path}", "train", held_out=0.1)
        return tokenize.tokenized(opened, tok.ByteTokenizer(), template="", train_on="assistant")

    with monkeypatch.context() as patch:
        patch.setenv("PTFT_CACHE", str(tmp_path / "other"))
        whole = run()
    monkeypatch.setattr(files, "BLOCK", 256)
    monkeypatch.setattr(tok.base.cutting, "BLOCK", 256)
    monkeypatch.setattr(tokenize, "KEPT", 0)
    monkeypatch.setattr(unfinished, "GROUP", 3)
    seen, real = [], tok.ByteTokenizer.encode_all

    def encode(self, texts, **options):
        seen.append(texts)
        if len(seen) == stop:
            raise KeyboardInterrupt
        return real(self, texts, **options)

    monkeypatch.setattr(tok.ByteTokenizer, "encode_all", encode)
    with pytest.raises(KeyboardInterrupt):
        run()
    groups = sorted(cache.glob("unfinished/*/text-0-*"))
    # What starts a text is an array of its own, and a group is written when there is an array after it.
    assert len(groups) == (stop - 1) // 3
    if damage and groups:
        groups[-1].write_bytes(groups[-1].read_bytes()[:-4] + b"\0\0\0\1")
    stop, first = -1, seen[:]
    seen.clear()
    found = run()
    np.testing.assert_array_equal(found.ids, whole.ids)
    assert found.key == whole.key and not list(cache.glob("unfinished/*"))
    left = max(len(groups) - damage, 0) * 3
    assert seen[0] == first[max(left - 1, 0)]
