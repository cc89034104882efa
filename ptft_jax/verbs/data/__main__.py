"""`ptft data VERB ...`, or `python -m ptft_jax.verbs.data VERB ...`. Imports nothing heavy until a verb runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from ptft_jax.errors import nearest

VERBS = {
    "prepare": "tokenize, filter and deduplicate sources into shards: --source=SOURCE --tokenizer=WHICH --out=DIR",
    "show": "print batches, token by token: --config=FILE, --run=DIR or --data=SOURCE",
    "stats": "lengths, vocabulary, masks, repeats, mixture: --config=FILE, --run=DIR or --data=SOURCE",
}


def main(words: Sequence[str]) -> None:
    """Runs a verb of data. `words`: the verb and its flags."""
    if not words or words[0] in ("-h", "--help", "help"):
        from ptft_jax.verbs.output import printed

        verbs = "\n".join(f"  {verb:<10} {meaning}" for verb, meaning in VERBS.items())
        printed(f"ptft data VERB [--flags]; ptft data VERB --help lists a verb's flags\n\n{verbs}")
        return
    verb = words[0]
    if verb not in VERBS:
        print(
            f"error: ptft data has no verb {verb!r}{nearest(verb, VERBS)}; it has {', '.join(VERBS)}", file=sys.stderr
        )
        sys.exit(2)
    from ptft_jax.verbs.command import launch

    module = importlib.import_module(f"ptft_jax.verbs.data.{verb}")
    launch(module.define, module.main, [f"ptft data {verb}", *words[1:]])


if __name__ == "__main__":
    main(sys.argv[1:])
