"""Tokenizers and chat templates out: the same ids here, in what is read back, in transformers, and in llama.cpp."""

import json
import pathlib

import pytest

from ptft_jax.data import chat, endings, token_folder, turns
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.chat_templates import BUILT_IN, STOPS
from ptft_jax.data.prepare import engines, shard_writing
from ptft_jax.data.prepare.settings import Settings
from ptft_jax.data.sandbox import Template
from ptft_jax.data.tokenizers import alike
from ptft_jax.errors import UserError
from ptft_jax.interop import export, gguf_tokenizer, gguf_vocabulary, pretrained, tokenizer_files, tokenizer_json
from ptft_jax.runs import identity
from tests.data import kinds
from tests.interop import small

TALK = [
    {"role": "user", "content": "  def f(x):\n\treturn x  "},
    {"role": "assistant", "content": "naïve 你好 🙂\n"},
    {"role": "user", "content": "12 34"},
]
MARKS = ("<|im_start|>", "<|im_end|>")
WRITTEN = [kind for kind in kinds.ALL if kind is not kinds.tiktoken]
# Templates of others: how a turn ends, and what of that is no token of bytes.
OWN = "{% for m in messages %}<|%s|>{{ m.content }}<|fin|>\n{% endfor %}".replace("%s", "{{ m.role }}")
BRACKETS = "{% for m in messages %}[{{ m.role | upper }}]{{ m.content }}[/END]{% endfor %}"
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
HASHES = "{% for m in messages %}{{ m.role }}: {{ m.content }} ###\n{% endfor %}"


def marked(kind):
    made = kinds.make(kind)
    return tok.with_tokens(made, [text for text in MARKS if not made.has(text)])


def read_back(tokenizer, template=""):
    return tok.from_files(tokenizer_files.written(tokenizer, 64, template), "read back")


@kinds.named(WRITTEN)
def test_what_is_written_gives_the_same_ids(kind):
    tokenizer = marked(kind)
    again = read_back(tokenizer, BUILT_IN["chatml"])
    lines = [line for line in pathlib.Path(export.__file__).read_text().split("\n") if line]
    for texts in (lines, tokenizer_files.HARD, [" </s> x", "a<|im_end|>b"]):
        for ours, theirs in zip(tokenizer.encode_all(texts), again.encode_all(texts)):
            assert ours.tolist() == theirs.tolist()
    assert again.prefix_ids == tokenizer.prefix_ids and again.stop_ids[0] == tokenizer.end_id
    ours = chat.encode_chat(tokenizer, TALK, True, template="chatml")
    assert chat.encode_chat(again, TALK, True).tolist() == ours.tolist()  # with BOS where texts have one
    config = json.loads(tokenizer_files.written(tokenizer, 64)["tokenizer_config.json"])
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and "chat_template" not in config


@kinds.named(WRITTEN)
def test_what_is_written_is_the_same_tokenizer(kind):
    """Whatever its files say; one that gives other ids, or whose ids are other tokens, is not."""
    tokenizer = marked(kind)
    again = read_back(tokenizer)
    assert alike.same(tokenizer, again) and alike.same(again, tokenizer)
    one, two = identity.Identity("one", {}, tokenizer), identity.Identity("two", {}, again)
    identity.check_tokenizers(one, two)
    others = [kinds.make(other) for other in WRITTEN if other is not kind] + [tok.with_tokens(tokenizer, ["<|y|>"])]
    pair = [tok.with_tokens(tokenizer, texts) for texts in (["<|a|>", "<|b|>"], ["<|b|>", "<|a|>"])]
    assert not any(alike.same(tokenizer, other) for other in others) and not alike.same(*pair)


def test_pipelines_that_cut_texts_otherwise_are_not_the_same():
    whole = json.loads(kinds.gpt2()["tokenizer.json"])
    for change in ({"normalizer": {"type": "NFC"}}, {"normalizer": {"type": "Lowercase"}}):
        files = kinds.gpt2() | {"tokenizer.json": json.dumps(whole | change).encode()}
        assert not alike.same(kinds.make(kinds.gpt2), tok.from_files(files, "changed"))
    pieces = kinds.make(kinds.sentencepiece_bpe).files()
    config = json.loads(pieces.get("tokenizer_config.json", b"{}"))
    made = [
        tok.from_files(pieces | {"tokenizer_config.json": json.dumps(config | {"legacy": legacy}).encode()}, "x")
        for legacy in (False, True)
    ]
    assert not alike.same(*made)


def test_prepared_ids_go_with_the_export_of_their_tokenizer(tmp_path, cache):
    tokenizer = marked(kinds.sentencepiece_bpe)
    (tmp_path / "a.txt").write_text("".join(f"line {i} of the cat\n\n" for i in range(40)))
    settings = Settings((f"text:{tmp_path}/a.txt",), shards=1)
    shard_writing.prepare(settings, tokenizer, tmp_path / "out", engines.Processes(1))
    first, _ = token_folder.load(tmp_path / "out", "train", tokenizer)
    again, _ = token_folder.load(tmp_path / "out", "train", read_back(tokenizer))
    assert again.key == first.key
    with pytest.raises(UserError, match="its ids were made by another tokenizer than"):
        token_folder.load(tmp_path / "out", "train", tok.with_tokens(tokenizer, ["<|y|>"]))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("rule, squeezed", [("identity", False), ("nmt_nfkc", True), ("nmt_nfkc", False)])
@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_sentencepiece_models_of_every_kind(model, rule, squeezed, prefix, legacy):
    """The reference is the sentencepiece library, between the control tokens."""
    options = dict(normalization_rule_name=rule, remove_extra_whitespaces=squeezed, add_dummy_prefix=prefix)
    data = kinds._sentencepiece(model, vocab_size=450, byte_fallback=model == "bpe", character_coverage=0.98, **options)
    given = {"tokenizer.model": data, "tokenizer_config.json": json.dumps({"legacy": legacy}).encode()}
    tokenizer = tok.from_files(given, "mine")
    assert tokenizer_files.differing(tokenizer, read_back(tokenizer)) == []
    assert tokenizer_files.obstacles(tokenizer, gguf=False) == []


def test_a_symbol_that_no_tokenizer_json_can_place_is_refused():
    """Before a user-defined symbol, SentencePiece puts its dummy prefix, and nothing else can."""
    data = kinds._sentencepiece("bpe", vocab_size=450, byte_fallback=True, user_defined_symbols="<tool>")
    tokenizer = tok.from_files({"tokenizer.model": data}, "mine")
    [told] = tokenizer_files.obstacles(tokenizer)
    assert told.startswith(
        "ptft export --to=hf and --to=gguf will refuse this run's tokenizer: a tokenizer.json of it gives"
    )
    assert "'<tool>'" in told


def test_what_cannot_leave_is_said_with_the_key_that_is_missing():
    [told] = tokenizer_files.obstacles(kinds.make(kinds.tiktoken))
    assert (
        told.startswith("ptft export --to=hf and --to=gguf will refuse")
        and "key tokenizer_class in a tokenizer_con" in told
    )
    [told] = tokenizer_files.obstacles(kinds.make(kinds.unigram))
    assert told.startswith("ptft export --to=gguf will refuse") and "Unigram" in told
    assert tokenizer_files.obstacles(kinds.make(kinds.unigram), gguf=False) == []
    for kind in (kinds.byte, kinds.gpt2, kinds.llama3, kinds.sentencepiece_bpe, kinds.sentencepiece_unigram):
        assert tokenizer_files.obstacles(kinds.make(kind)) == []


def test_the_class_is_the_one_that_takes_the_file_as_it_is():
    files = {
        **kinds.byte_level(),
        "tokenizer_config.json": b'{"tokenizer_class": "LlamaTokenizer", "eos_token": "<|im_end|>"}',
    }
    written = json.loads(tokenizer_files.written(tok.from_files(files, "x"), 8)["tokenizer_config.json"])
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["model_input_names"] == ["input_ids", "attention_mask"]


def test_a_family_whose_class_would_change_ids_is_refused(tmp_path):
    """transformers reads every qwen2's tokenizer as Qwen2's, which composes accents and cuts digits one by one."""
    fields = {**small.LLAMA, "biases": ("qkv",)}
    tokenizer = tok.ByteTokenizer()
    exported = export.Exported({}, fields, tokenizer, [])
    with pytest.raises(
        UserError, match=r"--family=qwen2: transformers reads .* by its class Qwen2Tokenizer, which gives other ids"
    ):
        export.to_folder(exported, tmp_path / "out", dtype="float32")
    assert not list(tmp_path.iterdir())
    whole = tokenizer_json.of_bytes(tokenizer)
    whole |= {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": gguf_tokenizer.pre_tokenizer(gguf_tokenizer.PRE_TOKENIZERS["qwen2"]),
    }
    own = tok.from_files({"tokenizer.json": json.dumps(whole).encode()}, "Qwen's")
    tokenizer_files.refuse_other_class(own, tokenizer_files.written(own, 8), "qwen2")


def test_a_tokenizer_that_reads_back_otherwise_is_refused(tmp_path, monkeypatch):
    made = tokenizer_json.of_bytes
    monkeypatch.setattr(tokenizer_json, "of_bytes", lambda t: made(t) | {"normalizer": {"type": "NFC"}})
    exported = export.Exported(small.params_of(small.LLAMA), small.LLAMA, tok.ByteTokenizer(), [])
    with pytest.raises(UserError, match="read back, gives other ids than bytes for 1 texts, such as 'cafe\u0301 "):
        export.to_folder(exported, tmp_path / "out", dtype="float32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BUILT_IN)
@kinds.named((kinds.byte, kinds.llama3, kinds.sentencepiece_bpe))
def test_a_run_s_template_goes_out(kind, name):
    tokenizer = kinds.make(kind)
    tokenizer = tok.with_tokens(tokenizer, endings.missing(tokenizer, chat.template(tokenizer, name)))
    again = read_back(tokenizer, BUILT_IN[name])
    assert (
        chat.encode_chat(again, TALK, True).tolist() == chat.encode_chat(tokenizer, TALK, True, template=name).tolist()
    )
    end = endings.of(tokenizer, chat.template(tokenizer, name))
    assert end.token == tokenizer.special[end.text] and end.token in tokenizer_files.ends(tokenizer, BUILT_IN[name])
    # The run's takes the place of the parent's default, wherever that was written; its other templates stay.
    files = tokenizer.files() | {"chat_template.jinja": b"theirs"}
    files["tokenizer_config.json"] = json.dumps(
        json.loads(files.get("tokenizer_config.json", b"{}")) | {"chat_template": {"tools": "T"}}
    ).encode()
    other = tok.from_files(files, "with templates")
    written = tokenizer_files.written(other, 8, BUILT_IN[name])
    found = tok.from_files(written, "x").chat_templates
    assert "chat_template.jinja" not in written and found["tools"] == "T" and found["default"].endswith(BUILT_IN[name])
    assert tok.from_files(tokenizer_files.written(other, 8), "x").chat_template == "theirs"


@pytest.mark.parametrize("name", BUILT_IN)
@kinds.named((kinds.byte, kinds.llama3, kinds.sentencepiece_bpe))
def test_a_run_and_its_export_learn_the_same_of_a_conversation(kind, name):
    """Whose markers may be text: no end of a text follows them, whether the template is named or comes with the tokenizer."""
    tokenizer, policy = kinds.make(kind), turns.TrainOn.parse("assistant")
    again = read_back(tokenizer, BUILT_IN[name])
    talk = [turns.Conversation(TALK[:2], {}, "here")]
    [ours] = turns.encode(tokenizer, chat.template(tokenizer, name), talk, policy)
    [theirs] = turns.encode(again, chat.template(again), talk, policy)
    assert ours.ids.tolist() == theirs.ids.tolist() and ours.trained.tolist() == theirs.trained.tolist()
    if kind is kinds.byte:
        assert bytes(theirs.ids.tolist()).decode().rstrip().endswith(STOPS[name])


@pytest.mark.parametrize(
    "source, text, missing",
    [
        (BUILT_IN["chatml"], "<|im_end|>", MARKS),
        (BUILT_IN["gemma"], "<end_of_turn>", ("<start_of_turn>", "<end_of_turn>")),
        (OWN, "<|fin|>", ("<|user|>", "<|fin|>", "<|assistant|>")),
        (BRACKETS, "[/END]", ("[USER]", "[/END]", "[ASSISTANT]")),
        (HASHES, "###", ("###",)),
        (PLAIN, "", ()),
        (PLAIN.replace("\n\n", "{{ eos_token }}"), "", ()),  # bytes name no EOS
        ("{{ raise_exception('no') }}", "", ()),
    ],
)
def test_how_templates_end_an_answer(source, text, missing):
    tokenizer, template = tok.ByteTokenizer(), Template(source, "t")
    assert endings.of(tokenizer, template) == (text, None) and endings.missing(tokenizer, template) == missing
    if missing:
        grown = tok.with_tokens(tokenizer, missing)
        assert endings.of(grown, template) == (text, grown.special[text]) and endings.missing(grown, template) == ()
        assert grown.special[text] in endings.stops(grown, template)
    ended = kinds.make(kinds.llama2)
    assert endings.of(ended, Template(PLAIN.replace("\n\n", "{{ eos_token }}\n"), "t")) == ("</s>", ended.end_id)


def metadata(tokenizer, template=""):
    files = tokenizer_files.written(tokenizer, 64, template)
    config = {"vocab_size": tokenizer.vocab_size + 2, "eos_token_id": list(tokenizer_files.ends(tokenizer, template))}
    return gguf_vocabulary.to_metadata(files, config)


@kinds.named((kinds.byte, kinds.gpt2, kinds.llama3))
def test_the_lists_of_a_gguf_file_give_the_same_ids(kind):
    """As llama.cpp goes by them, without the tokenizer.json that lies beside them; bytes have one merge, of no text's bytes."""
    tokenizer = marked(kind)
    read = metadata(tokenizer, BUILT_IN["chatml"]).get
    listed = tok.from_files(gguf_tokenizer.to_files(read, "llama", "x", lists=True), "lists")
    assert tokenizer_files.differing(tokenizer, listed) == []
    assert read("tokenizer.ggml.merges") and (
        kind is not kinds.byte or read("tokenizer.ggml.merges") == ["\u00c0 \u00c1"]
    )
    for broken in (b"\xc0", b"\xc1"):  # no text has them: they never merge
        with pytest.raises(UnicodeDecodeError):
            broken.decode()
    assert tokenizer.special["<|im_end|>"] in [read(f"tokenizer.ggml.{n}_token_id") for n in ("eos", "eot", "eom")]
    template = read("tokenizer.chat_template")
    assert "generation %}" not in template  # which Jinja has no tag for
    found = tok.from_files(gguf_tokenizer.to_files(read, "llama", "x"), "whole")
    ours = chat.encode_chat(tokenizer, TALK, True, template="chatml").tolist()
    assert chat.encode_chat(found, TALK, True).tolist() == ours


def test_a_gguf_file_has_room_for_the_ends_that_texts_do_not_tell():
    """Three places; readers add "<|im_end|>" and the like by their texts. A template's own end is in a place of its own."""
    four = ("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|im_start|>")
    tokenizer = tok.with_tokens(tok.ByteTokenizer(), four)
    ended = {tokenizer.end_id, *(tokenizer.special[text] for text in four[:4])}
    assert tokenizer_files.obstacles(tokenizer, BUILT_IN["chatml"]) == []
    read = metadata(tokenizer, BUILT_IN["chatml"]).get
    for lists in (False, True):
        found = tok.from_files(gguf_tokenizer.to_files(read, "llama", "x", lists=lists), "read back")
        assert set(found.stop_ids) == ended and found.end_id == tokenizer.end_id
    own = tok.with_tokens(tokenizer, ["<|user|>", "<|assistant|>", "<|fin|>"])
    read = metadata(own, OWN).get
    assert own.special["<|fin|>"] in [read(f"tokenizer.ggml.{n}_token_id") for n in ("eot", "eom")]
    found = tok.from_files(gguf_tokenizer.to_files(read, "llama", "x"), "read back")
    assert set(found.stop_ids) == {*ended, own.special["<|fin|>"]}


def test_ends_that_a_gguf_file_has_no_place_for_are_told_at_the_start():
    more = ("<|one|>", "<|two|>", "<|three|>")
    grown = tok.with_tokens(kinds.make(kinds.gpt2), more)
    ids = [grown.end_id, *(grown.special[text] for text in more)]
    files = grown.files() | {"generation_config.json": json.dumps({"eos_token_id": ids}).encode()}
    [told] = tokenizer_files.obstacles(tok.from_files(files, "mine"))
    assert told.startswith("ptft export --to=gguf will refuse this run's tokenizer: eos_token_id =")


@pytest.mark.heavy
def test_lists_that_give_other_ids_are_told(tmp_path):
    for kind in (kinds.byte, kinds.llama2):
        tokenizer = marked(kind)
        fields = {**small.LLAMA, "vocab_size": tokenizer.vocab_size}
        exported = export.Exported(small.params_of(fields), fields, tokenizer, [], template=BUILT_IN["chatml"])
        written = export.to_gguf(exported, tmp_path / f"{kind.__name__}.gguf", dtype="float32")
        if kind is kinds.byte:
            assert "note" not in written
        else:  # no dummy prefix before a space, which llama.cpp always puts there
            told = "llama.cpp, which goes by the file's lists, gives other ids for texts such as ' '"
            assert written["note"].startswith(told)
        found = pretrained.find(f"gguf:{tmp_path}/{kind.__name__}.gguf", "--run").tokenizer
        assert tokenizer.special["<|im_end|>"] in found.stop_ids
        ours = chat.encode_chat(tokenizer, TALK, True, template="chatml").tolist()
        assert chat.encode_chat(found, TALK, True).tolist() == ours


@kinds.named((kinds.sentencepiece_bpe, kinds.sentencepiece_unigram))
def test_added_tokens_are_said_beside_a_sentencepiece_model(kind):
    """A reader that goes by the pieces and by added_tokens_decoder, as llama.cpp's converter does, has every token."""
    import sentencepiece

    tokenizer = marked(kind)
    files = tokenizer_files.written(tokenizer, 64)
    model = sentencepiece.SentencePieceProcessor(model_proto=next(files[n] for n in files if n.endswith(".model")))
    said = json.loads(files["tokenizer_config.json"])["added_tokens_decoder"]
    known = {i: model.id_to_piece(i) for i in range(model.piece_size())}
    known |= {int(i): entry["content"] for i, entry in said.items()}
    assert sorted(known) == list(range(tokenizer.vocab_size)) and set(MARKS) <= set(known.values())
    whole = json.loads(files["tokenizer.json"])["added_tokens"]
    assert whole == [{"id": int(i), **entry} for i, entry in said.items()]
    for text in MARKS:
        assert known[tokenizer.special[text]] == text and said[str(tokenizer.special[text])]["special"]
    types = metadata(tokenizer).get("tokenizer.ggml.token_type")
    assert types[tokenizer.unk_id] == 2 and types[tokenizer.special[MARKS[0]]] == 3  # unknown, control


def test_a_unigram_model_as_gguf_has_it():
    tokenizer = kinds.make(kinds.sentencepiece_unigram)
    meta = gguf_vocabulary.to_metadata(tokenizer_files.written(tokenizer, 8), {"vocab_size": tokenizer.vocab_size})
    assert meta["tokenizer.ggml.model"] == "t5" and meta["tokenizer.ggml.remove_extra_whitespaces"]
    assert meta["tokenizer.ggml.add_space_prefix"] and meta["tokenizer.ggml.precompiled_charsmap"]
    pieces = [tokenizer._model.id_to_piece(i) for i in range(tokenizer.vocab_size)]
    assert meta["tokenizer.ggml.tokens"] == pieces
    assert meta["tokenizer.ggml.scores"] == [tokenizer._model.get_score(i) for i in range(tokenizer.vocab_size)]


@pytest.mark.live
@kinds.named(WRITTEN)
def test_transformers_gives_the_same_ids(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = marked(kind)
    for name, data in tokenizer_files.written(tokenizer, 64, BUILT_IN["chatml"]).items():
        (tmp_path / name).write_bytes(data)
    config = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": tokenizer.vocab_size}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    code = pathlib.Path(export.__file__).read_text().split("\n")
    for text in (*[t for t in tokenizer_files.HARD if "<unk>" not in t], *code, "a<|im_end|>\n b"):
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text, special=True).tolist(), text
    assert theirs("a").input_ids[: len(tokenizer.prefix_ids)] == list(tokenizer.prefix_ids)
    ids = theirs.apply_chat_template(TALK, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert ids == chat.encode_chat(tokenizer, TALK, True, template="chatml").tolist()
    assert theirs.eos_token_id == tokenizer.end_id
    if kind is kinds.byte:  # what qwen2 is refused for
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
        other = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert other.encode("cafe\u0301") != tokenizer.encode("cafe\u0301").tolist()


@pytest.mark.slow
@kinds.named((kinds.byte, kinds.gpt2, kinds.llama3, kinds.sentencepiece_bpe, kinds.sentencepiece_unigram))
def test_llama_cpp_gives_the_same_ids(kind, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    tokenizer = marked(kind)
    fields = {**small.LLAMA, "vocab_size": tokenizer.vocab_size, "mlp_width": 64}
    exported = export.Exported(small.params_of(fields), fields, tokenizer, [], template=BUILT_IN["chatml"])
    export.to_gguf(exported, tmp_path / "m.gguf", dtype="float32")
    model = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=64, verbose=False)
    for text in tokenizer_files.HARD:
        if "\x00" not in text:
            assert model.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text).tolist(), text
    assert model.metadata["tokenizer.chat_template"].endswith("{% endif %}")
    end = tokenizer.special["<|im_end|>"]
    assert llama_cpp.llama_vocab_is_eog(model._model.vocab, end)
