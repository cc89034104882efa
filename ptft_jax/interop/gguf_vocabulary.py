"""Hugging Face tokenizer files to GGUF metadata: the other direction of gguf_tokenizer."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from ptft_jax import environment
from ptft_jax.data.tokenizers import settings
from ptft_jax.data.tokenizers.base import TURN_ENDS
from ptft_jax.data.tokenizers.sentencepiece_model import FILES as PIECES
from ptft_jax.errors import UserError
from ptft_jax.interop import gguf_tokenizer as forms
from ptft_jax.interop import tokenizer_json as kinds


def to_metadata(files: Mapping[str, bytes], config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer keys of a GGUF file. A tokenizer.json goes in whole beside what GGUF's readers go by.

    Args:
      files: name -> content as in a Hugging Face folder; none for a model without a tokenizer.
      config: the model's; its vocabulary may be larger than the tokenizer's.

    Raises:
      UserError: a tokenizer that is no byte-level or SentencePiece BPE, or cuts text by a rule that GGUF has no name for.
    """
    if not files:
        return {"tokenizer.ggml.model": "none"}
    beside = settings.read(files, "the tokenizer")
    named = dict(beside.named)
    pieces = next((name for name in PIECES if name in files), None)
    if pieces is not None:
        meta, tokens, types = _from_pieces(files[pieces], pieces, named)
        if "tokenizer.json" in files:
            meta["tokenizer.huggingface.json"] = files["tokenizer.json"].decode()
            for entry in json.loads(files["tokenizer.json"])["added_tokens"]:
                tokens.setdefault(entry["id"], entry["content"])
                types.setdefault(entry["id"], kinds.CONTROL if entry["special"] else kinds.USER_DEFINED)
    elif "tokenizer.json" in files:
        meta, tokens, types = _from_json(_whole(files["tokenizer.json"], beside))
    else:
        raise UserError(
            f"a GGUF tokenizer is made from tokenizer.json or tokenizer.model; there are only: {', '.join(sorted(files))}"
        )
    for i, added in beside.added.items():
        kind = kinds.CONTROL if added.special else kinds.USER_DEFINED
        tokens[i], types[i] = added.content, kinds.UNKNOWN if types.get(i) == kinds.UNKNOWN else kind
    types |= {i: kinds.CONTROL for i, t in tokens.items() if t in beside.special and types[i] != kinds.UNKNOWN}
    if max(tokens) >= config["vocab_size"]:
        raise UserError(
            f"the tokenizer's token {max(tokens)} is beyond the model's vocabulary of {config['vocab_size']}"
        )
    # Ids that the tokenizer does not use are filled up to the model's vocabulary.
    listed = [tokens.get(i, f"[PAD{i}]") for i in range(config["vocab_size"])]
    meta["tokenizer.ggml.tokens"] = listed
    meta["tokenizer.ggml.token_type"] = [types.get(i, kinds.UNUSED) for i in range(config["vocab_size"])]
    if "tokenizer.ggml.scores" in meta:
        scores = meta["tokenizer.ggml.scores"]
        meta["tokenizer.ggml.scores"] = [scores.get(i, min(scores.values())) for i in range(config["vocab_size"])]
    ids = {token: i for i, token in enumerate(listed)}
    for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        found = _special(named, config, name, ids)
        if found is not None:
            meta[f"tokenizer.ggml.{key}_token_id"] = found
    stops = beside.eos_ids or config.get("eos_token_id")
    others = (
        [i for i in stops if i != meta.get("tokenizer.ggml.eos_token_id")] if isinstance(stops, list | tuple) else []
    )
    if len(others) > 2:  # readers know the ends of turns by their texts, too
        named_ends = [i for i in others if tokens.get(i) in TURN_ENDS and types[i] == kinds.CONTROL]
        others = [*(i for i in others if i not in named_ends), *named_ends]
        if len(others) - len(named_ends) > 2:
            raise UserError(f"eos_token_id = {list(stops)}: a GGUF file holds at most three tokens that end a text")
    meta |= {f"tokenizer.ggml.{name}_token_id": i for name, i in zip(("eot", "eom"), others)}
    return meta | _added_around(meta, beside) | _chat_templates(beside.chat_templates)


def _whole(content: bytes, beside: settings.Settings) -> dict[str, Any]:
    """The tokenizer.json with the added tokens that only the files beside it declare."""
    try:
        whole = json.loads(content)
        kind = whole["model"]["type"]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"tokenizer.json has no GGUF form: it is not one of Hugging Face's ({type(e).__name__}: {e})"
        ) from e
    if kind != "BPE":
        raise UserError(f"tokenizer.json: a {kind} model has no GGUF form here; BPE has")
    added = {entry["id"]: entry for entry in whole.get("added_tokens") or ()}
    new = {i: {"id": i, **dataclasses.asdict(token)} for i, token in beside.added.items() if i not in added}
    return whole | {"added_tokens": [entry for _, entry in sorted((added | new).items())]} if new else whole


def _from_json(whole: dict[str, Any]) -> tuple[dict[str, Any], dict[int, str], dict[int, int]]:
    """Keys of the model, and each id's token and GGUF type."""
    model = whole["model"]
    merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model["merges"]]
    tokens = {i: token for token, i in model["vocab"].items()}
    types = dict.fromkeys(tokens, kinds.NORMAL)
    text = json.dumps(whole, ensure_ascii=False)
    meta: dict[str, Any] = {"tokenizer.huggingface.json": text}
    if model.get("byte_fallback"):
        types |= {i: kinds.BYTE for i, t in tokens.items() if len(t) == 6 and t.startswith("<0x") and t.endswith(">")}
        meta |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
        meta["tokenizer.ggml.scores"] = _scores(tokens, merges)
        meta["tokenizer.ggml.add_space_prefix"] = _adds_space(whole)
    else:
        meta |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _pre(whole)}
        meta["tokenizer.ggml.merges"] = [" ".join(merge) for merge in merges] or [forms.NEVER]
    for entry in whole.get("added_tokens") or ():
        tokens[entry["id"]] = entry["content"]
        types[entry["id"]] = kinds.CONTROL if entry["special"] else kinds.USER_DEFINED
    types |= {i: kinds.UNKNOWN for i, token in tokens.items() if token == model.get("unk_token")}
    return meta, tokens, types


def _from_pieces(
    content: bytes, name: str, named: dict[str, str]
) -> tuple[dict[str, Any], dict[int, str], dict[int, int]]:
    """The same of a SentencePiece model, whose types have the numbers that GGUF has; fills in `named`."""
    form = environment.needed("sentencepiece.sentencepiece_model_pb2", name)
    from google.protobuf.message import DecodeError

    try:
        proto = form.ModelProto.FromString(content)
    except DecodeError:
        proto = form.ModelProto()
    if not proto.pieces:
        raise UserError(f"{name}: not a SentencePiece model, which a GGUF tokenizer is made from")
    rules, kind = proto.normalizer_spec, proto.trainer_spec.model_type
    normalizes = bool(rules.precompiled_charsmap or rules.remove_extra_whitespaces)
    if kind == form.TrainerSpec.BPE and normalizes:
        raise UserError(f"{name}: GGUF's readers do not normalize text as this model does ({rules.name})")
    if kind not in (form.TrainerSpec.BPE, form.TrainerSpec.UNIGRAM):
        raise UserError(f"{name}: a SentencePiece model of another kind than BPE and unigram has no GGUF form here")
    bytewise = any(piece.type == kinds.BYTE for piece in proto.pieces)
    if kind == form.TrainerSpec.UNIGRAM and bytewise:
        raise UserError(f"{name}: GGUF's readers know no unigram model that falls back to bytes")
    pieces = list(proto.pieces)
    for key in ("bos", "eos", "unk", "pad"):
        i = getattr(proto.trainer_spec, f"{key}_id")
        if 0 <= i < len(pieces):
            named.setdefault(f"{key}_token", pieces[i].piece)
    model = "llama" if kind == form.TrainerSpec.BPE else "t5"
    meta: dict[str, Any] = {"tokenizer.ggml.model": model, "tokenizer.ggml.pre": "default"}
    meta["tokenizer.ggml.scores"] = {i: piece.score for i, piece in enumerate(pieces)}
    meta["tokenizer.ggml.add_space_prefix"] = bool(rules.add_dummy_prefix)
    if kind == form.TrainerSpec.UNIGRAM:
        meta["tokenizer.ggml.remove_extra_whitespaces"] = bool(rules.remove_extra_whitespaces)
        if rules.precompiled_charsmap:
            meta["tokenizer.ggml.precompiled_charsmap"] = rules.precompiled_charsmap
    return meta, {i: p.piece for i, p in enumerate(pieces)}, {i: int(p.type) for i, p in enumerate(pieces)}


def _scores(tokens: dict[int, str], merges: list[list[str]]) -> dict[int, float]:
    """The earlier a piece is merged, the higher its score; pieces that are not merged come after all others."""
    rank: dict[str, int] = {}
    for i, pair in enumerate(merges):
        rank.setdefault("".join(pair), i)
    return {i: -float(rank.get(token, len(merges))) for i, token in tokens.items()}


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
    if not whole["model"]["merges"] and found == _canonical(forms.pre_tokenizer(forms.BYTES)):
        return "gpt-2"  # where nothing is merged, it does not matter where text is cut
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


def _special(named: Mapping[str, str], config: Mapping[str, Any], name: str, ids: Mapping[str, int]) -> int | None:
    """The id of a special token: by the tokenizer's word, else by the model's."""
    token = named.get(f"{name}_token")
    if token is not None:
        if token not in ids:
            raise UserError(f"the tokenizer's {name}_token = {token!r} is not in its vocabulary")
        return ids[token]
    found = config.get(f"{name}_token_id")
    return found[0] if isinstance(found, list) and found else found if isinstance(found, int) else None


def _added_around(meta: Mapping[str, Any], beside: settings.Settings) -> dict[str, bool]:
    """Whether the tokenizer itself puts the first and the last token around a text."""
    flags = [beside.config.get("add_bos_token"), beside.config.get("add_eos_token")]
    if flags == [None, None] and "tokenizer.huggingface.json" in meta:
        import tokenizers

        ids = tokenizers.Tokenizer.from_str(meta["tokenizer.huggingface.json"]).encode("a").ids
        flags = [
            ids[:1] == [meta.get("tokenizer.ggml.bos_token_id")],
            ids[-1:] == [meta.get("tokenizer.ggml.eos_token_id")],
        ]
    return {f"tokenizer.ggml.add_{name}_token": bool(flag) for name, flag in zip(("bos", "eos"), flags)}


def _chat_templates(templates: Mapping[str, str]) -> dict[str, Any]:
    """Without the marks of what the assistant said, which only transformers knows: a block that is always there is as much."""
    opening, closing = r"\{%([-+]?)\s*generation\s*([-+]?)%\}", r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}"
    templates = {
        name: re.sub(closing, r"{%\1 endif \2%}", re.sub(opening, r"{%\1 if true \2%}", text))
        for name, text in templates.items()
    }
    named = {name: text for name, text in templates.items() if name != "default"}
    found: dict[str, Any] = {"tokenizer.chat_template": templates["default"]} if "default" in templates else {}
    if named:
        found["tokenizer.chat_templates"] = list(named)
    return found | {f"tokenizer.chat_template.{name}": text for name, text in named.items()}
