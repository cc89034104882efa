"""Evaluates a run's model on any data, and prints JSON.

python -m ptft_jax.verbs.eval --run=runs/base --data=stdlib:code --split=test
python -m ptft_jax.verbs.eval --run=runs/base@last --data=jsonl:questions.jsonl
python -m ptft_jax.verbs.eval --run=runs/base --data=jsonl:questions.jsonl --answers=exact,f1
python -m ptft_jax.verbs.eval --run=runs/base --data=text:notes --split=test --knn=indexes/notes
python -m ptft_jax.verbs.eval --run=runs/masked --data=images:digits --probe=ridge,knn --probe_shots=1,10,0
"""

from __future__ import annotations

import json
from typing import Any

from absl import flags

from ptft_jax.config.tree import TREE
from ptft_jax.verbs import answered, neighbors, probes, reading
from ptft_jax.verbs.command import define_number, define_source, launch, load_source, say, say_chosen


def define() -> None:
    define_source()
    flags.DEFINE_string(
        "data", "", "A data source, as config.data.source: all that it holds is measured; '' = the run's own."
    )
    flags.DEFINE_enum(
        "split",
        "",
        ["", "train", "validation", "test"],
        "Which part of the data; one that they lack is the share that training would hold out. '' = of the run's own the "
        "validation split; of --data all, and of several splits validation.",
    )
    define_number("tokens", 0, TREE["eval"]["tokens"], "Use only the first so many tokens; 0 = all.")
    flags.DEFINE_string(
        "objective",
        "",
        "What to measure by, as config.objective.name; '' = the run's own, of hf: and gguf: what their head is for.",
    )
    reading.define()
    define_number("batch_size", 16, TREE["data"]["batch_size"], "Rows at a time.")
    answered.define()
    neighbors.define()
    probes.define()


def main() -> None:
    args = flags.FLAGS
    from ptft_jax.evaluation.standalone import evaluate

    asked, looked_up, probed = answered.asked(), neighbors.asked(), probes.asked()
    page, out = probes.page()
    loaded = load_source()
    if probed:
        from ptft_jax.evaluation import probes as told

        options = {"batch_size": args.batch_size, "plugins": args.plugins, **probed, **reading.changes()}
        say_chosen(loaded.source)
        beside: list[dict[str, Any]] = []
        values = told.evaluate(loaded, args.data, args.split, neighbors=beside, **options)
        if page is not None:
            page.write(loaded.source.reference, values, beside, out)
            say(f"report: {out}")
        _print(loaded.source, values)
        return
    options = {
        "tokens": args.tokens,
        "batch_size": args.batch_size,
        "plugins": args.plugins,
        "objective": args.objective,
    }
    questions = answered.prepared(loaded, asked)
    values = evaluate(loaded, args.data, args.split, **options, **reading.changes())
    source = loaded.source
    say_chosen(source)
    say(
        f"{values['data']}: {values['split']}: {values['examples']:,} examples, {values['tokens_scored']:,} tokens scored"
    )
    if values["split"] == "all" and source.data and args.data in dict(((source.data.source, 1), *source.data.mixture)):
        say(f"{source.name} was trained on a part of this: --split=validation measures what was held out")
    if questions:
        values["answers"] = answered.answers(loaded, questions)
    if looked_up:
        from ptft_jax.evaluation import neighbors as states

        values["knn"] = states.evaluate(loaded, args.data, args.split, **looked_up, **options, **reading.changes())
    _print(source, values)


def _print(source: Any, values: dict[str, Any]) -> None:
    how = {"checkpoint": source.how} if getattr(source, "how", "") else {}
    print(json.dumps({"run": source.reference, "step": source.step, **how, **values}, indent=1))


if __name__ == "__main__":
    launch(define, main)
