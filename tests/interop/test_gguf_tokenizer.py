"""Tokenizers through GGUF metadata: rebuilt ones encode and decode as the ones they came from."""

import json
import random

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors, trainers

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.interop import gguf, gguf_tokenizer, gguf_vocabulary, gguf_writer
from tests.interop import gguf_models

RULES = ["gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken", "dbrx"]
SPECIAL = ["<|end|>", "<|user|>"]
CONFIG = {"vocab_size": 420, "eos_token_id": 0}


def strings(count, seed=0, special=SPECIAL):
    """Varied texts: words, code, digits, spaces and newlines in runs, scripts, emoji, control tokens in the middle."""
    rng = random.Random(seed)
    parts = [
        "the",
        "The",
        "THE",
        "don't",
        "WE'LL",
        "naïve",
        "x",
        "foo_bar(a[1:], *b)",
        "'s",
        "''",
        "!=",
        "...",
        "\t",
        "\n",
    ]
    parts += [
        "\r\n",
        "\n\n",
        "  ",
        "    ",
        "\u00a0",
        "0",
        "7",
        "123",
        "12345",
        "3.14",
        "²",
        "Ⅷ",
        "日本語",
        "한국어",
        "Ελλ",
        "ждать",
    ]
    parts += ["नमस्ते", "مرحبا", "👍🏽", "👨‍👩‍👧", "e\u0301", "é", "\u200b", "\ufeff", "\x00", "\x7f", "𝕏", "�", *special]
    made = []
    for _ in range(count):
        pieces = [rng.choice(parts) for _ in range(rng.randint(0, 14))]
        made.append("".join(p + rng.choice(["", "", " "]) for p in pieces))
    return made


def byte_level(pre, **model):
    """A tokenizer with this rule, trained on the strings above."""
    tokenizer = tokenizers.Tokenizer(models.BPE(**model))
    shell = json.loads(tokenizer.to_str())
    shell["pre_tokenizer"] = gguf_tokenizer.pre_tokenizer(gguf_tokenizer.PRE_TOKENIZERS[pre])
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(shell))
    if pre in gguf_tokenizer.NFC:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=SPECIAL
    )
    tokenizer.train_from_iterator(strings(400, special=[]), trainer)
    tokenizer.add_tokens([AddedToken("<tag>", normalized=False)])
    return tokenizer


def files(tokenizer, **settings):
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}


def rebuilt(meta, architecture="llama"):
    """The tokenizer that the lists of the metadata give, without the whole tokenizer.json beside them."""
    meta = {key: value for key, value in meta.items() if key != "tokenizer.huggingface.json"}
    made = gguf_tokenizer.to_files(meta.get, architecture, "x.gguf")
    return tokenizers.Tokenizer.from_str(made["tokenizer.json"].decode()), json.loads(made["tokenizer_config.json"])


def same(a, b, texts):
    for text in texts:
        ids = a.encode(text).ids
        assert b.encode(text).ids == ids, text
        for skip in (True, False):
            assert b.decode(ids, skip_special_tokens=skip) == a.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("pre", RULES)
def test_byte_level(pre):
    original = byte_level(pre, ignore_merges=pre in gguf_tokenizer.WHOLE_WORDS)
    meta = gguf_vocabulary.to_metadata(files(original, eos_token="<|end|>"), CONFIG)
    rule = gguf_tokenizer.PRE_TOKENIZERS
    assert rule[meta["tokenizer.ggml.pre"]] == rule[pre]
    assert len(meta["tokenizer.ggml.tokens"]) == len(meta["tokenizer.ggml.token_type"]) == 420
    assert meta["tokenizer.ggml.tokens"][419] == "[PAD419]" and meta["tokenizer.ggml.token_type"][419] == 5
    made, settings = rebuilt(meta)
    same(original, made, strings(300, seed=1, special=[*SPECIAL, "<tag>"]))
    assert settings["eos_token"] == "<|end|>" and not settings["add_bos_token"]
    whole = gguf_tokenizer.to_files(meta.get, "llama", "x.gguf")["tokenizer.json"]
    assert json.loads(whole) == json.loads(original.to_str())


def test_rules_differ():
    """Each rule cuts some text in its own way, so the test above can tell them apart."""
    cut = {}
    for rule in set(gguf_tokenizer.PRE_TOKENIZERS.values()):
        shell = json.loads(tokenizers.Tokenizer(models.BPE()).to_str()) | {
            "pre_tokenizer": gguf_tokenizer.pre_tokenizer(rule)
        }
        step = tokenizers.Tokenizer.from_str(json.dumps(shell)).pre_tokenizer
        cut[rule] = str([step.pre_tokenize_str(text) for text in strings(200, seed=2)])
    assert len(set(cut.values())) == len(cut) == 6


@pytest.mark.live
def test_rules_are_those_of_transformers():
    mapping = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    shared = set(mapping.GGUF_PRE_TOKENIZER_SPLITS) & set(gguf_tokenizer.PRE_TOKENIZERS)
    assert {"llama-bpe", "qwen2", "gpt-4o", "tekken", "dbrx"} <= shared
    for name in shared:
        ours, theirs = gguf_tokenizer.PRE_TOKENIZERS[name], mapping.GGUF_PRE_TOKENIZER_SPLITS[name]
        assert ours == theirs, name


def test_marks_around_a_text():
    original = byte_level("llama-bpe", ignore_merges=True)
    marks = [("<|user|>", 1), ("<|end|>", 0)]
    original.post_processor = processors.TemplateProcessing(
        single="<|user|> $A <|end|>", pair="<|user|> $A <|end|> <|user|> $B:1 <|end|>", special_tokens=marks
    )
    meta = gguf_vocabulary.to_metadata(files(original, bos_token="<|user|>", eos_token={"content": "<|end|>"}), CONFIG)
    assert meta["tokenizer.ggml.add_bos_token"] and meta["tokenizer.ggml.add_eos_token"]
    made, settings = rebuilt(meta)
    same(original, made, strings(50, seed=3))
    assert made.encode("a b", "c").ids == original.encode("a b", "c").ids
    assert settings["add_bos_token"] and settings["add_eos_token"] and settings["bos_token"] == "<|user|>"
    del meta["tokenizer.ggml.add_bos_token"], meta["tokenizer.ggml.add_eos_token"]
    assert rebuilt(meta)[0].encode("a").ids[0] == 1  # Llama 3 begins a text with its token unless told otherwise


@pytest.fixture(scope="module")
def piece_model(tmp_path_factory):
    """A SentencePiece BPE with byte fallback, as Llama 2's, trained with and without a space in front."""
    sentencepiece = pytest.importorskip("sentencepiece")

    def train(prefix):
        folder = tmp_path_factory.mktemp("spm")
        (folder / "text").write_text("\n".join(t.replace("\n", " ") for t in strings(3000, special=[])))
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text"),
            model_prefix=str(folder / "m"),
            model_type="bpe",
            vocab_size=700,
            byte_fallback=True,
            character_coverage=0.99,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=prefix,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["<tag>"],
            control_symbols=["<|user|>"],
            hard_vocab_limit=False,
            minloglevel=2,
        )
        return sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model"))

    return train


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(piece_model, prefix):
    model = piece_model(prefix)
    size = model.get_piece_size()
    tokens = [model.id_to_piece(i) for i in range(size)]

    def kind(i):
        kinds = {2: model.is_unknown(i), 3: model.is_control(i), 6: model.is_byte(i), 4: tokens[i] == "<tag>"}
        return next((k for k, yes in kinds.items() if yes), 1)

    meta = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.add_space_prefix": prefix}
    meta |= {"tokenizer.ggml.scores": [model.get_score(i) for i in range(size)], "tokenizer.ggml.unknown_token_id": 0}
    meta |= {"tokenizer.ggml.token_type": [kind(i) for i in range(size)], "tokenizer.ggml.bos_token_id": 1}
    made, settings = rebuilt(meta)
    assert settings["add_bos_token"]
    # With a space in front, Hugging Face's and GGUF's readers put one after every kept token too, SentencePiece does not.
    texts = [t for t in strings(600, seed=4, special=["<tag>"]) if not (prefix and "<tag>" in t)]
    for text in texts:
        wanted = model.encode(text) if text else []
        assert made.encode(text).ids == [1, *wanted], text
        assert made.decode(wanted) == model.decode(wanted)
    assert any(model.is_byte(i) for t in texts for i in model.encode(t))
    assert tokens.index("<|user|>") in made.encode("a<|user|>b").ids  # control tokens are read as such
    # Out and in again: scores from the order of merges.
    again = gguf_vocabulary.to_metadata(files(made, bos_token="<s>"), {"vocab_size": size})
    assert again["tokenizer.ggml.model"] == "llama" and again["tokenizer.ggml.add_space_prefix"] == prefix
    assert again["tokenizer.ggml.token_type"] == meta["tokenizer.ggml.token_type"]
    same(made, rebuilt(again | {"tokenizer.ggml.unknown_token_id": 0})[0], texts)


def test_a_file_holds_tokenizer_and_template(tmp_path):
    original, config = byte_level("gpt-2"), gguf_models.config("qwen2") | {"vocab_size": 420, "eos_token_id": [0, 1]}
    tensors = gguf_models.tensors(config)
    given = files(original, eos_token="<|end|>", pad_token="<|end|>") | {
        "chat_template.jinja": b"{{ messages }} \xe2\x9c\x93"
    }
    gguf_writer.write(tmp_path / "m.gguf", config, tensors.items(), given)
    archive = gguf.open_archive(str(tmp_path / "m.gguf"))
    found = archive.tokenizer_files()
    assert json.loads(found["tokenizer.json"]) == json.loads(given["tokenizer.json"])
    assert json.loads(found["generation_config.json"]) == {"eos_token_id": [0, 1]}
    settings = json.loads(found["tokenizer_config.json"])
    assert settings["chat_template"] == "{{ messages }} ✓" and settings["pad_token"] == "<|end|>"
    assert (archive.config["eos_token_id"], archive.config["pad_token_id"]) == ([0, 1], 0)
    gguf_writer.write(tmp_path / "m.gguf", config, tensors.items(), {})
    assert gguf.open_archive(str(tmp_path / "m.gguf")).tokenizer_files() == {}


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_model_goes_in_as_it_is(piece_model, prefix):
    model = piece_model(prefix)
    size = model.get_piece_size()
    given = {
        "tokenizer.model": model.serialized_model_proto(),
        "added_tokens.json": json.dumps({"<new>": size}).encode(),
    }
    meta = gguf_vocabulary.to_metadata(given, {"vocab_size": size + 8})
    assert meta["tokenizer.ggml.tokens"][size : size + 2] == ["<new>", f"[PAD{size + 1}]"]
    made, settings = rebuilt(meta)
    assert (settings["bos_token"], settings["eos_token"], settings["add_bos_token"]) == ("<s>", "</s>", False)
    for text in [t for t in strings(300, seed=6, special=[]) if t]:
        assert made.encode(text).ids == model.encode(text), text
    assert size in made.encode("a<new>b").ids
    # Our reader of tokenizers agrees on what it is given and on what comes back.
    assert tok.from_files(given, "x").encode("a b\n12").tolist() == made.encode("a b\n12").ids


def test_added_tokens_beside_the_vocabulary():
    """A token that only tokenizer_config.json declares is in the file, and in the tokenizer.json that comes back."""
    original = byte_level("gpt-2")
    assert original.get_vocab_size() == 401
    added = {"401": {"content": "<later>", "special": True}}
    meta = gguf_vocabulary.to_metadata(files(original, added_tokens_decoder=added), CONFIG)
    assert meta["tokenizer.ggml.tokens"][401] == "<later>" and meta["tokenizer.ggml.token_type"][401] == 3
    back = gguf_tokenizer.to_files(meta.get, "llama", "x.gguf")["tokenizer.json"].decode()
    for tokenizer in (tokenizers.Tokenizer.from_str(back), rebuilt(meta)[0]):
        assert 401 in tokenizer.encode("a<later>b").ids


def test_a_named_token_is_a_control_token():
    meta = gguf_vocabulary.to_metadata(files(byte_level("gpt-2"), pad_token="<tag>"), CONFIG)
    assert meta["tokenizer.ggml.padding_token_id"] == 400 and meta["tokenizer.ggml.token_type"][400] == 3


def test_named_templates():
    named = [{"name": "default", "template": "A"}, {"name": "tools", "template": "B"}]
    meta = gguf_vocabulary.to_metadata(files(byte_level("gpt-2"), chat_template=named), CONFIG)
    assert rebuilt(meta)[1]["chat_template"] == named


class TestBadTokenizers:
    def meta(self, **changes):
        meta = gguf_vocabulary.to_metadata(files(byte_level("smollm"), eos_token="<|end|>"), CONFIG)
        changed = meta | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
        return {key: value for key, value in changed.items() if value is not None}

    def refused(self, match, **changes):
        with pytest.raises(UserError, match=match):
            rebuilt(self.meta(**changes))

    def test_metadata(self):
        self.refused(r"pre = 'smollm2' is not known \(did you mean 'smollm'\?\); known: gpt-2", pre="smollm2")
        self.refused("does not say how text is cut", pre="default")
        self.refused("does not say how text is cut", pre=None)
        self.refused(r"tokenizer.ggml.model = 'bert' is not supported", model="bert")
        self.refused("no metadata key tokenizer.ggml.tokens", tokens=None)
        self.refused("no metadata key tokenizer.ggml.merges", merges=None)
        self.refused(r"do not join two tokens to a third:\n  'q zebra'", merges=["q zebra"])
        self.refused("420 tokens but 1 token types", token_type=[1])
        self.refused("eos_token_id = 999, of 420", eos_token_id=999)
        tokens = self.meta()["tokenizer.ggml.tokens"]
        self.refused(r"there twice:\n  '\[PAD419\]'", tokens=[*tokens[:418], "[PAD419]", "[PAD419]"])
        self.refused("one score a token", model="llama", scores=[0.0])
        meta = {key: value for key, value in self.meta().items() if key != "tokenizer.ggml.pre"}
        assert rebuilt(meta, "gpt2")[0].encode("a b").ids  # GPT-2's files are older than the key

    def test_files(self):
        def refused(match, given, **config):
            with pytest.raises(UserError, match=match):
                gguf_vocabulary.to_metadata(given, CONFIG | config)

        original = byte_level("gpt-2")
        refused("only: vocab.txt", {"vocab.txt": b""})
        refused("tokenizer.model: not a SentencePiece model", {"tokenizer.model": b"IQ== 0\nIg== 1\n"})
        refused("not one of Hugging Face's", tok.ByteTokenizer().files())
        refused("beyond the model's vocabulary of 300", files(original), vocab_size=300)
        refused("at most three tokens", files(original, eos_token="<|end|>"), eos_token_id=[0, 1, 2, 3])
        refused("bos_token = '<s>' is not in its vocabulary", files(original, bos_token="<s>"))
        original.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        refused('pre_tokenizer has no name in GGUF: {"type": "Whitespace"}', files(original))
        refused(
            "a WordPiece model has no GGUF form", files(tokenizers.Tokenizer(models.WordPiece({"a": 0}, unk_token="a")))
        )
