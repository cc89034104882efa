"""Writes an HTML report of one or more runs: curves, before and after, cost, samples.

python -m ptft_jax.verbs.report --run=runs/base --run=runs/lora --out=runs/report.html
"""

from __future__ import annotations

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.runs import bucket, places
from ptft_jax.verbs.command import launch


def define() -> None:
    flags.DEFINE_multi_string("run", [], "Workdir of a run; may be given more than once.")
    flags.DEFINE_string(
        "out", "", "The HTML file; '' = report.html in the first run's workdir (or its place in a bucket)."
    )


def main() -> None:
    args = flags.FLAGS
    if not args.run:
        raise UserError("--run is missing: a workdir, e.g. --run=runs/base")
    from ptft_jax.reporting.run_report import write

    workdirs = [places.run(name, f"--run={name}") for name in args.run]
    out = places.local(args.out, f"--out={args.out}") if args.out else workdirs[0] / "report.html"
    write(workdirs, out)
    made = () if args.out else (out.with_name("results.json"), out)
    if not all(bucket.published(workdirs[0].absolute(), path.absolute()) for path in made):
        raise UserError(f"{bucket.named(out)}: cannot be written; give a file of this machine, as --out=report.html")
    print(f"report: {out if args.out else bucket.url_of(out.absolute()) or out}")


if __name__ == "__main__":
    launch(define, main)
