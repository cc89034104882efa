"""Which way to fine-tune gains most, forgets least and costs least?

Pre-trains a small GPT on Shakespeare's plays, then fine-tunes it on little Python code in every way there is: full updates,
subsets, adapters, and full updates under a hold. Each way is tried at three learning rates, and at more while the best is
the lowest or the highest of them; the best on validation data is repeated with other seeds. A run whose loss is not finite is
recorded as diverged, and the others go on. Then averages of the start and the end, and of the seeds, are measured. Writes
results.json and report.html: the table, gain against forgetting with the Pareto front, and published comparisons held
against it.

  python -m experiments.methods --out=runs/methods
"""

from __future__ import annotations

from absl import flags

from ptft_jax.errors import UserError, nearest
from ptft_jax.verbs.command import TERMINATED, launch, prepare_experiment


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
    from experiments import methods_report
    from experiments.methods_runs import ways
    from experiments.methods_sweep import Runs
    from ptft_jax.experiments.graph import Experiment, Interrupted
    from ptft_jax.reporting.progress import Reporter

    chosen = {name: ways()[_known(name, ways())] for name in args.ways or ways()}
    reporter = Reporter()
    experiment = Experiment(args.out, reporter)
    try:
        with reporter:
            runs = Runs(experiment, chosen, size=args.size, seeds=args.seeds)
            base = runs.base()
            tried = {name: runs.tried(name) for name in chosen}
    except Interrupted as e:
        reporter.say(f"stopped by {e}; the same command continues")
        return TERMINATED
    methods_report.write(experiment, chosen, base, tried, seeds=args.seeds)
    return 0


def _known(name: str, known: dict) -> str:
    if name not in known:
        raise UserError(f"--ways: no way {name!r}, only {', '.join(known)}{nearest(name, known)}")
    return name


if __name__ == "__main__":
    launch(define, main)
