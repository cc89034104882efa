"""Adapters: small modules placed into a frozen model. The registry of fine-tuning methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ptft_jax.adapters.base import Method
from ptft_jax.adapters.dora import Dora
from ptft_jax.adapters.ia3 import Ia3
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.prompt import Prompt
from ptft_jax.params import recipes

ADAPTER_RATES = ((".*/adapter/.*", 1.0), (".*", 0.0))


def _lora(section: Any) -> Lora:
    return (Dora if section.dora else Lora)(
        rank=section.rank,
        alpha=section.alpha,
        rank_stabilized=section.rank_stabilized,
        dropout=section.dropout,
        targets=tuple(section.targets),
    )


def _ia3(section: Any) -> Ia3:
    return Ia3(tuple(section.targets), tuple(section.feedforward))


def _prompt(section: Any) -> Prompt:
    return Prompt(section.length, section.init)


# By the name of the method, which is also that of its section of `config.tune`.
METHODS: Mapping[str, Callable[[Any], Method]] = {"lora": _lora, "ia3": _ia3, "prompt": _prompt}


def build(config: Any) -> Method | None:
    """What `config.tune` adds to the model: an adapter, or None for methods that add nothing."""
    return METHODS[config.method](config[config.method]) if config.method in METHODS else None


def rates(config: Any, made_anew: tuple[str, ...] = ()) -> tuple[tuple[str, float], ...]:
    """The rules of what trains and at which rate: `config.tune.rates`; where that is empty, the adapter of the method, or
    the recipe `config.tune.train` with what is `made_anew`. Raises UserError for an unknown recipe."""
    given = tuple((str(pattern), rate) for pattern, rate in config.rates)
    if given:
        return given
    return ADAPTER_RATES if config.method in METHODS else recipes.rules(config.train, made_anew)
