"""Another run's parameters: reading them back whole, following references to a base, and recording where they are from."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.errors import UserError, listed
from ptft_jax.params import fingerprint
from ptft_jax.params.partition import join
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.training import checkpoint

# How a leaf (path of a stored leaf, shape) is laid out over devices.
Layout = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint of a run, by its place and what is known of it without reading its arrays."""

    workdir: pathlib.Path
    step: int
    meta: dict[str, Any]
    config: configs.Section

    @property
    def adapter(self) -> Any:
        """What the run added to its model, or None."""
        return adapters.build(self.config.tune)


def find(reference: str, field: str = "config.init.from") -> Source:
    """The checkpoint that WORKDIR[@STEP|@best|@latest] names. Raises UserError."""
    workdir, step = checkpoint.resolve(reference, field)
    try:
        meta = checkpoint.read_meta(workdir, step)
    except checkpoint.Damaged as e:
        raise _damaged(field, reference, workdir, step, e) from e
    return Source(workdir, step, meta, read_config(workdir))


def read_config(workdir: pathlib.Path) -> configs.Section:
    """The resolved config of the run in `workdir`."""
    path = workdir / "config.json"
    try:
        return configs.check(json.loads(path.read_text()))
    except ValueError as e:
        raise UserError(f"{path}: {e}") from e
    except UserError as e:
        raise UserError(f"{path}: {e}") from e


def parameters(source: Source, layout: Layout, *, merged: bool, weights: str = "auto") -> dict[str, Any]:
    """The parameters of a checkpoint, whole; frozen ones of an adapter run come from its base.

    Args:
      layout: where each leaf goes; it lands there directly.
      merged: fold the run's adapter into its base, giving the parameters of a plain model.
      weights: "raw", "ema", or "auto" for the average where one was kept.

    Raises:
      UserError: a damaged checkpoint, or a base that is missing or not the one that was trained on.
    """
    workdir, step, meta = source.workdir, source.step, source.meta
    field = f"{workdir}@{step}"
    has_average = "ema" in meta["checksums"]
    if weights == "ema" and not has_average:
        raise UserError(f"config.init.weights = 'ema': {field} kept no average (training.ema_decay was 0)")
    try:
        stored = _read(source, "params", layout)
        if has_average and weights != "raw":
            stored = unflatten({**flatten(stored), **flatten(_read(source, "ema", layout))})
    except checkpoint.Damaged as e:
        raise _damaged("checkpoint", field, workdir, step, e) from e
    params = join(stored)
    if meta.get("base"):
        params = unflatten({**flatten(_base(source, layout)), **flatten(params)})
    if merged and source.adapter is not None:
        params = source.adapter.merge(params)
    return params


def _read(source: Source, name: str, layout: Layout) -> dict[str, Any]:
    flat = flatten(checkpoint.shapes(source.workdir, source.step, name))
    like = {p: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=layout(p, a.shape)) for p, a in flat.items()}
    return checkpoint.read(source.workdir, source.step, name, unflatten(like), source.meta)


def _base(source: Source, layout: Layout) -> dict[str, Any]:
    """The frozen part that an adapter checkpoint refers to."""
    base = source.meta["base"]
    places = [pathlib.Path(base["workdir"]), (source.workdir / base["relative"]).resolve()]
    place = next((p for p in places if checkpoint.steps_of(p)), None)
    if place is None:
        raise UserError(
            f"{source.workdir} holds only what it trained; its base is not at {places[0]}, nor at {places[1]}: "
            "move it back to one of them"
        )
    params = parameters(find(f"{place}@{base['step']}", "base"), layout, merged=True, weights=base["weights"])
    found = parameters_fingerprint(params)
    if found != base["fingerprint"]:
        raise UserError(
            f"{source.workdir} was trained on a base with fingerprint {base['fingerprint']}, but {place}@{base['step']} has "
            f"{found}: it is another model"
        )
    return params


def parameters_fingerprint(params: Mapping[str, Any]) -> str:
    """The fingerprint of whole parameters, the same however they are laid out."""
    return fingerprint.fingerprint(fingerprint.checksums(params))


def base_reference(source: Source, workdir: pathlib.Path, print_: str, weights: str) -> dict[str, Any]:
    """What an adapter checkpoint in `workdir` records of the base it does not contain."""
    return {
        "workdir": str(source.workdir.absolute()),
        "relative": os.path.relpath(source.workdir.absolute(), workdir.absolute()),
        "step": source.step,
        "fingerprint": print_,
        "weights": weights,
    }


def lineage(source: Source | None, print_: str) -> list[dict[str, Any]]:
    """The chain of checkpoints behind a run, nearest first."""
    if source is None:
        return []
    path = source.workdir / "lineage.json"
    before = json.loads(path.read_text()) if path.is_file() else []
    here = {
        "workdir": str(source.workdir.absolute()),
        "step": source.step,
        "fingerprint": print_,
        "run_id": run_id(source.workdir),
    }
    return [here, *before]


def run_id(workdir: pathlib.Path) -> str:
    """The id a run was given when it was started; another run in the same folder has another."""
    path = workdir / "environment.json"
    return json.loads(path.read_text()).get("run_id", "") if path.is_file() else ""


def _damaged(field: str, reference: str, workdir: pathlib.Path, step: int, error: Exception) -> UserError:
    others = [str(s) for s in checkpoint.steps_of(workdir) if s != step]
    hint = f"other steps there:{listed(others)}" if others else "there is no other step"
    return UserError(f"{field} = {reference!r}: checkpoint {step} is damaged: {error}; {hint}")
