"""`ptft_jax.verbs.data` under its former name, which goes with version 0.3."""
