"""The settings of fine-tuning: what is added, what trains, and how far it may go from its start."""

from __future__ import annotations

from typing import Any

from ptft_jax.config.field import (
    Field,
    mass,
    natural,
    number,
    one_of,
    part,
    patterns,
    positive,
    rules,
    seed,
    share,
    temperature,
    texts,
    whole_share,
)

_LINEAR = ("blocks/(attention|mlp)/(query|key|value|out|gate|up|down)",)
_TARGETS = "patterns of the adapted linear layers' paths"


def _span(default: float, meaning: str) -> Field:
    """A number of updates, or a share of the run's."""
    return Field(
        default,
        f"{meaning}; below 1: a share of training.steps",
        valid=lambda v: 0 <= v < 1 or float(v).is_integer(),
        expected="a share from 0 to below 1, or a whole number of updates",
    )


TUNE: dict[str, Any] = {
    "method": Field(
        "full",
        "what is added to the model: full = nothing, else lora, adalora, vera, oft, ia3, bottleneck, prefix, gated_prefix, "
        "prompt, p_tuning, or several of them joined by '+'",
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
        "((step, recipe), ...) or ((step, recipe, factor), ...): from each step on only what the recipe (as tune.train) names "
        "is updated, of what the run trains, at factor times the rate",
    ),
    "unfreeze_every": natural(
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
            (".*/kernel",), "patterns of the parameters that it is done to; never to what is made anew"
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
            "patterns of the linear layers' and experts' paths whose kernels are quantised",
        ),
    },
    "lora": {
        "rank": positive(8, "rank of each update"),
        "alpha": positive(16.0, "scale = alpha / rank"),
        "rank_stabilized": Field(False, "scale = alpha / sqrt(rank) (rsLoRA)"),
        "dora": Field(False, "also learn each output's length, apart from its direction (DoRA)"),
        "dropout": share(0.0, "rate on the adapter's input"),
        "targets": patterns(
            _LINEAR, "patterns of the paths of adapted linear layers, tables (embed/tokens) and experts"
        ),
        "init": one_of(
            "uniform",
            "what training starts from: random numbers, the largest singular triplets (PiSSA) or a QR decomposition (OLoRA)",
            "uniform",
            "gaussian",
            "pissa",
            "olora",
        ),
        "b_ratio": positive(1.0, "learning rate of lora_b over that of lora_a; LoRA+ has 16, LoRA 1"),
    },
    "adalora": {
        "rank": positive(12, "triplets of each layer at the start"),
        "target_rank": positive(8, "triplets a layer at the end, on average"),
        "alpha": positive(32.0, "scale = alpha / rank"),
        "dropout": share(0.0, "rate on the adapter's input"),
        "t_init": _span(0.1, "updates before the first pruning"),
        "t_final": _span(0.3, "updates after the last pruning"),
        "delta_t": positive(10, "updates from one pruning to the next"),
        "beta1": part(0.85, "decay of the average of sensitivity"),
        "beta2": part(0.85, "decay of the average of uncertainty"),
        "orthogonal": natural(0.1, "weight of the penalty on vectors that are not orthonormal"),
        "targets": patterns(_LINEAR, _TARGETS),
    },
    "vera": {
        "rank": positive(256, "rank of the shared random matrices"),
        "d_init": positive(0.1, "what the vector between them starts at"),
        "dropout": share(0.0, "rate on the adapter's input"),
        "seed": seed(0, "of the random matrices"),
        "targets": patterns(_LINEAR, _TARGETS),
    },
    "oft": {
        "block_size": positive(32, "size of the rotated blocks of a layer's input"),
        "targets": patterns(_LINEAR, _TARGETS),
    },
    "ia3": {
        "targets": patterns(
            ("blocks/(attention/(key|value)|mlp/down)",), "patterns of the linear layers' paths that get a vector"
        ),
        "feedforward": patterns(("blocks/mlp/down",), "those of the targets whose input is scaled, not the output"),
    },
    "prompt": {
        "length": positive(20, "learned vectors before the tokens of every row"),
        "init": one_of(
            "vocabulary",
            "what they start from: random tokens' vectors, those of `text`, or noise",
            "vocabulary",
            "text",
            "random",
        ),
        "text": Field("", "of init=text: its tokens, repeated or cut to `length`", raw=True),
    },
    "p_tuning": {
        "length": positive(20, "vectors before the tokens of every row"),
        "hidden": positive(128, "size of the network that makes them while they are learned"),
        "encoder": one_of("mlp", "kind of that network", "mlp", "lstm"),
    },
    "prefix": {
        "length": positive(20, "learned keys and values before those of every row, in every layer"),
        "reparametrise": natural(
            0, "hidden size of one network that makes all layers' while they are learned; 0 = none"
        ),
    },
    "gated_prefix": {
        "length": positive(10, "learned vectors of each layer, which its attention sees through a gate"),
        "layers": natural(0, "how many of the last layers have them; 0 = all"),
    },
    "bottleneck": {
        "form": one_of(
            "pfeiffer", "behind the MLP, behind attention and MLP, or beside the MLP", "pfeiffer", "houlsby", "parallel"
        ),
        "size": positive(64, "of the hidden layer"),
        "activation": one_of("relu", "of the hidden layer", "relu", "gelu", "gelu_tanh", "silu"),
        "scale": natural(0.0, "factor of what is added; 0 = 4 of the parallel form, 1 of the others"),
        "dropout": share(0.0, "rate on the hidden layer"),
    },
}
