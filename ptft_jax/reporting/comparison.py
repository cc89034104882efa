"""Finished runs of one parent side by side: which can be compared, seeds of one config as one, the Pareto front."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax import config as configs
from ptft_jax.config.computed import computed
from ptft_jax.errors import UserError, few, listed, nearest
from ptft_jax.reporting import equal_gain, merge_page, run_names, settings
from ptft_jax.reporting.summary_tables import by_adapter
from ptft_jax.runs import identity
from ptft_jax.runs.lineage import parted, place
from ptft_jax.runs.workdir import Workdir

# What may differ between comparable runs of the settings that say what is measured: how the target is trained on.
_TRAINING = (
    "eval.metrics",
    "data.mixture",
    "data.temperature",
    "data.max_epochs",
    "data.train_tokens",
    "data.batch_size",
    "data.workers",
    "data.prefetch",
    "eval.every",
    "eval.batch_size",
    "eval.mixture",
)
_MEASURING = ("data.", "eval.", "objective.name", "tokenizer.")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run, from the files in its workdir, or one of its several adapters."""

    workdir: pathlib.Path
    config: dict[str, Any]
    summary: Mapping[str, Any]
    lineage: list[dict[str, Any]]
    adapter: str = ""

    @property
    def name(self) -> str:
        """The folder's, and the adapter's."""
        return f"{self.workdir.name}#{self.adapter}" if self.adapter else self.workdir.name

    @property
    def reference(self) -> str:
        """WORKDIR or WORKDIR#ADAPTER."""
        return f"{self.workdir}#{self.adapter}" if self.adapter else str(self.workdir)

    @functools.cached_property
    def identity(self) -> identity.Identity:
        """What its losses are of: tokenizer, chat template, names of classes."""
        return identity.of_folder(self.workdir, self.config, self.reference)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one config that differ in nothing but the seed.

    Attributes:
      figures: name -> (mean, standard deviation over seeds; 0 for one run); what some run lacks is left out.
      drift: part of the model -> relative distance from the start, mean over seeds.
      paths: of each run, as `ptft_jax.reporting.equal_gain.path_of` has them, where it is known.
      at_gain: the gain at which the figure "equal_gain" tells what was forgotten; None where there is none.
      best: whether no other group gains at least as much and forgets no more, one of the two strictly.
      differs: setting -> its value, of those that are not the same in all that is compared.
    """

    name: str
    method: str
    runs: tuple[Finished, ...]
    figures: Mapping[str, tuple[float, float]]
    drift: Mapping[str, float]
    paths: tuple[equal_gain.Path, ...] = ()
    at_gain: float | None = None
    best: bool = False
    differs: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read(reference: str | pathlib.Path) -> Finished:
    """What WORKDIR[#ADAPTER] names. Raises UserError for a folder without a run, or with one that is not finished; for a run
    with several adapters of which none is named."""
    place, adapter = parted(str(reference))
    here = Workdir(pathlib.Path(place))
    workdir = here.path
    here.check()
    if not here.is_finished:
        raise UserError(f"{workdir} is not finished: continue it with its `ptft train` command")
    summary, lineage = here.read_summary(), here.read_lineage()
    # Checked, so that settings which came after the run have the values that it was carried out with.
    config = here.read_config().as_dict()
    each = by_adapter(summary)
    if adapter not in each:
        known = [f"{workdir}#{name}" for name in each if name]
        if not known:
            raise UserError(f"{reference}: the run has not several adapters to choose from; leave out #{adapter}")
        raise UserError(
            f"{reference}: the run has several adapters, and each gained and forgot on its own: name one of "
            f"{', '.join(known)}{nearest(str(reference), known) if adapter else ''}"
        )
    if adapter:
        config["data"]["source"] = config["data"]["mixture"][config["tune"]["adapters"].index(adapter)][0]
    return Finished(workdir, config, each[adapter], lineage, adapter)


def distinct(references: Sequence[str | pathlib.Path | Finished]) -> list[Finished]:
    """The runs that are named, or read already, each once. Raises UserError, see `read`."""
    runs = (run if isinstance(run, Finished) else read(run) for run in references)
    return list({(run.workdir.resolve(), run.adapter): run for run in runs}.values())


def by_seed(runs: Sequence[Finished]) -> list[list[Finished]]:
    """Runs that differ in nothing but the seed together. Raises UserError for two of one seed."""
    seeds: dict[str, list[Finished]] = {}
    for run in runs:
        beside = seeds.setdefault(_but_seed(run.config), [])
        same = [r.reference for r in beside if r.config["seed"] == run.config["seed"]]
        if same:
            raise UserError(
                f"{same[0]} and {run.reference} are of one config and one seed: a run twice is no second sample"
            )
        beside.append(run)
    return list(seeds.values())


def of_one_parent(runs: Sequence[Finished]) -> bool:
    """Whether these runs were all fine-tuned from the same parent, and say what they gained."""
    parents = {run.summary.get("parent_fingerprint") for run in runs}
    return all(run.lineage and run.summary.get("transfer") for run in runs) and len(parents) == 1


def compare(references: Sequence[str | pathlib.Path | Finished], at_gain: float | None = None) -> list[Group]:
    """The runs, each WORKDIR[#ADAPTER], in groups, those that gained most first.

    Args:
      at_gain: nats, the gain at which it is told what was forgotten; None = the largest that all runs reached.

    Raises:
      UserError: a folder without a finished run; a run without a parent, of another parent than the first, or measured on
        something else.
    """
    runs = distinct(references)
    for run in runs:
        if not run.lineage:
            raise UserError(f"{run.workdir} has no parent: what it gained and forgot cannot be said")
        if "transfer" not in run.summary:
            if merge_page.read(run.workdir):
                raise UserError(
                    f"{run.workdir} is a combined model, which was not trained: name the runs it was made of"
                )
            raise UserError(f"{run.workdir} was finished by a version that did not measure this: run it again")
        _check_like(run, runs[0])
    chosen = {name: _set(runs, name) for name in ("target", "source")}
    seeds = by_seed(runs)
    paths = {run.reference: () if run.adapter else equal_gain.path_of(run.workdir) for run in runs}
    at_gain = equal_gain.reached(list(paths.values())) if at_gain is None else at_gain
    named = dict(zip(group_names(seeds), seeds))
    groups = [_group(name, rows, chosen, paths, at_gain) for name, rows in named.items()]
    both = [g for g in groups if "gain" in g.figures and "forgetting" in g.figures]
    points = [(g.figures["forgetting"][0], g.figures["gain"][0]) for g in both]
    best = {g.name for g, is_best in zip(both, front(points)) if is_best}
    differs = settings.varied({name: rows[0].config for name, rows in named.items()})
    groups = [dataclasses.replace(g, best=g.name in best, differs=differs[g.name]) for g in groups]
    return sorted(groups, key=lambda g: -g.figures.get("gain", (-math.inf,))[0])


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of points (forgetting, gain): which no other dominates, by forgetting no more and gaining no less, and one strictly."""
    return [not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def plain(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row per group with plain numbers, in the units of the summary; "" for what is not known."""
    out = []
    for group in groups:
        row: dict[str, Any] = {"run": group.name, "method": group.method, **group.differs, "seeds": len(group.runs)}
        for key in COLUMNS:
            mean, deviation = group.figures.get(key, ("", ""))
            row[key], row[f"{key}_sd"] = mean, deviation if len(group.runs) > 1 else ""  # one run has no spread
        out.append({**row, "on_front": int(group.best)})
    return out


def table(groups: Sequence[Group], columns: Sequence[str] = (), differing: bool = True) -> list[dict[str, Any]]:
    """A row per group, for people, with these of COLUMNS (all where none are named); `differing`: and what people ask for first of the
    settings that differ."""
    out = []
    for group in groups:
        best = "yes" if group.best else "no"  # before the figures, which may be wider than a page
        row: dict[str, Any] = {"run": group.name, "front": best, "method": group.method}
        if differing:
            row |= {
                path: value for path, value in group.differs.items() if path in settings.FIRST and path != "tune.method"
            }
        row["seeds"] = len(group.runs)
        for key in columns or COLUMNS:
            title, factor, form = COLUMNS[key]
            mean, deviation = group.figures.get(key, (math.nan, math.nan))
            shown = "-" if math.isnan(mean) else form.format(mean * factor)
            several = len(group.runs) > 1 and key in SPREAD and shown != "-"
            row[title] = f"{shown} ± {form.format(deviation * factor)}" if several else shown
        out.append(row)
    return out


# figure -> (column, factor, format); in this order.
COLUMNS: dict[str, tuple[str, float, str]] = {
    "gain": ("gain", 1, "{:.3f}"),
    "forgetting": ("forgetting", 1, "{:.3f}"),
    "equal_gain": ("at equal gain", 1, "{:.3f}"),
    "forgotten_share": ("forgotten %", 100, "{:.1f}"),
    "drift": ("drift %", 100, "{:.2f}"),
    "trainable": ("trainable", 1, "{:,.0f}"),
    "trainable_bytes": ("trained MiB", 2**-20, "{:.2f}"),
    "optimizer_bytes": ("optimizer MiB", 2**-20, "{:.2f}"),
    "flops": ("GFLOP", 1e-9, "{:.3g}"),
    "peak_bytes": ("peak MiB", 2**-20, "{:.1f}"),
    "step_seconds": ("ms", 1e3, "{:.1f}"),
}
# Those of a terminal; the page has all.
NARROW = (
    "gain",
    "forgetting",
    "equal_gain",
    "forgotten_share",
    "trainable",
    "optimizer_bytes",
    "flops",
    "peak_bytes",
    "step_seconds",
)
SPREAD = ("gain", "forgetting", "equal_gain", "forgotten_share", "drift", "step_seconds")


def further(groups: Sequence[Group]) -> str:
    """In what else the groups differ than `table` shows; "" where in nothing."""
    more = [path for path in groups[0].differs if path not in settings.FIRST]
    return f"They also differ in {few(more, 6)}." if more else ""


def meanings(groups: Sequence[Group]) -> str:
    """What the columns are, in a sentence each."""
    summary = groups[0].runs[0].summary
    source = _set([run for g in groups for run in g.runs], "source")
    found = summary["transfer"][source]
    share = f" forgotten %: of the {found['learned']:.3f} nats learned before, from {found['reference']['of']}." if (
        "reference" in found
    ) else ""  # fmt: skip
    at_gain = groups[0].at_gain
    equal = (
        ""
        if at_gain is None
        else f" at equal gain: what was forgotten when a gain of {at_gain:.3f} on the validation split was first reached, between evaluations by a line."
    )
    several = [f"{g.name}'s" for g in groups if any(run.adapter for run in g.runs)]
    shared = f" Parameters, memory and operations of {', '.join(several)} are those of the run, with all of its adapters." if (
        several
    ) else ""  # fmt: skip
    which = {"target": "validation", "target_test": "test"}[_set([r for g in groups for r in g.runs], "target")]
    return (
        f"gain: loss on the target's {which} split at the start minus at the selected checkpoint, in nats. forgetting: loss on "
        f"the source at the selected checkpoint minus at the start.{share}{equal} drift: distance of the effective parameters from "
        "the start, relative to their norm (none where only what cannot be merged was trained). GFLOP: of a step's matrix products, all devices; peak: arguments, temporaries and "
        "outputs of the compiled step, one device; ms: a step. ±: standard deviation over seeds. front: no other gains as much and forgets no more."
        + shared
    )


def _check_like(run: Finished, first: Finished) -> None:
    """Raises UserError where the two cannot be compared."""
    if run.summary["parent_fingerprint"] != first.summary["parent_fingerprint"]:
        parents = [f"{r.reference}: {place(r.lineage[0])}" for r in (first, run)]
        raise UserError(f"these runs have not the same parent, so their gains cannot be compared:{listed(parents)}")
    differ = []
    for path, _ in configs.fields():
        if not path.startswith(_MEASURING) or path in _TRAINING or path.startswith("tokenizer.new_rows"):
            continue
        mine, theirs = (json.dumps(configs.get(r.config, path)) for r in (run, first))
        if mine != theirs:
            differ.append(f"{path}: {theirs} in {first.reference}, {mine} in {run.reference}")
    if differ:
        raise UserError(
            f"{first.reference} and {run.reference} measured something else, and cannot be compared:{listed(differ)}"
        )
    identity.check_measured_alike(first.identity, run.identity)


def _set(runs: Sequence[Finished], name: str) -> str:
    """The test split where every run measured it, else what checkpoints were selected on."""
    tested = all("missing" not in run.summary["transfer"][f"{name}_test"] for run in runs)
    return f"{name}_test" if tested else name


def _but_seed(config: Mapping[str, Any]) -> str:
    return json.dumps({**computed(config), "seed": None}, sort_keys=True)


def _group(
    name: str,
    runs: Sequence[Finished],
    chosen: Mapping[str, str],
    paths: Mapping[str, equal_gain.Path],
    at_gain: float | None,
) -> Group:
    rows = [_figures(run.summary, chosen) for run in runs]
    own = [paths[run.reference] for run in runs]
    for row, path in zip(rows, own):
        row["equal_gain"] = None if at_gain is None else equal_gain.forgotten(path, at_gain)
    figures = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        if all(v is not None for v in values):
            figures[key] = spread(values)
    tune = runs[0].config["tune"]
    method = tune["method"]
    if method == "full" and not tune["rates"] and tune["train"] != "all":
        method = f"full: {tune['train']}"
    return Group(name, method, tuple(runs), figures, _drift(runs), tuple(path for path in own if path), at_gain)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, 0 of one."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _figures(summary: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, float | None]:
    target, source = (summary["transfer"][chosen[name]] for name in ("target", "source"))
    cost = summary["cost"] or {}
    flops = cost.get("flops")
    return {
        "gain": target.get("gain"),
        "forgetting": source.get("forgetting"),
        "forgotten_share": source.get("forgotten_share"),
        "drift": _whole(summary["drift"]),
        "trainable": summary["parameters"]["trainable"],
        "trainable_bytes": summary["trainable_bytes"],
        "optimizer_bytes": summary["optimizer_bytes"],
        "flops": flops * cost["devices"] if flops else None,
        "peak_bytes": cost.get("peak_bytes"),
        "step_seconds": summary["step_seconds"],
    }


def _whole(drift: Any) -> float | None:
    """Relative distance of all of the model's own parameters; None where only what was added moved."""
    if not isinstance(drift, list):
        return None
    own = [row for row in drift if row["part"] != "added"]
    if len(own) < len(drift) and not any(row["distance"] for row in own):
        return None
    norm = math.hypot(*(row["norm"] for row in own))
    return math.hypot(*(row["distance"] for row in own)) / norm if norm else None


def _drift(runs: Sequence[Finished]) -> dict[str, float]:
    if not all(isinstance(run.summary["drift"], list) for run in runs):
        return {}
    rows = [{row["part"]: row["relative"] for row in run.summary["drift"]} for run in runs]
    parts = [part for part in rows[0] if all(row.get(part) is not None for row in rows)]
    return {part: statistics.mean(row[part] for row in rows) for part in parts}


def group_names(groups: Sequence[Sequence[Finished]]) -> list[str]:
    """A name for each group: what the names of its runs begin with, as long as that tells groups apart."""
    short = []
    for runs in groups:
        names = [run.workdir.name for run in runs]
        same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names))
        begin = re.sub(r"\d+$", "", "".join(letters[0] for letters in same))  # lora10, lora11: not lora1
        name = names[0] if len(runs) == 1 else re.sub(r"([\W_]*seed|[\W_]+s)?[\W_]*$", "", begin) or names[0]
        short.append(name + (f"#{runs[0].adapter}" if runs[0].adapter else ""))
    return run_names.names(short, [runs[0].reference for runs in groups])
