"""The settings of fine-tuning: what is added, what trains, and how far it may go from its start."""

from __future__ import annotations

from typing import Any

from ptft_jax.config.field import (
    Field,
    mass,
    natural,
    number,
    one_of,
    patterns,
    positive,
    rules,
    share,
    span,
    temperature,
    texts,
    whole_share,
)
from ptft_jax.config.methods import METHODS

TUNE: dict[str, Any] = {
    "method": Field(
        "full",
        f"what is added to the model: full = nothing, else {', '.join(METHODS)}, or several of them joined by '+'",
    ),
    "train": Field(
        "all",
        "of method=full, what trains: all, head, last:K, no_embeddings, biases, norms, attention (ptft_jax.params.recipes)",
    ),
    "layer_decay": mass(
        1.0, "factor of the learning rate from each block to the one below it, and to the embeddings; 1 = all alike"
    ),
    "l2_sp": natural(0.0, "weight of half the squared distance to where the run started, in the loss (L2-SP)"),
    "start_decay": natural(0.0, "decoupled decay to where the run started, times the rate"),
    "phases": Field(
        (),
        "((step, recipe), ...) or ((step, recipe, factor), ...): from each step (below 1: a share of training.steps) on only what the recipe (as tune.train) names "
        "is updated, of what the run trains, at factor times the rate",
    ),
    "unfreeze_every": span(
        0, "gradual unfreezing: the last block at first, one more from the top every so many steps, then all; 0 = no"
    ),
    "ewc": {
        "weight": natural(
            0.0, "of half the squared distance to the start, times each parameter's Fisher information (EWC); 0 = none"
        ),
        "rows": positive(256, "rows of the source's training split that the information is estimated on"),
        "labels": one_of(
            "sampled", "targets of the estimate: drawn from the parent, or those of the data", "sampled", "data"
        ),
        "draws": positive(1, "of labels=sampled: how often the targets of each row are drawn"),
        "gamma": whole_share(1.0, "factor of the information that the parent itself was kept near by (online EWC)"),
    },
    "distill": {
        "weight": natural(0.0, "of temperature^2 * KL(parent || model) on what is trained on (LwF); 0 = none"),
        "temperature": temperature(2.0, "that both models' logits are divided by", zero=False),
    },
    "mixout": {
        "rate": share(0.0, "probability that a parameter is the parent's in a step; 0 = none"),
        "parameters": patterns(
            (".*/kernel",), "patterns of the parameters that it is done to; never to what is re-initialized"
        ),
    },
    "smooth": {
        "method": one_of(
            "none", "same predictions with noise on the tokens' vectors: drawn, or the worst", "none", "r3f", "smart"
        ),
        "weight": positive(1.0, "of the symmetric divergence between predictions with and without noise"),
        "noise": positive(1e-5, "standard deviation of the noise, or half its width where it is uniform"),
        "distribution": one_of("normal", "of r3f's noise", "normal", "uniform"),
        "steps": positive(1, "of smart: steps of the ascent"),
        "step": positive(1e-3, "of smart: length of a step, in the largest entry of a row's noise"),
        "radius": positive(1e-5, "of smart: largest entry of the noise after a step"),
        "bregman": natural(
            0.0, "of smart: weight of the divergence from the averaged parameters (training.ema_decay); 0 = none"
        ),
    },
    "adapters": texts(
        (), "names, one for each source of data.mixture in their order: an adapter for each, which its rows alone train"
    ),
    "rates": rules(
        (), "((pattern, rate), ...): learning-rate multipliers by path rule, 0 freezes; () = the method's own", number
    ),
    "quantize": {
        "format": one_of(
            "none", "what the frozen base's kernels are kept in: none, nf4 or int8", "none", "nf4", "int8"
        ),
        "block": positive(64, "inputs of an output that share a scale"),
        "double": Field(True, "keep the scales in eight bits"),
        "targets": patterns(
            ("blocks/(attention|mlp)/(experts/)?(query|key|value|out|gate|up|down)",),
            "patterns of the linear layers' and experts' paths whose kernels are quantized",
        ),
    },
    **{name: spec.fields for name, spec in METHODS.items()},
}
