"""Tokenizing: the same store by one process or several, again only when something changed."""

import json

import numpy as np
import pytest

from ptft_jax.data import store, tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError


def lines(path, count, first=0):
    rows = [{"messages": [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": "é" * (i % 7) + str(i)}]}
            for i in range(first, first + count)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def made(reference, **options):
    opened = tokenize.Opened.of(reference, "train", held_out=0.1)
    return tokenize.tokenized(
        opened, tok.ByteTokenizer(), **({"template": "chatml", "train_on": "assistant"} | options)
    )


def test_several_processes_make_the_same(cache, tmp_path, monkeypatch):
    reference = lines(tmp_path / "chat.jsonl", 900)
    alone = made(reference, workers=1)
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(tokenize, "CHUNK", 64)
    together = made(reference, workers=2)
    for name in ("ids", "offsets", "trained", "origins"):
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))
    assert together.key == alone.key
    assert [p.name for p in (tmp_path / "other/stores").iterdir()] == [alone.key], "no parts are left"


def test_made_once_until_something_changes(cache, tmp_path, monkeypatch):
    path = tmp_path / "chat.jsonl"
    reference = lines(path, 40)
    first = made(reference)
    encoded = []
    kept = tokenize._encode
    monkeypatch.setattr(tokenize, "_encode", lambda *a, **k: encoded.append(1) or kept(*a, **k))
    assert made(reference).key == first.key and not encoded
    keys = {first.key, made(reference, train_on="all").key, made(reference, template="llama3").key}
    lines(path, 40, first=1)
    keys.add(made(reference).key)
    assert len(keys) == 4 and len(encoded) == 3


def test_the_content_counts_not_the_place(cache, tmp_path):
    assert made(lines(tmp_path / "a.jsonl", 30)).key == made(lines(tmp_path / "b.jsonl", 30)).key


def test_a_record_that_cannot_be_encoded_is_named(cache, tmp_path):
    path = tmp_path / "bad.jsonl"
    lines(path, 30)
    with path.open("a") as f:
        f.write('{"messages": [{"role": "usr", "content": "x"}, {"role": "assistant", "content": "y"}]}\n' * 3)
    with pytest.raises(UserError, match=r"bad.jsonl, line 3\d: .*messages\[0\]: role = 'usr'.*did you mean 'user'"):
        made(f"jsonl:{path}")
    assert not list((cache / "stores").iterdir())


def test_a_failing_worker_leaves_nothing(cache, tmp_path, monkeypatch):
    path = tmp_path / "bad.jsonl"
    lines(path, 300)
    with path.open("a") as f:
        f.writelines(f'{{"messages": [{{"role": "usr", "content": "x{i}"}}]}}\n' for i in range(100))
    monkeypatch.setattr(tokenize, "CHUNK", 64)
    with pytest.raises(UserError, match=r"role = 'usr'"):
        made(f"jsonl:{path}", workers=2)
    assert not list((cache / "stores").iterdir())


def test_what_a_store_was_made_of_is_noted(cache, tmp_path):
    reference = lines(tmp_path / "chat.jsonl", 30)
    key = made(reference).key
    facts = store.facts(cache / "stores" / key)
    assert facts["source"] == reference and facts["split"] == "train" and facts["format"].startswith("messages")


def test_a_class_has_the_same_number_in_every_split(cache, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, names in {"train": ("neg", "neutral", "pos"), "validation": ("pos", "neg"), "test": ("pos",)}.items():
        rows = [{"text": f"{split} {i}", "label": names[i % len(names)]} for i in range(6)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    number = {"neg": 0, "neutral": 1, "pos": 2}
    for split in ("train", "validation", "test"):
        opened = tokenize.Opened.of(f"jsonl:{folder}", split, held_out=0.1)
        found = tokenize.tokenized(opened, tok.ByteTokenizer(), template="", train_on="assistant")
        expected = [number[opened.records[i]["label"]] for i in found.origins]
        assert found.labels.tolist() == expected, split
    (folder / "test.jsonl").write_text('{"text": "a", "label": "great"}\n')
    opened = tokenize.Opened.of(f"jsonl:{folder}", "test", held_out=0.1)
    with pytest.raises(UserError, match="expected one of neg, neutral, pos"):
        tokenize.tokenized(opened, tok.ByteTokenizer(), template="", train_on="assistant")
