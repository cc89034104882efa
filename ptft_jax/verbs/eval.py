"""Evaluates a run's model on any data, and prints JSON.

python -m ptft_jax.verbs.eval --run=runs/base@best --data=stdlib:code --split=test
"""

from __future__ import annotations

import json

from absl import flags

from ptft_jax.config.tree import TREE
from ptft_jax.verbs import reading
from ptft_jax.verbs.command import define_number, define_source, launch, load_source


def define() -> None:
    define_source()
    flags.DEFINE_string("data", "", "A data source, as config.data.source; '' = the run's own.")
    flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "Which part of the data.")
    define_number("tokens", 0, TREE["eval"]["tokens"], "Use only the first so many tokens; 0 = all.")
    flags.DEFINE_string(
        "objective",
        "",
        "What to measure by, as config.objective.name; '' = the run's own, of hf: and gguf: what their head is for.",
    )
    reading.define()
    define_number("batch_size", 16, TREE["data"]["batch_size"], "Rows at a time.")


def main() -> None:
    args = flags.FLAGS
    from ptft_jax.evaluation.standalone import evaluate

    loaded = load_source()
    options = {"tokens": args.tokens, "batch_size": args.batch_size, "plugins": args.plugins}
    values = evaluate(loaded, args.data, args.split, objective=args.objective, **options, **reading.changes())
    print(json.dumps({"run": loaded.source.reference, "step": loaded.source.step, **values}, indent=1))


if __name__ == "__main__":
    launch(define, main)
