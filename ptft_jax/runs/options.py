"""The settings of what a run starts from, and of which of its checkpoints stay."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import Field, one_of, patterns, positive, span


class InitOptions(Options):
    """`config.init`: what a run starts from."""

    from_: str = declared(
        Field(
            "",
            "start from a run, WORKDIR[@best|@last|@STEP][#ADAPTER] (its best where nothing is said); or from weights, hf:FOLDER, hf:NAME, gguf:FILE; '' = random parameters",
        )
    )
    adapter: str = declared(
        Field("", "a folder in PEFT's format: start with this adapter on the parent, and train it on")
    )
    ignore: tuple[str, ...] = declared(patterns((), "patterns of the parent's tensors that may be left out"))
    fresh: tuple[str, ...] = declared(
        patterns((), "patterns of parameters that are re-initialized, not taken from the parent (a new head)")
    )
    merge_into: str = declared(
        one_of(
            "",
            "of a parent that was trained on a quantized base, which kernels its adapter is added to: those it was trained "
            "on, or the base's own",
            "",
            "dequantized",
            "original",
        )
    )
    resize: bool = declared(
        Field(
            False,
            "of images: model.image_size, model.patch_size and model.max_length are as given here, not the parent's: positions are interpolated, "
            "and what patches are multiplied by is resampled",
        )
    )
    optimizer: bool = declared(
        Field(
            False,
            "go on from the run in init.from where it was: its step, optimizer and average, under a schedule, length, rate, data or "
            "evaluation plan that may differ",
        )
    )
    weights: str = declared(
        one_of("auto", "of a parent that kept an average: its average (auto) or not", "auto", "raw", "ema")
    )


class CheckpointOptions(Options):
    """`config.checkpoint`: when a run is saved, and which of its checkpoints stay."""

    every: float = declared(span(0, "steps between saves besides those of new best values; 0 = none besides"))
    local: str = declared(
        Field(
            "",
            "a folder of this machine's own disk, for checkpoints that are saved more often than in the workdir; '' = none",
        )
    )
    local_every: float = declared(span(0, "of checkpoint.local: steps between saves there"))
    keep_latest: int = declared(positive(1, "latest checkpoints kept"))
    keep_best: int = declared(positive(1, "best checkpoints kept"))
