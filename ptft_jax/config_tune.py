"""The settings of fine-tuning: what is added, what trains, and how far it may go from its start."""

from __future__ import annotations

from typing import Any

from ptft_jax.config_fields import Field, natural, one_of, positive, share

TUNE: dict[str, Any] = {
    "method": Field(
        "full",
        "what is added to the model: full = nothing, else lora, ia3, prompt, or several of them joined by '+'",
    ),
    "train": Field(
        "all",
        "of method=full, what trains: all, head, last:K, no_embeddings, biases, norms, attention (ptft_jax.params.recipes)",
    ),
    "layer_decay": Field(
        1.0,
        "factor of the learning rate from each block to the one below it, and to the embeddings; 1 = all alike",
        valid=lambda v: 0 < v <= 1,
        expected="above 0, at most 1",
    ),
    "l2_sp": natural(0.0, "weight of half the squared distance to where the run started, in the loss (L2-SP)"),
    "start_decay": natural(0.0, "decoupled decay to where the run started, times the rate"),
    "adapters": Field(
        (), "names, one for each source of data.mixture in their order: an adapter for each, which its rows alone train"
    ),
    "rates": Field(
        (), "((pattern, rate), ...): learning-rate multipliers by path rule, 0 freezes; () = the method's own"
    ),
    "quantize": {
        "format": one_of(
            "none", "what the frozen base's kernels are kept in: none, nf4 or int8", "none", "nf4", "int8"
        ),
        "block": positive(64, "inputs of an output that share a scale"),
        "double": Field(True, "keep the scales in eight bits"),
        "targets": Field(
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
        "targets": Field(
            ("blocks/(attention|mlp)/(query|key|value|out|gate|up|down)",),
            "patterns of the paths of adapted linear layers, tables (embed/tokens) and experts",
        ),
    },
    "ia3": {
        "targets": Field(
            ("blocks/(attention/(key|value)|mlp/down)",), "patterns of the linear layers' paths that get a vector"
        ),
        "feedforward": Field(("blocks/mlp/down",), "those of the targets whose input is scaled, not the output"),
    },
    "prompt": {
        "length": positive(20, "learned vectors before the tokens of every row"),
        "init": one_of("vocabulary", "what they start from: random tokens' vectors or noise", "vocabulary", "random"),
    },
}
