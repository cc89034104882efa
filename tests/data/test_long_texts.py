"""Long texts are read, tokenized and counted some at a time, and become the ids of the whole text."""

import functools
import gzip
import json
import random
import tracemalloc

import numpy as np
import pytest

from ptft_jax.config import default
from ptft_jax.data import source_splits, store, store_writer, tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.records import SPLITS, files, open_records
from ptft_jax.data.records import texts as texts_module
from ptft_jax.data.tokenizers import cutting
from ptft_jax.data.tokenizers.patterns import PATTERNS
from ptft_jax.errors import UserError
from tests.data import kinds
from tests.data.records import writing

# White space of all kinds, marks that combine, what normalizers make white space of, and what joins over it.
HARD = (
    *kinds.FRAGMENTS, *"abcXYZ  \n\n\n\r\t\v\f/.'_#1", "\r\n", "\x1c", "\x85", "\u00a0", "\u2028", "\u180e", "\u200b", "\u0301",
    "\ufe70", "ﷺ", "½", "'s", "。", "İ", "\u1160", "\u11a8", "e\u0301", "``", "<x>", "ab", "22", "한글", " q", "q ",
)  # fmt: skip


@functools.cache
def changed(name):
    """Pipelines around GPT-2's merges, by what is otherwise in them."""
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers

    split = {n: pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for n, p in PATTERNS.items()}
    raw, gpt2, digits = (
        pre_tokenizers.ByteLevel(False, use_regex=False),
        pre_tokenizers.ByteLevel(False),
        pre_tokenizers.Digits(True),
    )
    respelled = [
        normalizers.NFKC(),
        normalizers.StripAccents(),
        normalizers.Replace("a", ""),
        normalizers.BertNormalizer(),
    ]
    parts = {
        "digits": (None, [digits, gpt2]),
        "digits behind": (None, [gpt2, digits]),
        "punctuation": (None, [pre_tokenizers.Punctuation("merged_with_next"), gpt2]),
        "nfd": ([normalizers.NFD(), normalizers.Lowercase()], [gpt2]),
        "nfkc": ([normalizers.NFKC()], [gpt2]),
        "words": (respelled, [pre_tokenizers.Whitespace(), gpt2]),
        "bert": (respelled, [pre_tokenizers.BertPreTokenizer(), raw]),
        "both": (None, [gpt2, split["cl100k_base"]]),
        **{n: (None, [one, raw]) for n, one in split.items()},
        "digits, o200k": (None, [digits, split["o200k_base"], raw]),
    }  # fmt: skip
    normal, steps = parts[name]
    made = tokenizers.Tokenizer.from_str(kinds.gpt2()["tokenizer.json"].decode())
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if normal:
        made.normalizer = normalizers.Sequence(normal)
    return tok.from_files(kinds.gpt2() | {"tokenizer.json": made.to_str().encode()}, name)


CHANGED = ("digits", "digits behind", "punctuation", "nfd", "nfkc", "words", "bert", "both", *PATTERNS, "digits, o200k")
MADE = {
    **{kind.__name__: functools.partial(kinds.make, kind) for kind in kinds.ALL},
    **{name: functools.partial(changed, name) for name in CHANGED},
    **{
        f"{kind.__name__} with tokens": lambda kind=kind: tok.with_tokens(
            kinds.make(kind), ["<x>", "ab"], special=False
        )
        for kind in (kinds.byte, kinds.gpt2, kinds.tiktoken)
    },
}
WHOLE = {"llama2", "unigram", "sentencepiece_bpe", "sentencepiece_unigram", "nfkc", "both"}


@pytest.mark.parametrize("name", MADE)
def test_parts_of_hard_texts_have_the_ids_of_the_whole(name):
    t, rng = MADE[name](), random.Random(name)
    for special in (False, True):
        places, cut = t.places(special), 0
        assert (places is None) is (name in WHOLE)
        for _ in range(40):
            text = "".join(rng.choices(HARD, k=rng.randint(0, 40)))
            whole = t.encode(text, special=special).tolist()
            blocks = [text[at : at + 7] for at in range(0, len(text), 7)]
            assert [i for ids in t.encode_long(blocks, special=special) for i in ids.tolist()] == whole
            if places is not None:
                for made in (
                    cutting.parts(text, places, 1),
                    list(cutting.regrouped(blocks, places, rng.randint(1, 12))),
                ):
                    assert "".join(made) == text
                    assert [i for part in made for i in t.encode(part, special=special).tolist()] == whole, made
                    cut += len(made) > 1
        assert cut or name in WHOLE


def test_a_token_that_reaches_over_white_space_keeps_a_text_whole():
    made = kinds.make(kinds.gpt2)
    for text in ("a b", "a\n"):
        assert tok.with_tokens(made, [text], special=False).places() is None
        assert tok.with_tokens(made, [text], special=True).places() is cutting.BEFORE
        assert tok.with_tokens(made, [text], special=True).places(special=True) is None


def test_a_text_without_places_is_one_part():
    assert list(cutting.regrouped(["ab", "cd", "ef"], cutting.BEFORE, 2)) == ["abcdef"]
    assert list(cutting.regrouped([], cutting.BEFORE, 2)) == [] and cutting.parts("", cutting.BEFORE, 2) == []


@pytest.fixture
def small(monkeypatch):
    """Texts of more than a few characters are long ones."""
    monkeypatch.setattr(files, "BLOCK", 11)
    monkeypatch.setattr(tokenize, "CHARACTERS", 11)


def encoded(reference, split, tokenizer, **options):
    opened = tokenize.Opened.of(reference, split, held_out=0.2)
    return tokenize.tokenized(opened, tokenizer, template="", train_on="assistant", **options)


@pytest.mark.parametrize("form", ["txt", "txt.gz", "jsonl"])
@pytest.mark.parametrize(
    "kind", [kinds.byte, kinds.gpt2, kinds.llama3, kinds.unigram, kinds.sentencepiece_bpe], ids=lambda k: k.__name__
)
def test_a_store_of_long_texts_is_that_of_short_ones(kind, form, cache, tmp_path, monkeypatch):
    rng, path = random.Random(0), tmp_path / f"x.{form}"
    texts = ["".join(rng.choices([*HARD[:-20], " word", "\n"], k=60)).replace("\0", "") + f"\n{n}\n" for n in range(9)]
    if form == "jsonl":
        path.write_bytes(writing.lines([{"text": text} for text in texts]))
    else:
        data = "".join(texts).encode()
        path.write_bytes(gzip.compress(data) if form == "txt.gz" else data)
    reference = f"{'jsonl' if form == 'jsonl' else 'text'}:{path}"
    tokenizer = kinds.make(kind)
    expected = {split: encoded(reference, split, tokenizer) for split in SPLITS}
    kept = {split: (one.key, np.array(one.ids), one.offsets, np.array(one.origins)) for split, one in expected.items()}
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(files, "BLOCK", 11)
    monkeypatch.setattr(tokenize, "CHARACTERS", 11)
    added = []
    real = store_writer.Writer.add_long
    monkeypatch.setattr(
        store_writer.Writer, "add_long", lambda self, parts, origin: added.append(origin) or real(self, parts, origin)
    )
    for split, (key, ids, offsets, origins) in kept.items():
        found = encoded(reference, split, tokenizer)
        assert found.key == key and found.trained is None
        for one, other in ((found.ids, ids), (found.offsets, offsets), (found.origins, origins)):
            np.testing.assert_array_equal(one, other)
    assert added


def test_texts_are_cut_at_the_same_lines_whatever_is_read_at_a_time(cache, tmp_path, monkeypatch):
    rng, path = random.Random(1), tmp_path / "x.txt"
    for number in range(30):
        path.write_bytes(
            "".join(rng.choices(["a", "é", "\r", "\n", "\r\n", "\u2028", "bc d", "\x0c", "\ufeff"], k=60)).encode()
            + b"\n"
            + b"1 2\n" * 20
        )
        found = []
        for block in (1 << 20, 7, 3):
            monkeypatch.setattr(files, "BLOCK", block)
            monkeypatch.setenv("PTFT_CACHE", str(tmp_path / f"{number} {block}"))
            parts = [open_records(f"text:{path}", split, held_out=0.1) for split in SPLITS]
            found.append([(part.fingerprint, part[0]["text"], part.keys().tolist()) for part in parts])
        assert found[0] == found[1] == found[2]
        assert "".join(text for _, text, _ in found[0]).encode() == path.read_bytes().removeprefix(b"\xef\xbb\xbf")


@pytest.mark.parametrize("data, words", [(b"ok\n" * 9 + b"\xff", "byte 27 .line 10"), (b"ok\n" * 9 + b"\0", "zero byte at offset 27"), (b"\xef\xbb\xbfok\n" * 4 + b"\xe4", "byte 24 .line 5")])  # fmt: skip
def test_what_is_wrong_far_behind_is_named(data, words, cache, tmp_path, small):
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(UserError, match=words):
        open_records(f"text:{tmp_path / 'x.txt'}", "train", held_out=0.1)


def test_a_lone_surrogate_of_a_long_text_is_named(cache, tmp_path, small):
    (tmp_path / "x.jsonl").write_text(
        '{"text": "' + "long text " * 9 + '\\ud83d"}\n' + "".join(f'{{"text": "{n}"}}\n' for n in range(40))
    )
    with pytest.raises(UserError, match="half a character|lone surrogate"):
        encoded(f"jsonl:{tmp_path / 'x.jsonl'}", "train", kinds.make(kinds.gpt2))


def options(reference):
    data = default()
    data.data.source = reference
    from ptft_jax import config

    return config.check(data.to_dict()).data


def test_a_vocabulary_of_parts_is_that_of_the_whole(cache, tmp_path, monkeypatch):
    text = "".join(random.Random(2).choices([*kinds.TEXTS[:4], *HARD[:-20], " word", "\n"], k=900)).replace("\0", "")
    (tmp_path / "x.txt").write_text(text, newline="")
    texts = source_splits.training_texts(options(f"text:{tmp_path / 'x.txt'}"))
    [train] = [t if isinstance(t, str) else "".join(t.blocks()) for t in texts]
    whole = json.loads(tok.train_bpe([train], 320).files()["tokenizer.json"])
    from ptft_jax.data.tokenizers import fitting

    monkeypatch.setattr(fitting, "_PART", 13)
    monkeypatch.setattr(files, "BLOCK", 17)
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "other"))
    texts = source_splits.training_texts(options(f"text:{tmp_path / 'x.txt'}"))
    assert json.loads(tok.train_bpe(texts, 320).files()["tokenizer.json"]) == whole
    monkeypatch.setattr(source_splits._Texts, "__iter__", lambda self: pytest.fail("read again"))
    assert json.loads(tok.train_bpe(texts, 320).files()["tokenizer.json"]) == whole


def test_memory_does_not_grow_with_a_text(cache, tmp_path, monkeypatch):
    """Of what Python and numpy hold: reading, dividing, tokenizing, and giving a vocabulary's training its texts."""
    monkeypatch.setattr(files, "BLOCK", 1 << 14)
    monkeypatch.setattr(cutting, "BLOCK", 1 << 14)
    monkeypatch.setattr(tokenize, "CHARACTERS", 1 << 14)
    tokenizer, peaks = kinds.make(kinds.gpt2), []
    for size in (400_000, 2_000_000):
        path = tmp_path / f"{size}.txt"
        path.write_text("some words of a line\n" * (size // 21))
        tracemalloc.start()
        try:
            found = encoded(f"text:{path}", "train", tokenizer)
            for long in tokenize.Opened.of(f"text:{path}", "train", held_out=0.2).texts():
                assert size * 0.5 < sum(map(len, long.blocks())) < size
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert len(found.ids) > size / 8
    assert peaks[1] < 1.5 * peaks[0] < 1.5 * 1_500_000, peaks


def test_not_many_records_are_held_where_they_are_large(cache, tmp_path, monkeypatch):
    """The most characters that the tokenizer is given at once."""
    path, given = tmp_path / "x.jsonl", []
    path.write_bytes(writing.lines([{"prompt": f"{n} " + "a" * 9_000, "completion": "b" * 90} for n in range(60)]))
    monkeypatch.setattr(tokenize, "CHARACTERS", 30_000)
    real = tok.ByteTokenizer.encode_all
    monkeypatch.setattr(
        tok.ByteTokenizer,
        "encode_all",
        lambda self, texts, **o: given.append(sum(map(len, texts))) or real(self, texts, **o),
    )
    encoded(f"jsonl:{path}", "train", tok.ByteTokenizer())
    assert 25_000 < max(given) < 40_000


def test_nothing_is_kept_of_what_is_trained_where_all_is(tmp_path):
    from ptft_jax.data.examples import Encoded

    everything, masked = Encoded(np.arange(4)), Encoded(np.arange(3), np.asarray([True, False, True]))
    for name, examples in (("all", [everything] * 3), ("late", [everything, everything, masked, everything])):
        for masks in (False, True):
            folder = tmp_path / f"{name} {masks}"
            writer = store_writer.Writer(folder, 300, masked=masks)
            for n, example in enumerate(examples):
                writer.add([example], [n])
            writer.close("k")
            assert (folder / "trained.bin").exists() == (masks or name == "late")
            expected = [True] * 12 if name == "all" else [True] * 8 + [True, False, True] + [True] * 4
            found = store.load(folder).trained
            assert (found is None) if name == "all" else found.tolist() == expected
    writer = store_writer.Writer(tmp_path / "taken", 300)
    for part in ("all False", "all True", "late False", "late True", "all False"):
        writer.take(tmp_path / part)
    writer.close("k")
    late = [True] * 8 + [True, False, True] + [True] * 4
    assert store.load(tmp_path / "taken").trained.tolist() == [True] * 24 + late * 2 + [True] * 12


def test_only_the_beginning_of_a_long_text_tells_the_format(cache, tmp_path, small):
    (tmp_path / "x.txt").write_text("one line\n" * 40)
    rows = open_records(f"text:{tmp_path / 'x.txt'}", "train", held_out=0.1)
    assert (
        rows.beginnings()[0] == {"text": "one line\non", "name": str(tmp_path / "x.txt")}
        and len(rows.beginnings()) == 1
    )
    assert rows.long(0).size == len(rows[0]["text"]) and texts_module.Documents.long(rows, -1) is not None
