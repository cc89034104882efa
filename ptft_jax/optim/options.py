"""The settings of the update rule and of its schedule."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import Field, mass, natural, number, one_of, part, positive, rules, share, span


class OptimizerOptions(Options):
    """`config.optimizer`: the update rule, its rate over the steps, decay and clipping."""

    name: str = declared(one_of("adamw", "update rule", "adamw", "adafactor", "lion", "muon", "sgd"))
    learning_rate: float = declared(
        natural(0.0, "peak rate; 0 = 1e-3 for pre-training, the method's own (docs/methods.md) for tuning")
    )
    schedule: str = declared(
        one_of(
            "cosine",
            "shape after warm-up; slanted_triangular has its own",
            "cosine",
            "linear",
            "wsd",
            "constant",
            "rsqrt",
            "slanted_triangular",
        )
    )
    warmup_steps: float = declared(span(0, "steps of linear rise"))
    end_ratio: float = declared(
        Field(
            0.1,
            "last rate / peak rate, of cosine, linear and wsd: by default they end at a tenth of the peak, not at 0",
            valid=lambda v: 0 <= v <= 1,
            expected="0 to 1",
        )
    )
    decay_fraction: float = declared(mass(0.2, "share of steps in which wsd goes down"))
    cut_frac: float = declared(part(0.1, "of slanted_triangular: share of the steps in which the rate rises"))
    ratio: float = declared(
        Field(
            32.0,
            "of slanted_triangular: the peak rate over the first and last one",
            valid=lambda v: v >= 1,
            expected="a value of 1 or more",
        )
    )
    b1: float = declared(share(0.9, "first-moment decay of adamw, lion, muon's Adam"))
    b2: float = declared(
        share(0.95, "second-moment decay of adamw, lion, muon's Adam; other libraries' default is often 0.999")
    )
    eps: float = declared(positive(1e-8, "of adamw"))
    moments: str = declared(
        one_of("plain", "of adamw and lion: kept as training.state_dtype says, or in 8 bits each", "plain", "8bit")
    )
    memory: str = declared(
        one_of("device", "where the optimizer's state is between steps: on its device, or its host", "device", "host")
    )
    momentum: float = declared(share(0.95, "of sgd and muon"))
    weight_decay: float = declared(natural(0.1, "decoupled decay, times the rate"))
    decay_rules: tuple[tuple[str, float], ...] = declared(
        rules(
            (("(.*/)?(bias|scale|magnitude)", 0.0), (".*", 1.0)), "((pattern, multiplier), ...) of weight_decay", number
        )
    )
    clip_norm: float = declared(natural(1.0, "largest global norm of the trainable gradient; 0 = no clipping"))
