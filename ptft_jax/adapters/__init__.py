"""Adapters: small modules placed into a frozen model's linear layers. The registry of fine-tuning methods."""

from __future__ import annotations

from typing import Any

from ptft_jax.adapters.lora import Lora

ADAPTER_RATES = ((".*/adapter/.*", 1.0), (".*", 0.0))
FULL_RATES = ((".*", 1.0),)


def build(config: Any) -> Lora | None:
    """What `config.tune` adds to the model: an adapter, or None for methods that add nothing."""
    if config.method == "lora":
        lora = config.lora
        return Lora(
            rank=lora.rank,
            alpha=lora.alpha,
            rank_stabilized=lora.rank_stabilized,
            dropout=lora.dropout,
            targets=tuple(lora.targets),
        )
    return None


def rates(config: Any) -> tuple[tuple[str, float], ...]:
    """The rules of what trains and at which rate: `config.tune.rates`, or the method's own where that is empty."""
    given = tuple((str(pattern), rate) for pattern, rate in config.rates)
    return given or (ADAPTER_RATES if config.method == "lora" else FULL_RATES)
