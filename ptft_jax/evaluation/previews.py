"""What a run writes to show how it is coming along."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.samples import continue_texts, prompt_ids
from ptft_jax.model import decode
from ptft_jax.model.decode import Sampling
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.partition import Partition
from ptft_jax.runs.state import TrainState


def build(
    config: configs.Section, model: Transformer, partition: Partition, tokenizer: tok.Tokenizer
) -> Callable[..., list[dict[str, Any]]]:
    """A function from a state to rows {"prompt", "text", "reason"} for `config.samples.prompts`; with several adapters, for
    each of them, and its name in "adapter". Its second argument is called every few tokens, and may raise to end it.

    Raises:
      UserError: a prompt that leaves no room for the new tokens.
    """
    s, objective = config.samples, config.tables.objectives[config.objective.name]
    if not s.prompts:
        return lambda state, check=None: []
    options: dict[str, Any] = {
        "max_new_tokens": s.max_new_tokens,
        "sampling": Sampling(temperature=s.temperature, top_p=s.top_p) if s.temperature else Sampling(temperature=0.0),
        "seed": config.seed,
        "prefix": objective.reads_prompt,
        "gaps": objective.gaps_of(tokenizer),
    }
    try:  # known now, and not after hours
        decode.check_room(model, prompt_ids(tokenizer, s.prompts, options["gaps"]), s.max_new_tokens)
    except UserError as e:
        raise UserError(f"config.samples: {e}") from e
    model, names = dataclasses.replace(model, constrain=None), tuple(config.tune.adapters)
    prompts, numbers = s.prompts, None
    if names:
        prompts = s.prompts * len(names)
        numbers = [n for n in range(len(names)) for _ in s.prompts]

    def sample(state: TrainState, check: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
        params = partition.merge(state.ema or state.trainable, state.frozen)
        rows = continue_texts(model, params, tokenizer, prompts, adapters=numbers, check=check, **options)
        found = [{"prompt": r.prompt, "text": r.text, "reason": r.reason} for r in rows]
        return [{**row, "adapter": names[n]} for row, n in zip(found, numbers or ())] if names else found

    return sample
