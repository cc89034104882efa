"""Another run's parameters: reading them back whole, following references to a base, and recording where they are from."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError, listed
from ptft_jax.model.spec import STRUCTURE
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
    ignore: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.workdir}@{self.step}"

    @property
    def reference(self) -> str:
        """How it can be found again."""
        return str(self.workdir.absolute())

    @property
    def adapter(self) -> Any:
        """What the run added to its model, or None."""
        return adapters.build(self.config.tune)

    @functools.cached_property
    def tokenizer(self) -> tok.Tokenizer:
        """The run's tokenizer."""
        return tok.from_file(self.workdir)

    @property
    def fields(self) -> dict[str, Any]:
        """The structural fields of its `config.model`, and `vocab_size`."""
        model = self.config.as_dict()["model"]
        size = self.meta.get("vocab_size") or model["vocab_size"] or self.tokenizer.vocab_size
        return {**{name: model[name] for name in STRUCTURE}, "vocab_size": size}

    @property
    def data(self) -> configs.Section | None:
        """The data it was trained on."""
        return self.config.data

    def parameters(
        self, layout: Layout, dtype: str = "", *, weights: str = "auto", merged: bool = True, **_: Any
    ) -> dict[str, Any]:
        """The whole parameters, in the dtype they were saved in, as `parameters` gives them."""
        params = parameters(self, layout, merged=merged, weights=weights)
        if not self.ignore:
            return params
        flat = flatten(params)
        dropped = [path for path in flat if any(re.fullmatch(pattern, path) for pattern in self.ignore)]
        return unflatten({path: array for path, array in flat.items() if path not in dropped})

    def lineage(self, print_: str) -> list[dict[str, Any]]:
        """The chain of checkpoints behind a run that starts from this one, nearest first."""
        path = self.workdir / "lineage.json"
        before = json.loads(path.read_text()) if path.is_file() else []
        here = {"workdir": self.reference, "step": self.step, "fingerprint": print_, "run_id": run_id(self.workdir)}
        return [here, *before]

    def base_reference(self, workdir: pathlib.Path, print_: str, weights: str, dtype: str = "") -> dict[str, Any]:
        """What an adapter checkpoint in `workdir` records of the base that it does not contain."""
        return {
            "workdir": self.reference,
            "relative": os.path.relpath(self.workdir.absolute(), workdir.absolute()),
            "step": self.step,
            "fingerprint": print_,
            "weights": weights,
        }


Parent = Any  # Source, or interop.pretrained.Pretrained: what has these methods


def find(
    reference: str, field: str = "config.init.from", ignore: Sequence[str] = (), fresh: Sequence[str] = ()
) -> Parent:
    """What a reference names: WORKDIR[@STEP|@best|@latest] of a run, or hf:... or gguf:... weights. Raises UserError."""
    if reference.startswith(("hf:", "gguf:")):
        from ptft_jax.interop import pretrained

        return pretrained.find(reference, field, ignore, fresh)
    workdir, step = checkpoint.resolve(reference, field)
    try:
        meta = checkpoint.read_meta(workdir, step)
    except checkpoint.Damaged as e:
        raise _damaged(field, reference, workdir, step, e) from e
    return Source(workdir, step, meta, read_config(workdir), tuple(ignore))


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
    parent = _pretrained_base(source, base) if ":" in base["workdir"][:5] else _run_base(source, base)
    params = parent.parameters(layout, base.get("dtype", ""), weights=base["weights"])
    found = parameters_fingerprint(params)
    if found != base["fingerprint"]:
        raise UserError(
            f"{source.workdir} was trained on a base with fingerprint {base['fingerprint']}, but {parent.name} has "
            f"{found}: it is another model"
        )
    return params


def _run_base(source: Source, base: Mapping[str, Any]) -> Source:
    places = [pathlib.Path(base["workdir"]), (source.workdir / base["relative"]).resolve()]
    place = next((p for p in places if checkpoint.steps_of(p)), None)
    if place is None:
        raise UserError(
            f"{source.workdir} holds only what it trained; its base is not at {places[0]}, nor at {places[1]}: "
            "move it back to one of them"
        )
    return find(f"{place}@{base['step']}", "base")


def _pretrained_base(source: Source, base: Mapping[str, Any]) -> Parent:
    places = [base["workdir"]]
    if base["relative"]:
        kind, _, relative = base["relative"].partition(":")
        places.append(f"{kind}:{(source.workdir / relative).resolve()}")
        places = [p for p in places if pathlib.Path(p.partition(":")[2]).exists()]
    if not places:
        raise UserError(
            f"{source.workdir} holds only what it trained; its base {base['workdir']} is not there: move it back"
        )
    return find(places[0], "base", base.get("ignore", ()))


def parameters_fingerprint(params: Mapping[str, Any]) -> str:
    """The fingerprint of whole parameters, the same however they are laid out."""
    return fingerprint.fingerprint(fingerprint.checksums(params))


def run_id(workdir: pathlib.Path) -> str:
    """The id a run was given when it was started; another run in the same folder has another."""
    path = workdir / "environment.json"
    return json.loads(path.read_text()).get("run_id", "") if path.is_file() else ""


def _damaged(field: str, reference: str, workdir: pathlib.Path, step: int, error: Exception) -> UserError:
    others = [str(s) for s in checkpoint.steps_of(workdir) if s != step]
    hint = f"other steps there:{listed(others)}" if others else "there is no other step"
    return UserError(f"{field} = {reference!r}: checkpoint {step} is damaged: {error}; {hint}")
