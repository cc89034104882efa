"""Says whether a training step fits on machines that are not there, and how long it takes at least: compiled ahead of time.

python -m ptft_jax.verbs.plan --config=pretrain/text:NOTHING --config.model.vocab_size=32000 --topology=v5e:4x4
"""

from __future__ import annotations

import json

from absl import flags

from ptft_jax.config.field import natural
from ptft_jax.errors import UserError
from ptft_jax.verbs.command import define_config, define_number, launch


def define() -> None:
    define_config()
    flags.DEFINE_string(
        "topology",
        "",
        "Machine to compile for: v4, v5e, v5p, v6e or tpu7x with the shape of the slice (v5e:4x4; needs the extra tpu, and no TPU), or cpu:DEVICES.",
    )
    flags.DEFINE_bool(
        "tuned", False, "Plan fine-tuning of a parent that is not there: of the model that the config describes."
    )
    flags.DEFINE_bool(
        "search",
        False,
        "Try meshes, micro-batches and recomputation, and rank those that fit. Each takes a compilation.",
    )
    define_number(
        "cost", 0.0, natural(0.0, ""), "Dollars per chip and hour: prints what the run, or --tokens, costs at least."
    )
    define_number("tokens", 0.0, natural(0.0, ""), "Tokens to train on; 0 = the steps of the config.")
    flags.DEFINE_bool("json", False, "Print all of it as JSON.")


def main() -> int:
    args = flags.FLAGS
    if args.config is None:
        raise UserError("--config is missing, e.g. --config=pretrain/text:FOLDER --config.model.vocab_size=32000")
    if not args.topology:
        raise UserError("--topology is missing, e.g. --topology=v5e:4x4, or cpu:8")
    from ptft_jax.planning import topologies

    topologies.prepare(args.topology)
    topology = topologies.of(args.topology)
    if args.cost and topology.chip is None:
        raise UserError(
            f"--cost={args.cost:g}: the speed of --topology={args.topology} is not known, nor what a run costs there"
        )
    from ptft_jax.planning import plan, search, tables
    from ptft_jax.reporting.progress import Reporter

    reporter = Reporter()
    tuned = True if args.tuned else None
    if args.search:
        tried = search.tried(args.config, topology, tuned=tuned, reporter=reporter)
        found = search.best(tried)
    else:
        tried, found = [], plan.plan(args.config, topology, tuned=tuned)
    status = int(found.fits is False)
    budget = args.tokens or args.config.training.steps * found.tokens
    if args.json:
        print(
            json.dumps(
                {
                    "plan": tables.as_json(found),
                    "tried": [
                        {**tables.as_json(one.plan), "settings": one.settings, "reason": one.reason} for one in tried
                    ],
                },
                indent=1,
            )
        )
        return status
    for title, rows in tables.of(found, tried, tokens=budget, dollars=args.cost):
        reporter.table(title, rows)
    for line in tables.advice(args.config, found):
        reporter.say(line)
    return status


if __name__ == "__main__":
    launch(define, main)
