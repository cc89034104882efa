"""Trains: pre-training and fine-tuning alike.

python -m ptft_jax.train --config=configs/pretrain/shakespeare.py:small --workdir=runs/base
python -m ptft_jax.train --config=configs/finetune/shakespeare.py:lora --config.init.from=runs/base --workdir=runs/lora
"""

from __future__ import annotations

from absl import flags

from ptft_jax.config.field import natural
from ptft_jax.errors import UserError
from ptft_jax.reporting.clock import Clock, process_began, split
from ptft_jax.verbs.command import TERMINATED, define_config, define_number, launch, prepare_jax


def define() -> None:
    define_config()
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run, or gs://BUCKET/FOLDER, s3://BUCKET/FOLDER. A run that is there already is continued.",
    )
    define_number(
        "max_seconds",
        0.0,
        natural(0.0, ""),
        "Save and stop so many seconds after the command was given, its start among them (0 = no limit); the same command continues.",
    )
    define_number(
        "hung_seconds",
        0.0,
        natural(0.0, ""),
        "End, with exit status 143, where no step and no part of an evaluation has ended for so many seconds, and say where each process is; a "
        "compilation takes its time, too (0 = never).",
    )
    flags.DEFINE_string(
        "profile",
        "",
        "START:STOP: record a trace of the steps after START up to STOP, for XProf and Perfetto, into WORKDIR/profile.",
    )
    flags.DEFINE_string(
        "processes",
        "",
        "Several processes on one run, the same command in each: how many, or 'auto' where JAX finds that itself (TPU "
        "pods, SLURM, Open MPI, Kubernetes). They share the workdir.",
    )
    define_number("process", None, natural(0, ""), "Number of this process, from 0.")
    flags.DEFINE_string("coordinator", "", "HOST:PORT at which the others reach process 0.")


def main() -> int:
    args = flags.FLAGS
    if args.config is None:
        raise UserError(
            "--config is missing, e.g. --config=configs/pretrain/shakespeare.py:small; a run that is there already needs --workdir alone"
        )
    if not args.workdir:
        raise UserError("--workdir is missing: the folder of the run, e.g. --workdir=runs/base")
    clock = Clock(began=process_began())
    with clock("import"):
        prepare_jax()
        from ptft_jax.parallel import processes
    processes.join(args.coordinator, args.processes, args.process)
    with clock("import"):
        from ptft_jax.reporting.progress import Reporter
        from ptft_jax.reporting.summary_tables import before_and_after, measures
        from ptft_jax.training import assembly

    reporter = Reporter(quiet=not processes.main())
    summary = assembly.train(
        args.config,
        args.workdir,
        reporter=reporter,
        max_seconds=args.max_seconds,
        profile=args.profile,
        clock=clock,
        hung_seconds=args.hung_seconds,
    )
    if not summary["finished"]:
        return TERMINATED if summary["reason"] == "sigterm" else 0
    selected = summary["selected"]
    rows = before_and_after(summary["before"], summary["after"])
    reporter.table(f"{args.workdir}: best step {summary['best_step']} by {selected['metric']}", rows)
    for title, figures in measures(summary):
        reporter.table(title, figures)
    if seconds := summary.get("seconds_by"):  # of runs that an earlier version finished, nobody knows
        reporter.say(f"{summary['seconds']:.1f} s: {split(seconds)}")
    return 0


if __name__ == "__main__":
    launch(define, main)
