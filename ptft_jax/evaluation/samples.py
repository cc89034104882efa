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


def generate(
    loaded: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    sampling: decode.Sampling | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    use_adapter: Sequence[str] = (),
    on_text: Callable[[int, str], None] | None = None,
) -> list[Continuation]:
    """Continues texts with a loaded run (`ptft_jax.runs.loading.load`), as `ptft generate` does.

    Args:
      prompts: plain text; "" starts a new one.
      max_new_tokens: at most so many new tokens for each prompt.
      sampling: how tokens are chosen; None = at a temperature of 0.8. `Sampling(temperature=0)` takes the likeliest.
      seed: of the sampling. A prompt's continuation does not depend on the other prompts, but on its place among them: so of
        models that compute in float32. In bfloat16 the last bits of a score depend on how many rows are multiplied at once, and
        where two tokens are nearly as likely as each other, the choice does.
      stop: texts that end a continuation, and are cut off.
      use_adapter: of a run with several adapters, loaded with `together=True`: the name of one for each prompt.
      on_text: called with (number of the prompt, its continuation so far) while that grows.

    Returns:
      A `Continuation` for each prompt: `prompt`, `text` (what was added), `tokens` (how many that took) and `reason` (why it
      ended: "end", "stop" or "length").

    Raises:
      UserError: a model that writes no text, no prompt, a prompt that leaves no room for so many tokens, an empty stop text, an
        adapter that is not there.
    """
    for name, texts in (("prompts", prompts), ("stop", stop), ("use_adapter", use_adapter)):
        if isinstance(texts, str):
            raise UserError(f"{name} = {texts!r}: expected a list of texts, got one: [{texts!r}]")
    if not prompts:
        raise UserError("prompts is empty: the texts to continue are missing")
    if use_adapter and not loaded.model.several:
        raise UserError(f"--use_adapter: {loaded.source.name} is no run with several adapters")
    if loaded.model.several and not use_adapter:
        raise UserError(
            f"--use_adapter is missing: {loaded.source.name} has several adapters; give one of "
            f"{', '.join(loaded.model.adapt.names)} for each prompt"
        )
    if use_adapter and len(use_adapter) != len(prompts):
        raise UserError(f"--use_adapter: {len(use_adapter)} for {len(prompts)} prompts; give one for each --prompt")
    numbers = [loaded.model.adapt.number(name, "--use_adapter") for name in use_adapter] or None
    return continue_texts(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling or decode.Sampling(temperature=0.8),
        seed=seed,
        stop=stop,
        prefix=loaded.reads_prompt,
        gaps=loaded.gaps,
        adapters=numbers,
        on_text=on_text,
    )


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
