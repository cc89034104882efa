"""What does pre-training buy, and what does fine-tuning cost?

Pre-trains a small GPT on Shakespeare's plays without the histories, then specializes it on little data four ways (from
scratch, full, frozen subset, low-rank), on a near target (plays about the Wars of the Roses) and a far one (Python
code), and with a learning rate 100 times too high. Writes results.json and report.html.

  python -m experiments.transfer --out=runs/demo
"""

from __future__ import annotations

from absl import flags

from ptft_jax.verbs.command import TERMINATED, launch, prepare_experiment


def define() -> None:
    flags.DEFINE_string("out", "runs/demo", "Folder of the experiment.")
    flags.DEFINE_integer(
        "seeds", 3, "Second-stage runs of each kind on the near target; one less on the far.", lower_bound=3
    )
    flags.DEFINE_enum("size", "demo", ["demo", "tiny"], "demo: minutes on two CPU cores; tiny: only to see it run.")


def main() -> int:
    args = flags.FLAGS
    prepare_experiment()
    from experiments import transfer_report
    from experiments.transfer_runs import DANGERS, METHODS, TARGETS, base_config, seeds_of, tune_config
    from ptft_jax.experiments.graph import Experiment, Interrupted
    from ptft_jax.reporting.progress import Reporter

    reporter = Reporter()
    experiment = Experiment(args.out, reporter)
    summaries = {}
    try:
        with reporter:
            base = str(experiment.workdir("base"))
            plan = [
                (target, kind, seed)
                for target in TARGETS
                for kind in METHODS + (DANGERS if target == "roses" else ())
                for seed in seeds_of(target, args.seeds)
            ]
            experiment.expect(1 + len(plan))
            summaries["base"] = experiment.run("base", base_config(args.size))
            for target, kind, seed in plan:
                config = tune_config(args.size, base, target, kind, seed)
                name = f"{target}-{kind}-seed{seed}"
                summaries[name] = experiment.run(name, config)
    except Interrupted as e:
        reporter.say(f"stopped by {e}; the same command continues")
        return TERMINATED
    transfer_report.write(experiment, summaries, seeds=args.seeds)
    return 0


if __name__ == "__main__":
    launch(define, main)
