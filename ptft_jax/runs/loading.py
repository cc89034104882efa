"""Models that are there already, loaded to use: those of runs, and imported weights."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.model import spec as specs
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel.sharding import on_one_device
from ptft_jax.params import finite
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.runs import identity
from ptft_jax.runs import source as restore
from ptft_jax.runs.lineage import place
from ptft_jax.runs.parent import Parent


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A run's model, or imported weights, ready to evaluate or generate with.

    Attributes:
      tokenizer: None for models of images.
      reads_prompt: the model was trained to read a prompt in both directions (prefix LM).
      gaps: the tokens that stand for gaps in a prompt, id -> text, of a model that was trained by span corruption.
      template: the source of the chat template that came with an adapter put onto it; "" = that of `source`.
    """

    source: Parent
    model: Transformer
    params: dict[str, Any]
    tokenizer: tok.Tokenizer | None
    reads_prompt: bool = False
    gaps: Mapping[int, str] = dataclasses.field(default_factory=dict)
    template: str = ""


def load(
    reference: str | pathlib.Path,
    *,
    field: str = "run",
    weights: str = "auto",
    dtype: str = "float32",
    adapter: str = "",
    ignore: Sequence[str] = (),
    merge_into: str = "",
    together: bool = False,
    plugins: Sequence[str] = (),
) -> Loaded:
    """The model that WORKDIR[@best|@last|@STEP], hf:... or gguf:... names, adapters merged where that can be. A quantized base stays
    so, with the adapter on it, unless `merge_into` says otherwise.

    Args:
      reference: of a run, its workdir (`runs/base`, the best checkpoint by the run's own selection, or the last where it
        selected none; `runs/base@last`, `runs/base@400`; with `#NAME` one of several adapters); of imported weights
        `hf:FOLDER`, `hf:NAME`, `gguf:FILE`.
      field: what the reference is called in messages.
      weights: of a run that kept an average: the average ("auto", "ema") or the parameters themselves ("raw").
      dtype: what imported weights are kept and computed in; a run's are as its config says.
      adapter: a folder in PEFT's format, put onto the model.
      ignore: patterns of tensors that may be left out, of imported weights.
      merge_into: of a run on a quantized base, for parameters of a plain model: "dequantized" or "original", see
        `ptft_jax.adapters.quantized.QuantizedBase.merge`.
      plugins: modules that may have the family of imported weights; a run names its own.
      together: of a run with several adapters, all may be loaded; else the reference has to choose one (`RUN#NAME`).

    Raises:
      UserError: no such model, or a damaged one.
    """
    reference = os.fspath(reference)
    if ignore and not restore.is_reference(reference):
        raise UserError(f"--ignore is for hf: and gguf: weights; {reference} is a run")
    source = restore.find(reference, field, ignore, together=together, plugins=plugins)
    added = peft_adapter(adapter, source, "--adapter") if adapter else None
    method = added.method if added else source.adapter
    if source.quantization and added:
        raise UserError(f"--adapter: {source.name} has an adapter on a quantized base; export it, and put this on that")
    if merge_into:
        restore.check_merge(source, merge_into, "merge_into")
    whole = method is None or (method.mergeable and (bool(merge_into) or not source.quantization))
    kept = None if whole else method
    if added and source.adapter is not None and not source.adapter.mergeable:
        raise UserError(f"--adapter: {source.name} has an adapter of its own, which cannot be merged")
    params = source.parameters(
        on_one_device, dtype, weights=weights, merged=kept is None or bool(added), merge_into=merge_into
    )
    if source.quantization and kept:
        params = method.encode(params)
    spec = specs.from_config(source.config.model, source.fields["vocab_size"])
    if not isinstance(source, restore.Source):
        spec = dataclasses.replace(spec, dtype=dtype, param_dtype=dtype)
    if added:
        adapted = added.onto(flatten(params))
        params = unflatten({p: jax.device_put(a, jax.devices()[0]) for p, a in adapted.items()})
        params = params if kept else method.merge(params)
    tokenizer = None if specs.wordless(source.fields) else source.tokenizer
    objective = source.config.tables.objectives[source.config.objective.name]
    gaps = objective.gaps_of(tokenizer)
    model, params = Transformer(spec, kept).collapsed(params)
    template = identity.template_beside(adapter) if adapter and tokenizer is not None else ""
    return Loaded(source, model, params, tokenizer, objective.reads_prompt, gaps, template)


def peft_adapter(folder: str, parent: Parent, field: str, merge_into: str = "") -> Any:
    """The adapter in PEFT's format in a folder, for the parent's plain model. Raises UserError."""
    from ptft_jax.interop import families, peft

    family, _ = families.of(parent.fields, parent.lineage(""), plugins=parent.config.plugins)
    fields = families.canonical(parent.fields)
    shapes = Transformer(ModelSpec(**fields)).shapes()

    def arrays() -> dict[str, Any]:
        return parent.parameters(on_one_device, merge_into=merge_into)

    names, ties = family.tensors(fields), family.ties(fields)
    found = peft.read(folder, names, shapes, prefix=family.prefix, ties=ties, arrays=arrays, field=field)
    finite.refuse({**flatten(found.params), **flatten(found.replaced)}, f"{field}: {folder}")
    identity.check_folder(pathlib.Path(folder).expanduser(), parent, field)
    return found


def parent_parameters(loaded: Loaded) -> dict[str, Any]:
    """The whole parameters that a run started with, for the plain model that it has become.

    Raises:
      UserError: it did not start from another model, that is not where it was or has changed, or the run is no plain model.
    """
    source, init = loaded.source, loaded.source.config.init
    comparing = f"objective.name = {source.config.objective.name!r} compares {source.name} with its parent"
    alone = source.config.tables.objectives[source.config.objective.name].alone
    chain = [entry for entry in source.lineage("")[1:] if not entry.get("optimizer")]
    if not chain:
        raise UserError(f"{comparing}: it has none")
    if loaded.model.adapt is not None or init.adapter:
        raise UserError(
            f"{comparing}, which is not what it started with: an adapter beside it is no part of a plain model"
            f"{f'; --objective={alone} measures it alone' if alone else ''}"
        )
    start = place(chain[0])
    options: dict[str, Any] = {"ignore": init.ignore, "fresh": init.fresh, "plugins": source.config.plugins}
    parent = restore.find(start, f"the parent of {source.name}", **options)
    dtype, wide = source.config.model.param_dtype, chain[0].get("wide", ())
    params = parent.parameters(on_one_device, dtype, wide=wide, weights=init.weights, merge_into=init.merge_into)
    found = restore.start_fingerprint(parent, params, init.weights, init.merge_into, chain[0]["fingerprint"])
    if found != chain[0]["fingerprint"]:
        raise UserError(
            f"{comparing}, which had the fingerprint {chain[0]['fingerprint']}; {start} has {found}: it is another model"
        )
    return params
