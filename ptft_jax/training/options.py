"""The settings of the steps, and of which checkpoint is the best."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import Field, natural, one_of, positive, share


class TrainingOptions(Options):
    """`config.training`: how many steps, and what is kept beside the parameters."""

    steps: int = declared(natural(1000, "optimizer updates; 0 only evaluates and saves the start"))
    epochs: float = declared(
        natural(
            0.0,
            "passes over the training data, which set training.steps: rows are counted after packing, of a mixture those of all its "
            "sources; 0 = training.steps says",
        )
    )
    micro_batches: int = declared(positive(1, "gradient accumulation: rows at once = data.batch_size / this"))
    ema_decay: float = declared(
        share(0.0, "decay of an average of the trainable parameters, debiased, that is evaluated and kept; 0 = none")
    )
    state_dtype: str = declared(
        one_of(
            "float32",
            "what trains, its moments, average and start are kept in; bfloat16 is rounded stochastically, a step at a time",
            "float32",
            "bfloat16",
        )
    )


class SelectOptions(Options):
    """`config.select`: which checkpoint is the best, and when to stop before the end."""

    metric: str = declared(Field("validation/nll", "what the best checkpoint and early stopping look at"))
    mode: str = declared(
        one_of("auto", "whether smaller or larger values are better; auto = as the metric has it", "auto", "min", "max")
    )
    patience: int = declared(natural(0, "stop after so many evaluations in a row without a gain; 0 = never"))
    min_delta: float = declared(
        natural(0.0, "a gain is a value that is better by more than this than the last one that was a gain")
    )
    source_budget: float = declared(
        natural(
            0.0,
            "nats per token that source/nll may rise above its value before fine-tuning: what lies above is never the best; "
            "0 = no limit",
        )
    )
    stop_over_budget: bool = declared(Field(False, "stop at the first evaluation above source_budget"))
