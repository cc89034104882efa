"""Compares finished runs. Of one parent: what each gained on the target, what it forgot of the source, and what it cost; of others, in which
settings they differ and what came of them.

ptft compare runs/full runs/lora-seed0 runs/lora-seed1 --out=runs/compare.html --figures=svg,png
python -m ptft_jax.verbs.compare --sequence runs/task1 runs/task2

Runs that differ in nothing but the seed are one row, mean ± standard deviation. With --sequence the runs are a chain, each the
parent of the next: every stage is evaluated on the test split of every task. --at_gain=0.5 says what runs of one parent had forgotten
when they had gained 0.5 nats; by default at the largest gain that all of them reached.
"""

from __future__ import annotations

import csv
import pathlib
import sys
from typing import Any

from absl import flags

from ptft_jax.errors import UserError, nearest
from ptft_jax.runs import places
from ptft_jax.runs.lineage import parted
from ptft_jax.verbs.command import define_number, launch, prepare_jax

WORDS = "run"  # the flag that words without one belong to
_KINDS = ("svg", "png")


def define() -> None:
    from ptft_jax.config import field as fields

    flags.DEFINE_multi_string(
        "run", [], "A run, as WORKDIR or, of several adapters, WORKDIR#NAME; also without --run=."
    )
    flags.DEFINE_string("out", "", "The HTML file; '' = compare.html (sequence.html) in the first run's workdir.")
    flags.DEFINE_bool(
        "csv", False, "Print the table as CSV on standard output; a page is written where --out names one."
    )
    flags.DEFINE_list(
        "figures", [], "Kinds of files, of svg and png, that the page's plots are written to beside it, too."
    )
    define_number(
        "at_gain",
        None,
        fields.positive(1.0, ""),
        "Nats: what was forgotten at this gain, in place of the largest that all reached.",
    )
    flags.DEFINE_bool("any", False, "Runs of one parent, too, by settings and results alone.")
    flags.DEFINE_bool("sequence", False, "The runs are a chain: measure each stage on every task.")


def main() -> None:
    args = flags.FLAGS
    if not args.run:
        raise UserError("which runs? e.g. ptft compare runs/full runs/lora")
    if args.sequence and args.csv:
        raise UserError(
            "--csv is for the comparison of runs; the figures of a sequence are in the JSON file beside its page"
        )
    for kind in args.figures:
        if kind not in _KINDS:
            raise UserError(f"--figures={kind}: expected some of {', '.join(_KINDS)}{nearest(kind, _KINDS)}")
    if args.figures and args.csv and not args.out:
        raise UserError("--figures are those of a page, and with --csv one is written where --out names it")
    first = pathlib.Path(parted(args.run[0])[0])
    out = (
        places.local(args.out, f"--out={args.out}")
        if args.out
        else first / ("sequence.html" if args.sequence else "compare.html")
    )
    from ptft_jax.reporting.progress import Reporter

    reporter = Reporter()
    if args.sequence:
        _sequence(args.run, out, reporter)
    else:
        page = None if args.csv and not args.out else out
        _compare(args.run, page, reporter, args.csv)
        if page is None:
            return
    print(f"report: {out}", file=sys.stderr if args.csv else sys.stdout)


def _compare(references: list[str], out: pathlib.Path | None, reporter, as_csv: bool) -> None:
    from ptft_jax.reporting import comparison

    if out is not None:
        from ptft_jax.reporting import comparison_page  # needs an extra: said before anything is printed

    runs = comparison.distinct(references)
    if flags.FLAGS.any or not comparison.of_one_parent(runs):
        _compare_any(runs, out, reporter, as_csv)
        return
    groups = comparison.compare(runs, flags.FLAGS.at_gain)
    if as_csv:
        _print_csv(comparison.plain(groups))
    else:
        reporter.table("", comparison.table(groups, comparison.NARROW))
        for line in (comparison.further(groups), comparison.meanings(groups)):
            if line:
                reporter.say(line)
    if out is not None:
        comparison_page.write(groups, out, flags.FLAGS.figures)


def _compare_any(runs: list[Any], out: pathlib.Path | None, reporter, as_csv: bool) -> None:
    from ptft_jax.reporting import any_runs

    if flags.FLAGS.at_gain is not None:
        raise UserError("--at_gain is for runs of one parent that say what they gained and forgot")
    groups = any_runs.compare(runs)
    if as_csv:
        _print_csv(any_runs.plain(groups))
    else:
        reporter.table("", any_runs.table(groups, results=any_runs.narrow(groups)))
    for remark in any_runs.remarks(groups):
        reporter.say(f"caution: {remark}")
    if out is not None:
        any_runs.write(groups, out, flags.FLAGS.figures)


def _print_csv(rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _sequence(references: list[str], out: pathlib.Path, reporter) -> None:
    prepare_jax()
    from ptft_jax.evaluation import sequence
    from ptft_jax.reporting import comparison_page

    found = sequence.measure(references, say=reporter.say)
    for name in ("accuracy", "nll"):
        rows = zip(found["stages"], found[name]["matrix"])
        reporter.table(name, [{"": stage, **dict(zip(found["tasks"], row))} for stage, row in rows])
    reporter.table("transfer", comparison_page.sequence_table(found))
    comparison_page.write_sequence(found, out, flags.FLAGS.figures)


if __name__ == "__main__":
    launch(define, main, words=WORDS)
