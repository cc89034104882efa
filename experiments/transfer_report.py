"""The figures of `experiments.transfer`: results.json, report.html and the table on the terminal."""

from __future__ import annotations

import math
import statistics
from typing import Any

from experiments.transfer_runs import METHODS, TARGETS, TOO_HIGH, kinds_of, name_of, seeds_of
from ptft_jax import environment
from ptft_jax.reporting import plots
from ptft_jax.reporting.page import Page
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.files import write_json
from ptft_jax.runs.workdir import Workdir
from ptft_jax.verbs.scripts import GRAPH, Carried, footer

LABELS = {
    "scratch": "from scratch",
    "full": "full",
    "frozen": "frozen subset",
    "lora": "LoRA",
    "too_high": f"full, rate x{TOO_HIGH}",
    "tiny_data": "full, 32 rows",
}

# The columns that fit on 80 characters; the report has them all.
_TERMINAL = ("method", "test after", "forgetting", "trainable", "seconds")


def write(done: Carried, reporter: Reporter, *, seeds: int) -> None:
    """Writes both files and prints the table and the report's path."""
    results = collect(done, seeds)
    write_json(done.folder / "results.json", results)
    path = done.folder / "report.html"
    page = _page(results)
    page.link(*GRAPH)
    page.write(path, footer=footer(results))
    for target in TARGETS:
        rows = [{k: v for k, v in _row(r).items() if k in _TERMINAL} for r in results["targets"][target]]
        reporter.table(f"{target}: nats per token on a held-out text", rows)
    reporter.table("claims", [{k: _flat(v) for k, v in c.items()} for c in results["claims"]])
    print(f"report: {path}")


def collect(done: Carried, seeds: int) -> dict[str, Any]:
    """Every figure of the report. Lists hold one value per seed; losses are nats per token."""
    summaries = {name: done.finished(name) for name in done.outcomes}
    base = summaries["base"]
    learned = base["before"]["validation/nll"] - base["after"]["validation/nll"]
    targets: dict[str, list[dict[str, Any]]] = {}
    for target in TARGETS:
        names = {kind: [name_of(target, kind, s) for s in seeds_of(target, seeds)] for kind in kinds_of(target)}
        targets[target] = [_figures(target, k, [summaries[n] for n in row], learned) for k, row in names.items()]
    curves = {name: Workdir(done.place(name)).read_metrics() for name in summaries}
    results = {
        "seeds": seeds,
        "base": {**base, "learned_nats": learned},
        "targets": targets,
        "curves": {name: [r for r in rows if r["kind"] == "eval"] for name, rows in curves.items()},
        "pretraining": [
            {k: r[k] for k in ("step", "loss")} for r in curves["base"] if r["kind"] == "train" and r["step"] % 20 == 0
        ],
        "samples": _samples(done),
        "seconds": sum(s["seconds"] for s in summaries.values()),
        "environment": environment.describe(),
    }
    results["claims"] = claims(results)
    return results


def _figures(target: str, method: str, rows: list[dict[str, Any]], learned: float) -> dict[str, Any]:
    """One method on one target, a value a seed in every list.

    The run with too high a rate is looked at where it ended, all others at their best checkpoint.
    """
    end = "last" if method == "too_high" else "after"
    out: dict[str, Any] = {
        "target": target,
        "method": method,
        "validation": [r[end]["validation/nll"] for r in rows],
        "test": [r["after"]["test/nll"] for r in rows] if end == "after" else None,
        "test_before": [r["before"].get("test/nll", math.nan) for r in rows] if method != "scratch" else None,
        "best_step": [r["best_step"] for r in rows],
        "steps": [r["step"] for r in rows],
        "tokens_per_step": rows[0]["tokens_seen"] // max(rows[0]["step"], 1),
        "stopped_by": [r["reason"] for r in rows],
        "last_validation": [r["last"]["validation/nll"] for r in rows],
        "seconds": [r["seconds"] for r in rows],
        "step_seconds": [r["step_seconds"] for r in rows],
        "trainable": rows[0]["parameters"]["trainable"],
        "frozen": rows[0]["parameters"]["frozen"],
        "optimizer_bytes": rows[0]["optimizer_bytes"],
        "source_before": None,
        "source_after": None,
        "forgetting": None,
    }
    if method != "scratch":
        out["source_before"] = [r["before"]["source/nll"] for r in rows]
        out["source_after"] = [r[end]["source/nll"] for r in rows]
        out["forgetting"] = [a - b for a, b in zip(out["source_after"], out["source_before"])]
        out["forgotten_share"] = [f / learned for f in out["forgetting"]]
    return out


def _samples(done: Carried) -> list[dict[str, Any]]:
    """Before and after, for one seed of each target and method."""
    out = []
    for name in done.outcomes:
        if name.endswith("-seed0") and "scratch" not in name:
            rows = Workdir(done.place(name)).read_samples()
            before = [r for r in rows if r["step"] == 0 and not r.get("selected")]
            after = [r for r in rows if r.get("selected")]
            out.append(
                {"run": name, "prompt": after[0]["prompt"], "before": before[0]["text"], "after": after[0]["text"]}
            )
    return out


def claims(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What is said of pre-training and fine-tuning, held against these runs.

    A difference counts as shown where it is at least three times the spread (the larger standard deviation over seeds
    of its two sides), besides the threshold in its own line.
    """
    by = {(f["target"], f["method"]): f for rows in results["targets"].values() for f in rows}
    near_scratch, near_full = by["roses", "scratch"], by["roses", "full"]
    rows = []
    for target, method in [(t, m) for t in TARGETS for m in METHODS[1:]]:
        mine, scratch = by[target, method]["test"], by[target, "scratch"]["test"]
        rows.append(
            _difference(f"pre-training helps: {LABELS[method]} ends below from scratch on {target}", scratch, mine)
        )
    for method in METHODS[1:]:
        f = by["roses", method]
        rows.append(
            _difference(
                f"fine-tuning helps: {LABELS[method]} ends below the untuned base on roses", f["test_before"], f["test"]
            )
        )
    best = statistics.mean(near_scratch["validation"])
    names = [name_of("roses", "full", s) for s in seeds_of("roses", results["seeds"])]
    reached = statistics.mean(_first_below(results["curves"][n], best) for n in names) * near_full["tokens_per_step"]
    needed = statistics.mean(near_scratch["best_step"]) * near_scratch["tokens_per_step"]
    rows.append(
        {
            "claim": "at least 5 times less training than from scratch to reach scratch's best loss (roses, full)",
            "measured": f"{reached:,.0f} tokens (0 = the base, untuned) against {needed:,.0f}",
            "shown": needed >= 5 * reached,
        }
    )
    far, near = by["code", "full"]["forgetting"], near_full["forgetting"]
    rows.append(_difference("a far target makes forget more than a near one (full)", far, near))
    high = by["roses", "too_high"]["forgetting"]
    rows.append(_difference(f"a rate {TOO_HIGH} times too high erases what was known (source loss)", high, near))
    share = statistics.mean(by["roses", "too_high"]["forgotten_share"])
    rows.append(
        {"claim": "... at least half of what pre-training gained", "measured": f"{share:.0%}", "shown": share >= 0.5}
    )
    for method in ("frozen", "lora"):
        kept = by["code", method]["forgetting"]
        rows.append(_difference(f"{LABELS[method]} forgets less than full (code)", far, kept))
    lora = by["roses", "lora"]
    memory = near_full["optimizer_bytes"] / lora["optimizer_bytes"]
    rows.append(
        {
            "claim": "LoRA gains at least 90% of what full tuning does on a tenth of the optimizer's memory (roses)",
            "measured": f"{_gain(lora) / _gain(near_full):.0%} of the gain, {memory:.1f}x less memory",
            "shown": memory >= 10 and _gain(lora) / _gain(near_full) >= 0.9,
        }
    )
    tiny = by["roses", "tiny_data"]
    claim = "tiny data overfits, and the best checkpoint is better than the last (validation loss, 32 rows 20 times)"
    rows.append(_difference(claim, tiny["last_validation"], tiny["validation"]))
    return rows


def _difference(claim: str, larger: list[float], smaller: list[float]) -> dict[str, Any]:
    gap = statistics.mean(larger) - statistics.mean(smaller)
    spread = max(statistics.stdev(larger), statistics.stdev(smaller))
    return {
        "claim": claim,
        "measured": f"{statistics.mean(smaller):.3f} against {statistics.mean(larger):.3f}: {gap:+.3f}, spread {spread:.3f}",
        "shown": gap > 0 and gap >= 3 * spread,
    }


def _gain(figures: dict[str, Any]) -> float:
    return statistics.mean(figures["test_before"]) - statistics.mean(figures["test"])


def _first_below(curve: list[dict[str, Any]], loss: float) -> int:
    """The first evaluated step with a validation loss at or below `loss`; the last step where there is none."""
    return next((r["step"] for r in curve if r["validation/nll"] <= loss), curve[-1]["step"])


def _spread(values: list[float] | None) -> str:
    """Mean and standard deviation over seeds."""
    if values is None or any(v is None or math.isnan(v) for v in values):
        return "-"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def _row(f: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": LABELS[f["method"]],
        "test before": _spread(f["test_before"]),
        "test after": _spread(f["test"]),
        "source before": _spread(f["source_before"]),
        "source after": _spread(f["source_after"]),
        "forgetting": _spread(f["forgetting"]),
        "trainable": f"{f['trainable']:,}",
        "optimizer": f"{f['optimizer_bytes'] / 2**20:.2f} MiB",
        "best step": f"{statistics.mean(f['best_step']):.0f}",
        "seconds": f"{statistics.mean(f['seconds']):.0f}",
    }


def _flat(value: Any) -> Any:
    return ("yes" if value else "no") if isinstance(value, bool) else value


def _page(results: dict[str, Any]) -> Page:
    base, seeds = results["base"], results["seeds"]
    page = Page(
        "What pre-training buys, and what fine-tuning costs",
        f"A GPT of {base['parameters']['trainable']:,} parameters, pre-trained on Shakespeare's plays without the histories, then "
        f"specialized on 30,000 tokens four ways. One base; {seeds} seeds of each second-stage run ({seeds - 1} on the far "
        "target); ± is the standard deviation over those seeds. Losses are nats per token. Second-stage runs have early stopping, and are measured at their best "
        "validation checkpoint, on a play or on modules that neither stage has seen.",
    )
    page.heading("Claims")
    page.text(
        "Shown means: at least three times the spread over seeds, and the threshold in the line. What is not shown is a result, too."
    )
    page.table(results["claims"], prose=True)
    page.heading("Pre-training")
    page.text(
        f"{base['tokens_seen']:,} tokens in {base['seconds']:.0f} s: held-out loss {base['before']['validation/nll']:.3f} → "
        f"{base['after']['validation/nll']:.3f}, {base['after']['validation/bits_per_byte']:.3f} bits a byte; "
        f"{base['model_flops']:.3g} FLOPs of matrix products."
    )
    curve = [(r["step"], r["validation/nll"]) for r in results["curves"]["base"]]
    train = [(r["step"], r["loss"]) for r in results["pretraining"]]
    page.figure(
        plots.curves(
            {"training": [train], "validation": [curve]}, title="Pre-training", x="step", y="loss (nats per token)"
        )
    )
    for target, figures in results["targets"].items():
        _target(page, results, target, figures)
    page.heading("Samples, before and after")
    for sample in results["samples"]:
        page.sample(f"{sample['run']}: before", sample["prompt"], sample["before"])
        page.sample(f"{sample['run']}: after", sample["prompt"], sample["after"])
    return page


def _target(page: Page, results: dict[str, Any], target: str, figures: list[dict[str, Any]]) -> None:
    page.heading(f"Target: {target} ({TARGETS[target]})")
    page.table([_row(f) for f in figures])
    colors = plots.palette(LABELS.values())
    tuned = [f for f in figures if f["test"]]
    untuned = statistics.mean(next(f for f in figures if f["method"] == "full")["test_before"])
    page.figure(
        plots.dots(
            {LABELS[f["method"]]: f["test"] for f in tuned},
            title=f"Transfer: loss on held-out {target}",
            x="loss (nats per token)",
            level=("the base, untuned", untuned),
            colors=colors,
        )
    )
    for name, title in (("validation/nll", f"Learning {target}"), ("source/nll", "Forgetting: loss on the source")):
        groups = _curves(results, target, tuned, name)
        marks = {
            LABELS[f["method"]]: [
                next(p for p in line if p[0] == best) for line, best in zip(groups[LABELS[f["method"]]], f["best_step"])
            ]
            for f in tuned
            if LABELS[f["method"]] in groups
        }
        page.figure(plots.curves(groups, title=title, x="step", y="loss (nats per token)", marks=marks, colors=colors))
    page.text("Dots are the selected checkpoints.")
    if target == "roses":
        pair = [f for f in figures if f["method"] in ("full", "too_high")]
        groups = _curves(results, target, pair, "source/nll")
        title = f"A rate {TOO_HIGH} times too high: loss on the source"
        page.figure(plots.curves(groups, title=title, x="step", y="loss (nats per token)", colors=colors))
    pairs = {
        LABELS[f["method"]]: [(g, b - a) for b, a, g in zip(f["test_before"], f["test"], f["forgetting"])]
        for f in tuned
        if f["forgetting"]
    }
    page.figure(
        plots.scatter(
            pairs,
            title="Gain on the target against forgetting of the source",
            x="source loss: tuned minus base (nats)",
            y="target loss: base minus tuned (nats)",
            colors=colors,
        )
    )


def _curves(results: dict[str, Any], target: str, figures: list[dict[str, Any]], name: str) -> dict[str, list]:
    """{label: a line a seed} of a metric, of the methods that have it."""
    groups = {}
    for f in figures:
        runs = [name_of(target, f["method"], s) for s in seeds_of(target, results["seeds"])]
        lines = [[(r["step"], r[name]) for r in results["curves"][run] if name in r] for run in runs]
        if all(lines):
            groups[LABELS[f["method"]]] = lines
    return groups
