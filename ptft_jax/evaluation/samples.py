"""Text in, text out: continuations of prompts, with stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    *,
    max_new_tokens: int,
    sampling: decode.Sampling,
    seed: int = 0,
    stop: Sequence[str] = (),
    on_text: Callable[[int, str], None] | None = None,
) -> list[Continuation]:
    """Continues each prompt until the end-of-text token, a stop text (which is cut off), or max_new_tokens.

    `on_text` is called with (row, text so far) while it grows. An empty prompt starts a new text.

    Raises:
      UserError: an empty stop text, or a prompt too long for the model.
    """
    if any(not text for text in stop):
        raise UserError("a stop text is empty: it would stop everything")
    found: dict[int, str] = {}

    def cut(row: int, ids: list[int]) -> int | None:
        text = tok.decode(tokenizer, ids)
        places = [text.find(s) for s in stop if s in text]
        if not places:
            return None
        found[row] = text[: min(places)]
        # The fewest tokens whose text reaches the stop: what came after it was never wanted.
        return next(n for n in range(len(ids) + 1) if len(tok.decode(tokenizer, ids[:n])) >= min(places))

    def show(row: int, ids: list[int]) -> None:
        if on_text:
            on_text(row, found.get(row, tok.decode(tokenizer, ids)))

    ids = [tokenizer.encode(p).tolist() or [tokenizer.end_id] for p in prompts]
    rows = decode.generate(
        model,
        params,
        ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        stop_ids=(tokenizer.end_id,),
        cut=cut if stop else None,
        on_tokens=show,
    )
    return [
        Continuation(prompt, found.get(i, tok.decode(tokenizer, row.ids)), len(row.ids), row.reason)
        for i, (prompt, row) in enumerate(zip(prompts, rows))
    ]
