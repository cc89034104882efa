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
from ptft_jax.verbs import scripts
from ptft_jax.verbs.command import launch, prepare_experiment


def define() -> None:
    scripts.define("runs/methods", "Runs of each way at its best rate.", takes="under an hour")
    flags.DEFINE_list("ways", [], "Only these, by name; all where none are given.")


def main() -> int:
    args = flags.FLAGS
    prepare_experiment()
    from experiments import methods_report
    from experiments.methods_runs import ways
    from experiments.methods_sweep import Sweep
    from ptft_jax.reporting.progress import Reporter

    chosen = {name: ways()[_known(name, ways())] for name in args.ways or ways()}
    sweep, reporter = Sweep(chosen, size=args.size, seeds=args.seeds), Reporter()
    done = scripts.carry_out(sweep.graph, reporter, may_diverge=True)
    tried = {name: sweep.tried(name, done) for name in chosen}
    averages = sweep.averages(done, tried["full"]) if "full" in tried else {}
    methods_report.write(done, reporter, chosen, done.finished("base"), tried, averages, seeds=args.seeds)
    return 0


def graph():
    """What `ptft experiment --file` carries out."""
    from experiments.methods_runs import ways
    from experiments.methods_sweep import Sweep

    return Sweep(ways(), size="demo", seeds=3).graph


def _known(name: str, known: dict) -> str:
    if name not in known:
        raise UserError(f"--ways: no way {name!r}, only {', '.join(known)}{nearest(name, known)}")
    return name


if __name__ == "__main__":
    launch(define, main)
