"""What does pre-training buy, and what does fine-tuning cost?

Pre-trains a small GPT on Shakespeare's plays without the histories, then specializes it on little data four ways (from
scratch, full, frozen subset, low-rank), on a near target (plays about the Wars of the Roses) and a far one (Python
code), and with a learning rate 100 times too high. Writes results.json and report.html.

  python -m experiments.transfer --out=runs/demo
"""

from __future__ import annotations

from absl import flags

from ptft_jax.verbs import scripts
from ptft_jax.verbs.command import launch, prepare_experiment


def define() -> None:
    scripts.define("runs/demo", "Second-stage runs of each kind on the near target; one less on the far.", fewest=3)


def main() -> int:
    prepare_experiment()
    from experiments import transfer_report, transfer_runs
    from ptft_jax.reporting.progress import Reporter

    args, reporter = flags.FLAGS, Reporter()
    done = scripts.carry_out(transfer_runs.declared(args.size, args.seeds), reporter)
    transfer_report.write(done, reporter, seeds=args.seeds)
    return 0


def graph():
    """What `ptft experiment --file` carries out."""
    from experiments import transfer_runs

    return transfer_runs.declared("demo", 3)


if __name__ == "__main__":
    launch(define, main)
