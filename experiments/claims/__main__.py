"""Holds every claim of this folder against runs, and writes a table of verdicts.

Claims about one experiment share its graph, in a folder of --out; what is finished is not carried out again. `--docs` puts the
table, with a picture per claim, into a page.

  python -m experiments.claims --out=runs/claims --seeds=3
  python -m experiments.claims --only=too_high_a_rate_erases --seeds=2
"""

from __future__ import annotations

import importlib
import pathlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from absl import flags

from ptft_jax.errors import UserError, nearest
from ptft_jax.verbs import scripts
from ptft_jax.verbs.command import launch, prepare_experiment

from .. import verdicts
from ..verdicts import Claim

BEGIN, END = "<!-- claims: written by make claims -->", "<!-- end of claims -->"
KEPT = "claims.json"
NOT_RUN = {"verdict": "not run", "numbers": "", "criterion": ""}


def define() -> None:
    scripts.define(
        "runs/claims", "Runs of each way, pre-training included; of one there is no verdict.", fewest=1, takes="hours"
    )
    flags.DEFINE_list("only", [], "Names of claims, as their files have them; none = all.")
    flags.DEFINE_string("docs", "", "A page of Markdown whose table of claims is written again.")


def main() -> int:
    prepare_experiment()
    from ptft_jax.reporting import plots  # noqa: F401  # needs an extra: said before anything is trained
    from ptft_jax.reporting.progress import Reporter
    from ptft_jax.runs import places
    from ptft_jax.runs.files import read_json, write_json

    args, chosen = flags.FLAGS, _chosen(flags.FLAGS.only)
    out, page = places.local(args.out, f"--out={args.out}"), pathlib.Path(args.docs) if args.docs else None
    if page is not None:
        inserted(page.read_text(encoding="utf-8") if page.is_file() else "", "", str(page))
    reporter, failed = Reporter(), 0
    for experiment in dict.fromkeys(claim.of for claim in chosen.values()):
        here = {name: claim for name, claim in chosen.items() if claim.of == experiment}
        found = _measured(next(iter(here.values())).experiment, out / experiment, reporter)
        failed += found is None
        if not found:
            continue
        rows = read_json(out / KEPT) if (out / KEPT).is_file() else {}
        for name, claim in here.items():
            rows[name] = {**claim.judged(found), "seeds": args.seeds, "size": args.size}
            _draw(name, claim, found, out if page is None else page.parent / "figures" / "claims")
        write_json(out / KEPT, rows)
        reporter.table("claims", [rows[name] for name in here])
        if page is not None:
            text = inserted(page.read_text(encoding="utf-8"), table(every(), rows), str(page))
            page.write_text(text, encoding="utf-8")
    return 1 if failed else 0


def every() -> dict[str, Claim]:
    """The claims by the names of their files, in the order of these."""
    found = pkgutil.iter_modules([str(pathlib.Path(__file__).parent)])
    names = sorted(module.name for module in found if not module.name.startswith("_"))
    return {name: importlib.import_module(f"{__package__}.{name}").CLAIM for name in names}


def table(of: Mapping[str, Claim], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row per claim, with its command; `rows`: what came of those that were run."""
    lines = ["| claim | verdict | effect, ± over seeds | criterion | picture and command |", "|---|---|---|---|---|"]
    for name, claim in of.items():
        row = {**NOT_RUN, **rows.get(name, {})}
        seeds = f", {row['seeds']} seeds" if row.get("seeds", 0) > 1 else ""
        command = f"`--only={name}`"
        picture = f"[picture](figures/claims/{name}.svg), {command}" if name in rows else command
        cells = (
            f"{claim.said}: {claim.question}",
            f"{row['verdict']}{seeds}",
            row["numbers"],
            row["criterion"],
            picture,
        )
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def inserted(text: str, rows: str, where: str) -> str:
    """A page with the table between its two marks. Raises UserError for one without them."""
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise UserError(f"--docs={where}: there is no place for the table: the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{rows}\n{END}{after}"


def _chosen(names: list[str]) -> dict[str, Claim]:
    known = every()
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"--only={unknown[0]}: there is no such claim{nearest(unknown[0], known)}; there are {', '.join(known)}"
        )
    return {name: known[name] for name in names or known}


def _measured(experiment: Any, folder: pathlib.Path, reporter: Any) -> verdicts.Measured | None:
    """What was measured of all ways; None where a node came to nothing, which is said, and {} where nothing was to be carried out."""
    args = flags.FLAGS
    args.out = str(folder)
    try:
        with scripts.on_data(folder / "data", lambda data: experiment.declared(data, args.size, args.seeds)) as graph:
            found = verdicts.carried_out(graph, folder, reporter)
    except SystemExit as e:
        if e.code not in (0, 1):
            raise
        return {} if e.code == 0 else None
    return verdicts.by_seed(found, tuple(experiment.LABELS), experiment.NAMES, args.seeds)


def _draw(name: str, claim: Claim, measured: verdicts.Measured, folder: pathlib.Path) -> None:
    from ptft_jax.reporting import plots
    from ptft_jax.runs.files import write_text

    ways = {claim.experiment.LABELS[way]: row[claim.shows] for way, row in measured.items() if claim.shows in row}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.svg", plots.dots(ways, title=claim.shows, x="each seed"))


if __name__ == "__main__":
    launch(define, main)
