"""Text in, text out: continuations of prompts, with stop strings."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation import prompt_images
from ptft_jax.evaluation.stop_texts import StopTexts
from ptft_jax.model import decode
from ptft_jax.model.spec import IMAGE
from ptft_jax.model.transformer import Transformer
from ptft_jax.model.turned import Turned
from ptft_jax.params import finite
from ptft_jax.params.rules import flatten

SAMPLING = decode.Sampling(temperature=0.8)  # where nothing else is asked for
MAX_NEW_TOKENS = 64  # likewise, where there is room for so many
ENDED = ("end", "stop")  # why texts end that come to their end by themselves


class Continuation(NamedTuple):
    """A prompt, what the model wrote after it, how many tokens that took, and why it ended (end, stop, length, full)."""

    prompt: str
    text: str
    tokens: int
    reason: str


def generate(
    loaded: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    sampling: decode.Sampling | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    control_tokens: bool = False,
    use_adapter: Sequence[str] = (),
    draft: Any = None,
    draft_tokens: int | None = None,
    lookup: int = 0,
    places: int = decode.PLACES,
    release: bool = False,
    images: Sequence[Any] = (),
    on_text: Callable[[int, str], None] | None = None,
) -> list[Continuation]:
    """Continues texts with a loaded run (`ptft_jax.runs.loading.load`), as `ptft generate` does.

    Args:
      prompts: plain text; "" starts a new one.
      max_new_tokens: at most so many new tokens for each prompt; None = 64, or as many as the model has room for after it.
      sampling: how tokens are chosen; None = at a temperature of 0.8. `Sampling(temperature=0)` takes the likeliest.
      seed: of the sampling. A prompt's continuation does not depend on the other prompts, but on its place among them: the same
        prompt given twice is continued in two ways. That holds in float32; in bfloat16 the last bits of a score depend on how many
        rows are multiplied at once, and where two tokens are nearly as likely as each other, the choice does.
      stop: texts that end a continuation, and are cut off. One that is a control token's also ends it at that token.
      control_tokens: prompts that spell control tokens have them; else they are plain text.
      use_adapter: of a run with several adapters, loaded with `together=True`: the name of one for each prompt.
      draft: a smaller loaded run with the same tokenizer, which guesses tokens ahead; the model looks at them in one pass and keeps
        those that it would have chosen itself. That saves time, and changes no text: in float32.
      draft_tokens: how many it guesses at a time; None = 4.
      lookup: likewise, so many guesses ahead, of what followed the text's last tokens where they stood before; 0 = none.
      places: so many prompts at a time at most; where one ends, the next one takes its place.
      release: the loaded run is not used again, so its parameters need not be kept beside the form that generation reads.
      images: of a model that reads images before texts (`model.tower`): one for each prompt, or one for all; files, or arrays uint8 [H, W, C].
      on_text: called with (number of the prompt, its continuation so far) while that grows.

    Returns:
      A `Continuation` for each prompt: `prompt`, `text` (what was added), `tokens` (how many that took) and `reason` (why it
      ended: at an "end" token, at a "stop" text, at the "length" that was asked for, or "full": the model sees no more).

    Raises:
      UserError: a model that writes no text, or whose parameters are not finite; no prompt, a prompt that leaves no room for so
        many tokens, an empty stop text, an adapter that is not there, a draft that does not go with the model.
    """
    for name, texts in (("prompts", prompts), ("stop", stop), ("use_adapter", use_adapter)):
        if isinstance(texts, str):
            raise UserError(f"{name} = {texts!r}: expected a list of texts, got one: [{texts!r}]")
    if not prompts:
        raise UserError("prompts is empty: the texts to continue are missing")
    numbers = _adapters(loaded, use_adapter, len(prompts))
    check_writer(loaded)
    guesses = _guesses(loaded, draft, draft_tokens, lookup)
    release = release and (draft is None or draft.params is not loaded.params)
    return continue_texts(
        loaded.model,
        decode.laid_out(loaded.params, consume=release),
        loaded.tokenizer,
        prompts,
        max_new_tokens=MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens,
        fit=max_new_tokens is None,
        sampling=sampling or SAMPLING,
        seed=seed,
        stop=stop,
        control_tokens=control_tokens,
        prefix=loaded.reads_prompt,
        gaps=loaded.gaps,
        adapters=numbers,
        guesses=guesses,
        places=places,
        images=prompt_images.read(loaded, images, len(prompts)),
        on_text=on_text,
    )


def _adapters(loaded: Any, names: Sequence[str], prompts: int) -> list[int] | None:
    """The number of the adapter of each prompt. Raises UserError where a name is missing, or there is no such adapter."""
    if names and not loaded.model.several:
        raise UserError(f"--use_adapter: {loaded.source.name} is no run with several adapters")
    if loaded.model.several and not names:
        raise UserError(
            f"--use_adapter is missing: {loaded.source.name} has several adapters; give one of "
            f"{', '.join(loaded.model.adapt.names)} for each prompt"
        )
    if names and len(names) != prompts:
        raise UserError(f"--use_adapter: {len(names)} for {prompts} prompts; give one for each --prompt")
    return [loaded.model.adapt.number(name, "--use_adapter") for name in names] or None


def _guesses(loaded: Any, draft: Any, draft_tokens: int | None, lookup: int) -> decode.Guesses | None:
    """How tokens are guessed ahead. Raises UserError where they cannot be."""
    if draft is not None and lookup:
        raise UserError("--draft and --lookup: tokens are guessed by a draft or by looking them up; give one of them")
    if draft_tokens is not None and draft is None:
        raise UserError("--draft_tokens: there is no draft; give --draft, or the number of guesses as --lookup")
    if draft is None:
        guesses = decode.Guesses(lookup) if lookup else None
    else:
        check_writer(draft)
        if tok.fingerprint(draft.tokenizer) != tok.fingerprint(loaded.tokenizer):
            raise UserError(
                f"--draft: {_name(draft, 'the draft')} has another tokenizer than {_name(loaded, 'the model')}, so that its "
                "guesses are no tokens of the model's; choose a draft with the same one"
            )
        guesses = decode.Guesses(decode.AHEAD if draft_tokens is None else draft_tokens, (draft.model, draft.params))
    if guesses is not None:
        decode.check_guesses(loaded.model, guesses)
    return guesses


def check_writer(loaded: Any) -> None:
    """Raises UserError for a loaded run whose model writes no text, or none of its own: with parameters that are not finite."""
    decode.check_writes(loaded.model)
    finite.refuse(flatten(loaded.params), _name(loaded, "the model"), "\nno text comes of them")


def _name(loaded: Any, otherwise: str) -> str:
    return otherwise if loaded.source is None else loaded.source.name


def _by_path(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by path, those of several stacks of layers with the number of theirs."""
    stacks = params["blocks"]
    if isinstance(stacks, tuple):
        params = {k: v for k, v in params.items() if k != "blocks"} | {f"blocks[{n}]": s for n, s in enumerate(stacks)}
    return {path: leaf.by_output if isinstance(leaf, Turned) else leaf for path, leaf in flatten(params).items()}


def continue_texts(
    model: Transformer,
    params: Any,
    tokenizer: tok.Tokenizer,
    prompts: Sequence[str],
    gaps: Mapping[int, str] = types.MappingProxyType({}),
    control_tokens: bool = False,
    **options: Any,
) -> list[Continuation]:
    """Continues each prompt until a token that ends generation, a stop text (which is cut off), or max_new_tokens.

    Prompts are plain text, after what the tokenizer has texts start with. An empty prompt starts a new text. Where there are
    `gaps` (see `continue_ids`), those that a prompt spells are their tokens, and with `control_tokens` all that it spells are. The
    other options are those of `continue_ids`, and so are the errors.
    """
    decode.check_writes(model)
    ids = prompt_ids(tokenizer, prompts, gaps, control_tokens)
    if options.get("images") is not None:
        ids = prompt_images.placed(
            model.spec, tokenizer, [i if p else tokenizer.prefix_ids for p, i in zip(prompts, ids)]
        )
    rows = continue_ids(model, params, tokenizer, ids, gaps=gaps, **options)
    return [row._replace(prompt=prompt) for prompt, row in zip(prompts, rows)]


def prompt_ids(
    tokenizer: tok.Tokenizer, prompts: Sequence[str], gaps: Mapping[int, str], control_tokens: bool = False
) -> list[list[int]]:
    """What `continue_texts` gives the model of each prompt."""
    start = list(tokenizer.prefix_ids)
    if control_tokens:
        found = tokenizer.encode_all(prompts, special=True)
    elif gaps:
        found = [ids for ids, _ in tokenizer.encode_spans(prompts, [_outside(p, gaps.values()) for p in prompts])]
    else:
        found = tokenizer.encode_all(prompts)
    rows = []
    for ids in map(np.ndarray.tolist, found):
        spelled = control_tokens and ids[: len(start)] == start  # a prompt that has it written itself
        rows.append((ids if spelled else [*start, *ids]) or [tokenizer.end_id])
    return rows


def _outside(text: str, names: Iterable[str]) -> np.ndarray:
    """bool [characters]: those in none of these names."""
    outside = np.ones(len(text), bool)
    for found in re.finditer("|".join(map(re.escape, names)), text):
        outside[slice(*found.span())] = False
    return outside


class Written(NamedTuple):
    """What was written after a prompt: as text, cut at a stop text, and as it was generated."""

    text: str
    generated: decode.Generated


def continue_ids(*args: Any, **options: Any) -> list[Continuation]:
    """As `written_ids`: rows whose `prompt` is empty."""
    rows = written_ids(*args, **options)
    return [Continuation("", text, len(row.ids), row.reason) for text, row in rows]


def written_ids(
    model: Transformer,
    params: Any,
    tokenizer: tok.Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    fit: bool = False,
    sampling: decode.Sampling,
    seed: int = 0,
    stop: Sequence[str] = (),
    prefix: bool = False,
    gaps: Mapping[int, str] = types.MappingProxyType({}),
    apart: bool = False,
    adapters: Sequence[int] | None = None,
    guesses: decode.Guesses | None = None,
    places: int = decode.PLACES,
    on_text: Callable[[int, str], None] | None = None,
    check: Callable[[], None] | None = None,
    with_stop: bool = False,
    most: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    images: Sequence[np.ndarray] | None = None,
    **shown: bool,
) -> list[Written]:
    """Continues prompts of token ids.

    Args:
      max_new_tokens, fit, guesses, places, most, numbers, images, shown: as of `decode.generate` (`logprobs`, `support`).
      stop: texts that end a row, whether the model writes their characters or the control tokens that they spell.
      prefix: the model reads a prompt in both directions (prefix LM).
      gaps: of a model trained by span corruption, the tokens that stand for gaps in a prompt, id -> text. It answers with
        each of them and what is to fill it, so they are shown.
      adapters: which adapter each row has, in a model with several.
      apart: the continuation is a text of its own, such as an answer, not the rest of the prompt's: some tokenizers
        drop the space that a text starts with.
      on_text: called with (row, text so far) while it grows, without what may still change.
      check: called every few tokens; may raise to end it.
      with_stop: the ids of a row that a stop text ends are up to the end of that text, not up to its start; its text is as ever.

    Raises:
      UserError: an empty stop text, a prompt too long for the model, or logits that are not finite.
    """
    texts = prompts if images is None else [[i for i in ids if i != IMAGE] for ids in prompts]
    stops = StopTexts(tokenizer, stop, texts, gaps=gaps, apart=apart, with_stop=with_stop)

    def show(row: int, ids: list[int]) -> None:
        assert on_text is not None
        on_text(row, stops.text_so_far(row, ids))

    try:
        rows = decode.generate(
            model,
            params,
            prompts,
            max_new_tokens=max_new_tokens,
            fit=fit,
            sampling=sampling,
            seed=seed,
            stop_ids=stops.ids,
            prefix=prefix,
            adapters=adapters,
            guesses=guesses,
            places=places,
            cut=stops.cut if stop else None,
            on_tokens=show if on_text else None,
            check=check,
            most=most,
            numbers=numbers,
            images=images,
            **shown,
        )
    except decode.NotFinite as e:
        finite.refuse(_by_path(params), str(e))
        raise decode.NotFinite(f"{e}; the parameters are finite, so they overflow {model.spec.dtype}") from e
    return [Written(stops.text(i, row.ids), row) for i, row in enumerate(rows)]
