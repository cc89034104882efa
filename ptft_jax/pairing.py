"""What goes together: whether a model and data fit an objective, by what its `ObjectiveSpec` says. Needs no JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax.config.objectives import OBJECTIVES, ObjectiveSpec
from ptft_jax.errors import UserError

PICTURED = ("images", "labelled-images", "captioned-images", "asked-images")  # kinds of images


def check_model(name: str, model: Any, objectives: Mapping[str, ObjectiveSpec] = OBJECTIVES) -> None:
    """Raises UserError where a model cannot be trained or measured on the objective `name` of `objectives`.

    Args:
      model: its `ModelSpec`, or `config.model`.
      objectives: by name; of a config its `tables.objectives`, which has those of its plugins.
    """
    where, spec = f"config.objective.name = {name!r}", objectives[name]
    if not spec.fits(model):
        others = [repr(other) for other, theirs in objectives.items() if theirs.fits(model)]
        advice = f", or objective.name={' or '.join(others)}" if others else ""
        raise UserError(f"{where}: {'; and '.join(spec.misfits(model, advice))}")


def check_kind(
    kinds: tuple[str, ...], kind: str, source: str, description: str, objectives: Mapping[str, ObjectiveSpec]
) -> None:
    """Raises UserError where a source of this kind is none of those that an objective learns from; () = any will do.

    Args:
      objectives: by name, to say which of them learns from it.
    """
    if not kinds or kind in kinds:
        return
    if kind in PICTURED and not {*kinds} & {*PICTURED}:
        raise UserError(
            f"{source}: {description}: these are images, and the model reads texts: set model.image_size, or, where it has a tower for "
            "images (model.tower), objective.name='vision_lm'"
        )
    if kind not in PICTURED and {*kinds} <= {*PICTURED}:
        raise UserError(
            f"{source}: {description}: the model reads images (model.image_size above 0, or a tower), and these are texts ({kind}): give a source "
            "such as images:FOLDER"
        )
    columns = "; choose its columns: KIND:NAME?format=text&text=COLUMN" if "text" in kinds else ""
    others = [name for name, spec in objectives.items() if kind in spec.kinds]
    named = f"config.objective.name = {' or '.join(map(repr, others))}" if others else "no config.objective.name"
    raise UserError(
        f"{source}: {description}: the objective learns from {', '.join(kinds)}, not from {kind} ({named} does){columns}"
    )


def check_neighbors(values: Mapping[str, Any]) -> None:
    """Raises UserError where passages are looked up for chunks of rows that no method reads, or none for one that does; or where that is to
    write. `values`: of the config, nested dicts."""
    reads, index = "retro" in values["tune"]["method"].split("+"), values["data"]["neighbors"]["index"]
    if reads and not index:
        raise UserError(
            "config.tune.method = 'retro': it reads what is found for chunks of rows, and config.data.neighbors.index is '': name an index of passages "
            "(ptft index --kind=bm25)"
        )
    if index and not reads:
        raise UserError(
            f"config.data.neighbors.index = {index!r}: nothing reads what is found: expected tune.method = 'retro', with a parent (init.from), or ''"
        )
    writing = {
        "samples.prompts": values["samples"]["prompts"],
        "eval.answers.verifiers": values["eval"]["answers"]["verifiers"],
        "eval.behavior.tasks": values["eval"]["behavior"]["tasks"],
    }
    for field, asked in writing.items():
        if reads and asked:
            raise UserError(
                f"config.{field}: a model of tune.method = 'retro' reads rows, and writes no text; leave it at ()"
            )


def check_samples(
    name: str, prompts: Any, objectives: Mapping[str, ObjectiveSpec] = OBJECTIVES, field: str = "samples.prompts"
) -> None:
    """Raises UserError where `config.samples.prompts`, or what has the model write in the setting `field`, are set for an objective that
    teaches no model to write."""
    if prompts and (does := objectives[name].does):
        raise UserError(
            f"config.{field}: a model of objective.name={name!r} {does} and writes no text; leave them at ()"
        )
