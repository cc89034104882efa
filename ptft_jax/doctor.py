"""`ptft_jax.verbs.doctor` under its former name, which goes with version 0.3."""

from ptft_jax.verbs.command import launch
from ptft_jax.verbs.doctor import define, main

if __name__ == "__main__":
    launch(define, main)
