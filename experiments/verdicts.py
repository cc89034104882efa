"""Claims held against measurements over seeds: what is said, by what it is judged, the numbers, and a verdict."""

from __future__ import annotations

import atexit
import contextlib
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from ptft_jax.verbs import scripts

HOLDS, FAILS, UNSHOWN = "holds", "does not hold", "not shown"
ONE = "one seed"  # in the place of a verdict: there is no spread to hold an effect against
SEEDS = 3
SPREADS = 3  # an effect of fewer standard deviations over seeds may be chance

# way -> what is measured -> a value for each seed.
Measured = Mapping[str, Mapping[str, Sequence[float]]]


class Part(NamedTuple):
    """One criterion of a claim: what is asked, what was measured, and what that says."""

    criterion: str
    numbers: str
    verdict: str


def reduced(what: str, before: Sequence[float], after: Sequence[float], factor: float) -> Part:
    """Whether the mean fell to 1/`factor` of what it was. That is not shown where the fall, or what the mean is above that, is under three
    times the larger spread."""
    was, now = statistics.mean(before), statistics.mean(after)
    spread = SPREADS * _spread(before, after)
    above = now - was / factor
    sure = above >= spread if above > 0 else 0 < was - now >= spread
    verdict = UNSHOWN if not sure else FAILS if above > 0 else HOLDS
    return Part(f"{what} down {factor:g}x", f"{figure(before)} -> {figure(after)}", verdict)


def at_most(what: str, values: Sequence[float], bound: float) -> Part:
    """Whether all seeds are within a bound; it does not hold where all are beyond it."""
    verdict = HOLDS if max(values) <= bound else FAILS if min(values) > bound else UNSHOWN
    return Part(f"{what} <= {bound:g}", figure(values), verdict)


def at_least(what: str, values: Sequence[float], bound: float) -> Part:
    """Whether all seeds reach a bound; it does not hold where none does."""
    verdict = HOLDS if min(values) >= bound else FAILS if max(values) < bound else UNSHOWN
    return Part(f"{what} >= {bound:g}", figure(values), verdict)


def below(what: str, rival: Sequence[float], values: Sequence[float]) -> Part:
    """Whether the mean is below that of a rival, by three times the larger spread; where it is as far above, it does not hold."""
    return Part(f"{what} below", f"{figure(values)} against {figure(rival)}", _larger(values, rival))


def above(what: str, rival: Sequence[float], values: Sequence[float]) -> Part:
    """Whether the mean is above that of a rival, as of `below`."""
    return Part(f"{what} above", f"{figure(values)} against {figure(rival)}", _larger(rival, values))


def _larger(smaller: Sequence[float], larger: Sequence[float]) -> str:
    gap, spread = statistics.mean(larger) - statistics.mean(smaller), SPREADS * _spread(smaller, larger)
    return UNSHOWN if gap == 0 or abs(gap) < spread else HOLDS if gap > 0 else FAILS


def more(what: str, rival: Sequence[float], values: Sequence[float], gain: float) -> Part:
    """Whether the mean is above that of a rival by `gain`, and by three times the larger spread; where it is below that by as much, it
    does not hold."""
    above, spread = statistics.mean(values) - statistics.mean(rival), SPREADS * _spread(rival, values)
    verdict = HOLDS if above >= max(gain, spread) else FAILS if above < gain - spread else UNSHOWN
    return Part(f"{what} higher by {gain:g}", f"{figure(values)} against {figure(rival)}", verdict)


def rising(what: str, groups: Sequence[Sequence[float]]) -> Part:
    """Whether the mean rises from the first group to the last by three times the largest spread, and nowhere falls by more than that."""
    means = [statistics.mean(values) for values in groups]
    spread = SPREADS * _spread(*groups)
    falls = any(after < before - spread for before, after in zip(means, means[1:]))
    verdict = FAILS if falls else HOLDS if means[-1] - means[0] > spread else UNSHOWN
    several = f" (± at most {spread / SPREADS:.3f})" if min(map(len, groups)) > 1 else ""
    return Part(f"{what} rises", " ".join(f"{mean:.3f}" for mean in means) + several, verdict)


class Claim(NamedTuple):
    """What is said, and what shows it: a file of `experiments.claims` each.

    Attributes:
      said: the claim; `question`: what is asked of runs.
      experiment: a module with LABELS, NAMES and `declared`, as of `main`.
      criterion: the parts by which what was measured is judged.
      shows: the measure that the picture has, of all ways.
    """

    said: str
    question: str
    experiment: Any
    criterion: Callable[[Measured], Sequence[Part]]
    shows: str

    @property
    def of(self) -> str:
        """The experiment's name."""
        return self.experiment.__name__.rpartition(".")[2]

    def judged(self, measured: Measured) -> dict[str, str]:
        """A row as of `claim`. Of one seed there is no verdict."""
        row = claim(self.said, *self.criterion(measured))
        alone = any(len(values) < 2 for way in measured.values() for values in way.values())
        return {**row, "verdict": ONE} if alone else row


def of_files(experiment: str) -> Callable[[Measured], list[dict[str, str]]]:
    """Gives the rows of the files in experiments/claims that are about an experiment, by its module's name."""

    def rows(measured: Measured) -> list[dict[str, str]]:
        from .claims.__main__ import every

        return [one.judged(measured) for one in every().values() if one.experiment.__name__ == experiment]

    return rows


def claim(said: str, *parts: Part) -> dict[str, str]:
    """A row: "claim", "criterion", "numbers", "verdict". It holds where every part does; a part that does not hold decides."""
    verdicts = [part.verdict for part in parts]
    verdict = next((word for word in (FAILS, UNSHOWN) if word in verdicts), HOLDS)
    return {
        "claim": said,
        "criterion": ", ".join(part.criterion for part in parts),
        "numbers": "; ".join(part.numbers for part in parts),
        "verdict": verdict,
    }


def figure(values: Sequence[float]) -> str:
    """Mean and, where there are several, standard deviation over seeds, shares as they are."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def _spread(*groups: Sequence[float]) -> float:
    return max(statistics.stdev(values) if len(values) > 1 else 0.0 for values in groups)


def rows_of(labels: Mapping[str, str], measured: Measured) -> list[dict[str, str]]:
    """A row per way: its label, and mean and spread of each measure that is a number; "-" of what a way was not asked for."""
    names = dict.fromkeys(what for values in measured.values() for what, each in values.items() if _numbers(each))
    return [
        {"way": label, **{what: figure(measured[way][what]) if what in measured[way] else "-" for what in names}}
        for way, label in labels.items()
    ]


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def define(out: str, runs: str) -> None:
    """The flags of an experiment; `runs`: what of each way is repeated with every seed."""
    scripts.define(out, f"Runs of each way, {runs} included.")


def graph(declared: Callable[[pathlib.Path, str, int], Any]) -> Callable[[], Any]:
    """What `ptft experiment --file` has of an experiment: its runs in earnest, with three seeds, and the report of a graph alone."""

    def made() -> Any:
        from ptft_jax.runs import places

        folder = places.local(flags.FLAGS.out, f"--out={flags.FLAGS.out}")
        kept = contextlib.ExitStack()  # as long as this process, as the graph names files of its data
        atexit.register(kept.close)
        return kept.enter_context(scripts.on_data(folder / "data", lambda data: declared(data, "demo", SEEDS)))

    return made


def main(
    title: str,
    lead: str,
    labels: Mapping[str, str],
    names: Mapping[str, tuple[str, str]],
    declared: Callable[[pathlib.Path, str, int], Any],
    claims: Callable[[Measured], list[dict[str, str]]],
    figures: Callable[[Measured], list[str]] | None = None,
    tables: Callable[[Measured], Mapping[str, list[dict[str, Any]]]] | None = None,
) -> int:
    """Carries an experiment out and writes what came of it; its exit status.

    Args:
      lead: what the page begins with, in which {seeds} is how many there are.
      names: as of `by_seed`.
      declared: gives the graph, of (the folder for its data, the size, seeds).
      claims: gives the rows of `claim`.
      figures: gives the page's, as <svg>; None = of each measure the dots of all ways.
      tables: gives more tables of the page, by their headings, by which they are in results.json too.
    """
    from ptft_jax.reporting import plots  # noqa: F401  # needs an extra: said before anything is trained
    from ptft_jax.reporting.progress import Reporter
    from ptft_jax.runs import places

    args = flags.FLAGS
    folder, reporter = places.local(args.out, f"--out={args.out}"), Reporter()
    with scripts.on_data(folder / "data", lambda data: declared(data, args.size, args.seeds)) as graph:
        found = carried_out(graph, folder, reporter)
    measured = by_seed(found, tuple(labels), names, args.seeds)
    seconds = sum(row["seconds"] for row in found.values() if "seconds" in row)
    said = lead.format(seeds=args.seeds)
    write(
        folder,
        title,
        said,
        labels,
        measured,
        claims(measured),
        reporter,
        seconds=seconds,
        figures=figures,
        more=tables(measured) if tables else {},
    )
    return 0


def carried_out(graph: Any, folder: pathlib.Path, reporter: Any) -> dict[str, dict[str, Any]]:
    """The figures of each node of a graph, by name, and its "folder": of a run those at its end, its "seconds", and how many parameters were "trainable". (A graph's own table has runs
    at their best step; a claim about what training does chooses no step by what it measures.) Raises as `scripts.carry_out`."""
    from ptft_jax.experiments import results
    from ptft_jax.runs.files import read_json

    done, found = scripts.carry_out(graph, reporter), {}
    for row in read_json(folder / f"{results.SUMMARY}.json")["nodes"]:
        run = done.finished(row["name"]) if row["kind"] == "run" else None
        if run is None:
            figures = {**row.get("result", {}), **results.metrics(row)}
        else:
            figures = {**run["last"], "seconds": run["seconds"], "trainable": run["parameters"]["trainable"]}
        found[row["name"]] = {**figures, "folder": str(done.place(row["name"]))}
    return found


def by_seed(
    found: Mapping[str, Mapping[str, Any]], ways: Sequence[str], names: Mapping[str, tuple[str, str]], seeds: int
) -> dict[str, dict[str, list[float]]]:
    """`Measured` from the figures of nodes called WAY-seedN and what follows; `names`: measure -> (end of the node's name, its figure). A way
    that was not asked for a measure, and has no such node, lacks it."""
    return {
        way: {
            what: [found[f"{way}-seed{seed}{end}"][name] for seed in range(seeds)]
            for what, (end, name) in names.items()
            if f"{way}-seed0{end}" in found
        }
        for way in ways
    }


def write(
    folder: pathlib.Path,
    title: str,
    lead: str,
    labels: Mapping[str, str],
    measured: Measured,
    claims: Sequence[dict[str, str]],
    reporter: Any,
    *,
    seconds: float,
    figures: Callable[[Measured], list[str]] | None = None,
    more: Mapping[str, list[dict[str, Any]]],
) -> None:
    """results.json, report.html and report.md, and the tables on the terminal. `seconds`: of all runs; `more`: tables by their headings."""
    from ptft_jax import environment
    from ptft_jax.experiments.results import markdown
    from ptft_jax.reporting.page import Page
    from ptft_jax.runs.files import write_json, write_text

    table = rows_of(labels, measured)
    results = {
        "measured": measured,
        "claims": list(claims),
        **more,
        "seconds": seconds,
        "environment": environment.describe(),
    }
    write_json(folder / "results.json", results)
    tables = [table, claims, *([_rounded(row) for row in rows] for rows in more.values())]
    write_text(folder / "report.md", f"# {title}\n\n{lead}\n\n" + "\n".join(map(markdown, tables)))
    page = Page(title, lead)
    page.table(table)
    page.heading("Claims")
    page.text(
        f"Not shown: an effect of less than {SPREADS} standard deviations over seeds, or a bound that some seeds pass. "
        "What does not hold is a result, too."
    )
    page.table(list(claims), prose=True)
    for heading, rows in more.items():
        page.heading(heading.capitalize())
        page.table(rows)
    for figure in (figures or dots(labels))(measured):
        page.figure(figure)
    page.link(*scripts.GRAPH)
    page.write(folder / "report.html", scripts.footer(results))
    reporter.table("measured", table)
    reporter.table("claims", list(claims))
    print(f"report: {folder / 'report.html'}")


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}


def dots(labels: Mapping[str, str]) -> Callable[[Measured], list[str]]:
    """Gives a figure per measure, of all ways' seeds."""
    from ptft_jax.reporting import plots

    def drawn(measured: Measured) -> list[str]:
        names = next(iter(measured.values()))
        return [
            plots.dots({labels[way]: row[what] for way, row in measured.items()}, title=what, x="each seed")
            for what in names
        ]

    return drawn
