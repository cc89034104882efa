"""`ptft_jax.verbs.data` under its former name, which goes with version 0.3."""

import sys

from ptft_jax.verbs.data.__main__ import main

if __name__ == "__main__":
    main(sys.argv[1:])
