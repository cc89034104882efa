"""Adapters: small modules placed into a frozen model. Which of them a config asks for; loads JAX when a method is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ptft_jax.config.methods import METHODS, MethodSpec
from ptft_jax.errors import UserError, nearest
from ptft_jax.params import recipes

if TYPE_CHECKING:
    from ptft_jax.adapters.base import Method
    from ptft_jax.config.tune import TuneOptions

__all__ = ["METHODS", "MethodSpec", "build", "learning_rate", "rates"]


def build(config: TuneOptions, encode: Callable[[str], Iterable[int]] | None = None) -> Method | None:
    """What `config.tune` adds to the model, or None where `tune.method` is "full". Several names, joined by "+", are
    several methods at once; `tune.adapters` names as many adapters, of which each row has its own.

    Args:
      encode: a text to token ids, for methods that start from a text. Without it they can hold parameters that are there
        already, but start none.

    Raises:
      UserError: a name that is not there, or there twice; a text without tokens; a quantized base that would train.
    """
    from ptft_jax.adapters import quantized

    return quantized.build(config.quantize, _method(config, encode))


def _method(config: TuneOptions, encode: Callable[[str], Iterable[int]] | None) -> Method | None:
    from ptft_jax.adapters import composed, multi_adapter

    made = _single(config)
    if not made:
        return None
    if encode is not None:
        made = [method.encoded(encode) for method in made]
    return multi_adapter.of(made[0] if len(made) == 1 else composed.Composed(tuple(made)), tuple(config.adapters))


def _single(config: TuneOptions) -> list[Method]:
    """The methods that `tune.method` names, one by one."""
    if config.method == "full":
        return []
    names, table = config.method.split("+"), config.tables.methods
    for name in names:
        if name not in table or names.count(name) > 1:
            known = "full, or one or more (joined by '+') of " + ", ".join(table)
            raise UserError(f"config.tune.method = {config.method!r}: expected {known}{nearest(name, table)}")
    return [table[name](config[name]) for name in names]


def rates(config: TuneOptions, reinitialized: tuple[str, ...] = ()) -> tuple[tuple[str, float], ...]:
    """The rules of what trains and at which rate: `config.tune.rates`; where that is empty, the adapter of the method, or
    the recipe `config.tune.train`, with what is `reinitialized`. Raises UserError for an unknown method or recipe, and for a
    rate of the method's that `config.tune.rates` would silence."""
    given = tuple((str(pattern), rate) for pattern, rate in config.rates)
    if given:
        for method in _single(config):
            method.refuse_rates()
        return given
    method = build(config)
    if method is None:
        return recipes.rules(config.train, reinitialized)
    return (*((pattern, 1.0) for pattern in reinitialized), *method.rates, (".*", 0.0))


def learning_rate(config: TuneOptions) -> float:
    """The peak rate of fine-tuning by `config.tune`, where none is given: the method's, or that of the recipe."""
    method = build(config)
    return recipes.learning_rate(config.train) if method is None else method.learning_rate
