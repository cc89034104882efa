"""The figures of `experiments.methods`: results.json, report.html and the table on the terminal."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from experiments.methods_claims import claims, measured
from experiments.methods_runs import Way, name_of
from experiments.methods_sweep import TOGETHER, Summary, Tried
from ptft_jax import environment
from ptft_jax.errors import UserError
from ptft_jax.reporting import comparison, comparison_page, plots
from ptft_jax.reporting.comparison import Group
from ptft_jax.reporting.page import Page
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.files import write_json
from ptft_jax.verbs.scripts import GRAPH, Carried, footer

_COLUMNS = tuple(name for name in comparison.COLUMNS if name not in ("trainable_bytes", "equal_gain"))
_NARROW = ("gain", "forgetting", "trainable")  # of a terminal
# Whose lines over rates are drawn: more could not be told apart.
TRADES = ("full", "LoRA", "last block", "L2-SP", "EWC", "distillation", "replay 25%")


def write(
    done: Carried,
    reporter: Reporter,
    ways: Mapping[str, Way],
    base: Summary,
    tried: Mapping[str, Tried],
    averages: Mapping[str, Any],
    *,
    seeds: int,
) -> None:
    """Writes both files; prints the table and the report's path.

    Args:
      base: the summary of the pre-trained model's run.
      averages: as of `experiments.methods_sweep.Sweep.averages`.

    Raises:
      UserError: every run of every way diverged.
    """
    best = {name: one.best for name, one in tried.items() if one.best is not None}
    if not best:
        raise UserError(f"nothing to report: the loss is not finite at any rate of {', '.join(tried)}")
    folders = {
        name: [done.place(name_of(name, rate, seed)) for seed in tried[name].finite] for name, rate in best.items()
    }
    groups = _groups(folders)
    runs = {name_of(name, *which): summary for name, one in tried.items() for which, summary in one.runs.items()}
    results = {
        "seeds": seeds,
        "groups": {
            g.name: {**{k: list(v) for k, v in g.figures.items()}, "front": g.best, "seeds": len(g.runs)}
            for g in groups
        },
        "rates": {
            name: {f"{rate:g}": _outcome(summary) for rate, summary in one.rates.items()} for name, one in tried.items()
        },
        "best_rate": best,
        "left_out": [name for name in tried if name not in best],
        "diverged": [name for name, summary in runs.items() if summary is None],
        "averages": averages,
        "seconds": sum(summary["seconds"] for summary in (base, *runs.values()) if summary is not None),
        "environment": environment.describe(),
    }
    results["claims"] = claims(results)
    write_json(done.folder / "results.json", results)
    path = done.folder / "report.html"
    page = _page(groups, ways, results)
    page.link(*GRAPH)
    page.write(path, footer=footer(results))
    reporter.table("what each way gained and forgot, at its best rate", _table(groups, best, _NARROW))
    for line in _missing(results):
        reporter.say(line)
    reporter.table("published comparisons", results["claims"])
    print(f"report: {path}")


def _groups(folders: Mapping[str, list[pathlib.Path]]) -> list[Group]:
    """A group a way, by its name, those that gained most first."""
    of = {folder: name for name, row in folders.items() for folder in row}
    groups = comparison.compare([folder for row in folders.values() for folder in row])
    return [dataclasses.replace(group, name=of[group.runs[0].workdir]) for group in groups]


def _outcome(summary: Summary | None) -> dict[str, Any]:
    """Gain and forgetting of a run on validation data, in nats per token, or that it diverged."""
    if summary is None:
        return {"diverged": True}
    transfer = summary["transfer"]
    return {"gain": transfer["target"]["gain"], "forgetting": transfer["source"]["forgetting"]}


def _table(groups: list[Group], best: Mapping[str, float], columns: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = comparison.table(groups, columns, differing=False)
    return [
        {
            "way": row.pop("run"),
            "rate": f"{best[group.name]:g}",
            **{k: v for k, v in row.items() if k not in ("method", "seeds")},
        }
        for group, row in zip(groups, rows)
    ]


def _page(groups: list[Group], ways: Mapping[str, Way], results: Mapping[str, Any]) -> Page:
    page = Page(
        "Ways to fine-tune, compared",
        f"{len(groups)} ways to specialize one small GPT, pre-trained on Shakespeare's plays, on little Python code; each at the "
        f"best of its learning rates, with {results['seeds']} seeds.",
    )
    page.heading("Gain against forgetting")
    for group, title in (("little", "Few parameters"), ("regularized", "All parameters, under a hold")):
        some = [g for g in groups if ways[g.name].group in (group, "full")]
        if len(some) > 1:
            page.figure(comparison_page.front(some, title))
    page.text(comparison_page.FRONT)
    page.heading("The table")
    page.table(_table(groups, results["best_rate"], _COLUMNS))
    for line in _missing(results):
        page.text(line)
    page.text(comparison.meanings(groups))
    _rates_page(page, results)
    if results["averages"]:
        _averages_page(page, results["averages"])
    page.heading("Published comparisons, held against these runs")
    page.table(results["claims"], prose=True)
    return page


def _rates_page(page: Page, results: Mapping[str, Any]) -> None:
    rates = results["rates"]
    page.heading("Learning rates")
    page.text(
        "One rate for all would judge methods by how well it suits them. And how much is forgotten says as much about the rate as about the "
        "method: a line has all rates of one way, from the lowest on, so that ways can be compared where they gained the same."
    )
    lines = {
        name: [[(o["forgetting"], o["gain"]) for o in measured(rates[name]).values()]]
        for name in TRADES
        if name in results["best_rate"]
    }
    if lines:
        page.figure(
            plots.curves(
                lines,
                marks={name: points for name, (points,) in lines.items()},
                title="Gain against forgetting, over rates",
                **comparison_page.AXES,
            )
        )
    page.text(
        "Gain (and forgetting) of the first seed, in nats, at each rate that was tried; the best is marked. Diverged: the loss was "
        "not finite at some step."
    )
    tried = sorted({rate for row in rates.values() for rate in row}, key=float)
    best = results["best_rate"]
    page.table(
        [
            {"way": name, **{rate: _cell(row.get(rate), float(rate) == best.get(name)) for rate in tried}}
            for name, row in rates.items()
        ]
    )


def _cell(outcome: Mapping[str, Any] | None, best: bool) -> str:
    """Of the table of rates; "" for a rate that was not tried."""
    if not outcome or outcome.get("diverged"):
        return "diverged" if outcome else ""
    return f"{outcome['gain']:.2f} ({outcome['forgetting']:.2f})" + ("*" if best else "")


def _missing(results: Mapping[str, Any]) -> list[str]:
    """What there are no figures of, since it diverged, in a sentence each."""
    out = []
    if results["left_out"]:
        out.append(f"Left out, as the loss is not finite at any rate: {', '.join(results['left_out'])}.")
    fewer = {name: group["seeds"] for name, group in results["groups"].items() if group["seeds"] < results["seeds"]}
    if fewer:
        seeds = ", ".join(f"{name} ({count} of {results['seeds']})" for name, count in fewer.items())
        out.append(f"Without the seeds whose loss is not finite at the best rate: {seeds}.")
    return out


def _averages_page(page: Page, averages: Mapping[str, Any]) -> None:
    page.heading("Averages of weights")
    rows = averages["wise"]
    page.figure(
        plots.curves(
            {name: [[(row["alpha"], row[name]) for row in rows]] for name in ("target", "source")},
            title="From the parent (0) to full fine-tuning (1)",
            x="share of the fine-tuned model",
            y="nats per token",
        )
    )
    members = averages["members"]
    page.table(
        [
            {
                "model": "full fine-tuning, mean of seeds",
                **{k: statistics.mean(m[k] for m in members) for k in ("target", "source")},
            },
            *({"model": f"together: {method}", **averages[method]} for method in TOGETHER if method in averages),
        ]
    )
