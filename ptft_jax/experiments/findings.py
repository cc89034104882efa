"""What a comparison says, in sentences and a table. The same figures give the same words, wherever and however they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptft_jax.errors import few
from ptft_jax.experiments import seed_differences
from ptft_jax.experiments.ranking import SURE, Comparison, Point

_FEW = 6  # seeds, below which the interval of a bootstrap is known to be too narrow
_MEASURED = ("data.source", "data.mixture", "data.held_out", "data.length", "eval.source", "objective.name")


def answer(found: Comparison) -> str:
    """The answer in a sentence or two, computed from the figures."""
    ranked = found.ranked()
    if not ranked:
        return (
            f"No answer: no node came to {'finite ' + found.figure if found.figure else 'a figure that is compared'}."
        )
    if not found.better:
        return (
            f"No answer: whether more or less {found.figure or 'of a figure'} is better is not known "
            '(Graph(figure="NAME", better="min") says it).'
        )
    best = ranked[0]
    if found.is_baseline and found.reference is not best:
        return _against_baseline(found, best)
    if len(ranked) == 1:
        return f"{_measured(found, best, named=True)}; no other way came to a figure with every seed."
    second = ranked[1]
    return _against_next(found, best, second)


def alone(found: Sequence[Comparison]) -> str:
    """What came of ways that stand alone, in a sentence."""
    told = [_measured(one, point, named=True) for one in found for point in one.points if point.values]
    return f"Compared with nothing: {few(told)}." if told else ""


def _against_next(found: Comparison, best: Point, second: Point) -> str:
    lead = found.differences.get(second.name)
    if lead is None:
        return f"Best: {_measured(found, best)}; the next, {second.name}, shares no seed with it, so how sure that is cannot be said."
    if lead.p is None:
        return (
            f"Best of one seed: {_measured(found, best)}, ahead of the next, {second.name}, by {_amount(lead.mean)}. One seed has no "
            "spread: whether that is more than chance is not known."
        )
    sure = [name for name, p in found.corrected.items() if p < SURE and found.differences[name].mean > 0]
    others = f"{len(sure)} of the {len(found.corrected)} others"
    if second.name in sure:
        return f"Best: {_measured(found, best)}, better than the next, {second.name}, by {_lead(found, second)}."
    told = f"{_measured(found, best)} is ahead of the next, {second.name}, by {_lead(found, second)}"
    if sure:
        return f"Best, but not surely: {told}. It is shown to be better than {others}."
    return f"No difference larger than the seeds' spread: {told}."


def _against_baseline(found: Comparison, best: Point) -> str:
    base = found.reference
    assert base is not None
    lead = found.differences.get(best.name)
    against = f"{_measured(found, best)}, against the baseline, {_measured(found, base)}"
    if lead is None:
        return f"Best: {against}; they share no seed, so how sure that is cannot be said."
    gain = lead._replace(mean=-lead.mean, low=_negated(lead.high), high=_negated(lead.low))
    if gain.p is None:
        return f"Best of one seed: {against}: {_amount(gain.mean)} better. One seed has no spread: whether that is more than chance is not known."
    better = sum(p < SURE and found.differences[name].mean < 0 for name, p in found.corrected.items())
    worse = sum(p < SURE and found.differences[name].mean > 0 for name, p in found.corrected.items())
    counted = (
        f"Of {len(found.corrected)} ways, {better} {_are(better)} shown to be better than the baseline, {worse} worse"
    )
    span = f"{_amount(gain.mean)} {_interval(gain)} paired over {gain.seeds} seeds ({_p(found, best)})"
    if found.corrected[best.name] < SURE:
        return f"Best: {against}: better by {span}. {counted}."
    return f"No way is shown to be better than the baseline: the best is {against}: {span}. {counted}."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _negated(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def _measured(found: Comparison, point: Point, named: bool = False) -> str:
    name = f"{point.name}: {found.figure}" if named else f"{point.name} ({found.figure}"
    seeds = f" over {len(point.values)} seeds" if len(point.values) > 1 else ", one seed"
    return f"{name} {value(point)}{seeds}" + ("" if named else ")")


def _lead(found: Comparison, point: Point) -> str:
    lead = found.differences[point.name]
    return f"{_amount(lead.mean)} {_interval(lead)} paired over {lead.seeds} seeds ({_p(found, point)})"


def _p(found: Comparison, point: Point) -> str:
    count = len(found.corrected)
    corrected = f", corrected for {count} comparisons" if count > 1 else ""
    return f"p = {found.corrected[point.name]:.2g}{corrected}"


def _amount(number: float) -> str:
    return f"{number:.3g}"


def _interval(one: seed_differences.Difference) -> str:
    return f"[{_amount(one.low or 0.0)}, {_amount(one.high or 0.0)}]"


def value(point: Point) -> str:
    """Mean and standard deviation over seeds; "-" of none."""
    if not point.values:
        return "-"
    return f"{point.mean:.4g}" + ("" if point.spread is None else f" ± {point.spread:.2g}")


def table(found: Comparison) -> list[dict[str, Any]]:
    """A row per point, for people: its figure, and how far it is behind the reference."""
    of = "baseline" if found.is_baseline else "best"
    tested, rows = bool(found.corrected), []
    for point in found.points:
        row: dict[str, Any] = {"way": point.name, "nodes": _nodes(point), found.figure or "figure": value(point)}
        one = found.differences.get(point.name)
        if found.reference is not None:
            itself = point.name == found.reference.name
            behind = of if itself else "-" if one is None else f"{one.mean:+.3g}"
            row[f"behind the {of}"] = behind + (f" {_interval(one)}" if one is not None and one.p is not None else "")
        if tested:
            row["seeds"] = "-" if one is None else str(one.seeds)
            row["p"] = "-" if one is None or one.p is None else f"{one.p:.2g}"
            row["p, corrected"] = f"{found.corrected[point.name]:.2g}" if point.name in found.corrected else "-"
        rows.append(row)
    return rows


def _nodes(point: Point) -> str:
    lost = "".join(f", {count} {status}" for status, count in sorted(point.lost().items()))
    return f"{len(point.values)}/{len(point.rows)}{lost}"


def cautions(found: Comparison) -> list[str]:
    """What people should know before they believe the answer; nothing that is left out is left unsaid."""
    said = []
    broken = [f"{point.name} ({_nodes(point)})" for point in found.points if not point.whole]
    if broken and any(point.whole for point in found.points):
        said.append(f"Not asked whether they are best, as some of their nodes came to no figure: {few(broken)}.")
    elif broken:
        said.append(
            f"Every way lacks the figure of some of its nodes: {few(broken)}. Means are over those that have it."
        )
    counts = sorted({len(point.values) for point in found.points if point.values})
    if len(counts) > 1:
        said.append(f"Seeds are not equally many ({few(map(str, counts))}): differences are over those that both have.")
    if found.corrected:
        of = "the baseline" if found.is_baseline else "the best"
        count = len(found.corrected)
        said.append(
            f"{count} {'comparison' if count == 1 else 'comparisons'} with {of}, by paired t-tests, {'' if count == 1 else 'corrected by Holm for all of them, '}"
            f"shown where p < {SURE}; in brackets {seed_differences.LEVEL:.0%} intervals of a bootstrap over seeds ({seed_differences.RESAMPLES:,} resamples, seed {seed_differences.SEED})."
        )
        if not found.is_baseline:
            said.append("The best was chosen by these same figures, which flatters its lead.")
        if min(one.seeds for one in found.differences.values()) < _FEW:
            said.append(
                f"Intervals of a bootstrap over fewer than {_FEW} seeds are too narrow; the p-values allow for that."
            )
    elif found.differences:
        said.append("One seed each: no spread is known, and nothing is tested.")
    if differ := _measured_apart(found.points):
        said.append(
            f"Caution: {', '.join(differ)} differ, so {found.figure or 'the figure'} is not measured on the same."
        )
    return said


def _measured_apart(points: Sequence[Point]) -> list[str]:
    return [field for field in _MEASURED if len({repr(point.fields.get(field)) for point in points}) > 1]
