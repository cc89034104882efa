"""Finished runs of any kind side by side, with or without a parent: in what they differ, and what came of each."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.reporting import comparison, plots, settings
from ptft_jax.reporting.comparison import Finished
from ptft_jax.reporting.page import Page
from ptft_jax.runs.files import write_json
from ptft_jax.runs.lineage import place
from ptft_jax.runs.workdir import Workdir

_MEASURED_ON = (
    "data.source",
    "data.mixture",
    "data.held_out",
    "data.length",
    "tokenizer.kind",
    "tokenizer.path",
    "objective.name",
)
_COSTS = {"minutes": ("seconds", 1 / 60), "ms per step": ("step_seconds", 1e3), "tokens seen": ("tokens_seen", 1)}


@dataclasses.dataclass(frozen=True)
class Alike:
    """Runs that differ in nothing but the seed.

    Attributes:
      differs: setting -> its value, of those that are not the same in all that is compared; "from" what they started from.
      results: name of a metric after training -> (mean, standard deviation; 0 of one run), of those that all of them have.
    """

    name: str
    runs: tuple[Finished, ...]
    differs: Mapping[str, str]
    results: Mapping[str, tuple[float, float]]


def compare(references: Sequence[str | pathlib.Path | Finished]) -> list[Alike]:
    """The runs, each WORKDIR[#ADAPTER], in groups, in the order that they are named in. Raises UserError, see `comparison.read`, and for one
    config and seed twice."""
    runs = comparison.distinct(references)
    groups = comparison.by_seed(runs)
    names = comparison.group_names(groups)
    differs = settings.varied({name: rows[0].config for name, rows in zip(names, groups)})
    parents = {name: place(rows[0].lineage[0]) if rows[0].lineage else "-" for name, rows in zip(names, groups)}
    if len(set(parents.values())) > 1:
        differs = {name: {**values, "from": parents[name]} for name, values in differs.items()}
    return [Alike(name, tuple(rows), differs[name], _results(rows)) for name, rows in zip(names, groups)]


def _results(runs: Sequence[Finished]) -> dict[str, tuple[float, float]]:
    found = {}
    measured = [run.summary.get("after") or {} for run in runs]
    for name in measured[0]:
        values = [after.get(name) for after in measured]
        twin = name.endswith("/loss") and measured[0].get(name.removesuffix("loss") + "nll") == measured[0][name]
        if not twin and all(isinstance(value, (int, float)) for value in values):
            found[name] = comparison.spread(values)
    for title, (key, factor) in _COSTS.items():
        costs = [run.summary.get(key) for run in runs]
        if all(isinstance(value, (int, float)) for value in costs):
            found[title] = comparison.spread([factor * value for value in costs])
    return found


def names_of(groups: Sequence[Alike]) -> list[str]:
    """Metrics that some group has, in their order."""
    return list(dict.fromkeys(name for group in groups for name in group.results))


def plain(groups: Sequence[Alike]) -> list[dict[str, Any]]:
    """A row per group with plain numbers; "" for what a group has not."""
    out = []
    for group in groups:
        row: dict[str, Any] = {"run": group.name, "seeds": len(group.runs), **group.differs}
        for name in names_of(groups):
            mean, deviation = group.results.get(name, ("", ""))
            row[name], row[f"{name}_sd"] = mean, deviation if len(group.runs) > 1 else ""
        out.append(row)
    return out


def table(
    groups: Sequence[Alike], *, results: Sequence[str] | None = None, differs: bool = True
) -> list[dict[str, Any]]:
    """A row per group, for people, with these results (all where None) and the settings that differ."""
    out = []
    for group in groups:
        row: dict[str, Any] = {"run": group.name, "seeds": len(group.runs), **(group.differs if differs else {})}
        for name in names_of(groups) if results is None else results:
            mean, deviation = group.results.get(name, (None, 0.0))
            shown = "-" if mean is None else f"{mean:.4g}"
            row[name] = f"{shown} ± {deviation:.2g}" if mean is not None and len(group.runs) > 1 else shown
        out.append(row)
    return out


def narrow(groups: Sequence[Alike]) -> list[str]:
    """The results for a terminal: what checkpoints were selected by, of each, and the time."""
    selected = {(run.summary.get("selected") or {}).get("metric", "") for group in groups for run in group.runs}
    return [name for name in names_of(groups) if name in selected or name == "minutes"]


def remarks(groups: Sequence[Alike]) -> list[str]:
    """What people should know before they compare the figures."""
    differ = [path for path in _MEASURED_ON if path in groups[0].differs]
    if not differ:
        return []
    return [
        f"measured on different data or by different objectives ({', '.join(differ)} differ): the same name of a metric is not the same measure"
    ]


def write(groups: Sequence[Alike], out: pathlib.Path, kinds: Sequence[str] = ()) -> None:
    """Writes the page, and its figures as JSON beside it; `kinds` of files of its plots, as of `Page.write`."""
    figures = out.with_suffix(".json")
    write_json(
        figures,
        [
            {
                "name": group.name,
                "runs": [run.reference for run in group.runs],
                "seeds": [run.config["seed"] for run in group.runs],
                "differs": dict(group.differs),
                "results": {name: {"mean": mean, "sd": sd} for name, (mean, sd) in group.results.items()},
            }
            for group in groups
        ],
    )
    page = Page("Runs, compared", f"{len(groups)} ways, {sum(len(group.runs) for group in groups)} runs.")
    for remark in remarks(groups):
        page.text(f"Caution: {remark}.")
    settings.show(page, {group.name: group.differs for group in groups})
    page.heading("What came of them")
    shown = {row["run"]: row for row in table(groups, differs=False)}
    page.table([{"": name, **{run: row[name] for run, row in shown.items()}} for name in ("seeds", *names_of(groups))])
    page.text("±: standard deviation over seeds. Metrics are those of the selected checkpoint.")
    _curves(page, groups)
    page.write(out, footer=f"Every figure is in {figures.name} beside this file.", figures=kinds)


def _curves(page: Page, groups: Sequence[Alike]) -> None:
    """What checkpoints were selected by, over steps, where several have it."""
    rows = {group.name: [Workdir(run.workdir).read_metrics() for run in group.runs] for group in groups}
    for name in narrow(groups):
        lines = {
            group: [
                points
                for seed in seeds
                if (points := [(row["step"], row[name]) for row in seed if row["kind"] == "eval" and name in row])
            ]
            for group, seeds in rows.items()
        }
        lines = {group: points for group, points in lines.items() if points}
        if lines:
            page.figure(plots.curves(lines, title=name, x="step", y=name.rpartition("/")[2]))
