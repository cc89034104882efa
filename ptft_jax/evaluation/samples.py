"""Text in, text out: continuations of prompts, with stop strings."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.model import decode
from ptft_jax.model.transformer import Transformer


class Continuation(NamedTuple):
    """A prompt, what the model wrote after it, how many tokens that took, and why it ended (end, stop, length)."""

    prompt: str
    text: str
    tokens: int
    reason: str


def continue_texts(
    model: Transformer,
    params: Any,
    tokenizer: tok.Tokenizer,
    prompts: Sequence[str],
    gaps: Mapping[int, str] = types.MappingProxyType({}),
    **options: Any,
) -> list[Continuation]:
    """Continues each prompt until a token that ends generation, a stop text (which is cut off), or max_new_tokens.

    Prompts are plain text, after what the tokenizer has texts start with. An empty prompt starts a new text. Where there are
    `gaps` (see `continue_ids`), those that a prompt spells are their tokens. The other options are those of `continue_ids`,
    and so are the errors.
    """
    decode.check_writes(model)
    ids = prompt_ids(tokenizer, prompts, gaps)
    rows = continue_ids(model, params, tokenizer, ids, gaps=gaps, **options)
    return [row._replace(prompt=prompt) for prompt, row in zip(prompts, rows)]


def prompt_ids(tokenizer: tok.Tokenizer, prompts: Sequence[str], gaps: Mapping[int, str]) -> list[list[int]]:
    """What `continue_texts` gives the model of each prompt."""
    start = list(tokenizer.prefix_ids)
    if gaps:
        found = [ids for ids, _ in tokenizer.encode_spans(prompts, [_outside(p, gaps.values()) for p in prompts])]
    else:
        found = tokenizer.encode_all(prompts)
    return [[*start, *ids.tolist()] or [tokenizer.end_id] for ids in found]


def _outside(text: str, names: Iterable[str]) -> np.ndarray:
    """bool [characters]: those in none of these names."""
    outside = np.ones(len(text), bool)
    for found in re.finditer("|".join(map(re.escape, names)), text):
        outside[slice(*found.span())] = False
    return outside


def continue_ids(
    model: Transformer,
    params: Any,
    tokenizer: tok.Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: decode.Sampling,
    seed: int = 0,
    stop: Sequence[str] = (),
    prefix: bool = False,
    gaps: Mapping[int, str] = types.MappingProxyType({}),
    apart: bool = False,
    adapters: Sequence[int] | None = None,
    on_text: Callable[[int, str], None] | None = None,
    check: Callable[[], None] | None = None,
) -> list[Continuation]:
    """Continues prompts of token ids.

    Args:
      stop: texts that end a row.
      prefix: the model reads a prompt in both directions (prefix LM).
      gaps: of a model trained by span corruption, the tokens that stand for gaps in a prompt, id -> text. It answers with
        each of them and what is to fill it, so they are shown.
      adapters: which adapter each row has, in a model with several.
      apart: the continuation is a text of its own, such as an answer, not the rest of the prompt's: some tokenizers
        drop the space that a text starts with.
      on_text: called with (row, text so far) while it grows, without what may still change.
      check: called every few tokens; may raise to end it.

    Returns:
      rows whose `prompt` is empty.

    Raises:
      UserError: an empty stop text, or a prompt too long for the model.
    """
    if any(not text for text in stop):
        raise UserError("a stop text is empty: it would stop everything")
    found: dict[int, str] = {}

    def written(row: int, ids: Sequence[int], decode: Callable[..., str] = tokenizer.decode_after) -> str:
        shown, context, start = "", () if apart else prompts[row], 0
        for at in (n for n, i in enumerate(ids) if i in gaps):
            shown += tokenizer.decode_after(context, ids[start:at]) + gaps[ids[at]]
            context, start = (), at + 1
        return shown + decode(context, ids[start:])

    def cut(row: int, ids: list[int]) -> int | None:
        text = written(row, ids)
        places = [text.find(s) for s in stop if s in text]
        if not places:
            return None
        found[row] = text[: min(places)]
        # The fewest tokens whose text reaches the stop: what came after it was never wanted.
        return next(n for n in range(len(ids) + 1) if len(written(row, ids[:n])) >= min(places))

    def show(row: int, ids: list[int]) -> None:
        if row in found:
            on_text(row, found[row])
            return
        text = written(row, ids, tokenizer.decode_settled)
        # The start of a stop text waits until it is known to be none.
        held = max((len(s) - 1 for s in stop), default=0)
        on_text(row, text[: max(len(text) - held, 0)])

    rows = decode.generate(
        model,
        params,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        stop_ids=tokenizer.stop_ids,
        prefix=prefix,
        adapters=adapters,
        cut=cut if stop else None,
        on_tokens=show if on_text else None,
        check=check,
    )
    return [Continuation("", found.get(i, written(i, row.ids)), len(row.ids), row.reason) for i, row in enumerate(rows)]
