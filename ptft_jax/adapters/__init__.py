"""Adapters: small modules placed into a frozen model. The registry of fine-tuning methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ptft_jax.adapters import quantized, several
from ptft_jax.adapters.adalora import AdaLora
from ptft_jax.adapters.base import Encode, Method
from ptft_jax.adapters.bottleneck import Bottleneck
from ptft_jax.adapters.composed import Composed
from ptft_jax.adapters.dora import Dora
from ptft_jax.adapters.gated_prefix import GatedPrefix
from ptft_jax.adapters.ia3 import Ia3
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.oft import Oft
from ptft_jax.adapters.p_tuning import PTuning
from ptft_jax.adapters.prefix import Prefix
from ptft_jax.adapters.prompt import Prompt
from ptft_jax.adapters.vera import Vera
from ptft_jax.config.tune import TUNE
from ptft_jax.errors import UserError, nearest
from ptft_jax.params import recipes


def _lora(section: Any) -> Lora:
    return (Dora if section.dora else Lora)(
        rank=section.rank,
        alpha=section.alpha,
        rank_stabilized=section.rank_stabilized,
        dropout=section.dropout,
        targets=tuple(section.targets),
        init=section.init,
        b_ratio=section.b_ratio,
    )


_PRUNING = ("t_init", "t_final", "delta_t", "beta1", "beta2")


def _adalora(section: Any) -> AdaLora:
    if section.target_rank == section.rank:
        idle = [name for name in _PRUNING if section[name] != TUNE["adalora"][name].default]
        if idle:
            raise UserError(
                f"config.tune.adalora.{idle[0]} = {section[idle[0]]!r} has no effect: target_rank is rank, {section.rank}, so nothing "
                "is pruned"
            )
    return AdaLora(**{**section.read_all(), "targets": tuple(section.targets)})


def _vera(section: Any) -> Vera:
    return Vera(**{**section.read_all(), "targets": tuple(section.targets)})


def _oft(section: Any) -> Oft:
    return Oft(section.block_size, tuple(section.targets))


def _ia3(section: Any) -> Ia3:
    return Ia3(tuple(section.targets), tuple(section.feedforward))


def _prompt(section: Any) -> Prompt:
    return Prompt(section.length, section.init, section.text if section.init == "text" else "")


def _plain(method: Callable[..., Method]) -> Callable[[Any], Method]:
    return lambda section: method(**section.read_all())


# By the name of the method, which is also that of its section of `config.tune`.
METHODS: Mapping[str, Callable[[Any], Method]] = {
    "lora": _lora,
    "adalora": _adalora,
    "vera": _vera,
    "oft": _oft,
    "ia3": _ia3,
    "bottleneck": _plain(Bottleneck),
    "prefix": _plain(Prefix),
    "gated_prefix": _plain(GatedPrefix),
    "prompt": _prompt,
    "p_tuning": _plain(PTuning),
}


def build(config: Any, encode: Encode | None = None) -> Method | None:
    """What `config.tune` adds to the model, or None where `tune.method` is "full". Several names, joined by "+", are
    several methods at once; `tune.adapters` names as many adapters, of which each row has its own.

    Args:
      encode: a text to token ids, for methods that start from a text. Without it they can hold parameters that are there
        already, but start none.

    Raises:
      UserError: a name that is not there, or there twice; a text without tokens; a quantised base that would train.
    """
    return quantized.build(config.quantize, _method(config, encode))


def _method(config: Any, encode: Encode | None) -> Method | None:
    if config.method == "full":
        return None
    names = config.method.split("+")
    for name in names:
        if name not in METHODS or names.count(name) > 1:
            known = "full, or one or more (joined by '+') of " + ", ".join(METHODS)
            raise UserError(f"config.tune.method = {config.method!r}: expected {known}{nearest(name, METHODS)}")
    made = [METHODS[name](config[name]) for name in names]
    if encode is not None:
        made = [method.encoded(encode) for method in made]
    return several.of(made[0] if len(made) == 1 else Composed(tuple(made)), tuple(config.adapters))


def rates(config: Any, made_anew: tuple[str, ...] = ()) -> tuple[tuple[str, float], ...]:
    """The rules of what trains and at which rate: `config.tune.rates`; where that is empty, the adapter of the method, or
    the recipe `config.tune.train`, with what is `made_anew`. Raises UserError for an unknown method or recipe, and for a
    rate of the method's that `config.tune.rates` would silence."""
    given = tuple((str(pattern), rate) for pattern, rate in config.rates)
    if given:
        if "gated_prefix" in config.method.split("+") and config.gated_prefix.layers:
            rule = f"('blocks[-{config.gated_prefix.layers}:]/attention/prefix/.*', 1.0)"
            raise UserError(
                f"config.tune.gated_prefix.layers = {config.gated_prefix.layers}: config.tune.rates says all rates, so it would have "
                f"no effect; leave it at 0 and put {rule} in tune.rates"
            )
        if "lora" in config.method.split("+") and config.lora.b_ratio != 1:
            rule = f"('.*/adapter/lora_b', {config.lora.b_ratio:g})"
            raise UserError(
                f"config.tune.lora.b_ratio = {config.lora.b_ratio:g}: config.tune.rates says all rates, so it would have no "
                f"effect; leave it at 1 and put {rule} first in tune.rates"
            )
        return given
    method = build(config)
    if method is None:
        return recipes.rules(config.train, made_anew)
    return (*((pattern, 1.0) for pattern in made_anew), *method.rates, (".*", 0.0))


def learning_rate(config: Any) -> float:
    """The peak rate of fine-tuning by `config.tune`, where none is given: the method's, or that of the recipe."""
    method = build(config)
    return recipes.learning_rate(config.train) if method is None else method.learning_rate
