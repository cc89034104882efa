"""Small tokenizers of every kind, trained on the spot, as the files of a model's folder."""

import base64
import functools
import io
import json

TEXTS = [
    "the cat sat on the mat and the dog lay by the fire while rain fell on the old stone roof",
    "Héllo wörld, don't you think it's 1234 times (or 56) better?  Two spaces.\n\nA paragraph.\tTabbed",
    "def f(x):\n    return x ** 2  # quadratic\n\n\nclass A:\n    pass\n",
    "你好世界 привет мир 🙂 naïve café déjà-vu",
] * 20


def _train(model, trainer, **parts):
    import tokenizers

    tokenizer = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _files(tokenizer, **config):
    text = tokenizer if isinstance(tokenizer, str) else tokenizer.to_str()
    return {"tokenizer.json": text.encode(), "tokenizer_config.json": json.dumps(config).encode()}


@functools.cache
def gpt2():
    """Byte-level BPE with GPT-2's pre-tokenizer, and nothing else."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    made = _train(
        models.BPE(),
        trainer,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )
    return _files(made, eos_token="<|endoftext|>", tokenizer_class="PreTrainedTokenizerFast")


@functools.cache
def byte_level():
    """As Qwen's: without BOS, with several ends, and an added token that is no control token."""
    import tokenizers

    made = tokenizers.Tokenizer.from_str(gpt2()["tokenizer.json"].decode())
    made.add_tokens([tokenizers.AddedToken("<tool_call>", normalized=False)])
    files = _files(made, eos_token="<|im_end|>", pad_token="<|endoftext|>", tokenizer_class="PreTrainedTokenizerFast")
    return files | {"generation_config.json": json.dumps({"eos_token_id": [2, 0], "temperature": 0.6}).encode()}


@functools.cache
def llama3():
    """As Llama 3's: a split pattern before the bytes, BOS by the post-processor, whole words before merges."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    made = _train(
        models.BPE(ignore_merges=True),
        trainers.BpeTrainer(
            vocab_size=400,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=special,
            show_progress=False,
        ),
        pre_tokenizer=pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        decoder=decoders.ByteLevel(),
    )
    made.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return _files(
        made,
        bos_token="<|begin_of_text|>",
        eos_token={"__type": "AddedToken", "content": "<|eot_id|>", "special": True},
        tokenizer_class="PreTrainedTokenizerFast",
    )


@functools.cache
def llama2():
    """As Llama 2's and Gemma's: BPE of characters with spaces as ▁, bytes where a character is unknown."""
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    special = ["<unk>", "<s>", "</s>"]
    made = _train(
        models.BPE(),
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, limit_alphabet=50, show_progress=False),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
    )
    data = json.loads(made.to_str())
    vocab = data["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    # What merges make is a control token's spelling: text must not become it all the same.
    for left, right in (("<", "/"), ("</", "s"), ("</s", ">")):
        for piece in (left, right, left + right):
            vocab.setdefault(piece, len(vocab))
        data["model"]["merges"].append([left, right])
    data["model"] |= {"unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}
    data["decoder"] = json.loads(
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ).__getstate__()
    )
    data["post_processor"] = json.loads(
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]).__getstate__()
    )
    return _files(
        json.dumps(data), bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True,
        add_eos_token=False, tokenizer_class="PreTrainedTokenizerFast",
    )  # fmt: skip


@functools.cache
def wordpiece():
    """As BERT's."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = _train(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=250, special_tokens=special, show_progress=False),
        normalizer=normalizers.BertNormalizer(lowercase=True),
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(),  # leaves "[SEP]" whole: it must not become the token
        decoder=decoders.WordPiece(),
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(8)
    made.enable_padding(length=8)
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return _files(made, **named, tokenizer_class="PreTrainedTokenizerFast")


@functools.cache
def unigram():
    """As T5's and XLM-R's: control tokens are pieces of the model."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = _train(
        models.Unigram(),
        trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )
    return _files(
        made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", tokenizer_class="PreTrainedTokenizerFast"
    )


def _sentencepiece(kind, **options):
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TEXTS for line in text.split("\n") if line),
        model_writer=out,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


@functools.cache
def sentencepiece_bpe():
    """As Llama 2's tokenizer.model, with tokens added beside it."""
    model = _sentencepiece(
        "bpe", vocab_size=450, byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )  # fmt: skip
    import sentencepiece

    size = sentencepiece.SentencePieceProcessor(model_proto=model).piece_size()
    added = {
        "1": {"content": "<s>", "special": True},
        "2": {"content": "</s>", "special": True},
        str(size): {"content": "<|im_start|>", "special": True},
        str(size + 1): {"content": "<|im_end|>", "special": True},
        str(size + 2): {"content": "<tool>", "special": False},
    }
    config = {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False,
        "legacy": False, "added_tokens_decoder": added, "tokenizer_class": "LlamaTokenizer",
    }  # fmt: skip
    return {"tokenizer.model": model, "tokenizer_config.json": json.dumps(config).encode()}


@functools.cache
def sentencepiece_unigram():
    """As T5's spiece.model, without any file beside it; spaces are squeezed."""
    return {"spiece.model": _sentencepiece("unigram", vocab_size=180, character_coverage=0.99)}


@functools.cache
def tiktoken():
    """Ranks, with the pattern by name and control tokens in tokenizer_config.json."""
    from ptft_jax.data.tokenizers.huggingface import _BYTE_OF

    model = json.loads(llama3()["tokenizer.json"])["model"]
    pieces = [bytes([b]) for b in range(256)]
    for left, right in (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]):
        pieces.append(bytes(_BYTE_OF[char] for char in left + right))
    pieces = list(dict.fromkeys(pieces))
    lines = [base64.b64encode(piece).decode() + f" {rank}" for rank, piece in enumerate(pieces)]
    size = len(pieces)
    added = {
        str(size): {"content": "<|begin_of_text|>", "special": True},
        str(size + 5): {"content": "<|end_of_text|>", "special": True},  # a gap, as in cl100k
        str(size + 6): {"content": "<|eot_id|>", "special": True},
    }
    config = {
        "pat_str": "cl100k_base", "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>",
        "add_bos_token": True, "added_tokens_decoder": added,
    }  # fmt: skip
    return {"mine.tiktoken": "\n".join(lines).encode(), "tokenizer_config.json": json.dumps(config).encode()}


def byte():
    return {"tokenizer.json": b'{"ptft_jax": "bytes"}'}


HUGGING_FACE = (gpt2, byte_level, llama3, llama2, wordpiece, unigram)
ALL = (byte, *HUGGING_FACE, sentencepiece_bpe, sentencepiece_unigram, tiktoken)

FRAGMENTS = (
    "the", " cat", "▁", "  ", "\n", "\n\n", "\t", "é", "你好", "🙂", "1234", "don't", "<s>", "</s>", "<unk>", "<pad>",
    "[SEP]", "[UNK]", "[CLS]", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>",
    "<tool_call>", "<tool>", "<0x41>", "<", "|", ">", "\x00", "\ufffd", "\u200d", " ",
)  # fmt: skip


@functools.cache
def make(kind):
    from ptft_jax.data import tokenizers as tok

    return tok.from_files(kind(), kind.__name__)


def named(kinds):
    """A test for each of the kinds, as its argument `kind`."""
    import pytest

    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.__name__)
