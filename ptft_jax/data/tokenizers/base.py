"""What every tokenizer offers, whatever its kind."""

from __future__ import annotations

import abc
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ptft_jax.data.tokenizers import cutting
from ptft_jax.data.tokenizers import settings as settings_
from ptft_jax.data.tokenizers.settings import Settings
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


def _check_unicode(texts: Sequence[str]) -> None:
    for number, text in enumerate(texts):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as e:
            raise UserError(
                f"text {number} is not Unicode: character {e.start} is the lone surrogate U+{ord(text[e.start]):X}"
            ) from e
