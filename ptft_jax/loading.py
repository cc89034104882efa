"""Models that are there already: a run's config completed by its parent's, and models loaded to use."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from ptft_jax import adapters, identity, objectives
from ptft_jax import config as configs
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.data import class_names, pipeline
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders import spans
from ptft_jax.errors import UserError
from ptft_jax.lineage import parted
from ptft_jax.model import spec as specs
from ptft_jax.model.spec import HEAD, STRUCTURE, ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel.sharding import on_one_device
from ptft_jax.params import finite
from ptft_jax.params.rules import flatten, matches, unflatten
from ptft_jax.training import restore
from ptft_jax.training.selection import AUTO, direction, known


def resolve(
    config: Mapping[str, Any], workdir: pathlib.Path | None = None
) -> tuple[configs.Section, restore.Parent | None]:
    """The checked config with the parent's model structure filled in, and the parent.

    Of a run that goes on from another with its optimizer (`init.optimizer`), the parent is that of the other.

    Args:
      workdir: of a run that may have been started before: its parent is then the checkpoint that it was started from.

    Raises:
      UserError: see `config.check` and `config.check_effects`; also a structural field that was set to something else than the parent's.
    """
    section = configs.check(config, complete=False)
    parent = None
    if section.init.optimizer:
        other = continued(section, workdir)
        section, parent = _as_continued(section, other), _parent_of(other)
    elif section.init.from_:
        reference = restore.recorded(section.init.from_, workdir) if workdir else section.init.from_
        parent = restore.find(reference, ignore=section.init.ignore, fresh=section.init.fresh)
    if parent is None:
        pipeline.with_parent(section.data.mixture, None, "")
        return _completed(section.as_dict(), section.suggested, tuned=False), None
    if parent.adapter is not None and not parent.adapter.mergeable:
        raise UserError(
            f"config.init.from: {parent.name} is a run with tune.method={parent.config.tune.method!r}, which cannot be "
            "merged into the parameters of a plain model: start from its base"
        )
    restore.check_merge(parent, section.init.merge_into, "config.init.merge_into")
    values, theirs = section.as_dict(), parent.fields
    defaults = dict(configs.fields())
    new_head = _is_new(section.init.fresh)
    for name in (*STRUCTURE, "vocab_size"):
        mine, default = values["model"][name], defaults[f"model.{name}"].default
        if name in HEAD and new_head:  # what the config says, its defaults too
            continue
        changed = specs.hashable(mine) not in (specs.hashable(theirs[name]), default)
        if changed:
            hint = "; a new head needs init.fresh=('head/.*',)" if name in HEAD else ""
            raise UserError(f"config.model.{name} = {mine!r}, but the parent {parent.name} has {theirs[name]!r}{hint}")
        values["model"][name] = theirs[name]
    if section.init.adapter:
        _inherit_method(
            values, peft_adapter(section.init.adapter, parent, "config.init.adapter", section.init.merge_into)
        )
    mine, of_parent = values["data"], parent.data
    replays = any(name == pipeline.PARENT for name, _ in mine["mixture"])
    if replays and of_parent is not None and of_parent.held_out != mine["held_out"]:
        raise UserError(
            f"config.data.held_out = {mine['held_out']!r}, but the parent's is {of_parent.held_out!r}: what it was validated "
            f"on would be trained on by replay of {pipeline.PARENT!r}; give the same, or name the sources"
        )
    values["data"]["mixture"] = pipeline.with_parent(values["data"]["mixture"], parent.data, parent.name, parent.step)
    return _completed(values, section.suggested, tuned=True), parent


def continued(section: configs.Section, workdir: pathlib.Path | None = None) -> restore.Source | None:
    """The checkpoint of another run that a run goes on from with its optimizer; None where it begins at step 0. `workdir` as of
    `resolve`. Raises UserError where what `init.from` names is no such thing."""
    if not section.init.optimizer:
        return None
    reference = section.init.from_
    if not reference:
        raise UserError(
            "config.init.optimizer = True: init.from is missing: the run, WORKDIR[@STEP|@best], to go on from"
        )
    if restore.is_reference(reference) or parted(reference)[1]:
        raise UserError(
            f"config.init.optimizer = True: init.from = {reference!r} has no optimizer; only a whole run, WORKDIR[@STEP|@best], has"
        )
    return restore.find(restore.recorded(reference, workdir) if workdir else reference, together=True)


def _parent_of(run: restore.Source) -> restore.Parent | None:
    """What a run was started from itself; of one that went on from another, what that was started from."""
    init = run.config.init
    if not init.from_:
        return None
    if init.optimizer:
        return _parent_of(continued(run.config, run.workdir))
    return restore.find(restore.recorded(init.from_, run.workdir), "its init.from", init.ignore, init.fresh)


# What makes a model of a method, and what of that is only of how it learns.
_METHOD = ("tune.method", "tune.quantize.", *(f"tune.{name}." for name in adapters.METHODS))
_OF_TRAINING = ("dropout", "b_ratio")


def _as_continued(section: configs.Section, run: restore.Source) -> configs.Section:
    """A config of a run that goes on from another: what the other's state is made of is as there. Raises UserError where it is
    set to something else; how far a run is held near its start, dropout, and such, may be."""
    values, theirs = section.as_dict(), run.config.as_dict()
    fixed = ("init.", "tokenizer.", "model.vocab_size", *(f"model.{name}" for name in STRUCTURE), *_METHOD)
    theirs["model"]["vocab_size"] = run.fields["vocab_size"]
    for path, field in configs.fields():
        if not path.startswith((*fixed, "tune.")) or path in ("init.from_", "init.optimizer"):
            continue
        *parents, last = path.split(".")
        part, known = configs.get(values, ".".join(parents)), configs.get(theirs, path)
        default = specs.hashable(part[last]) == specs.hashable(field.default)
        stays = path.startswith(fixed) and last not in _OF_TRAINING
        if stays and not default and specs.hashable(part[last]) != specs.hashable(known):
            raise UserError(
                f"config.{path} = {part[last]!r}, but the run that init.optimizer goes on from, {run.name}, has {known!r}"
            )
        part[last] = known if default else part[last]
    return configs.check(values, complete=False, suggested=section.suggested)


def _completed(values: dict[str, Any], suggested: frozenset[str], *, tuned: bool) -> configs.Section:
    """The config with what follows from the rest filled in. It is the one whose reads are counted."""
    settled = configs.settle(values, suggested)
    values = _with_direction(_with_rate(_with_source(values), tuned))
    section = configs.check_effects(configs.check(values, suggested=suggested, settled=settled))
    assert section.init.from_ is not None and section.init.optimizer is not None, "read before this one was made"
    return section


def _with_direction(values: dict[str, Any]) -> dict[str, Any]:
    """A config with `select.mode` filled in by the metric; of one that says nothing, a run tells whether it is measured."""
    select = values["select"]
    if select["mode"] != AUTO or known(select["metric"]):
        select["mode"] = direction(select["metric"], select["mode"])
    return values


def _is_new(fresh: Sequence[str]) -> bool:
    """Whether the head is among what is made anew."""
    return any(matches(fresh, f"head/{leaf}") for leaf in ("kernel", "classes/kernel", "dense/kernel"))


def head_of(parent: restore.Parent | None, fresh: Sequence[str]) -> class_names.Head:
    """The classes of the head that a run starts with: its parent's, unless it is made anew."""
    return class_names.NEW if parent is None or _is_new(fresh) else class_names.of(parent)


def _with_rate(values: dict[str, Any], tuned: bool) -> dict[str, Any]:
    """A config with `optimizer.learning_rate` filled in: of pre-training, or of the fine-tuning method."""
    if not values["optimizer"]["learning_rate"]:
        values["optimizer"]["learning_rate"] = adapters.learning_rate(configs.check(values).tune) if tuned else 1e-3
    return values


def _with_source(values: dict[str, Any]) -> dict[str, Any]:
    """A config with `data.source` filled in by the mixture's first source."""
    data = values["data"]
    if not data["source"]:
        if not data["mixture"]:
            raise UserError("config.data.source is missing: what to train on, such as jsonl:chat.jsonl or text:FOLDER")
        data["source"] = data["mixture"][0][0]
    return values


def peft_adapter(folder: str, parent: restore.Parent, field: str, merge_into: str = "") -> Any:
    """The adapter in PEFT's format in a folder, for the parent's plain model. Raises UserError."""
    from ptft_jax.interop import families, peft

    family, _ = families.of(parent.fields, parent.lineage(""))
    fields = families.canonical(parent.fields)
    shapes = Transformer(ModelSpec(**fields)).shapes()

    def arrays() -> dict[str, Any]:
        return parent.parameters(on_one_device, merge_into=merge_into)

    names, ties = family.tensors(fields), family.ties(fields)
    found = peft.read(folder, names, shapes, prefix=family.prefix, ties=ties, arrays=arrays, field=field)
    finite.refuse(flatten(found.params), f"{field}: {folder}")
    identity.check_folder(pathlib.Path(folder).expanduser(), parent, field)
    return found


def _inherit_method(values: dict[str, Any], adapter: Any) -> None:
    """Fills in `tune` from an adapter that a run starts with; what was set to something else is an error."""
    defaults = dict(configs.fields())
    for path, theirs in _leaves(adapter.tune, "tune"):
        *parents, last = path.split(".")
        section = configs.get(values, ".".join(parents))
        mine = specs.hashable(section[last])
        if mine not in (specs.hashable(theirs), defaults[path].default):
            raise UserError(f"config.{path} = {mine!r}, but the adapter of config.init.adapter has {theirs!r}")
        section[last] = theirs


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A run's model, or imported weights, ready to evaluate or generate with.

    Attributes:
      tokenizer: None for models of images.
      reads_prompt: the model was trained to read a prompt in both directions (prefix LM).
      gaps: the tokens that stand for gaps in a prompt, id -> text, of a model that was trained by span corruption.
    """

    source: restore.Parent
    model: Transformer
    params: dict[str, Any]
    tokenizer: tok.Tokenizer | None
    reads_prompt: bool = False
    gaps: Mapping[int, str] = dataclasses.field(default_factory=dict)


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
) -> Loaded:
    """The model that WORKDIR[@STEP|@best|@latest], hf:... or gguf:... names, adapters merged where that can be. A quantised
    base stays so, with the adapter on it, unless `merge_into` says otherwise.

    Args:
      reference: of a run, its workdir (`runs/base`, `runs/base@best`, `runs/base@400`, with `#NAME` one of several adapters);
        of imported weights `hf:FOLDER`, `hf:NAME`, `gguf:FILE`.
      field: what the reference is called in messages.
      weights: of a run that kept an average: the average ("auto", "ema") or the parameters themselves ("raw").
      dtype: what imported weights are kept and computed in; a run's are as its config says.
      adapter: a folder in PEFT's format, put onto the model.
      ignore: patterns of tensors that may be left out, of imported weights.
      merge_into: of a run on a quantised base, for parameters of a plain model: "dequantized" or "original", see
        `ptft_jax.adapters.quantized.QuantizedBase.merge`.
      together: of a run with several adapters, all may be loaded; else the reference has to choose one (`RUN#NAME`).

    Raises:
      UserError: no such model, or a damaged one.
    """
    reference = os.fspath(reference)
    if ignore and not restore.is_reference(reference):
        raise UserError(f"--ignore is for hf: and gguf: weights; {reference} is a run")
    source = restore.find(reference, field, ignore, together=together)
    added = peft_adapter(adapter, source, "--adapter") if adapter else None
    method = added.method if added else source.adapter
    on_quantized = isinstance(source.adapter, QuantizedBase)
    if on_quantized and added:
        raise UserError(f"--adapter: {source.name} has an adapter on a quantised base; export it, and put this on that")
    if merge_into:
        restore.check_merge(source, merge_into, "merge_into")
    whole = method is None or (method.mergeable and (bool(merge_into) or not on_quantized))
    kept = None if whole else method
    if added and source.adapter is not None and not source.adapter.mergeable:
        raise UserError(f"--adapter: {source.name} has an adapter of its own, which cannot be merged")
    params = source.parameters(
        on_one_device, dtype, weights=weights, merged=kept is None or bool(added), merge_into=merge_into
    )
    if on_quantized and kept:
        params = method.encode(params)
    spec = specs.from_config(source.config.model, source.fields["vocab_size"])
    if not isinstance(source, restore.Source):
        spec = dataclasses.replace(spec, dtype=dtype, param_dtype=dtype)
    if added:
        params = unflatten({**flatten(params), **jax.device_put(flatten(added.params), jax.devices()[0])})
        params = params if kept else method.merge(params)
    tokenizer = None if spec.image_size else source.tokenizer
    objective = source.config.objective.name
    gaps = spans.sentinels(tokenizer) if objective == "span_corruption" else {}
    model, params = Transformer(spec, kept).collapsed(params)
    return Loaded(source, model, params, tokenizer, objectives.reads_prompt(objective), gaps)
