"""The tokenizer of a GGUF file as Hugging Face files.

Two kinds of GGUF tokenizers: "gpt2", byte-level BPE, where the file names the rule that cuts text into words, and
"llama", SentencePiece BPE, where the file gives each piece's score. A file may also hold the whole tokenizer.json
(`tokenizer.huggingface.json` of the format's specification): then that is the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.interop import tokenizer_json
from ptft_jax.interop.tokenizer_json import NORMAL, SPACE

# The regular expressions that published tokenizer.json files have, by what GGUF calls them.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_AFTER = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = _CASED % (_SHORT, _SHORT) + r"|\p{N}{1,3}" + _AFTER
_TEKKEN = _CASED % ("", "") + r"|\p{N}" + _AFTER
_GPT2, _DIGITS = (
    "gpt2",
    "digits",
)  # GPT-2's own rule, in `tokenizers` as ByteLevel(use_regex=True); digits one by one first
BYTES = "bytes"  # no words at all
# Readers want a merge. This one is of two bytes that are in no text.
NEVER = "\u00c0 \u00c1"
PRE_TOKENIZERS = {
    "gpt-2": _GPT2,
    "olmo": _GPT2,
    "mpt": _GPT2,
    "phi-2": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "codeshell": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "dbrx": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "stablelm2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "gpt-4o": _GPT4O,
    "tekken": _TEKKEN,
}
# A word that is itself a token is not cut, whatever the merges say.
WHOLE_WORDS = {"llama-bpe", "llama3", "llama-v3", "tekken"}
NFC = {"qwen2", "olmo", "deepseek-r1-qwen"}


def to_files(read: Callable[[str], Any], architecture: str, origin: str, *, lists: bool = False) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json (with the chat template) and generation_config.json (with the stops).

    Args:
      read: the value of a metadata key, None where it is absent.
      architecture: of the model; Gemma's pieces are ordered in another way than by score.
      origin: for messages.
      lists: go by the lists of tokens, merges and scores, though the file has the whole tokenizer.json too.

    Raises:
      UserError: a tokenizer of an unknown kind or rule, or with damaged lists.
    """
    kind = read("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):
        return {}
    tokens = read("tokenizer.ggml.tokens")
    if not tokens:
        raise UserError(f"{origin}: no metadata key tokenizer.ggml.tokens")
    types = read("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise UserError(f"{origin}: {len(tokens)} tokens but {len(types)} token types")
    ids = {}
    for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        found = read(f"tokenizer.ggml.{key}_token_id")
        if found is not None and found >= len(tokens):
            raise UserError(f"{origin}: tokenizer.ggml.{key}_token_id = {found}, of {len(tokens)} tokens")
        ids[name] = found
    adds = {name: read(f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos")}
    whole = None if lists else read("tokenizer.huggingface.json")
    if whole is None:
        if kind == "gpt2":
            pre = _pre(read, architecture, origin)
            model = _byte_level(tokens, read("tokenizer.ggml.merges"), pre, origin)
            adds["bos"] = pre in WHOLE_WORDS if adds["bos"] is None else adds["bos"]
        elif kind == "llama":
            prefix = read("tokenizer.ggml.add_space_prefix")
            scores = read("tokenizer.ggml.scores")
            tokens = [SPACE * len(t) if t and not t.strip(" ") else t for t in tokens]  # runs of spaces, as Gemma's are
            if architecture.startswith("gemma"):
                scores = [-i for i in range(len(tokens))]  # its scores are not the order of its merges
            model = _sentencepiece(tokens, scores, types, prefix is None or prefix, ids["unk"], origin)
            adds["bos"] = True if adds["bos"] is None else adds["bos"]
        else:
            raise UserError(
                f"{origin}: tokenizer.ggml.model = {kind!r} is not supported{nearest(kind, ('gpt2', 'llama'))}"
            )
        if len(set(tokens)) != len(tokens):
            twice = sorted({t for t in tokens if tokens.count(t) > 1})
            raise UserError(f"{origin}: tokens that are there twice:{listed(map(repr, twice))}")
        added = tokenizer_json.added(tokens, types, ids["unk"])
        whole = json.dumps(
            tokenizer_json.whole(model, added, tokenizer_json.around(tokens, ids, adds)), ensure_ascii=False
        )
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    config |= {f"add_{name}_token": bool(flag) for name, flag in adds.items() if flag is not None}
    config |= {f"{name}_token": tokens[i] for name, i in ids.items() if i is not None}
    template = _chat_template(read)
    if template:
        config["chat_template"] = template
    files = {
        "tokenizer.json": whole.encode(),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2).encode(),
    }
    stops = stop_ids(read)
    if stops:
        files["generation_config.json"] = json.dumps({"eos_token_id": stops}).encode()
    return files


def stop_ids(read: Callable[[str], Any]) -> list[int]:
    """The tokens that end a text, a turn or a message, each once."""
    found = (read(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return list(dict.fromkeys(i for i in found if i is not None))


def _pre(read: Callable[[str], Any], architecture: str, origin: str) -> str:
    pre = read("tokenizer.ggml.pre")
    if pre in (None, "default"):
        # GPT-2's and GPT-NeoX's files are older than the key. Others need it: the rule cannot be told from the merges.
        if architecture in ("gpt2", "gptneox"):
            return "gpt-2"
        raise UserError(f"{origin}: tokenizer.ggml.pre does not say how text is cut into words (it is {pre!r})")
    if pre not in PRE_TOKENIZERS:
        raise UserError(
            f"{origin}: tokenizer.ggml.pre = {pre!r} is not known{nearest(pre, PRE_TOKENIZERS)}; "
            f"known: {', '.join(PRE_TOKENIZERS)}"
        )
    return pre


def pre_tokenizer(rule: str) -> dict[str, Any]:
    """The `pre_tokenizer` of a tokenizer.json, for a value of `PRE_TOKENIZERS`, or BYTES."""
    own = rule in (_GPT2, _DIGITS)
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": own}
    if rule in (_GPT2, BYTES):
        return last
    first: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    if rule != _DIGITS:
        first = {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [first, last]}


def _byte_level(tokens: list[str], merges: list[str] | None, pre: str, origin: str) -> dict[str, Any]:
    if merges is None:
        raise UserError(f"{origin}: no metadata key tokenizer.ggml.merges")
    merges = [merge for merge in merges if merge != NEVER or merge.replace(" ", "") in tokens]
    pairs = [merge.split(" ") for merge in merges]
    known = set(tokens)
    bad = [m for m, p in zip(merges, pairs) if len(p) != 2 or not known.issuperset((*p, "".join(p)))]
    if bad:
        raise UserError(
            f"{origin}: tokenizer.ggml.merges that do not join two tokens to a third:{listed(map(repr, bad))}"
        )
    return {
        "normalizer": {"type": "NFC"} if pre in NFC else None,
        "pre_tokenizer": pre_tokenizer(PRE_TOKENIZERS[pre]),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": tokenizer_json.bpe(tokens, pairs, ignore_merges=pre in WHOLE_WORDS),
    }


def _sentencepiece(
    tokens: list[str], scores: list[float] | None, types: list[int], prefix: bool, unknown: int | None, origin: str
) -> dict[str, Any]:
    if scores is None or len(scores) != len(tokens):
        raise UserError(f"{origin}: tokenizer.ggml.scores does not have one score a token")
    unk = tokens[unknown] if unknown is not None else None
    pairs = tokenizer_json.merges(tokens, scores, types)
    model = tokenizer_json.bpe(tokens, pairs, unk_token=unk, fuse_unk=True, byte_fallback=True)
    return {**tokenizer_json.spaced("run" if prefix else ""), "model": model}


def _chat_template(read: Callable[[str], Any]) -> str | list[dict[str, str]] | None:
    """One template, or Hugging Face's list of named ones."""
    default = read("tokenizer.chat_template")
    named = {name: read(f"tokenizer.chat_template.{name}") for name in read("tokenizer.chat_templates") or ()}
    if not named:
        return default
    every = ({"default": default} if default else {}) | named
    return [{"name": name, "template": text} for name, text in every.items() if text]
