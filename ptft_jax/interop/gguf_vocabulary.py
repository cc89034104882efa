"""Hugging Face tokenizer files to GGUF metadata: the other direction of gguf_tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.interop import gguf_tokenizer as forms


def to_metadata(files: Mapping[str, bytes], config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer keys of a GGUF file. The tokenizer.json goes in whole beside what GGUF's readers go by.

    Args:
      files: name -> content as in a Hugging Face folder; none for a model without a tokenizer.
      config: the model's; its vocabulary may be larger than the tokenizer's.

    Raises:
      UserError: a tokenizer that is no byte-level or SentencePiece BPE, or cuts text by a rule that GGUF has no name for.
    """
    if not files:
        return {"tokenizer.ggml.model": "none"}
    if "tokenizer.json" not in files:
        raise UserError(f"a GGUF tokenizer is made from tokenizer.json; there are only: {', '.join(sorted(files))}")
    text = files["tokenizer.json"].decode()
    whole = json.loads(text)
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    model = whole["model"]
    if model.get("type") != "BPE":
        raise UserError(f"tokenizer.json: a {model.get('type')} model has no GGUF form here; BPE has")
    tokens, types = _tokens(whole, config["vocab_size"])
    ids = {token: i for i, token in enumerate(tokens)}
    merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model["merges"]]
    meta: dict[str, Any] = {}
    if model.get("byte_fallback"):
        meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"] = "llama", "default"
        meta["tokenizer.ggml.scores"] = _scores(tokens, merges)
        meta["tokenizer.ggml.add_space_prefix"] = _adds_space(whole)
    else:
        meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"] = "gpt2", _pre(whole)
        meta["tokenizer.ggml.merges"] = [" ".join(merge) for merge in merges]
    meta |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        found = _special(settings, config, name, ids)
        if found is not None:
            meta[f"tokenizer.ggml.{key}_token_id"] = found
    stops = config.get("eos_token_id")
    others = [i for i in stops if i != meta.get("tokenizer.ggml.eos_token_id")] if isinstance(stops, list) else []
    if len(others) > 2:
        raise UserError(f"config.eos_token_id = {stops}: a GGUF file holds at most three tokens that end a text")
    meta |= {f"tokenizer.ggml.{name}_token_id": i for name, i in zip(("eot", "eom"), others)}
    meta |= _added_around(text, meta) | _chat_templates(files, settings)
    return meta | {"tokenizer.huggingface.json": text}


def _tokens(whole: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Each id's token and GGUF type; ids that the tokenizer does not use are filled up to the model's vocabulary."""
    added = {entry["id"]: entry for entry in whole.get("added_tokens") or ()}
    known = {i: token for token, i in whole["model"]["vocab"].items()} | {i: e["content"] for i, e in added.items()}
    if max(known) >= size:
        raise UserError(f"tokenizer.json: token {max(known)} is beyond the model's vocabulary of {size}")
    fallback, unknown = whole["model"].get("byte_fallback"), whole["model"].get("unk_token")
    tokens, types = [], []
    for i in range(size):
        token = known.get(i, f"[PAD{i}]")
        kind = forms.NORMAL if i in known else forms.UNUSED
        if i in added:
            kind = forms.CONTROL if added[i]["special"] else forms.USER_DEFINED
        if fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kind = forms.BYTE
        if token == unknown:
            kind = forms.UNKNOWN
        tokens.append(token)
        types.append(kind)
    return tokens, types


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """The earlier a piece is merged, the higher its score; pieces that are not merged come after all others."""
    rank: dict[str, int] = {}
    for i, pair in enumerate(merges):
        rank.setdefault("".join(pair), i)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _adds_space(whole: Mapping[str, Any]) -> bool:
    """Whether a text gets a space in front, by a Prepend normalizer or a Metaspace pre-tokenizer."""
    steps = [whole.get("normalizer") or {}, whole.get("pre_tokenizer") or {}]
    steps += [s for step in steps for key in ("normalizers", "pretokenizers") for s in step.get(key, ())]
    return any(
        s.get("type") == "Prepend" or (s.get("type") == "Metaspace" and s.get("prepend_scheme", "always") != "never")
        for s in steps
    )


def _pre(whole: Mapping[str, Any]) -> str:
    """GGUF's name for the rule that cuts text into words."""
    found, whole_words = _canonical(whole.get("pre_tokenizer")), bool(whole["model"].get("ignore_merges"))
    composed = (whole.get("normalizer") or {}).get("type") == "NFC"
    names = [n for n, rule in forms.PRE_TOKENIZERS.items() if _canonical(forms.pre_tokenizer(rule)) == found]
    if not names:
        raise UserError(
            f"tokenizer.json: its pre_tokenizer has no name in GGUF: {json.dumps(whole.get('pre_tokenizer'))}\n"
            f"names are known for those of: {', '.join(forms.PRE_TOKENIZERS)}"
        )
    # The rules are told apart by the words; of names with the same rule the one whose other habits fit best.
    return max(names, key=lambda n: ((n in forms.WHOLE_WORDS) == whole_words) + ((n in forms.NFC) == composed))


def _canonical(step: Mapping[str, Any] | None) -> Any:
    """A pre-tokenizer without the fields that do not change the words."""
    if step is None:
        return None
    if step["type"] == "Sequence":
        return [_canonical(s) for s in step["pretokenizers"]]
    if step["type"] == "Split":
        return ["Split", step["pattern"].get("Regex"), step["behavior"], bool(step.get("invert"))]
    if step["type"] == "ByteLevel":
        return ["ByteLevel", bool(step["add_prefix_space"]), step.get("use_regex", True)]
    return {key: value for key, value in step.items() if key != "trim_offsets"}


def _special(settings: Mapping[str, Any], config: Mapping[str, Any], name: str, ids: Mapping[str, int]) -> int | None:
    """The id of a special token: by the tokenizer's word, else by the model's."""
    token = settings.get(f"{name}_token")
    token = token.get("content") if isinstance(token, dict) else token
    if token is not None:
        if token not in ids:
            raise UserError(f"tokenizer_config.json: {name}_token = {token!r} is not in the vocabulary")
        return ids[token]
    found = config.get(f"{name}_token_id")
    return found[0] if isinstance(found, list) and found else found if isinstance(found, int) else None


def _added_around(text: str, meta: Mapping[str, Any]) -> dict[str, bool]:
    """Whether the tokenizer itself puts the first and the last token around a text."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(text)
    ids = tokenizer.encode("a").ids
    return {
        "tokenizer.ggml.add_bos_token": ids[:1] == [meta.get("tokenizer.ggml.bos_token_id")],
        "tokenizer.ggml.add_eos_token": ids[-1:] == [meta.get("tokenizer.ggml.eos_token_id")],
    }


def _chat_templates(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> dict[str, Any]:
    template = (
        files["chat_template.jinja"].decode() if "chat_template.jinja" in files else settings.get("chat_template")
    )
    if not template:
        return {}
    if isinstance(template, str):
        return {"tokenizer.chat_template": template}
    named = {entry["name"]: entry["template"] for entry in template}
    default = {"tokenizer.chat_template": named.pop("default")} if "default" in named else {}
    return (
        default
        | {"tokenizer.chat_templates": list(named)}
        | {f"tokenizer.chat_template.{n}": t for n, t in named.items()}
    )
