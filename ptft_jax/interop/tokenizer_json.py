"""Tokenizers as Hugging Face's tokenizer.json: its parts, and the whole of bytes and of SentencePiece models.

The whole gives the ids of the tokenizer that it is made from, for every text that `ptft_jax.interop.tokenizer_files` compares.
transformers' own classes for SentencePiece models do not: they put no dummy prefix before a text that starts with a space.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ptft_jax import environment
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.tokenizers import settings
from ptft_jax.data.tokenizers.huggingface import byte_alphabet
from ptft_jax.data.tokenizers.sentencepiece_model import FILES as PIECES
from ptft_jax.errors import UserError

# What a token is, by the numbers that SentencePiece and GGUF share.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"  # how SentencePiece writes a space


def merges(tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> list[list[str]]:
    """SentencePiece's BPE joins the two neighbors whose union has the best score: the same as merges in that order."""
    joined = {t: i for i, t in enumerate(tokens) if types[i] == NORMAL or (t and not t.strip(SPACE))}
    found = []
    for token, i in joined.items():
        cuts = ((token[:n], token[n:]) for n in range(1, len(token)))
        found += [(-scores[i], joined[a], joined[b], [a, b]) for a, b in cuts if a in joined and b in joined]
    return [merge[3] for merge in sorted(found, key=lambda merge: merge[:3])]


def bpe(tokens: Sequence[str], pairs: list[list[str]], **fields: Any) -> dict[str, Any]:
    """The `model` of a BPE: its tokens by id, and what is merged, in order."""
    defaults = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    defaults |= {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE"} | defaults | fields | {"vocab": {t: i for i, t in enumerate(tokens)}, "merges": pairs}


def spaced(
    prefix: str, charsmap: bytes = b"", *, squeezed: bool = False, newline_is_space: bool = False
) -> dict[str, Any]:
    """`normalizer`, `pre_tokenizer` and `decoder` of pieces in which "\u2581" is a space.

    Args:
      prefix: before what comes a space: the start of a "text", of every "run" of text between added tokens, or nothing ("").
      charsmap: SentencePiece's table of characters that become others first.
      squeezed: runs of spaces are one, and none are at the ends; with prefix="text" tokens have to take those after them
        (`rstrip`).
      newline_is_space: by the table; carriage returns then, too.
    """
    steps: list[dict[str, Any]] = []
    if charsmap:
        # The library takes "\r\n" for one character, and would make one space of it.
        steps += [_replaced({"String": "\r"}, " ")] if newline_is_space else []
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    if squeezed:
        # A space that starts a text becomes the prefix: were it taken out, a Metaspace would not know the start any more.
        ends = rf"[ {SPACE}]+\z" if prefix == "text" else rf"\A +|[ {SPACE}]+\z"
        steps += [_replaced({"Regex": ends}, ""), _replaced({"Regex": " {2,}"}, " ")]
    steps += [{"type": "Prepend", "prepend": SPACE}] if prefix == "run" else []
    # A Metaspace puts its replacement before the first run alone, but not before one that starts with it. So its replacement
    # is the space, of which there are none left but that one.
    steps += [] if squeezed and prefix == "text" else [_replaced({"String": " "}, SPACE)]
    first = {"type": "Metaspace", "replacement": " ", "prepend_scheme": "first", "split": False}
    then = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
    decoders = [_replaced({"String": SPACE}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if len(steps) > 1 else steps[0],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [first, then]} if prefix == "text" else None,
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _replaced(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def added(tokens: Sequence[str], types: Sequence[int], unknown: int | None) -> list[dict[str, Any]]:
    """Control tokens are special; user-defined ones are kept whole in text but are text."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [i for i, kind in enumerate(types) if kind in (CONTROL, UNKNOWN) or i == unknown]
    defined = [i for i, kind in enumerate(types) if kind == USER_DEFINED and tokens[i].strip(SPACE)]
    return [{"id": i, "content": tokens[i], "special": i in set(special)} | plain for i in sorted(special + defined)]


def around(
    tokens: Sequence[str] | Mapping[int, str], ids: Mapping[str, int | None], adds: Mapping[str, bool | None]
) -> dict[str, Any] | None:
    """The post-processor that puts the first ("bos") and the last ("eos") token around a text."""
    use = {name: i for name in ("bos", "eos") if adds.get(name) and (i := ids[name]) is not None}
    if not use:
        return None

    def marked(*sequences: dict[str, Any]) -> list[dict[str, Any]]:
        marks = {name: [{"SpecialToken": {"id": tokens[i], "type_id": 0}}] for name, i in use.items()}
        return [part for s in sequences for part in (*marks.get("bos", []), {"Sequence": s}, *marks.get("eos", []))]

    a, b = {"id": "A", "type_id": 0}, {"id": "B", "type_id": 1}
    special = {tokens[i]: {"id": tokens[i], "ids": [i], "tokens": [tokens[i]]} for i in use.values()}
    return {"type": "TemplateProcessing", "single": marked(a), "pair": marked(a, b), "special_tokens": special}


def ended(tokenizer: tok.Tokenizer) -> dict[str, Any]:
    """The post-processor that puts around a text what captions have: `prefix_ids`, and `end_id`. Raises UserError for such that are no
    control tokens, which a text could spell."""
    named = _texts(tokenizer)
    if missing := {*tokenizer.prefix_ids, tokenizer.end_id} - {*named}:
        raise UserError(f"{tokenizer.origin}: token {min(missing)}, which is put around texts, is no control token")

    def mark(i: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": named[i], "type_id": 0}}

    def marked(name: str) -> list[dict[str, Any]]:
        before = [mark(i) for i in tokenizer.prefix_ids]
        return [*before, {"Sequence": {"id": name, "type_id": 0}}, mark(tokenizer.end_id)]

    used = dict.fromkeys((*tokenizer.prefix_ids, tokenizer.end_id))
    special = {named[i]: {"id": named[i], "ids": [i], "tokens": [named[i]]} for i in used}
    pair = [*marked("A"), *marked("B")]
    return {"type": "TemplateProcessing", "single": marked("A"), "pair": pair, "special_tokens": special}


def whole(model: Mapping[str, Any], added: Iterable[dict[str, Any]], post: dict[str, Any] | None) -> dict[str, Any]:
    """The file: parts as of `spaced` with the "model", added tokens, and the post-processor."""
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added)}
    parts = {key: model[key] for key in ("normalizer", "pre_tokenizer", "decoder", "model")}
    return head | parts | {"post_processor": post}


def of_bytes(tokenizer: tok.ByteTokenizer) -> dict[str, Any]:
    """A byte-level BPE without merges."""
    vocabulary = [char for _, char in sorted(byte_alphabet().items())]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    parts = {
        "normalizer": None,
        "pre_tokenizer": level,
        "decoder": level | {"add_prefix_space": True, "use_regex": True},
    }
    post = around(_texts(tokenizer), {"bos": tokenizer.bos_id}, {"bos": bool(tokenizer.prefix_ids)})
    return whole({**parts, "model": bpe(vocabulary, [])}, _added_tokens(tokenizer), post)


def of_pieces(tokenizer: tok.SentencePieceTokenizer) -> dict[str, Any]:
    """A SentencePiece model, BPE or unigram. Raises UserError for one of another kind, or with spaces at the ends of words."""
    files = tokenizer.files()
    name = next(name for name in PIECES if name in files)
    form = environment.needed("sentencepiece.sentencepiece_model_pb2", name)
    proto = form.ModelProto.FromString(files[name])
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    if trainer.treat_whitespace_as_suffix or not rules.escape_whitespaces:
        raise UserError(f"{tokenizer.origin}: {name} has spaces at the ends of words, which no tokenizer.json says")
    tokens, types = [p.piece for p in proto.pieces], [int(p.type) for p in proto.pieces]
    unknown = next((i for i, kind in enumerate(types) if kind == UNKNOWN), None)
    legacy = bool(settings.read(files, tokenizer.origin).config.get("legacy"))
    prefix = ("run" if legacy else "text") if rules.add_dummy_prefix else ""
    fallback = any(kind == BYTE for kind in types)
    if trainer.model_type == form.TrainerSpec.BPE:
        unk = None if unknown is None else tokens[unknown]
        pairs = merges(tokens, [p.score for p in proto.pieces], types)
        model = bpe(tokens, pairs, unk_token=unk, fuse_unk=True, byte_fallback=fallback)
    elif trainer.model_type == form.TrainerSpec.UNIGRAM:
        vocabulary = [[p.piece, p.score] for p in proto.pieces]
        model = {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": fallback}
    else:
        kind = form.TrainerSpec.ModelType.Name(trainer.model_type).lower()
        raise UserError(
            f"{tokenizer.origin}: {name} is a SentencePiece model of kind {kind}; bpe and unigram have a tokenizer.json"
        )
    defined = [entry for entry in added(tokens, types, unknown) if not entry["special"]]
    entries = {entry["id"]: entry for entry in (*defined, *_added_tokens(tokenizer))}
    post = around(_texts(tokenizer), {"bos": tokenizer.bos_id}, {"bos": bool(tokenizer.prefix_ids)})
    squeezed = rules.remove_extra_whitespaces
    processor = environment.needed("sentencepiece", name).SentencePieceProcessor(model_proto=files[name])
    newline_is_space = processor.normalize("a\nb") == processor.normalize("a b")
    if squeezed and prefix == "text" and newline_is_space:
        entries = {i: entry | {"rstrip": True} for i, entry in entries.items()}
    parts = spaced(prefix, rules.precompiled_charsmap, squeezed=squeezed, newline_is_space=newline_is_space)
    return whole({**parts, "model": model}, [entries[i] for i in sorted(entries)], post)


def _texts(tokenizer: tok.Tokenizer) -> dict[int, str]:
    return {i: text for text, i in tokenizer.special.items()}


def _added_tokens(tokenizer: tok.Tokenizer) -> list[dict[str, Any]]:
    """The tokens that are found in a text before its pieces are."""
    beside = settings.read(tokenizer.files(), tokenizer.origin).added
    tokens = {i: settings.AddedToken(text, special=True) for i, text in _texts(tokenizer).items()} | dict(beside)
    return [{"id": i, **dataclasses.asdict(token)} for i, token in sorted(tokens.items())]
