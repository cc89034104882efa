"""The workdir of a combined model: that of a run of no steps, with every other verb's files, and what it was made of."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optax

from ptft_jax import config as configs
from ptft_jax import environment
from ptft_jax.combining.models import Model
from ptft_jax.config import seeds
from ptft_jax.data import cache
from ptft_jax.errors import UserError
from ptft_jax.evaluation.names import AUTO, direction
from ptft_jax.model.spec import wordless
from ptft_jax.params import finite
from ptft_jax.params.rules import unflatten
from ptft_jax.runs import bucket, checkpoint, identity
from ptft_jax.runs import source as restore
from ptft_jax.runs import state as states
from ptft_jax.runs.files import write_bytes, write_json, write_text
from ptft_jax.runs.saving import Checkpoints
from ptft_jax.runs.workdir import Workdir

# Sections of a run's config that also say what a combined model is and what it is measured on.
_KEPT = ("plugins", "model", "data", "objective", "eval", "select")


def refuse_existing(out: pathlib.Path) -> None:
    """Raises UserError where the workdir to write is there already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out}: is there already; choose another name, or remove it")


def config_of(first: Model, base: str = "", seed: int = 0) -> dict[str, Any]:
    """The config of a plain combined model: model, data and objective as the first run has them, nothing trained."""
    theirs, values = first.source.config.as_dict(), configs.default().to_dict()
    values |= {name: theirs[name] for name in _KEPT}
    if values["select"]["mode"] == AUTO:  # of imported weights
        values["select"] = {**values["select"], "mode": direction(values["select"]["metric"], AUTO)}
    values["training"]["steps"], values["seed"], values["init"]["from_"] = 0, seed, base
    if base:
        values["init"] |= {name: theirs["init"][name] for name in ("ignore", "fresh", "weights", "merge_into")}
    return values


def noted(notes: Sequence[str]) -> dict[str, Any]:
    """What a recipe has of things to be said, {} without any."""
    return {"notes": list(notes)} if notes else {}


def write(
    out: pathlib.Path,
    params: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    first: Model,
    *,
    runs: Sequence[Mapping[str, Any]],
    chain: Sequence[Mapping[str, Any]],
    behind: Sequence[Mapping[str, Any]] = (),
    refers_to: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, float]] | None = None,
    files: Mapping[str, str] | None = None,
) -> str:
    """Writes the workdir, whole or not at all; returns the fingerprint of the parameters.

    Args:
      params: stored leaves by path.
      first: the model whose tokenizer and data it has.
      runs, chain, behind: entries of the lineage: of what it was made of; of the base and what is behind that, () without
        one; and of what else is behind the runs. The base comes first: it is what the model starts from.
      refers_to: of an adapter, what its checkpoint says of its base (`restore.base_reference`).
      recipe: method and options, written as combine.json with the models.
      measured: "before" and "after", metrics by name.
      files: further files, name -> text.

    Raises:
      UserError: there is something already, or the parameters are not all finite.
    """
    refuse_existing(out)
    finite.refuse(
        params, f"--out={out}: what was combined is not written", "\nsmaller --weights keep them within their dtype"
    )
    temporary = cache.folder_beside(out)
    here = Workdir(temporary)
    try:
        fingerprint = _save(temporary, params, config, first, chain, refers_to)
        unique: dict[str, Mapping[str, Any]] = {}
        for entry in (*chain, *runs, *behind):
            same = {name: value for name, value in entry.items() if name != "checkpoint"}  # however it was named
            unique.setdefault(json.dumps(same, sort_keys=True, default=str), entry)
        write_json(here.lineage, list(unique.values()))
        made = {**recipe, "base": chain[0] if chain else None, "runs": runs, "fingerprint": fingerprint}
        write_json(here.recipe, made)
        measured = measured or {}
        write_json(here.summary, _summary(out, params, config, measured, chain))
        if measured.get("after"):
            write_text(here.metrics, json.dumps({"step": 0, "kind": "eval", **measured["after"]}) + "\n")
        for name, text in (files or {}).items():
            write_text(temporary / name, text)
        _describe(temporary, params, config, first)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if refers_to:
        restore.protect_base(refers_to, out)
    return fingerprint


def _save(
    folder: pathlib.Path,
    params: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    first: Model,
    chain: Sequence[Mapping[str, Any]],
    refers_to: Mapping[str, Any] | None,
) -> str:
    """Writes the checkpoint of step 0; returns its fingerprint."""
    select = config["select"]
    meta = {
        "config": configs.check(config).as_dict(),
        "tokenizer": {name: cache.digest(data) for name, data in _tokenizer_files(first).items()},
        "data": "",
        "data_position": 0,
        "vocab_size": first.source.fields["vocab_size"],
        "classes": list(first.source.classes),
        "chat_template": identity.chat_template(first.source),
        "base": refers_to,
        "before": {},
        "parent_fingerprint": chain[0]["fingerprint"] if chain else "",
        "select_metric": select["metric"],
        "best": [None, -1, 0],
        "seconds": 0.0,
        "metrics": {},
    }
    state = states.create({}, {}, optax.identity(), seeds.key(config["seed"]), ema=False)
    with Checkpoints(folder, keep_latest=1, keep_best=1, mode=select["mode"]) as checkpoints:
        checkpoints.save(state, unflatten(params), meta, None)
    return checkpoint.read_meta(folder, 0)["fingerprint"]


def _describe(folder: pathlib.Path, params: Mapping[str, np.ndarray], config: Mapping[str, Any], first: Model) -> None:
    """What a run records before its first step. config.json comes last: it marks the folder as a run's."""
    here = Workdir(folder)
    for name, data in _tokenizer_files(first).items():
        write_bytes(folder / name, data)
    write_json(here.data, [] if first.imported else Workdir(first.source.workdir).read_data())
    write_json(here.environment, {"run_id": uuid.uuid4().hex, **environment.describe()})
    group = {"group": "frozen", "rate": "0", "leaves": len(params)}
    counts = {"parameters": _count(params), "bytes": sum(a.nbytes for a in params.values()), "paths": list(params)}
    write_json(here.partition, [{**group, **counts}])
    write_json(here.config, configs.check(config).as_dict())


def _tokenizer_files(first: Model) -> dict[str, bytes]:
    return {} if wordless(first.source.fields) else first.source.tokenizer.files()


def _summary(
    out: pathlib.Path,
    params: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, float]],
    chain: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    after = dict(measured.get("after", {}))
    metric = config["select"]["metric"]
    return {
        "finished": True,
        "reason": "combined",
        "workdir": str(out),
        "step": 0,
        "best_step": 0,
        "selected": {"metric": metric, "value": after.get(metric)},
        "before": dict(measured.get("before", {})),
        "after": after,
        "last": after,
        "parameters": {"trainable": 0, "frozen": _count(params)},
        "trainable_bytes": 0,
        "optimizer_bytes": 0,
        "train_tokens": 0,
        "drawn": {},
        "tokens_seen": 0,
        "tokens_to_best": 0,
        "model_flops": 0.0,
        "seconds": 0.0,
        "step_seconds": None,
        "seed": config["seed"],
        "parent_fingerprint": chain[0]["fingerprint"] if chain else "",
    }


def _count(params: Mapping[str, np.ndarray]) -> int:
    return sum(array.size for array in params.values())


def moved_reference(base: Mapping[str, Any], run: Model, out: pathlib.Path) -> dict[str, Any]:
    """What a run's checkpoint says of its base, as one in `out` says it."""
    if not base["relative"] or bucket.is_url(base["workdir"]):
        return {**base, "relative": ""}
    kind = base["workdir"].partition(":")[0] + ":" if restore.is_reference(base["workdir"]) else ""
    where = pathlib.Path(base["workdir"].removeprefix(kind))
    where = where if where.exists() else (run.source.workdir / base["relative"]).resolve()
    return {**base, "workdir": f"{kind}{where}", "relative": os.path.relpath(where, out.absolute())}
