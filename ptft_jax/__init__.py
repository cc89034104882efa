"""ptft_jax: pre-training and fine-tuning as two stages of one experiment, in JAX and Flax."""

__version__ = "0.1.0"
