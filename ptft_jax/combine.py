"""`ptft_jax.verbs.combine` under its former name, which goes with version 0.3."""

from ptft_jax.verbs.combine import define, main
from ptft_jax.verbs.command import launch

if __name__ == "__main__":
    launch(define, main)
