"""The probabilities of the next word: of whole words, however many tokens each takes."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.evaluation.samples import check_writer, prompt_ids
from ptft_jax.evaluation.tasks.scoring import Reader

END = "(end)"  # in the place of a word: the text is over
_AT_A_TIME = 16  # beginnings of words that the model is given at once
_LEAST = 1e-6  # probability of a beginning below which it is not looked at
_LONGEST = 32  # tokens of a word
_WORD = re.compile(r"\w+(?:['\N{RIGHT SINGLE QUOTATION MARK}-]\w+)*")
_INSIDE = "'\N{RIGHT SINGLE QUOTATION MARK}-"  # may stand within a word

# Log-probabilities [rows, V] of the token after each of some continuations (token ids) of the text.
Following = Callable[[Sequence[tuple[int, ...]]], np.ndarray]


class NextWords(NamedTuple):
    """Words that may come next.

    Attributes:
      words: (word, probability), the likeliest first; a mark alone is a word, too.
      open: the probability of beginnings that were not looked at to their end: no word's is larger than shown by more than this.
      looked_at: how many beginnings the model was given.
    """

    words: list[tuple[str, float]]
    open: float
    looked_at: int


def next_words(loaded: Any, text: str, most: int = 64) -> NextWords:
    """The words that may come after a text, by a loaded run (`ptft_jax.runs.loading.load`).

    Args:
      text: "" begins a new one. One that ends within a word is gone on with.
      most: beginnings of words that the model is given at most, the likeliest first.

    Raises:
      UserError: a model that writes no text; a text that leaves no room for a word.
    """
    check_writer(loaded)
    if loaded.model.several:
        raise UserError(f"--run: {loaded.source.name} has several adapters; choose one: RUN#NAME")
    tokenizer, model = loaded.tokenizer, loaded.model
    [prompt] = prompt_ids(tokenizer, [text], loaded.gaps)
    if len(prompt) + 1 > model.max_tokens:
        raise UserError(
            f"{len(prompt):,} tokens: the model sees at most {model.max_tokens:,}, which leaves no room for a word after them"
        )
    reader = Reader(model, rows=_AT_A_TIME, reads_prompt=loaded.reads_prompt)
    room = min(_LONGEST, model.max_tokens - len(prompt))

    def following(rows: Sequence[tuple[int, ...]]) -> np.ndarray:
        return reader.following(loaded.params, [[*prompt, *row] for row in rows])

    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    return words_after(following, pieces, most, longest=room)


def words_after(following: Following, pieces: Sequence[bytes], most: int, longest: int = _LONGEST) -> NextWords:
    """As `next_words`.

    Args:
      following: what the model says.
      pieces: the bytes of each token; b"" of those that end a text, or that show as nothing: they end a word.
      most: beginnings to look at.
      longest: tokens of a word at most.
    """
    ends = np.asarray([_ends_a_word(piece) for piece in pieces])
    words: dict[str, float] = {}
    waiting: list[tuple[float, tuple[int, ...], bytes]] = [(-1.0, (), b"")]
    left, looked_at = 0.0, 0
    while waiting and looked_at < most:
        batch = [heapq.heappop(waiting) for _ in range(min(_AT_A_TIME, len(waiting), most - looked_at))]
        looked_at += len(batch)
        for (minus, ids, begun), row in zip(batch, following([ids for _, ids, _ in batch])):
            joint = np.exp(row[: len(pieces)] + np.log(-minus))
            rest = np.ones(len(pieces), bool)
            left += max(-minus - float(joint.sum()), 0.0)  # of ids that the tokenizer has no token for
            word = begun.decode("utf-8", errors="replace").strip()
            if _WORD.fullmatch(word):  # what ends it is added up at once
                if over := float(joint[ends].sum()):
                    words[word] = words.get(word, 0.0) + over
                rest = ~ends
            left += float(joint[rest & (joint < _LEAST)].sum())
            for token in np.flatnonzero(rest & (joint >= _LEAST)).tolist():
                p, text = float(joint[token]), begun + pieces[token]
                if (done := _complete(text, pieces[token])) is not None:
                    words[done] = words.get(done, 0.0) + p
                elif len(ids) + 1 < longest:
                    heapq.heappush(waiting, (-p, (*ids, token), text))
                else:
                    left += p
    found = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    return NextWords(found, left - sum(minus for minus, *_ in waiting), looked_at)


def _ends_a_word(piece: bytes) -> bool:
    """Whether a token can only come after a whole word."""
    if not piece:
        return True
    text = piece.decode("utf-8", errors="ignore")
    return bool(text) and piece[0] not in range(0x80, 0xC0) and not re.match(r"\w", text) and text[0] not in _INSIDE


def _complete(begun: bytes, last: bytes) -> str | None:
    """The word that a text begins with, once it is over; None where it may go on."""
    text = begun.decode("utf-8", errors="replace").lstrip()
    if not last:
        return text.rstrip() or END
    if not text:
        return None
    found = _WORD.match(text)
    if found is None:
        return None if text[0] == "\N{REPLACEMENT CHARACTER}" else text[0]
    behind = text[found.end() :]
    if not behind or (len(behind) == 1 and behind in _INSIDE) or behind[0] == "\N{REPLACEMENT CHARACTER}":
        return None
    return found[0]
