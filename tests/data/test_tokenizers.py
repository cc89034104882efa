"""Every kind of tokenizer gives the ids and texts of the library it is from, and survives being written and read."""

import base64
import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data import formats
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.tokenizers import tiktoken_ranks
from ptft_jax.errors import UserError
from tests.data import kinds
from tests.data.kinds import FRAGMENTS, make, named

ANY = st.text(max_size=40) | st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)
EXAMPLES = settings(max_examples=60, deadline=None)


backend_once = functools.cache(lambda kind, **changes: backend(kind, **changes))


def backend(kind, **changes):
    import tokenizers

    found = tokenizers.Tokenizer.from_str(kind()["tokenizer.json"].decode())
    found.no_truncation()
    found.no_padding()
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_what_each_kind_says_of_its_special_tokens():
    t = make(kinds.byte_level)
    assert (t.end_id, t.stop_ids, t.bos_id, t.pad_id, t.prefix_ids) == (2, (2, 0), None, 0, ())
    t = make(kinds.llama3)
    # <|end_of_text|> ends generation, too, though no file says so.
    assert (t.end_id, set(t.stop_ids), t.bos_id, t.prefix_ids) == (4, {4, 1}, 0, (0,))
    t = make(kinds.llama2)
    assert (t.end_id, t.stop_ids, t.bos_id, t.unk_id, t.prefix_ids) == (2, (2,), 1, 0, (1,))
    t = make(kinds.wordpiece)
    assert (t.end_id, t.bos_id, t.pad_id, t.unk_id, t.prefix_ids) == (3, None, 0, 1, (2,))
    t = make(kinds.unigram)
    assert (t.end_id, t.pad_id, t.unk_id, t.prefix_ids) == (1, 0, 2, ())
    t = make(kinds.sentencepiece_bpe)
    start = t.special["<|im_start|>"]
    assert (t.end_id, t.stop_ids, t.prefix_ids, t.vocab_size) == (2, (2, start + 1), (1,), start + 3)
    t = make(kinds.sentencepiece_unigram)
    assert (t.end_id, t.bos_id, t.unk_id, t.prefix_ids) == (2, 1, 0, ())
    t = make(kinds.tiktoken)
    assert t.end_id == t.special["<|end_of_text|>"] == t.vocab_size - 2 and t.prefix_ids == (t.bos_id,)


@named(kinds.HUGGING_FACE)
def test_what_a_text_ends_with_is_what_the_library_puts_there(kind):
    whole, t = backend(kind).encode("a b").ids, make(kind)
    bare = [int(i) for i in t.encode("a b")]
    assert whole == [*t.prefix_ids, *bare, *t.suffix_ids]
    assert make(kinds.wordpiece).suffix_ids == (3,) and make(kinds.llama3).suffix_ids == ()


@named(kinds.HUGGING_FACE)
@EXAMPLES
@given(text=ANY)
def test_hugging_face_ids_and_text_are_the_librarys(kind, text):
    t = make(kind)
    marked = backend_once(kind)
    ids = marked.encode(text, add_special_tokens=False).ids
    assert t.encode(text, special=True).tolist() == ids
    assert t.decode(ids) == marked.decode(ids, skip_special_tokens=True)
    plain = t.encode(text).tolist()
    assert not set(plain) & (t.special_ids - {t.unk_id}), "no text may spell a control token"
    if not any(special in text.lower() for special in map(str.lower, t.special)):
        assert plain == ids
    if kind in (kinds.gpt2, kinds.byte_level, kinds.llama3):
        assert plain == backend_once(kind, encode_special_tokens=True).encode(text, add_special_tokens=False).ids
        assert t.decode(plain) == text


@functools.cache
def processor(kind):
    import sentencepiece

    data = next(data for name, data in kind().items() if name.endswith(".model"))
    return sentencepiece.SentencePieceProcessor(model_proto=data)


@named((kinds.sentencepiece_bpe, kinds.sentencepiece_unigram))
@EXAMPLES
@given(text=ANY)
def test_sentencepiece_ids_and_text_are_the_librarys(kind, text):
    t, reference = make(kind), processor(kind)
    if "<tool>" not in text or kind is kinds.sentencepiece_unigram:
        ids = reference.encode(text)
        assert t.encode(text).tolist() == ids
        assert t.decode(ids) == reference.decode(ids)
    assert not set(t.encode(text).tolist()) & t.special_ids


def test_sentencepiece_with_added_tokens():
    t, reference = make(kinds.sentencepiece_bpe), processor(kinds.sentencepiece_bpe)
    start, end, tool = (t.special.get(x) for x in ("<|im_start|>", "<|im_end|>", "<s>"))
    ids = t.encode("<s><|im_start|>the cat<|im_end|>", special=True).tolist()
    inner = [i for i in ids if i not in (start, end, tool)]
    assert [*ids[:2], ids[-1]] == [1, start, end] and t.decode(ids) == "the cat"
    assert reference.id_to_piece(inner[0]) != "▁the", "not a new word: nothing is put before it"
    assert t.decode(t.encode("cat<tool>cat <tool> cat")) == "cat<tool>cat <tool> cat"
    legacy = dict(kinds.sentencepiece_bpe())
    config = json.loads(legacy["tokenizer_config.json"])
    legacy["tokenizer_config.json"] = json.dumps(config | {"legacy": True}).encode()
    old = tok.from_files(legacy, "legacy").encode("<s>the cat", special=True).tolist()
    assert old == [1, *reference.encode("the cat")]
    renumbered = legacy | {"tokenizer_config.json": b'{"tokenizer_class": "XLMRobertaTokenizer"}'}
    with pytest.raises(UserError, match="XLMRobertaTokenizer numbers tokens otherwise"):
        tok.from_files(renumbered, "x")


@functools.cache
def encoding():
    import tiktoken

    files = kinds.tiktoken()
    ranks = {base64.b64decode(a): int(b) for a, b in (line.split() for line in files["mine.tiktoken"].splitlines())}
    added = json.loads(files["tokenizer_config.json"])["added_tokens_decoder"]
    special = {token["content"]: int(i) for i, token in added.items()}
    pattern = tiktoken_ranks.PATTERNS["cl100k_base"]
    return tiktoken.Encoding("reference", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


@EXAMPLES
@given(text=ANY)
def test_tiktoken_ids_and_text_are_the_librarys(text):
    t, reference = make(kinds.tiktoken), encoding()
    assert t.encode(text).tolist() == reference.encode_ordinary(text)
    assert t.encode(text, special=True).tolist() == reference.encode(text, allowed_special="all")
    assert t.decode(t.encode(text)) == text
    assert [t.token_bytes(i) for i in range(300)] == [reference.decode_single_token_bytes(i) for i in range(300)]


@EXAMPLES
@given(text=ANY)
def test_tiktokens_patterns_cut_as_its_own_do(text):
    """The library writes them otherwise, for speed."""
    import regex
    from tiktoken_ext import openai_public

    ours = regex.findall(tiktoken_ranks.PATTERNS["gpt2"], text)
    assert ours == regex.findall(openai_public.r50k_pat_str, text)


@named(kinds.ALL)
def test_a_tokenizer_survives_its_files(kind, tmp_path):
    t = make(kind)
    for name, data in t.files().items():
        (tmp_path / name).write_bytes(data)
    for again in (tok.from_file(tmp_path), tok.from_files(t.files(), "again")):
        assert tok.fingerprint(again) == tok.fingerprint(t)
        assert again.files() == t.files()
        for text in kinds.TEXTS[:4]:
            assert again.encode(text).tolist() == t.encode(text).tolist()
        same = ("vocab_size", "end_id", "stop_ids", "bos_id", "pad_id", "unk_id", "prefix_ids", "special", "named")
        assert all(getattr(again, name) == getattr(t, name) for name in same)
    assert len(tok.byte_lengths(t)) == t.vocab_size
    assert not any(t.token_bytes(i) for i in t.special_ids)


@named(kinds.ALL)
@pytest.mark.parametrize("special", [True, False])
def test_new_tokens_follow_the_old_ones(kind, special):
    t = make(kind)
    text = "the cat <|new|> sat<extra>"
    grown = tok.with_tokens(t, ["<|new|>", "<extra>"], special=special)
    new = [t.vocab_size, t.vocab_size + 1]
    assert grown.vocab_size == t.vocab_size + 2
    assert [i for i in grown.encode(text, special=True).tolist() if i >= t.vocab_size] == new
    plain = grown.encode(text).tolist()
    assert [i for i in plain if i >= t.vocab_size] == ([] if special else new)
    assert not special or plain == t.encode(text).tolist()
    old = t.encode(kinds.TEXTS[1])
    assert grown.encode(kinds.TEXTS[1]).tolist() == old.tolist() and grown.decode(old) == t.decode(old)
    assert ("<|new|>" in grown.decode(grown.encode(text, special=True))) is not special
    assert tok.fingerprint(grown) != tok.fingerprint(t) and grown.stop_ids == t.stop_ids
    again = tok.from_files(grown.files(), "again")
    assert tok.fingerprint(again) == tok.fingerprint(grown)
    assert again.encode(text, special=True).tolist() == grown.encode(text, special=True).tolist()
    for bad, message in ((["<|new|>"], "has it already"), (["x1", "x1"], "given twice"), ([""], "not empty")):
        with pytest.raises(UserError, match=message):
            tok.with_tokens(grown, bad, special=special)


@named(kinds.ALL)
@EXAMPLES
@given(text=ANY, context=ANY, cut=st.integers(0, 30))
def test_streamed_text_only_grows(kind, text, context, cut):
    t = make(kind)
    ids, before = t.encode(text).tolist(), t.encode(context).tolist()
    shown = ""
    for n in range(len(ids) + 1):
        settled = t.decode_settled(before, ids[:n])
        assert settled.startswith(shown)
        shown = settled
    whole = t.decode_after(before, ids)
    assert whole.startswith(shown)
    if t.decode([*before, *ids]).startswith(t.decode(before)):
        assert t.decode(before) + whole == t.decode([*before, *ids])
    arbitrary = ids[cut:]  # starts within a character, perhaps
    assert t.decode(arbitrary).startswith(t.decode_settled((), arbitrary))


def test_the_longest_of_several_tokens_is_found():
    t = tok.with_tokens(tok.ByteTokenizer(), ["<a>", "<a><b>", "<b>"])
    assert t.encode("<a><b><b><a>", special=True).tolist() == [258, 259, 257]


def test_the_space_between_a_prompt_and_its_continuation_stays():
    t = make(kinds.llama2)
    prompt, rest = t.encode("the cat").tolist(), t.encode("the dog").tolist()
    assert t.decode(rest) == "the dog" and t.decode_after(prompt, rest) == " the dog"


def test_bytes_of_tokens_make_up_the_text():
    for kind in (kinds.gpt2, kinds.byte_level, kinds.llama3, kinds.tiktoken, kinds.byte):
        t = make(kind)
        for text in kinds.TEXTS[:4]:
            assert b"".join(t.token_bytes(i) for i in t.encode(text).tolist()).decode() == text
    for kind in (kinds.llama2, kinds.sentencepiece_bpe):  # with the space that a text is started with
        t = make(kind)
        for text in kinds.TEXTS[:4]:
            assert b"".join(t.token_bytes(i) for i in t.encode(text).tolist()).decode() == " " + text
    t = make(kinds.wordpiece)
    assert [t.token_bytes(i) for i in t.encode("the cat sat").tolist()] == [b" the", b" cat", b" sat"]


def test_documents_start_with_one_bos_and_end_with_one_eos():
    texts = ["the cat", "<s>the dog</s>"]
    records = [{"text": text} for text in texts]
    for kind in kinds.ALL:
        t = make(kind)
        encoder = formats.encoder(formats.choose(records, {}, str), t)
        ids = [i for row in encoder.encode(records, ["0", "1"]) for i in row.ids.tolist()]
        parts = [t.encode(text).tolist() for text in texts]
        assert ids == [i for part in parts for i in (*t.prefix_ids, *part, t.end_id)]
        assert ids.count(t.end_id) == 2 and all(ids.count(i) == 2 for i in t.prefix_ids)


@pytest.mark.parametrize("kind", kinds.HUGGING_FACE, ids=lambda kind: kind.__name__)
def test_long_texts_are_cut_only_where_that_changes_nothing(kind):
    t = make(kind)
    words = kinds.TEXTS[:4]
    text = "\n\n".join(words[i % 4] + "7" * (i % 3) + "\n" * (i % 4) for i in range(400))
    reference = backend(kind, encode_special_tokens=True).encode(text, add_special_tokens=False).ids
    assert t.encode(text).tolist() == reference
    assert t._divisible is (kind is kinds.gpt2)


@pytest.mark.parametrize("step", ["Digits", "prefix", "normalizer", "added"])
def test_a_changed_pipeline_is_not_cut(step):
    """Digits before the bytes make "\\n\\n5" one run of newlines: cutting there gives other ids."""
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers

    t = backend(kinds.gpt2)
    if step == "Digits":
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif step == "prefix":
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif step == "normalizer":
        t.normalizer = normalizers.Replace("\n\n", " ")
    else:
        t.add_tokens([tokenizers.AddedToken("\n\n", normalized=False)])
    files = kinds.gpt2() | {"tokenizer.json": t.to_str().encode()}
    text = "\n\n".join(f"{i} some words that make this text long enough" * 5 for i in range(100))
    t.encode_special_tokens = True
    assert tok.from_files(files, "x").encode(text).tolist() == t.encode(text, add_special_tokens=False).ids


def test_a_lone_surrogate_is_named():
    for kind in kinds.ALL:
        with pytest.raises(UserError, match=r"text 1 is not Unicode: character 2 is the lone surrogate U\+D83D"):
            make(kind).encode_all(["fine", "ab\ud83dc"])


def _with_config(kind, **changes):
    files = dict(kind())
    files["tokenizer_config.json"] = json.dumps(json.loads(files["tokenizer_config.json"]) | changes).encode()
    return files


BAD = {
    "no vocabulary": (lambda: {"tokenizer_config.json": b"{}"}, "no such tokenizer file"),
    "not json": (lambda: {"tokenizer.json": b"{"}, "not a tokenizer file"),
    "other json": (lambda: {"tokenizer.json": b"{}"}, "not a tokenizer file"),
    "config not json": (lambda: kinds.llama3() | {"tokenizer_config.json": b"{"}, "tokenizer_config.json: not JSON"),
    "config a list": (lambda: kinds.llama3() | {"tokenizer_config.json": b"[]"}, "expected a table of fields"),
    "no end": (lambda: {"tokenizer.json": kinds.llama3()["tokenizer.json"]}, "which token ends a text"),
    "end not there": (lambda: _with_config(kinds.llama3, eos_token="<|eot|>"), r"eos_token '<\|eot\|>' is not in the vocabulary \(did you mean '<\|eot_id\|>'"),
    "bos unnamed": (lambda: _with_config(kinds.byte_level, add_bos_token=True), "names no bos_token"),
    "eos id": (lambda: kinds.llama3() | {"generation_config.json": b'{"eos_token_id": "x"}'}, "eos_token_id: 'x' is not a token id"),
    "added elsewhere": (lambda: _with_config(kinds.llama3, added_tokens_decoder={"7": {"content": "<|eot_id|>"}}), "has id 4 in tokenizer.json, 7 beside it"),
    "added beyond": (lambda: _with_config(kinds.llama3, added_tokens_decoder={"900": {"content": "<x>"}}), "declared with id 900, but would get 400"),
    "added over a piece": (lambda: _with_config(kinds.sentencepiece_bpe, added_tokens_decoder={"5": {"content": "<x>"}}), "'<x>' claims id 5"),
    "template": (lambda: _with_config(kinds.llama3, chat_template=3), "chat_template is neither"),
    "not sentencepiece": (lambda: {"tokenizer.model": b"\x00\x01junk"}, "not a SentencePiece model"),
    "no pattern": (lambda: _with_config(kinds.tiktoken, pat_str=None), 'give "pat_str" in tokenizer_config.json'),
    "unknown pattern": (lambda: _with_config(kinds.tiktoken, pat_str="cl100k"), "did you mean 'cl100k_base'"),
    "bad pattern": (lambda: _with_config(kinds.tiktoken, pat_str="("), "tiktoken refuses it"),
    "ranks": (lambda: {"a.tiktoken": b"YQ== 0\nYg== x\n"}, "line 2: not a token in base64 and its rank"),
    "few ranks": (lambda: {"a.tiktoken": b"YQ== 0\n"}, "no token for byte 0x00"),
    "two ranks": (lambda: {"a.tiktoken": b"", "b.tiktoken": b""}, "several .tiktoken files"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(name):
    files, message = BAD[name]
    with pytest.raises(UserError, match=message):
        tok.from_files(files(), "place")


def test_files_beside_a_vocabulary_are_read(tmp_path):
    for name, data in kinds.llama3().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "config.json").write_text('{"eos_token_id": [3, 4]}')
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    t = tok.from_file(tmp_path / "tokenizer.json")
    assert t.stop_ids == (4, 3, 1) and t.chat_template == "{{ messages }}" and t.prefix_ids == (0,)
    assert tok.from_files(t.files(), "x").stop_ids == t.stop_ids
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert tok.from_file(tmp_path).stop_ids == (4, 2, 1)
    with pytest.raises(UserError, match="no such tokenizer file"):
        tok.from_file(tmp_path / "nothing.json")


def test_published_ranks_are_known():
    """By name and size; anything else must say how it is cut."""
    llama = tiktoken_ranks.known("tokenizer.model", 128_000)
    assert llama.special["<|eot_id|>"] == 128_009 and llama.special["<|reserved_special_token_247|>"] == 128_255
    assert len(llama.special) == 256 and len(set(llama.special.values())) == 256
    assert tiktoken_ranks.known("qwen.tiktoken", 151_643).special["<|im_end|>"] == 151_645
    assert tiktoken_ranks.known("qwen.tiktoken", 151_000) is None
    assert tiktoken_ranks.looks_like(kinds.tiktoken()["mine.tiktoken"])
    assert not tiktoken_ranks.looks_like(kinds.sentencepiece_bpe()["tokenizer.model"])


def test_add_bos_token_counts_where_the_vocabulary_says_nothing():
    assert tok.from_files(_with_config(kinds.llama3, add_bos_token=False), "x").prefix_ids == (0,)
    files = _with_config(kinds.byte_level, add_bos_token=True, bos_token="<|im_start|>")
    t = tok.from_files(files, "x")
    assert t.prefix_ids == (1,) and tok.fingerprint(t) != tok.fingerprint(make(kinds.byte_level))


def test_a_tokenizer_must_fit_its_model():
    t = tok.ByteTokenizer()
    tok.check_fits(t, 257, "here")
    tok.check_fits(t, 300, "here")
    with pytest.raises(UserError, match="here: the model has embeddings for 256 tokens, but .* ids up to 256"):
        tok.check_fits(t, 256, "here")


def test_old_runs_keep_their_fingerprints(cache):
    """Checkpoints name their data by it."""
    assert tok.fingerprint(tok.ByteTokenizer()) == "fb48dfe85b3cf6328a8c055e4d717025"
    trained = tok.train_bpe(kinds.TEXTS, 300)
    assert list(trained.files()) == ["tokenizer.json"]
    from ptft_jax.data.cache import digest

    assert tok.fingerprint(trained) == digest(trained.files()["tokenizer.json"])


@pytest.mark.live
@named(kinds.HUGGING_FACE)
def test_hugging_face_folders_as_transformers_reads_them(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    t = make(kind)
    for name, data in kind().items():
        (tmp_path / name).write_bytes(data)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)

    @settings(max_examples=150, deadline=None)
    @given(text=ANY)
    def compare(text):
        ids = reference.encode(text, add_special_tokens=False)
        assert t.encode(text, special=True).tolist() == ids
        assert t.decode(ids) == reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if ids:  # for some kinds the library puts nothing before nothing
            assert reference.encode(text)[: len(t.prefix_ids) + len(ids)] == [*t.prefix_ids, *ids]

    compare()
    assert (t.bos_id, t.pad_id, t.unk_id) == (
        reference.bos_token_id, reference.pad_token_id, reference.unk_token_id
    )  # fmt: skip
    assert t.end_id == (reference.eos_token_id if reference.eos_token_id is not None else reference.sep_token_id)
    assert t.vocab_size == len(reference)
    grown = tok.with_tokens(t, ["<|new|>", "<other>"])
    reference.add_tokens(["<|new|>", "<other>"], special_tokens=True)
    text = "the<|new|> cat<other>  sat"
    assert grown.encode(text, special=True).tolist() == reference.encode(text, add_special_tokens=False)


@pytest.mark.live
def test_a_sentencepiece_folder_as_transformers_reads_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    t = make(kinds.sentencepiece_bpe)
    for name, data in kinds.sentencepiece_bpe().items():
        (tmp_path / name).write_bytes(data)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert t.vocab_size == len(reference)
    for text in [*kinds.TEXTS[:4], "the<|im_start|>cat\n sat<|im_end|> <tool>the", "<s>the cat</s>", "🙂<|im_end|>"]:
        ids = reference.encode(text, add_special_tokens=False)
        assert t.encode(text, special=True).tolist() == ids, text
        assert t.decode(ids) == reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert reference.encode(text)[0] == t.prefix_ids[0]
