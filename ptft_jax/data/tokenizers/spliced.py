"""Added tokens of the kinds of tokenizers that do not find them themselves: the text is cut there, and the kind encodes what is between."""

from __future__ import annotations

import abc
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ptft_jax.data.tokenizers import cutting
from ptft_jax.data.tokenizers import settings as settings_
from ptft_jax.data.tokenizers.base import Control, Tokenizer, written
from ptft_jax.data.tokenizers.settings import AddedToken
from ptft_jax.errors import UserError


class Spliced(Tokenizer):
    """A tokenizer whose added tokens are found here: the text is cut at them, and the kind encodes what is between.

    Where two tokens could match, the leftmost wins, then the longest, as in the `tokenizers` library.
    """

    def __init__(self, files, vocabulary, settings, origin, *, size, piece_of, id_of, special, **options):
        """
        Args:
          size: how many ids the vocabulary itself has.
          piece_of: id below size -> its text, to compare with added tokens that claim the id.
          id_of: text -> id below size, or None.
          special: the vocabulary's own control tokens, text -> id.
        """
        self.size = size
        self._added: dict[str, AddedToken] = {text: AddedToken(text, special=True) for text in special}
        self._added_ids: dict[str, int] = dict(special)
        for i, token in sorted(settings.added.items()):
            own = piece_of(i) if i < size else token.content
            known = self._added_ids.get(token.content, id_of(token.content))
            if own != token.content or known not in (None, i):
                raise UserError(
                    f"{origin}: added token {token.content!r} claims id {i}, which is "
                    + (f"{own!r}" if own != token.content else f"not the id {known} it has")
                )
            self._added[token.content] = token
            self._added_ids[token.content] = i
        for text in settings.special - set(self._added):
            if id_of(text) is not None:
                self._added[text], self._added_ids[text] = AddedToken(text, special=True), id_of(text)
        self._text_of = {i: text for text, i in self._added_ids.items()}
        super().__init__(
            files,
            vocabulary,
            settings,
            origin,
            vocab_size=max([size, *(i + 1 for i in self._text_of)]),
            special={text: i for text, i in self._added_ids.items() if self._added[text].special},
            lookup=lambda text: self._added_ids.get(text, id_of(text)),
            **options,
        )

    @functools.cached_property
    def _everywhere(self) -> Splitter:
        return _splitter(token for token in self._added.values() if not token.special)

    @functools.cached_property
    def _with_special(self) -> Splitter:
        return _splitter(self._added.values())

    def places(self, special: bool = False) -> cutting.Places | None:
        looked_for = [token for token in self._added.values() if special or not token.special]
        return cutting.beside(self._run_places(), looked_for)

    def _run_places(self) -> cutting.Places | None:
        """`places` of texts without added tokens."""
        return None

    def _encode(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        splitter = self._with_special if special else self._everywhere
        return [self._spliced(text, *splitter) for text in texts]

    def _spliced(self, text: str, pattern: re.Pattern | None, tokens: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for start, end, token in _runs(text, 0, len(text), pattern, tokens):
            if token is None:
                ids += self._encode_run(text[start:end], start == 0)
            else:
                ids.append(self._added_ids[token])
        return ids

    def _encode_spans(self, texts: Sequence[str], literal: Sequence[np.ndarray | None]) -> list[tuple]:
        found = []
        for text, marked in zip(texts, literal):
            ids, spans = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int32)]
            for start, end, token in self._all_runs(text, marked):
                if token is None:
                    run_ids, run_spans = self._encode_run_spans(text[start:end], start == 0)
                else:
                    run_ids, run_spans = [self._added_ids[token]], [(0, end - start)]
                ids.append(np.asarray(run_ids, np.int32))
                spans.append(np.asarray(run_spans, np.int32).reshape(-1, 2) + start)
            found.append((np.concatenate(ids), np.concatenate(spans)))
        return found

    def _all_runs(self, text: str, literal: np.ndarray | None) -> Iterator[tuple[int, int, str | None]]:
        """The text cut at its added tokens, of which literal characters are in no control token."""

        def controls(text: str) -> list[Control]:
            pattern, tokens = self._with_special
            found = ((m, tokens[m.lastindex - 1]) for m in (pattern.finditer(text) if pattern else ()))
            return [Control(*m.span(), *m.span(m.lastindex), t) for m, t in found if t in self.special]

        there = written(text, literal, controls)
        if there is None:
            yield from _runs(text, 0, len(text), *self._with_special)
            return
        at = 0
        for control in there:
            yield from _runs(text, at, control.start, *self._everywhere)
            yield control.start, control.end, control.token
            at = control.end
        yield from _runs(text, at, len(text), *self._everywhere)

    @abc.abstractmethod
    def _encode_run(self, text: str, first: bool) -> list[int]:
        """The ids of a text without added tokens; `first` where a whole text starts with it."""

    @abc.abstractmethod
    def _encode_run_spans(self, text: str, first: bool) -> tuple:
        """`_encode_run`, and the [first, last) characters of each; may be empty."""

    def token_bytes(self, token: int) -> bytes:
        if token in self.special_ids:
            return b""
        if token in self._text_of:
            return self._text_of[token].encode()
        return self._own_bytes(token) if 0 <= token < self.size else b""

    @abc.abstractmethod
    def _own_bytes(self, token: int) -> bytes: ...

    def _rules(self) -> str:
        added = sorted((self._added_ids[text], dataclasses.astuple(token)) for text, token in self._added.items())
        return json.dumps([self.end_id, self.prefix_ids, added])

    def with_tokens(self, new: Sequence[str], special: bool) -> Tokenizer:
        entries = {self.vocab_size + n: AddedToken(text, special=special) for n, text in enumerate(new)}
        files = {**self._files, settings_.CONFIG: settings_.with_added(self._files, entries)}
        return type(self)(files, self.origin)


def character_spans(text: str, lengths: np.ndarray) -> np.ndarray:
    """int32 [n, 2]: the characters that tokens of so many bytes each come from, one after the other."""
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    character = np.cumsum((data & 0xC0) != 0x80) - 1  # of each byte
    ends = np.cumsum(lengths)
    return np.stack([character[ends - lengths], character[ends - 1] + 1], axis=1).astype(np.int32)


def _runs(
    text: str, start: int, end: int, pattern: re.Pattern | None, tokens: Sequence[str]
) -> Iterator[tuple[int, int, str | None]]:
    """Characters [start, end) cut at added tokens: (start, end, the token there, or None for what is between)."""
    for found in pattern.finditer(text, start, end) if pattern else ():
        if found.start() > start:
            yield start, found.start(), None
        yield *found.span(), tokens[found.lastindex - 1]
        start = found.end()
    if start < end:
        yield start, end, None


Splitter = tuple[re.Pattern | None, list[str]]  # one group a token, and the tokens' texts in the groups' order


def _splitter(tokens: Iterable[AddedToken]) -> Splitter:
    tokens = sorted(tokens, key=lambda token: -len(token.content))
    pattern = re.compile("|".join(map(_pattern, tokens))) if tokens else None
    return pattern, [token.content for token in tokens]


def _pattern(token: AddedToken) -> str:
    text = f"({re.escape(token.content)})"
    if token.single_word:
        text = rf"(?<!\w){text}(?!\w)"
    return (r"\s*" if token.lstrip else "") + text + (r"\s*" if token.rstrip else "")
