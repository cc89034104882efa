"""`ptft_jax.config.changes`, as graphs of runs use it."""

from ptft_jax.config.changes import with_changes

__all__ = ["with_changes"]
