"""What a run with a parent gained on its target and forgot of its source, from its own figures and its lineage's."""

from __future__ import annotations

import math
import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.data import trained_on
from ptft_jax.errors import UserError
from ptft_jax.runs import meant, places
from ptft_jax.runs.lineage import place
from ptft_jax.runs.workdir import Workdir

Values = Mapping[str, float]
# What is said of the source, and the split of it that says it.
SPLITS = {"source": "validation", "source_test": "test"}
# What is said, and the set that says it.
ROLES = {"target": "validation", "target_test": "test", "source": "source", "source_test": "source_test"}


def measured(
    before: Values, after: Values, references: Mapping[str, Mapping[str, Any]], roles: Mapping[str, str] = ROLES
) -> dict[str, Any]:
    """Gain and forgetting, in nats per token (of classes: nats per example).

    Args:
      before, after: a run's evaluations of its start and of its selected checkpoint, "SET/nll" -> loss.
      references: of each of SPLITS the loss before anything of the source was learned, see `reference`.
      roles: the sets of ROLES by the names that they have in this run.

    Returns:
      {"target": {"before", "after", "gain"}, "target_test": the same on the test split,
       "source": {"before", "after", "forgetting", "learned", "forgotten_share", "reference"}, "source_test": the same}.
      "learned" = reference - before: what training gained on the source until this run; "forgotten_share" = forgetting /
      learned, None where nothing had been gained. What was not evaluated is {"missing": why}.
    """
    out: dict[str, Any] = {}
    for name in ("target", "target_test"):
        pair = _pair(before, after, roles[name])
        if pair is None:
            out[name] = {"missing": f"{roles[name]} was not evaluated (config.eval)"}
        else:
            out[name] = {"before": pair[0], "after": pair[1], "gain": pair[0] - pair[1]}
    for name in ("source", "source_test"):
        pair = _pair(before, after, roles[name])
        if pair is None:
            why = "what the parent was trained on is not known or was not evaluated: config.eval.source names it"
            out[name] = {"missing": why}
            continue
        forgetting, learned = pair[1] - pair[0], references[name]["nll"] - pair[0]
        out[name] = {
            "before": pair[0],
            "after": pair[1],
            "forgetting": forgetting,
            "learned": learned,
            "forgotten_share": forgetting / learned if learned > 0 else None,
            "reference": dict(references[name]),
        }
    return out


def _pair(before: Values, after: Values, name: str) -> tuple[float, float] | None:
    key = f"{name}/nll"
    return (before[key], after[key]) if key in before and key in after else None


def reference(
    lineage: Sequence[Mapping[str, Any]], source: str, classes: int, split: str = "validation", folder: str = ""
) -> dict[str, Any]:
    """The loss on a split of a source before any of it was learned, and how that is known.

    That is the evaluation at step 0, in its own rows, of the earliest run of the lineage that was trained on this source and
    is still in its place: with random parameters, or with those of its own parent. Where there is none (imported weights,
    another source), it is the loss of a model that knows nothing, the logarithm of the number of `classes` (of a language
    model: ln V).

    Args:
      lineage: as in lineage.json, nearest first.
      source: the data source that forgetting is measured on, as in `config.data.source`.
      folder: that the source's path counts from, "" = the working folder.
      split: "validation" or "test". Where a run did not measure its start on "test", "of" says that it is the other's.

    Returns:
      {"nll": nats, "of": in words}.
    """
    for row in reversed([row for row in lineage if "workdir" in row]):  # imported weights have none
        try:
            workdir = places.run(row["workdir"], "lineage")
            found = _at_start(workdir, row.get("run_id", ""), meant.source(source, folder or os.getcwd()))
            parent = Workdir(workdir).read_lineage() if found else []
        except UserError:  # damaged files of another run, which measured nothing then, are no reason to end this one
            continue
        loss = found.get(split, found.get("validation"))
        if loss is not None:
            what = f"its parent {place(parent[0])}" if parent else "random parameters"
            other = "" if split in found else ", on its validation split"
            return {"nll": loss, "of": f"{what}, measured by {workdir} at step 0{other}"}
    return {"nll": math.log(classes), "of": f"a uniform guess of {classes:,}: no run of the lineage measured its start"}


def _at_start(workdir: pathlib.Path, run_id: str, source: tuple[Any, ...]) -> dict[str, float]:
    """Losses on a source at step 0 of the run in a workdir, by split, if it is that run and was trained on the source."""
    here = Workdir(workdir)
    if not all(file.is_file() for file in (here.config, here.environment, here.lineage)):
        return {}
    if here.run_id != run_id:
        return {}
    name = _called(here, source)
    if name is None:
        return {}
    values: dict[str, Any] = {}
    for row in here.read_metrics():
        values |= row if row["kind"] == "eval" and row["step"] == 0 else {}
    values |= (here.read_summary() or {}).get("before", {})  # with the test split at the start, once the run has ended
    keys = {split: f"{split}{name}/nll" for split in SPLITS.values()}
    return {split: values[key] for split, key in keys.items() if key in values}


def _called(run: Workdir, asked: tuple[Any, ...]) -> str | None:
    """What a run puts behind "validation" and "test" for a source (`meant.source`); None where that is none of those that it was trained on,
    neither as it was named then nor as it is found now, where data were moved."""
    there = meant.begun_in(run.path) or os.getcwd()
    name = _named(run.recorded_config()["data"], there, asked)
    return _named(meant.from_here(run.path, run.read_config())["data"], os.getcwd(), asked) if name is None else name


def _named(data: Mapping[str, Any], there: str, asked: tuple[Any, ...]) -> str | None:
    """As `_called`, of a run's `config.data` whose paths count from a folder."""
    if meant.source(data["source"], there) == asked:
        return ""
    recorded: Any = types.SimpleNamespace(**data)
    labels = trained_on.labels(recorded) if data.get("mixture") else {}
    return next((f"_{name}" for name, one in labels.items() if meant.source(one, there) == asked), None)
