"""`ptft_jax.experiments.graph` under its former name, which goes with version 0.3."""

from ptft_jax.experiments.graph import with_changes

__all__ = ["with_changes"]
