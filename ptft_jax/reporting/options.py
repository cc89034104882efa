"""The settings of what is written down of a run."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import Field, span, texts


class LogOptions(Options):
    """`config.log`: what is written down while a model trains, and who is told."""

    every: float = declared(span(10, "steps between logged training metrics", least=1))
    tensorboard: bool = declared(Field(True, "also write TensorBoard event files"))
    trackers: tuple[str, ...] = declared(
        texts(
            (), "services that are told, too: wandb, mlflow, aim (each is an extra of the package), or those of plugins"
        )
    )
