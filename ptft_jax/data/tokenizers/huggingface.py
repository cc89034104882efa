"""Tokenizers in the format of the `tokenizers` library (tokenizer.json): BPE, WordPiece, Unigram, any pipeline."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.tokenizers import cutting
from ptft_jax.data.tokenizers import settings as settings_
from ptft_jax.data.tokenizers.base import END_OF_TEXT, FILE, HIDDEN, Between, Control, Tokenizer, written
from ptft_jax.data.tokenizers.settings import AddedToken, Settings
from ptft_jax.errors import UserError

_TOGETHER = (
    1024  # parts of long texts that are encoded at once: the library holds some 70 bytes for each of their tokens
)


class HuggingFaceTokenizer(Tokenizer):
    """tokenizer.json, with what the files beside it add: named special tokens, further tokens, BOS."""

    def __init__(self, files: Mapping[str, bytes], origin: str):
        pipeline = _parse(files[FILE], origin)
        settings = settings_.read(files, origin)
        entries = _complete(pipeline, settings, origin)
        self._changed = entries != pipeline["added_tokens"]
        self._whole = _build({**pipeline, "added_tokens": entries} if self._changed else files[FILE], origin)
        vocabulary = self._whole.get_vocab(with_added_tokens=True)
        for entry in entries:
            if vocabulary.get(entry["content"]) != entry["id"]:
                raise UserError(
                    f"{origin}: token {entry['content']!r} is declared with id {entry['id']}, but would get "
                    f"{vocabulary.get(entry['content'])}"
                )
        self._added = entries
        self._divisible = _divisible(pipeline) and all(entry["special"] for entry in entries)
        kinds = {step["type"] for step in cutting.steps(pipeline.get("decoder"))}
        self._byte_level, self._byte_fallback = "ByteLevel" in kinds, "ByteFallback" in kinds
        super().__init__(
            files,
            FILE,
            settings,
            origin,
            vocab_size=max(vocabulary.values()) + 1,
            special={e["content"]: e["id"] for e in entries if e["special"]},
            lookup=self._whole.token_to_id,
            prefix_ids=_around(self._whole, vocabulary)[0],
        )

    @property
    def added(self) -> frozenset[str]:
        return frozenset(entry["content"] for entry in self._added)

    @functools.cached_property
    def _plain(self):
        """The pipeline in which no text becomes a control token. The library has a switch for added tokens, but the
        models of some kinds know control tokens as words too: there they are renamed to what no text spells."""
        pipeline = {**_parse(self._files[FILE], self.origin), "added_tokens": self._added}
        plain = _build(_without(pipeline, set(self.special), self._hidden), self.origin)
        plain.encode_special_tokens = True
        return plain

    @functools.cached_property
    def between(self) -> Between:
        """What the post-processor puts between the texts of a pair, and the type that it gives the second."""
        for text in ("a", "1", *self._whole.get_vocab(with_added_tokens=False)):
            bare = self._whole.encode(text, add_special_tokens=False).ids
            both = self._whole.encode(text, text, add_special_tokens=True)
            places = [n for n in range(len(both.ids)) if both.ids[n : n + len(bare)] == bare]
            if bare and not set(bare) & self.special_ids and len(places) == 2:
                found = tuple(both.ids[places[0] + len(bare) : places[1]])
                return Between(found, both.type_ids[places[1]]) if found else super().between
        return super().between

    @functools.cached_property
    def suffix_ids(self) -> tuple[int, ...]:
        """What the post-processor puts after a text, or what the configuration says."""
        _, after = _around(self._whole, self._whole.get_vocab(with_added_tokens=True))
        return tuple(after) or super().suffix_ids

    @functools.cached_property
    def _hidden(self) -> str:
        """What control tokens are hidden behind: no text has it."""
        return f"{HIDDEN}{uuid.uuid4().hex}"

    def places(self, special: bool = False) -> cutting.Places | None:
        return cutting.of_pipeline(_parse(self._files[FILE], self.origin), self._added, special)

    def _encode(self, texts: Sequence[str], special: bool) -> list[np.ndarray]:
        tokenizer = self._whole if special else self._plain
        if special or not self._divisible:
            found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.asarray(encoding.ids, np.int32) for encoding in found]
        parts, owner = [], []
        for i, text in enumerate(texts):
            for part in _paragraphs(text):
                parts.append(part)
                owner.append(i)
        ids: list[list[np.ndarray]] = [[] for _ in texts]
        for at in range(0, len(parts), _TOGETHER):
            found = tokenizer.encode_batch_fast(parts[at : at + _TOGETHER], add_special_tokens=False)
            for i, encoding in zip(owner[at:], found):
                ids[i].append(np.asarray(encoding.ids, np.int32))
        return [np.concatenate(row) if row else np.zeros(0, np.int32) for row in ids]

    @functools.cached_property
    def _placed(self):
        """The pipeline without its post-processor, which may take the spaces out of the places it reports."""
        pipeline = {**_parse(self._files[FILE], self.origin), "added_tokens": self._added, "post_processor": None}
        return _build(pipeline, self.origin)

    @functools.cached_property
    def _spelled(self):
        """`_placed` with control tokens under names that no text has, so that what spells one is text."""
        entries = [{**entry, "normalized": False} if entry["special"] else entry for entry in self._added]
        pipeline = {**_parse(self._files[FILE], self.origin), "added_tokens": entries, "post_processor": None}
        return _build(_without(pipeline, set(self.special), self._hidden, every=True), self.origin)

    def _encode_spans(self, texts: Sequence[str], literal: Sequence[np.ndarray | None]) -> list[tuple]:
        batch = self._placed.encode_batch(list(texts), add_special_tokens=False)
        found = [(encoding.ids, encoding.offsets) for encoding in batch]
        for n, (text, marked) in enumerate(zip(texts, literal)):
            first = self._controls(text, found[n]) if marked is not None else []
            if any(marked[control.first : control.last].any() for control in first):
                found[n] = self._encode_literal(text, marked)
        return found

    def _controls(self, text: str, found: tuple) -> list[Control]:
        """The control tokens among a text's tokens. One for unknown words is none, unless the text spells it."""
        spelling, there = {i: token for token, i in self.special.items()}, []
        for i, (start, end) in zip(*found):
            if i in spelling:
                whole, token = text[start:end], spelling[i]
                at = whole.find(token)
                first = at if at >= 0 else len(whole) - len(whole.lstrip())
                last = first + len(token) if at >= 0 else len(whole.rstrip())
                if at >= 0 or i != self.unk_id:
                    there.append(Control(start, end, start + first, start + last, token))
        return there

    def _encode_literal(self, text: str, literal: np.ndarray) -> tuple[list[int], np.ndarray]:
        """As `encode_spans`, of one text."""

        def controls(text: str) -> list[Control]:
            encoding = self._placed.encode(text, add_special_tokens=False)
            return self._controls(text, (encoding.ids, encoding.offsets))

        names = {token: self._hidden + token for token in self.special}
        parts, starts, ends, at = [], [], [], 0
        for control in written(text, literal, controls) or ():
            name, between = names[control.token], np.arange(at, control.first)
            parts += [text[at : control.first], name]
            starts += [between, np.full(len(name), control.first)]  # of each character, where it is in the text
            ends += [between + 1, np.full(len(name), control.last)]
            at = control.last
        rest = np.arange(at, len(text) + 1)
        first, last = np.concatenate([*starts, rest]), np.concatenate([*ends, rest + 1])
        encoding = self._spelled.encode("".join([*parts, text[at:]]), add_special_tokens=False)
        spans = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
        start = first[spans[:, 0]]
        end = np.where(spans[:, 1] > spans[:, 0], last[np.maximum(spans[:, 1] - 1, 0)], start)
        return encoding.ids, np.stack([start, end], axis=1)

    def decode(self, ids: Sequence[int]) -> str:
        """As the library decodes, without control tokens."""
        return self._whole.decode([int(i) for i in ids], skip_special_tokens=True)

    def decode_settled(self, context: Sequence[int], ids: Sequence[int]) -> str:
        # A run of byte tokens is text only if all of it is: the next byte may change what all of them show.
        end = len(ids)
        while self._byte_fallback and end and self._fallback_byte(ids[end - 1]) is not None:
            end -= 1
        return super().decode_settled(context, ids[:end])

    def _fallback_byte(self, token: int) -> int | None:
        found = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", self._whole.id_to_token(int(token)) or "")
        return int(found[1], 16) if found else None

    def token_bytes(self, token: int) -> bytes:
        token = int(token)
        piece = self._whole.id_to_token(token)
        if piece is None or token in self.special_ids:
            return b""
        if self._byte_level:
            found = [_BYTE_OF.get(char) for char in piece]
            return piece.encode() if None in found else bytes(found)
        if self._byte_fallback and (byte := self._fallback_byte(token)) is not None:
            return bytes([byte])
        before, anchor = self._anchor
        return self.decode([anchor, token])[len(before) :].encode()

    @functools.cached_property
    def _anchor(self) -> tuple[str, int]:
        """A word to decode other tokens after: its text and id."""
        for i in range(self.vocab_size):
            text = "" if i in self.special_ids else self.decode([i])
            if text.isalnum() and self.decode([i, i]).startswith(text):
                return text, i
        raise UserError(f"{self.origin}: no token of this vocabulary is a word or letter")

    def identity(self) -> tuple[bytes | str, ...]:
        # The file alone, as in runs that were made when that was all there was, unless more than it tells the ids.
        bare = not self._changed and not self.prefix_ids and self.end_id == self._whole.token_to_id(END_OF_TEXT)
        return (self._files[FILE],) if bare else (self._files[FILE], self._rules())

    def _rules(self) -> str:
        return json.dumps([self.end_id, self.prefix_ids, self._added])

    def with_tokens(self, new: Sequence[str], special: bool) -> Tokenizer:
        tokens = {self.vocab_size + n: AddedToken(text, special=special) for n, text in enumerate(new)}
        entries = [{"id": i, **dataclasses.asdict(token)} for i, token in tokens.items()]
        pipeline = {**_parse(self._files[FILE], self.origin), "added_tokens": [*self._added, *entries]}
        files = {**self._files, FILE: json.dumps(pipeline, ensure_ascii=False).encode()}
        if self._settings.config.get("added_tokens_decoder"):  # lists all of them, where it is there
            files[settings_.CONFIG] = settings_.with_added(files, tokens)
        return HuggingFaceTokenizer(files, self.origin)


def _parse(data: bytes, origin: str) -> dict[str, Any]:
    try:
        pipeline = json.loads(data)
        vocab = pipeline["model"]["vocab"]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{origin}: not a tokenizer file: {type(e).__name__}: {e}") from e
    if not isinstance(vocab, (dict, list)):
        raise UserError(f"{origin}: not a tokenizer file: its vocabulary is a {type(vocab).__name__}")
    # As the library sorts them when it saves.
    added = sorted(pipeline.get("added_tokens") or [], key=lambda entry: entry["id"])
    return {**pipeline, "added_tokens": added}


def _build(pipeline: dict[str, Any] | bytes, origin: str):
    """A `tokenizers.Tokenizer`; rows are cut and padded where that is asked for, never by it."""
    import tokenizers

    text = pipeline.decode() if isinstance(pipeline, bytes) else json.dumps(pipeline, ensure_ascii=False)
    try:
        built = tokenizers.Tokenizer.from_str(text)
    except Exception as e:  # the library raises plain Exception
        raise UserError(f"{origin}: not a tokenizer file: {e}") from e
    built.no_truncation()
    built.no_padding()
    return built


def _complete(pipeline: dict[str, Any], settings: Settings, origin: str) -> list[dict[str, Any]]:
    """tokenizer.json's added tokens with those that only the files beside it declare, or declare special."""
    found = {entry["content"]: dict(entry) for entry in pipeline["added_tokens"]}
    vocab = pipeline["model"]["vocab"]
    ids = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    for i, token in sorted(settings.added.items()):
        if token.content not in found:
            found[token.content] = {"id": i, **dataclasses.asdict(token)}
        elif found[token.content]["id"] != i:
            raise UserError(
                f"{origin}: token {token.content!r} has id {found[token.content]['id']} in {FILE}, {i} beside it"
            )
        elif token.special:
            found[token.content]["special"] = True
    for text in {*settings.special, END_OF_TEXT}:
        if text not in found and text in ids:
            found[text] = {"id": ids[text], **dataclasses.asdict(AddedToken(text))}
        if text in found:
            found[text]["special"] = True
    return sorted(found.values(), key=lambda entry: entry["id"])


def _around(tokenizer: Any, vocabulary: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """What the post-processor puts before a text, and after it."""
    for text in ("a", "1", *vocabulary):
        bare = tokenizer.encode(text, add_special_tokens=False).ids
        if bare:
            full = tokenizer.encode(text, add_special_tokens=True).ids
            starts = (n for n in range(len(full) - len(bare) + 1) if full[n : n + len(bare)] == bare)
            at = next(starts, 0)
            return full[:at], full[at + len(bare) :]
    return [], []


def _divisible(pipeline: dict[str, Any]) -> bool:
    """Whether long texts may be encoded in parts, see `_paragraphs`: only with GPT-2's pre-tokenizer, alone."""
    step, model = pipeline.get("pre_tokenizer") or {}, pipeline["model"]
    return (
        pipeline.get("normalizer") is None
        and model.get("type", "BPE") == "BPE"
        and not model.get("dropout")
        and step.get("type") == "ByteLevel"
        and step.get("use_regex", True)
        and not step.get("add_prefix_space")
    )


def _without(pipeline: dict[str, Any], special: set[str], hidden: str, every: bool = False) -> dict[str, Any]:
    """The pipeline with control tokens that the model could produce from text renamed, `hidden` before their names; itself
    where it could not. With `every`, all of them."""
    model = pipeline["model"]
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: [piece, score] by id
        hide = special & {piece for piece, _ in vocab}
        changed = {"vocab": [[hidden + piece if piece in hide else piece, score] for piece, score in vocab]}
    else:
        hide = special & vocab.keys()
        changed = {}
        if "merges" in model:  # BPE: what merges make, single characters, and whole words where they come first
            pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
            prefix = len(model.get("continuing_subword_prefix") or "")
            made = {left + right[prefix:] for left, right in pairs}
            could = {text for text in hide if text in made or len(text) == 1 or model.get("ignore_merges")}
            hide = hide if every else could
            keep = [p for p in pairs if not hide & {*p, p[0] + p[1][prefix:]}]
            changed["merges"] = [list(pair) for pair in keep]
        changed["vocab"] = {hidden + piece if piece in hide else piece: i for piece, i in vocab.items()}
        if model.get("unk_token") in hide:
            changed["unk_token"] = hidden + model["unk_token"]
    named = special if every else hide
    if not named:
        return pipeline
    entries = [
        {**entry, "content": hidden + entry["content"]} if entry["content"] in named else entry
        for entry in pipeline["added_tokens"]
    ]
    return {**pipeline, "model": {**model, **changed}, "added_tokens": entries, "post_processor": None}


def _paragraphs(text: str) -> list[str]:
    """Cuts a long text so that its parts are encoded in parallel: before the last of the newlines that precede a
    paragraph, where GPT-2's pre-tokenizer cuts too, so the ids are those of the whole text."""
    starts = [0, *(m.end() - 1 for m in re.finditer(r"\n\n(?=\S)", text)), len(text)]
    # Group short paragraphs, ~4 kB a piece: fewer calls, same ids.
    cuts = [0]
    for start in starts[1:]:
        if start - cuts[-1] >= 4096:
            cuts.append(start)
    if cuts[-1] != len(text):
        cuts.append(len(text))
    return [text[a:b] for a, b in zip(cuts, cuts[1:])]


def byte_alphabet() -> dict[int, str]:
    """How byte-level BPE writes bytes as printable characters (Radford et al. 2019, GPT-2's encoder)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    table = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + n) for n, byte in enumerate(rest)}


_BYTE_OF = {char: byte for byte, char in byte_alphabet().items()}
