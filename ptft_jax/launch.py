"""`ptft_jax.verbs.command` under its former name, which goes with version 0.3."""

from ptft_jax.verbs.command import prepare_experiment, prepare_jax

__all__ = ["prepare_experiment", "prepare_jax"]
