"""`ptft_jax.runs.loading` under its former name, which goes with version 0.3."""

from ptft_jax.runs.loading import Loaded, load

__all__ = ["Loaded", "load"]
