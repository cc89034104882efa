"""Which way to fine-tune gains most, forgets least and costs least?

Pre-trains a small GPT on Shakespeare's plays, then fine-tunes it on little Python code in every way there is: full updates,
subsets, adapters, and full updates under a hold. Each way is tried at three learning rates, and at more while the best is
the lowest or the highest of them; the best on validation data is repeated with other seeds. Then averages of the start and
the end, and of the seeds, are measured. Writes results.json and
report.html: the table, gain against forgetting with the Pareto front, and published comparisons held against it.

  python -m experiments.methods --out=runs/methods
"""

from __future__ import annotations

import math

from absl import flags

from ptft_jax.errors import UserError, nearest
from ptft_jax.launch import TERMINATED, launch, prepare_experiment


def define() -> None:
    flags.DEFINE_string("out", "runs/methods", "Folder of the experiment.")
    flags.DEFINE_integer("seeds", 3, "Runs of each way at its best rate.", lower_bound=2)
    flags.DEFINE_list("ways", [], "Only these, by name; all where none are given.")
    flags.DEFINE_enum(
        "size", "demo", ["demo", "tiny"], "demo: under an hour on two CPU cores; tiny: only to see it run."
    )


def main() -> int:
    args = flags.FLAGS
    prepare_experiment()
    from experiments import methods_report, transfer_runs
    from experiments.methods_runs import name_of, next_rate, tune_config, ways
    from ptft_jax.experiment import Experiment, Interrupted
    from ptft_jax.reporting.progress import Reporter
    from ptft_jax.training.loop import NonFinite

    chosen = {name: ways()[_known(name, ways())] for name in args.ways or ways()}
    reporter = Reporter()
    experiment = Experiment(args.out, reporter)
    best: dict[str, float] = {}
    swept: dict[str, dict[float, dict]] = {}
    try:
        with reporter:
            base = str(experiment.workdir("base"))
            total = 1 + sum(len(way.rates) + args.seeds - 1 for way in chosen.values())
            experiment.expect(total)
            experiment.run("base", transfer_runs.base_config(args.size))
            for name, way in chosen.items():
                swept[name], losses, rates = {}, {}, list(way.rates)
                while rates:
                    rate = rates.pop(0)
                    try:
                        summary = experiment.run(name_of(name, rate, 0), tune_config(args.size, base, way, rate, 0))
                        swept[name][rate], losses[rate] = summary, summary["after"]["validation/nll"]
                    except NonFinite:
                        losses[rate] = math.inf
                        reporter.say(f"{name}: the loss is no number at a rate of {rate:g}")
                    if not rates and (beyond := next_rate(losses)) is not None:
                        rates.append(beyond)
                        total += 1
                        experiment.expect(total)
                best[name] = min(losses, key=losses.get)
                for seed in range(1, args.seeds):
                    experiment.run(name_of(name, best[name], seed), tune_config(args.size, base, way, best[name], seed))
    except Interrupted as e:
        reporter.say(f"stopped by {e}; the same command continues")
        return TERMINATED
    methods_report.write(experiment, chosen, swept, best, seeds=args.seeds)
    return 0


def _known(name: str, known: dict) -> str:
    if name not in known:
        raise UserError(f"--ways: no way {name!r}, only {', '.join(known)}{nearest(name, known)}")
    return name


if __name__ == "__main__":
    launch(define, main)
