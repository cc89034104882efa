"""A report of finished or unfinished runs, from what they left in their workdirs; results.json beside it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ptft_jax import config as configs
from ptft_jax.config.behaviors import BEHAVIOR, TASKS
from ptft_jax.config.verifiers import is_of_answers
from ptft_jax.data import overview
from ptft_jax.errors import UserError
from ptft_jax.reporting import clock, images_page, merge_page, plots, run_names, settings
from ptft_jax.reporting.answers_against import against_start
from ptft_jax.reporting.page import Page
from ptft_jax.reporting.summary_tables import by_adapter, confusion_rows, measures
from ptft_jax.runs import places
from ptft_jax.runs.files import write_json
from ptft_jax.runs.lineage import place
from ptft_jax.runs.workdir import Workdir

Row = Mapping[str, Any]  # of a run, see `_read`
_ANSWERS, _LETTERS = 10, 300  # that are shown of each run, and of each text
_MOST_CLASSES = 30  # of a picture of which was taken for which; a table has more
# What is drawn of each set that is evaluated, beside metrics of plugins, and its unit.
_DRAWN = {
    "nll": "nats per token", "mse": "mse", "margin": "margin", "kl": "nats per token",
    "chosen_log_prob": "nats per answer", "rejected_log_prob": "nats per answer",
}  # fmt: skip

# What is drawn of training on answers that are rewarded, and its unit.
_REWARDED = {
    "reward": "reward per answer", "answer_tokens": "tokens per answer", "ended": "share of answers", "alike": "share of answers",
    "entropy": "nats per token", "kl": "nats per token",
    "calls": "calls per answer", "failed_calls": "share of calls", "unanswered": "share of answers",
    "member_spread": "standard deviation", "member_agreement": "share of pairs",
    "kept": "share of answers", "unsolved": "share of prompts", "ties": "share of prompts", "rounds": "times that prompts were drawn",
    "value_loss": "half the squared error", "explained_variance": "share of the variance of returns",
}  # fmt: skip


def write(folders: Sequence[pathlib.Path], out: pathlib.Path) -> None:
    """Writes `out` and results.json beside it, with a run that is given twice once.

    Runs go by the name of their folder; where two have the same, all by their path.

    Raises:
      UserError: a folder that holds no run.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    names = run_names.names([folder.name for folder in folders], list(map(str, folders)))
    rows = [_read(name, folder) for name, folder in zip(names, folders)]
    figures = {row["name"]: {k: v for k, v in row.items() if k != "pictures"} for row in rows}
    write_json(out.with_name("results.json"), figures)
    page = Page("Runs", ", ".join(map(str, folders)))
    page.heading("Summary")
    page.table([_summary(row, rows) for row in rows])
    for row in rows:
        for remark in (row["summary"] or {}).get("remarks", ()):
            page.text(f"{row['name']}: {remark}")
    if changed := settings.differing({row["name"]: row["config"] for row in rows}):
        page.text("Settings that differ:")
        page.table(changed, prose=True)
    for part in (
        _curves,
        _combined,
        _before_after,
        _measures,
        _time,
        _drift,
        images_page.add,
        _data,
        _parameters,
        _samples,
        _answers,
    ):
        part(page, rows)
    page.write(out, footer="Every figure is in results.json beside this file.")


def _read(name: str, workdir: pathlib.Path) -> Row:
    """All that a run left but its checkpoints; "summary" is None of one that has not finished."""
    here = Workdir(workdir)
    here.check("--run")
    metrics, summary, answers = here.read_metrics(), here.read_summary(), here.read_answers()
    return {
        "name": name,
        "workdir": str(workdir),
        "run_id": here.run_id,
        "config": here.recorded_config(),
        "data": here.read_data(),
        "partition": here.read_partition(),
        "lineage": here.read_lineage(),
        "combined": merge_page.read(workdir),
        "summary": summary,
        "seconds_by": _seconds_by(here, summary),
        "train": [r for r in metrics if r["kind"] == "train"],
        "evals": [r for r in metrics if r["kind"] == "eval"],
        "samples": here.read_samples(),
        "pictures": here.read_pictures(),
        "answers": [
            row for row in answers if row["step"] == answers[-1]["step"]
        ],  # of the last evaluation that had any
        "answers_against_start": against_start(answers, summary["best_step"] if summary else None),
    }


def _seconds_by(here: Workdir, summary: Mapping[str, Any] | None) -> dict[str, float]:
    """Where the time went, of a run that has not finished up to its last checkpoint; {} where that is not known."""
    if summary is not None:
        return summary.get("seconds_by", {})
    steps = here.steps()
    if steps:
        from ptft_jax.runs.checkpoint import Damaged, read_meta  # needs JAX
    for step in reversed(steps):
        with contextlib.suppress(Damaged, UserError):
            return read_meta(here.path, step).get("seconds_by", {})
    return {}


def _summary(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    s, config = row["summary"], row["config"]
    trains = sum(g["parameters"] for g in row["partition"] if g["group"] == "trainable")
    steps = [r["step"] for r in row["train"] + row["evals"]]
    return {
        "run": row["name"],
        "from": _came_from(row, rows),
        "method": configs.get(config, "tune.method", "-") if row["lineage"] else "-",
        "rate": configs.get(config, "optimizer.learning_rate", "-"),
        "data": ", ".join(_sources(config)),
        "state": s["reason"] if s else "unfinished",
        "step": s["step"] if s else max(steps, default=0),
        "best step": s["best_step"] if s else "-",
        "tokens seen": s.get("tokens_seen", "-") if s else "-",
        "trainable": trains,
        "optimizer MiB": s["optimizer_bytes"] / 2**20 if s else "-",
        "seconds": s["seconds"] if s else "-",
    }


def _sources(config: Mapping[str, Any]) -> list[str]:
    return [source for source, _ in configs.get(config, "data.mixture", ())] or [
        configs.get(config, "data.source", "-")
    ]


def _parent(row: Row, rows: Sequence[Row]) -> Row | None:
    """The run of the report that another started from."""
    for entry in row["lineage"][:1]:
        for other in rows:
            if other is not row and other["run_id"] and other["run_id"] == entry.get("run_id"):
                return other
    return None


def _came_from(row: Row, rows: Sequence[Row]) -> str:
    """What a run started from: by its name in this report, or the end of its path."""
    if not row["lineage"]:
        return "random"
    entry = row["lineage"][0]
    if parent := _parent(row, rows):
        return place({**entry, "workdir": parent["name"]})
    name = place(entry)
    return name if entry.get("reference") else "/".join(pathlib.PurePath(name).parts[-2:])


def _curves(page: Page, rows: Sequence[Row]) -> None:
    """Losses (of regression: errors), metrics of plugins and scores of answers over steps, of each set that was evaluated, and the loss of
    training; of runs that start from each other one after another."""
    colors = plots.palette(row["name"] for row in rows)
    own = {name for row in rows for name in row["config"].get("eval", {}).get("metrics", ())}
    for key in sorted({key for row in rows for r in row["evals"] for key in r}):
        measured, _, name = key.rpartition("/")
        if unit := drawn(key, own):
            lines = {row["name"]: [[(r["step"], r[key]) for r in row["evals"] if key in r]] for row in rows}
            lines = {name: points for name, points in lines.items() if points[0]}
            labels = _labels(measured, [row for row in rows if row["name"] in lines])
            page.figure(plots.curves(lines, title=key, x="step", y=unit, colors=colors, labels=labels))
    rewarded = [row for row in rows if row["train"] and "reward" in row["train"][0]]
    for name, unit in _REWARDED.items():
        lines = {row["name"]: [[(r["step"], r[name]) for r in row["train"] if name in r]] for row in rewarded}
        lines = {run: points for run, points in lines.items() if points[0]}
        if lines:
            page.figure(plots.curves(lines, title=f"training {name}", x="step", y=unit, colors=colors))
    trained = [row for row in rows if row["train"] and row not in rewarded]
    train = {row["name"]: [[(r["step"], r["loss"]) for r in row["train"]]] for row in trained}
    if train:
        errors = all(configs.get(row["config"], "objective.name", "") == "regression" for row in trained)
        unit = "mean squared error" if errors else "nats per token"
        page.figure(plots.curves(train, title="training loss", x="step", y=unit, colors=colors))
    _chain(page, rows, colors)


def drawn(key: str, own: Collection[str]) -> str:
    """The unit of a figure of an evaluated metric, "" of those without one. Of each measure of behavior one is drawn, the first of those that may
    be better or worse: there may be dozens.

    Args:
      own: metrics that the config asks for.
    """
    measured, _, name = key.rpartition("/")
    if key.startswith(BEHAVIOR):
        spec = TASKS.get(measured.removeprefix(BEHAVIOR))
        first = next((n for n, better in spec.metrics.items() if better), name) if spec else name
        return name if name == first else ""
    return _DRAWN.get(name, name if name in own or is_of_answers(measured) else "")


def _labels(name: str, rows: Sequence[Row]) -> dict[str, str]:
    """The names of runs in a figure of a set; with the data of that set, where runs measured it on different ones."""
    measured = {row["name"]: _measured_on(name, row) for row in rows}
    if len(set(measured.values())) < 2:
        return {run: run for run in measured}
    return {run: f"{run}, on {data or 'unknown data'}" for run, data in measured.items()}


def _measured_on(name: str, row: Row) -> str:
    """The source of a set of a run; "" where it is not known."""
    config = row["config"]
    if name == "source":
        known = [_trained_on(entry["workdir"]) for entry in row["lineage"][:1] if "workdir" in entry]
        return configs.get(config, "eval.source", "") or next(iter(known), "")
    return configs.get(config, "data.source", "") if name == "validation" else ""


def _trained_on(place: str) -> str:
    """The data source of the run in a place; "" where it is not there or cannot be read."""
    with contextlib.suppress(UserError):
        there = Workdir(places.run(place, "lineage"))
        return configs.get(there.recorded_config(), "data.source", "") if there.is_run else ""
    return ""


def _chain(page: Page, rows: Sequence[Row], colors: Mapping[str, str]) -> None:
    """The loss on each run's own data, of runs that started from others of the report, after the steps of these."""
    offsets: dict[str, int] = {}

    def offset(row: Row, seen: tuple[str, ...] = ()) -> int:
        parent = _parent(row, rows)
        if parent is None or row["name"] in seen:
            return 0
        entry = row["lineage"][0]
        return offset(parent, (*seen, row["name"])) + (0 if entry.get("optimizer") else entry["step"])

    for row in rows:
        offsets[row["name"]] = offset(row)
    key = "validation/nll"
    lines = {
        row["name"]: [[(offsets[row["name"]] + r["step"], r[key]) for r in row["evals"] if key in r]] for row in rows
    }
    lines = {name: points for name, points in lines.items() if points[0]}
    if any(offsets[name] for name in lines):
        labels = _labels("validation", [row for row in rows if row["name"] in lines])
        title = f"{key}, one stage after another"
        page.figure(
            plots.curves(
                lines,
                title=title,
                x="steps since the first stage began",
                y="nats per token",
                colors=colors,
                labels=labels,
            )
        )


def _combined(page: Page, rows: Sequence[Row]) -> None:
    """What combined models were made of."""
    for row in rows:
        if row["combined"]:
            page.heading(f"{row['name']}: {row['combined']['method']}")
            page.text(merge_page.origin(row["combined"]))
            page.table(merge_page.table(row["combined"]))
            for figure in merge_page.figures(row["combined"]).values():
                page.figure(figure)


def _before_after(page: Page, rows: Sequence[Row]) -> None:
    finished = [row for row in rows if row["summary"] and row["summary"]["after"]]
    if finished:
        page.heading("Before and after (best checkpoint)")
    for row in finished:
        before, after = row["summary"]["before"], row["summary"]["after"]
        page.text(row["name"])
        page.table([{"metric": k, "before": before.get(k, "-"), "after": v} for k, v in sorted(after.items())])
        for name, table in row["summary"].get("confusion", {}).items():
            if len(table["classes"]) <= _MOST_CLASSES:
                page.figure(plots.confusion(table, title=f"{row['name']}, {name}"))
                continue
            page.text(f"{row['name']}, {name}: a row for each class that there is, a column for each that was named")
            page.table(confusion_rows(table))


def _measures(page: Page, rows: Sequence[Row]) -> None:
    """What was gained and forgotten, and at what cost."""
    tables = {row["name"]: measures(row["summary"]) for row in rows if row["summary"]}
    for title, heading in (("transfer", "Gain and forgetting"), ("cost", "Cost of a training step")):
        found = [(name, figures) for name, parts in tables.items() for part, figures in parts if part == title]
        if found:
            page.heading(heading)
        for name, figures in found:
            page.text(name)
            page.table(figures)


def _time(page: Page, rows: Sequence[Row]) -> None:
    """Where the time of each run went; of what an earlier version carried out, nobody knows."""
    known = {row["name"]: row["seconds_by"] for row in rows if row["seconds_by"]}
    if not known:
        return
    page.heading("Where the time went")
    page.table([{"run": name, **clock.row(seconds)} for name, seconds in known.items()])
    shown = {name: {part.replace("_", " "): took for part, took in by.items()} for name, by in known.items()}
    page.figure(plots.stacked(shown, title="Wall time", x="seconds"))


def _drift(page: Page, rows: Sequence[Row]) -> None:
    """How far each part of the model moved, of several adapters by each."""
    each = {
        f"{row['name']}#{adapter}" if adapter else row["name"]: one.get("drift")
        for row in rows
        if row["summary"]
        for adapter, one in by_adapter(row["summary"]).items()
    }
    shares = {
        name: {part["part"]: 100 * part["relative"] for part in drift if part["relative"] is not None}
        for name, drift in each.items()
        if isinstance(drift, list)
    }
    if shares:
        page.heading("Drift from the start")
        title, colors = "Distance from the start", plots.palette(row["name"] for row in rows)
        colors = colors if shares.keys() <= colors.keys() else None
        page.figure(plots.bars(shares, title=title, x="part of the model", y="% of the start's norm", colors=colors))


def _data(page: Page, rows: Sequence[Row]) -> None:
    page.heading("Training data")
    for row in rows:
        page.text(" ".join([f"{row['name']}:", *overview.announced(row["data"])]))
        page.table(overview.shown(row["data"]))


def _parameters(page: Page, rows: Sequence[Row]) -> None:
    page.heading("Parameters")
    for row in rows:
        page.text(row["name"])
        page.table([{k: v for k, v in group.items() if k != "paths"} for group in row["partition"]])


def _samples(page: Page, rows: Sequence[Row]) -> None:
    """The last two texts of each run."""
    samples = [(row["name"], sample) for row in rows for sample in row["samples"][-2:]]
    if samples:
        page.heading("Samples")
    for name, sample in samples:
        page.sample(f"{name}, step {sample['step']}", sample["prompt"], sample["text"])


def _answers(page: Page, rows: Sequence[Row]) -> None:
    """What each run answered at last, the first questions."""
    shown = [(row["name"], answer) for row in rows for answer in row["answers"][:_ANSWERS]]
    if shown:
        page.heading("Answers")
        page.text("The first questions of the last evaluation; answers.jsonl in the folder of a run has all of them.")
        page.table([_answered(name, answer) for name, answer in shown], prose=True)
    if compared := [{"run": row["name"], **one} for row in rows for one in row["answers_against_start"]]:
        page.text(
            "Answers of the selected step, else of the last, against those to the same questions at the start. length_controlled is the win "
            "rate as it would be if both were equally long (Dubois et al. 2024). Lengths are in characters."
        )
        page.table(compared)


def _answered(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    right = row["reference"]
    reference = right if isinstance(right, str) else " | ".join(right or ())
    scores = ", ".join(
        f"{verifier} {'-' if score['value'] is None else format(score['value'], 'g')} ({score['reason']})"
        for verifier, score in row["scores"].items()
    )
    found = {"prompt": row["prompt"][-_LETTERS:], "answer": row["answer"][:_LETTERS], "reference": reference[:_LETTERS]}
    return {"run": name, "step": row["step"], **found, "ended by": row["reason"], "scores": scores}
