"""What every tokenizer offers, whatever its kind, and the handling of added tokens for kinds without their own."""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ptft_jax.data.tokenizers import cutting
from ptft_jax.data.tokenizers import settings as settings_
from ptft_jax.data.tokenizers.settings import AddedToken, Settings
from ptft_jax.errors import UserError, nearest

END_OF_TEXT = "<|endoftext|>"
FILE = "tokenizer.json"
# Special tokens by which pretrained models end a turn or a text. Models are often published with a configuration that
# names only one of theirs; a special token of such a name ends generation in any case.
TURN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")


class Between(NamedTuple):
    """What stands between the two texts of a pair, and the type of the tokens after it (0 is that of those before)."""

    ids: tuple[int, ...]
    second: int


class Tokenizer(abc.ABC):
    """Text to token ids and back.

    Attributes:
      vocab_size: one more than the largest id.
      end_id: the token that ends a text.
      stop_ids: every token that ends generation, `end_id` first.
      bos_id, pad_id, unk_id: None where there is none.
      prefix_ids: what a text starts with: () or (bos_id,), or what else the tokenizer puts there.
      special: text of a control token -> id.
      added: texts of tokens that are found in a text before the vocabulary's own, control tokens or not.
      named: "bos_token", "eos_token", ... -> the token's text, as chat templates refer to them.
      chat_templates: name -> Jinja source.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        vocabulary: str,
        settings: Settings,
        origin: str,
        *,
        vocab_size: int,
        special: Mapping[str, int],
        lookup: Callable[[str], int | None],
        prefix_ids: Sequence[int] = (),
    ):
        """`vocabulary` is the file that holds it; `prefix_ids` is what that file says of them; where it says
        nothing, the configuration's add_bos_token does."""
        self.origin, self._settings = origin, settings
        self._files = {vocabulary: files[vocabulary], **settings_.stored(files, settings)}
        self.vocab_size = vocab_size
        self.named = settings.named
        self.chat_templates = settings.chat_templates
        self.special = dict(special)
        self.special_ids = frozenset(self.special.values())
        ids = {}
        for name, text in self.named.items():
            ids[name] = lookup(text)
            if ids[name] is None:
                raise UserError(f"{origin}: its {name} {text!r} is not in the vocabulary{nearest(text, self.special)}")
        self.bos_id, self.pad_id, self.unk_id = (ids.get(f"{n}_token") for n in ("bos", "pad", "unk"))
        ends = [ids.get("eos_token"), ids.get("sep_token"), *settings.eos_ids, lookup(END_OF_TEXT)]
        end = next((i for i in ends if i is not None), None)
        if end is None:
            raise UserError(
                f"{origin}: nothing says which token ends a text: the tokenizer has no {END_OF_TEXT} token, and no "
                f'{settings_.CONFIG} beside it with "eos_token" (its special tokens: {sorted(self.special) or "none"})'
            )
        self.end_id: int = end
        turns = [self.special[text] for text in TURN_ENDS if text in self.special]
        self.stop_ids = tuple(dict.fromkeys([end, *settings.eos_ids, *turns]))
        if settings.add_bos and self.bos_id is None:
            raise UserError(f"{origin}: {settings_.CONFIG} sets add_bos_token, but names no bos_token")
        self.prefix_ids: tuple[int, ...] = tuple(prefix_ids) or ((self.bos_id,) if settings.add_bos else ())
        self._lookup = lookup

    @property
    def suffix_ids(self) -> tuple[int, ...]:
        """What the tokenizer itself puts after a text that is given to a model; () = nothing, as most do for causal models. The ends
        of texts that are trained on are another matter (`end_id`)."""
        return (self.end_id,) if self._settings.config.get("add_eos_token") else ()

    @property
    def between(self) -> Between:
        """What a pair of texts has between them, after the first and before the second with its `end_id`: another `end_id`, unless
        the tokenizer says otherwise."""
        return Between((self.end_id,), 1)

    def has(self, text: str) -> bool:
        """Whether a token, control token or not, has exactly this text."""
        return self._lookup(text) is not None

    @property
    def added(self) -> frozenset[str]:
        return frozenset(self.special)

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the default chat template."""
        return self.chat_templates.get("default")

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        """int32 [n], without `prefix_ids`. Text that spells a control token is encoded as plain text, never as that
        token, unless `special`. Raises UserError for a text with lone surrogates."""
        return self.encode_all([text], special=special)[0]

    def encode_all(self, texts: Sequence[str], *, special: bool = False) -> list[np.ndarray]:
        """`encode` of each text, in parallel where the kind allows."""
        _check_unicode(texts)
        return [np.asarray(ids, np.int32) for ids in self._encode(texts, special)]

    def encode_long(self, blocks: Iterable[str], *, special: bool = False, skip: int = 0) -> Iterator[np.ndarray]:
        """`encode` of the text that blocks make, int32 arrays one after the other, without the first `skip` of them, which are not
        computed. Little of it is held at once where texts may be cut (`ptft_jax.data.tokenizers.cutting`); else it is encoded whole."""
        places = self.places(special)
        if places is None:
            if not skip:
                yield self.encode("".join(blocks), special=special)
            return
        for block in itertools.islice(cutting.regrouped(blocks, places, cutting.BLOCK), skip, None):
            yield np.concatenate(self.encode_all(cutting.parts(block, places, cutting.PART), special=special))

    def places(self, special: bool = False) -> cutting.Places | None:
        """Where texts may be cut without any change of ids, None where that is not known; `special` as for `encode`."""
        return None

    @abc.abstractmethod
    def _encode(self, texts: Sequence[str], special: bool) -> list: ...

    def encode_spans(
        self, texts: Sequence[str], literal: Sequence[np.ndarray | None] = ()
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each text's ids as of `encode_all(texts, special=True)`, and where in the text they come from.

        Args:
          literal: of each text bool [characters], those that are of no control token though they may spell one: they are
            encoded as plain text is; None = no character is. () = no text has such.

        Returns:
          (int32 [n], int32 [n, 2]) a text: ids, and of each the characters [first, after the last) that it stands for.
          First characters never fall. Every token has at least one character: the parts of one that takes several
          tokens have it all, and one that stands for none (a dummy prefix) has the one it is put before, which for a
          text's very end is one past it.
        """
        _check_unicode(texts)
        found = []
        for ids, spans in self._encode_spans(texts, literal or [None] * len(texts)):
            spans = np.asarray(spans, np.int32).reshape(-1, 2)
            starts = np.maximum.accumulate(spans[:, 0]) if len(spans) else spans[:, 0]
            spans = np.stack([starts, np.maximum(spans[:, 1], starts + 1)], axis=1)
            found.append((np.asarray(ids, np.int32), spans))
        return found

    @abc.abstractmethod
    def _encode_spans(self, texts: Sequence[str], literal: Sequence[np.ndarray | None]) -> list[tuple]:
        """As `encode_spans`; the spans may be empty."""

    def __reduce__(self):
        return type(self), (self.files(), self.origin)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without control tokens; bytes that are no UTF-8 show as U+FFFD."""
        return b"".join(self.token_bytes(int(i)) for i in ids).decode("utf-8", errors="replace")

    def decode_after(self, context: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add to a text of ids `context`. It can differ from `decode(ids)`, which may drop the
        space that a first word starts with."""
        if not len(context):
            return self.decode(ids)
        before, whole = self.decode(context), self.decode([*context, *ids])
        if not whole.startswith(before):  # the context's last character was completed
            same = (n for n, (a, b) in enumerate(zip(before, whole)) if a != b)
            return whole[next(same, min(len(before), len(whole))) :]
        return whole[len(before) :]

    def decode_settled(self, context: Sequence[int], ids: Sequence[int]) -> str:
        """The part of `decode_after` that stays whatever ids follow, for printing while generating."""
        return self.decode_after(context, ids).rstrip("\ufffd")

    @abc.abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The bytes for which a token stands after other text; none for control tokens."""

    def files(self) -> dict[str, bytes]:
        """File name -> content: written to a folder, `from_file` gives an identical tokenizer back."""
        return dict(self._files)

    @abc.abstractmethod
    def identity(self) -> tuple[bytes | str, ...]:
        """Equal for tokenizers that map texts to the same ids."""

    def _rules(self) -> str:
        """The part of `identity` that is not in the vocabulary's own file."""
        return json.dumps([self.end_id, self.prefix_ids, sorted(self.special.items())])

    @abc.abstractmethod
    def with_tokens(self, new: Sequence[str], special: bool) -> Tokenizer:
        """See `ptft_jax.data.tokenizers.with_tokens`."""


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


class Control(NamedTuple):
    """Where a control token is found: characters [start, end), with the white space that it takes, and [first, last)
    without it."""

    start: int
    end: int
    first: int
    last: int
    token: str


# A character that is in no text and no token.
HIDDEN = "\U0010fffe"


def written(text: str, literal: np.ndarray | None, controls: Callable[[str], list[Control]]) -> list[Control] | None:
    """The control tokens of a text that have no literal character; None where they are all that `controls` finds in it.

    One that does is not there, and may hide another that is: so it is made unreadable, and the text looked at again.
    """
    changed = None
    while literal is not None:
        there = controls(text if changed is None else "".join(changed))
        wrong = [control for control in there if literal[control.first : control.last].any()]
        if not wrong:
            return None if changed is None else there
        changed = list(text) if changed is None else changed
        for control in wrong:
            changed[control.first + int(np.argmax(literal[control.first : control.last]))] = HIDDEN
    return None


def character_spans(text: str, lengths: np.ndarray) -> np.ndarray:
    """int32 [n, 2]: the characters that tokens of so many bytes each come from, one after the other."""
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    character = np.cumsum((data & 0xC0) != 0x80) - 1  # of each byte
    ends = np.cumsum(lengths)
    return np.stack([character[ends - lengths], character[ends - 1] + 1], axis=1).astype(np.int32)


def _check_unicode(texts: Sequence[str]) -> None:
    for number, text in enumerate(texts):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as e:
            raise UserError(
                f"text {number} is not Unicode: character {e.start} is the lone surrogate U+{ord(text[e.start]):X}"
            ) from e


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
