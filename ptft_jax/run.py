"""`ptft_jax.training.assembly` under its former name, which goes with version 0.3."""

from ptft_jax.training.assembly import Run, device_rows, train

__all__ = ["Run", "device_rows", "train"]
