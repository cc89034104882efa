"""The settings of what holds a run near its start by data: EWC, distillation, mixout, smoothing."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import natural, one_of, patterns, positive, share, temperature, whole_share


class EwcOptions(Options):
    """`config.tune.ewc`: elastic weight consolidation."""

    weight: float = declared(
        natural(
            0.0, "of half the squared distance to the start, times each parameter's Fisher information (EWC); 0 = none"
        )
    )
    rows: int = declared(positive(256, "rows of the source's training split that the information is estimated on"))
    labels: str = declared(
        one_of("sampled", "targets of the estimate: drawn from the parent, or those of the data", "sampled", "data")
    )
    draws: int = declared(positive(1, "of labels=sampled: how often the targets of each row are drawn"))
    gamma: float = declared(
        whole_share(1.0, "factor of the information that the parent itself was kept near by (online EWC)")
    )


class DistillOptions(Options):
    """`config.tune.distill`: learning without forgetting."""

    weight: float = declared(
        natural(0.0, "of temperature^2 * KL(parent || model) on what is trained on (LwF); 0 = none")
    )
    temperature: float = declared(temperature(2.0, "that both models' logits are divided by", zero=False))


class MixoutOptions(Options):
    """`config.tune.mixout`: parameters that are the parent's now and then."""

    rate: float = declared(share(0.0, "probability that a parameter is the parent's in a step; 0 = none"))
    parameters: tuple[str, ...] = declared(
        patterns((".*/kernel",), "patterns of the parameters that it is done to; never to what is re-initialized")
    )


class SmoothOptions(Options):
    """`config.tune.smooth`: the same predictions with noise."""

    method: str = declared(
        one_of(
            "none", "same predictions with noise on the tokens' vectors: drawn, or the worst", "none", "r3f", "smart"
        )
    )
    weight: float = declared(positive(1.0, "of the symmetric divergence between predictions with and without noise"))
    noise: float = declared(positive(1e-5, "standard deviation of the noise, or half its width where it is uniform"))
    distribution: str = declared(one_of("normal", "of r3f's noise", "normal", "uniform"))
    steps: int = declared(positive(1, "of smart: steps of the ascent"))
    step: float = declared(positive(1e-3, "of smart: length of a step, in the largest entry of a row's noise"))
    radius: float = declared(positive(1e-5, "of smart: largest entry of the noise after a step"))
    bregman: float = declared(
        natural(0.0, "of smart: weight of the divergence from the averaged parameters (training.ema_decay); 0 = none")
    )
