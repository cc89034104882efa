"""The settings of a quantized base. Those of each method stand in `ptft_jax.config.methods`."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import Field, one_of, patterns, positive


class QuantizeOptions(Options):
    """`config.tune.quantize`: what the frozen base is kept in."""

    format: str = declared(
        one_of("none", "what the frozen base's kernels are kept in: none, nf4 or int8", "none", "nf4", "int8")
    )
    block: int = declared(positive(64, "inputs of an output that share a scale"))
    double: bool = declared(Field(True, "keep the scales in eight bits"))
    targets: tuple[str, ...] = declared(
        patterns(
            ("blocks/(attention|mlp)/(experts/)?(query|key|value|out|gate|up|down)",),
            "patterns of the linear layers' and experts' paths whose kernels are quantized",
        )
    )
