"""`ptft_jax.verbs.chat` under its former name, which goes with version 0.3."""

from ptft_jax.verbs.chat import define, main
from ptft_jax.verbs.command import launch

if __name__ == "__main__":
    launch(define, main)
