"""What the verbs of experiments share: where and by what a graph is carried out, and what is said of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from ptft_jax.config.field import natural, positive
from ptft_jax.errors import UserError
from ptft_jax.verbs.command import define_number
from ptft_jax.verbs.output import printed


def define(out: str | None = None) -> None:
    """--out, which is `out` by default, --dry_run, --executor, --job, --max_parallel, --retries, --halve_micro_batch, --reuse."""
    flags.DEFINE_string("out", out, "Folder of the experiment. What is finished there is not carried out again.")
    flags.DEFINE_bool("dry_run", False, "Only say what would be done with each node, and why.")
    flags.DEFINE_string(
        "executor",
        "inline",
        "inline: one after the other, in this process; local: in processes of their own; ray: on the cluster of $RAY_ADDRESS, else one on this "
        "machine; slurm: as jobs of SLURM, by submitit; jobs: as jobs of `ptft launch`.",
    )
    flags.DEFINE_multi_string(
        "job",
        [],
        "With --executor=slurm: NAME=VALUE, what a job asks for, by submitit's names: timeout_min=60, slurm_partition=gpu, gpus_per_node=1, ... "
        "With --executor=jobs: by names of flags of `ptft launch`: on=tpu, topology=v5e:2x4, spot=true, ..., beside what launch.toml has. "
        "May be given more than once.",
    )
    define_number("max_parallel", 1, positive(1, ""), "Nodes at a time, among which accelerators are shared out.")
    define_number("retries", 2, natural(2, ""), "How often a node is begun again whose process somebody else ended.")
    flags.DEFINE_bool(
        "halve_micro_batch",
        False,
        "A run that has not enough memory is begun again with half the rows at a time, and as many as before in each step.",
    )
    flags.DEFINE_multi_string(
        "reuse", [], "Folder of another experiment, whose finished nodes are taken. May be given more than once."
    )


def check() -> None:
    """Raises UserError for flags that do not go together."""
    from ptft_jax.experiments import launch

    if not flags.FLAGS.out:
        raise UserError("--out is missing: the folder of the experiment, e.g. --out=runs/rates")
    args = flags.FLAGS
    if args.executor in ("ray", "slurm", "jobs"):  # which begins something
        _job(args.job, args.executor)
    else:
        launch.executor(args.executor, args.max_parallel, **_job(args.job, args.executor))


def _job(words: Sequence[str], executor: str) -> dict[str, Any]:
    """What a job asks for. Raises UserError."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UserError(f"--job={word}: expected NAME=VALUE, such as timeout_min=60")
        if executor not in ("slurm", "jobs"):
            raise UserError(f"--job={word}: of --executor=slurm and --executor=jobs alone, not of {executor}")
        if executor == "jobs":
            from ptft_jax.experiments.executors.as_jobs import LISTS

            if name in LISTS:
                found[name] = (*found.get(name, ()), value)
                continue
        if name in found:
            raise UserError(f"--job={word}: {name} is given twice")
        found[name] = int(value) if value.lstrip("-").isdigit() else value
    return found


def carry_out(graph: Any) -> int:
    """Carries a graph out, or says what would be done; the exit status, 1 where a node failed. Raises UserError."""
    if flags.FLAGS.dry_run:
        look(graph)
        return 0
    return _carried_out(lambda reporter: launch(graph, reporter))


def look(graph: Any) -> None:
    """Prints what would be done with each node, and why. Raises UserError."""
    from ptft_jax.experiments import launch, plan

    args = flags.FLAGS
    steps = launch.look(graph, args.out, args.reuse, estimated=True)
    printed(_text(plan.table(steps)))
    for note in (*plan.legend(steps), *graph.notes, plan.totals(steps, args.max_parallel)):
        printed(note)
    if graph.grows and not plan.ended(steps):
        printed("what comes after these follows from what they come to")


def launch(graph: Any, reporter: Any, *, show: bool = True) -> dict[str, dict[str, Any]]:
    """`ptft_jax.experiments.launch.launch` as the flags say. Raises UserError; `ptft_jax.experiments.scheduler.Stopped`."""
    from ptft_jax.experiments import launch

    return launch.launch(graph, flags.FLAGS.out, reporter=reporter, show=show, command=_command(), **_how())


def search(config: Any, asked: Any) -> int:
    """As `carry_out`, of a search (`ptft_jax.experiments.search.Search`)."""
    from ptft_jax.experiments import search as searches

    args = flags.FLAGS
    if args.dry_run:
        printed("\n".join(searches.look(config, asked, args.out)))
        return 0
    more, how = {"question": args.question, "command": _command()}, _how()
    if getattr(how["by"], "on", "slurm") != "slurm":
        raise UserError(
            "--search with --executor=jobs: trials write into one SQLite file, which a bucket that is mounted does not bear: --axis, or a search "
            "that is one job of `ptft launch`"
        )
    return _carried_out(lambda reporter: searches.search(config, asked, args.out, reporter=reporter, **more, **how))


def _carried_out(do: Callable[[Any], Mapping[str, Mapping[str, Any]]]) -> int:
    """The exit status of what `do` carries out, which it tells a reporter of."""
    from ptft_jax.experiments import scheduler, store
    from ptft_jax.reporting.progress import Reporter

    reporter = Reporter()
    try:
        with reporter:
            outcomes = do(reporter)
    except scheduler.Stopped as e:
        reporter.say(f"{e}; the same command continues")
        return e.status
    return int(any(outcome["status"] not in (*store.RESULTS, "pruned") for outcome in outcomes.values()))


def _how() -> dict[str, Any]:
    """What the flags say of how nodes are carried out. Raises UserError."""
    from ptft_jax.experiments import launch
    from ptft_jax.runs import places

    args = flags.FLAGS
    options = _job(args.job, args.executor)
    if args.executor == "slurm":
        options = {"folder": places.local(args.out, f"--out={args.out}") / "jobs", **options}
    if args.executor == "jobs":
        options = {"out": places.local(args.out, f"--out={args.out}"), **options}
    by = launch.executor(args.executor, args.max_parallel, **options)
    return {"by": by, "reuse": args.reuse, "retries": args.retries, "halve": args.halve_micro_batch}


def _command() -> list[str]:
    """What was typed: a verb, a module that is a program, or a file."""
    program, spec = sys.argv[0], getattr(sys.modules["__main__"], "__spec__", None)
    words = [re.sub(r"^(--?config\.init\.from)_(?==|$)", r"\1", word) for word in sys.argv[1:]]  # as absl has it
    if program.startswith("ptft "):
        return [*program.split(), *words]
    if spec is None:
        return ["python", program, *words]
    if spec.name.startswith("ptft_jax.verbs."):
        return ["ptft", *spec.name.removeprefix("ptft_jax.verbs.").split("."), *words]
    return ["python", "-m", spec.name.removesuffix(".__main__"), *words]


def _text(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys in columns."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines)
