"""Another run's parameters: reading them back whole, following references to a base, and recording where they are from."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.config import plugins, renamed
from ptft_jax.config.computed import changes
from ptft_jax.data import cache, class_names
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.options import DataOptions
from ptft_jax.errors import UserError, listed
from ptft_jax.model.quantized import Quantization
from ptft_jax.model.spec import HEAD, SIZES, STRUCTURE, VALUES, wordless
from ptft_jax.params import fingerprint, resizing
from ptft_jax.params.partition import join, overlay
from ptft_jax.params.rules import flatten, matches, unflatten
from ptft_jax.runs import bucket, checkpoint, meant, pins
from ptft_jax.runs.lineage import parted, step_parted
from ptft_jax.runs.parent import Layout, Parent
from ptft_jax.runs.workdir import Workdir

_TRIES = 20  # to find a checkpoint of a run that goes on meanwhile


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint of a run, by its place and what is known of it without reading its arrays."""

    workdir: pathlib.Path
    step: int
    meta: dict[str, Any]
    config: configs.Section
    left_out: tuple[str, ...] = ()  # patterns of parameters that are not taken from it
    which: int | None = None  # of a run with several adapters: the one that is meant
    how: str = ""  # "best", "last" or "step": as what the reference named it
    said: str = ""  # which checkpoint it is, for people, where the reference left that open

    @property
    def name(self) -> str:
        """For messages."""
        return f"{bucket.url_of(self.workdir) or self.workdir}@{self.step}" + (f"#{self.chosen}" if self.chosen else "")

    @property
    def chosen(self) -> str:
        """The name of the one that is meant of several adapters, else ""."""
        return "" if self.which is None else self.config.tune.adapters[self.which]

    @property
    def reference(self) -> str:
        """How it can be found again."""
        return bucket.named(self.workdir)

    @property
    def adapter(self) -> Any:
        """What the run added to its model, or None; of several adapters the one that is meant, where one is."""
        method = adapters.build(self.config.tune)
        return method if method is None or self.which is None else method.one

    @property
    def quantization(self) -> Quantization | None:
        """How the kernels of the base that it was trained on were kept; None = as they are."""
        return None if self.adapter is None else self.adapter.quantization

    @functools.cached_property
    def tokenizer(self) -> tok.Tokenizer:
        """The run's tokenizer. Raises UserError where its files are not those that the checkpoint was made with."""
        for name, digest in self.meta.get("tokenizer", {}).items():
            path = self.workdir / name
            if not path.is_file() or cache.digest(path.read_bytes()) != digest:
                what = "has changed" if path.is_file() else "is missing"
                raise UserError(
                    f"{path}: this file of the tokenizer {what} since checkpoint {self.step} was made with it: the same text would "
                    "be other tokens; put it back"
                )
        return tok.from_file(self.workdir)

    @property
    def has_values(self) -> bool:
        """Whether the checkpoint holds a value head, which no model that is made of it has."""
        return any(matches((VALUES,), path) for path in self.meta["checksums"]["params"])

    @property
    def finished(self) -> bool:
        """Whether the run has ended, so that its checkpoints stay as they are."""
        return Workdir(self.workdir).is_finished

    @property
    def fields(self) -> dict[str, Any]:
        """The structural fields of its `config.model`, and `vocab_size`."""
        model = self.config.as_dict()["model"]
        size = (
            self.meta.get("vocab_size") or model["vocab_size"] or (0 if wordless(model) else self.tokenizer.vocab_size)
        )
        return {**{name: model[name] for name in STRUCTURE}, "vocab_size": size}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that its head scores, in their order; () where they have none, or it scores no classes."""
        if self.config.model.head != "classes":
            return ()
        return (
            tuple(self.meta["classes"])
            if "classes" in self.meta
            else class_names.recorded(Workdir(self.workdir).read_data())
        )

    @property
    def data(self) -> DataOptions | None:
        """The data it was trained on, of one of several adapters its own source; None where that is not known (of what was
        combined from imported weights)."""
        values = meant.from_here(self.workdir, self.config)
        if self.which is not None:
            values["data"]["mixture"] = ()
            values["tune"]["adapters"] = ()
        return configs.check(values).data if values["data"]["source"] else None

    def parameters(
        self,
        layout: Layout,
        dtype: str = "",
        *,
        weights: str = "auto",
        merged: bool = True,
        merge_into: str = "",
        **model: Any,
    ) -> dict[str, Any]:
        """The whole parameters, in the dtype they were saved in, as `parameters` gives them, less those left out and a value head; of `model`
        only `ptft_jax.model.spec.SIZES` say something of a run's."""
        flat = flatten(parameters(self, layout, merged=merged, weights=weights, merge_into=merge_into))
        without = (*self.left_out, VALUES)
        flat = {p: a for p, a in flat.items() if not matches(without, p)}
        return (
            unflatten(resizing.resized(flat, self.fields, {**self.fields, **model}, layout))
            if model
            else unflatten(flat)
        )

    def lineage(self, fingerprint: str) -> list[dict[str, Any]]:
        """The chain of checkpoints behind a run that starts from this one, nearest first."""
        before = Workdir(self.workdir).read_lineage()
        here = {
            "workdir": self.reference,
            "step": self.step,
            "fingerprint": fingerprint,
            "run_id": Workdir(self.workdir).run_id,
            **({"checkpoint": self.how} if self.how else {}),
        }
        return [here | ({"adapter": self.chosen} if self.chosen else {}), *before]

    def relative_to(self, workdir: pathlib.Path) -> str:
        """Its place seen from a workdir, so that both may move together; "" where one of them alone is in a bucket."""
        if bool(bucket.url_of(self.workdir.absolute())) != bool(bucket.url_of(workdir.absolute())):
            return ""
        return os.path.relpath(self.workdir.absolute(), workdir.absolute())


def is_reference(text: str) -> bool:
    """Whether a reference names weights of another library rather than a workdir."""
    return text.startswith(("hf:", "gguf:"))


def find(
    reference: str,
    field: str = "config.init.from",
    ignore: Sequence[str] = (),
    fresh: Sequence[str] = (),
    together: bool = False,
    plugins: Sequence[str] = (),
) -> Parent:
    """What a reference names: WORKDIR[@best|@last|@STEP][#ADAPTER] of a run, the best where nothing is said, or hf:... or gguf:...
    weights.

    Args:
      field: what the reference was given as, for messages.
      ignore, fresh: patterns of parameters that are not taken from it.
      plugins: modules that may have the family of weights of another library; a run names its own.
      together: of a run with several adapters, none need be chosen.

    Raises:
      UserError: there is no such thing, or it has several adapters and the reference chooses none.
    """
    if is_reference(reference):
        from ptft_jax.interop import pretrained

        return pretrained.find(reference, field, ignore, fresh, plugins)
    return find_run(reference, field, ignore, fresh, together)


def find_run(
    reference: str,
    field: str = "config.init.from",
    ignore: Sequence[str] = (),
    fresh: Sequence[str] = (),
    together: bool = False,
    bare: str = "best",
) -> Source:
    """As `find`, of a run; `bare` as for `checkpoint.choose`."""
    place, adapter = parted(reference)
    workdir, step, meta, pin = _opened(place, field, reference, bare)
    config, which = Workdir(workdir).read_config(), None
    method = adapters.build(config.tune)
    several = method.names if method is not None else ()
    if several and not adapter and not together:
        names = ", ".join(several)
        raise UserError(
            f"{field} = {reference!r}: it has an adapter for each of {names}: choose one, as {reference}#{several[0]}"
        )
    if adapter:
        if method is None or not several:
            raise UserError(
                f"{field} = {reference!r}: the run has not several adapters to choose from; leave out #{adapter}"
            )
        which = method.number(adapter, f"{field} = {reference!r}")
        values = config.as_dict()
        values["data"]["source"] = values["data"]["mixture"][which][0]  # what this one was trained on
        config = configs.check(values)
    how = checkpoint.named_as(place, bare)
    chosen = "" if step_parted(place)[1] else _which(workdir, step, meta, how)
    source = Source(workdir, step, meta, config, (*ignore, *fresh), which, how, chosen)
    if pin is not None:
        weakref.finalize(source, pins.release, pin)
    return source


def _which(workdir: pathlib.Path, step: int, meta: Mapping[str, Any], how: str) -> str:
    """Which checkpoint was chosen by default, for people; "" where there is no other."""
    steps = Workdir(workdir).steps()
    if len(steps) < 2:
        return ""
    by = f" by {meta['select_metric']}" if meta.get("select_metric") else ""
    other = f" (@last is {steps[-1]})" if step != steps[-1] else ""
    return f"{workdir}: step {step}, {f'the best{by}' if how == 'best' else 'the last'}{other}"


def said(source: Parent) -> str:
    """Which checkpoint of a run was chosen by default, in a line for people; "" where there was nothing to choose."""
    return source.said if isinstance(source, Source) else ""


def _opened(
    place: str, field: str, reference: str, bare: str
) -> tuple[pathlib.Path, int, dict[str, Any], pathlib.Path | None]:
    """(workdir, step, its meta, the file that protects it from being removed while it is read, or None)."""
    for attempt in range(_TRIES):
        workdir, step = checkpoint.resolve(place, field, bare)
        pin = None if Workdir(workdir).is_finished else pins.reading(workdir, step)
        try:
            meta = checkpoint.read_meta(workdir, step)
            refuse_changed(workdir, meta, Workdir(workdir).read_config())
            return workdir, step, meta, pin
        except BaseException as e:
            if pin is not None:
                pins.release(pin)
            if isinstance(e, checkpoint.Damaged):
                raise damaged(field, reference, workdir, step, e) from e
            if not isinstance(e, checkpoint.Gone) or attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def refuse_changed(workdir: pathlib.Path, meta: Mapping[str, Any], config: configs.Section) -> None:
    """Raises UserError where a run's config is not the one that a checkpoint of it was made with: the same arrays would be
    another model, or the figures those of other data. What a run may be continued with may differ (`ptft_jax.config.computed`)."""
    if "config" not in meta:  # of an earlier version
        return
    with plugins.never_from(workdir):  # those of a checkpoint, too
        changed = changes(renamed.current(meta["config"]), config.as_dict())
    if changed:
        raise UserError(
            f"{Workdir(workdir).config}: changed since checkpoint {meta['step']} was made:{listed(changed, 20)}\n"
            "Put it back; what a run is to do otherwise is given to a run of its own (init.from)"
        )


def protect(source: Parent, child: pathlib.Path) -> str:
    """Keeps the checkpoint that a run in `child` comes from, where the run that made it has not finished and may remove it.
    Returns what people should know of it, or ""."""
    if not isinstance(source, Source) or source.finished:
        return ""
    unfinished = f"{source.workdir} has not finished: this run starts from its step {source.step}"
    if pins.keep(source.workdir, source.step, child):
        return f"{unfinished}, which is kept for it ({Workdir(source.workdir).references.name}/)"
    return f"{unfinished}, which it may remove, since {source.workdir} cannot be written: copy it, or wait for its end"


def protect_base(base: Mapping[str, Any], child: pathlib.Path) -> None:
    """As `protect`, of what a checkpoint in `child` says of its base (`base_reference`)."""
    place = base["workdir"]
    workdir = bucket.folder_of(place, "base") if bucket.is_url(place) else pathlib.Path(place)
    if not is_reference(place) and workdir.is_dir() and not Workdir(workdir).is_finished:
        pins.keep(workdir, base["step"], child)


def before(parent: Any) -> Any:
    """What a parent was started from itself, None for nothing or weights of another library; of a run that went on from another with
    its optimizer, what that was started from. Raises UserError where it is no longer there."""
    while isinstance(parent, Source) and parent.config.init.from_:
        init, given = parent.config.init, meant.from_here(parent.workdir, parent.config)["init"]["from_"]
        reference = recorded(given, parent.workdir)
        if not init.optimizer:
            return find(reference, "its init.from", init.ignore, init.fresh, plugins=parent.config.plugins)
        parent = find_run(reference, "its init.from", bare="last")
    return None


def recorded(reference: str, workdir: pathlib.Path) -> str:
    """The reference of a run's parent, WORKDIR[@...][#ADAPTER], with the step that the run in `workdir` was started from, where
    it was started: what "the last" and "the best" are may have changed since. A run that made no step may be given another."""
    here = Workdir(workdir)
    if is_reference(reference) or not here.is_run:
        return reference
    if configs.get(here.recorded_config(), "init.from_", "") != reference and not here.begun():
        return reference
    chain = here.read_lineage()
    if not chain or "step" not in chain[0]:
        return reference
    return at_step(reference, chain[0]["step"])


def at_step(reference: str, step: int) -> str:
    """A reference to a run, WORKDIR[@...][#ADAPTER], to this step of it."""
    place, adapter = parted(reference)
    name, _ = step_parted(place)
    return f"{name}@{step}" + (f"#{adapter}" if adapter else "")


def parameters(
    source: Source, layout: Layout, *, merged: bool, weights: str = "auto", merge_into: str = ""
) -> dict[str, Any]:
    """The parameters of a checkpoint, whole; frozen ones of an adapter run come from its base, as it is, not quantized.

    Args:
      layout: where each leaf goes; it lands there directly.
      merged: fold the run's adapter into its base, giving the parameters of a plain model.
      merge_into: of a run on a quantized base, "dequantized" or "original": which kernels the adapter is folded into.
      weights: "raw", "ema", or "auto" for the average where one was kept.

    Raises:
      UserError: a damaged checkpoint, a base that is missing or not the one that was trained on, or `merge_into` missing
        or given for nothing.
    """
    if merged:
        check_merge(source, merge_into, "merge_into")
    workdir, step, meta = source.workdir, source.step, source.meta
    field = f"{workdir}@{step}"
    has_average = "ema" in meta["checksums"]
    if weights == "ema" and not has_average:
        raise UserError(f"config.init.weights = 'ema': {field} kept no average (training.ema_decay was 0)")
    try:
        averaged = has_average and weights != "raw"
        sums = meta["checksums"]
        whole = averaged and sums["ema"].keys() == sums["params"].keys()  # then nothing is needed of what it averages
        stored = {} if whole else flatten(_read(source, "params", layout))
        if averaged:
            stored |= flatten(_read(source, "ema", layout))
        stored = unflatten(stored)
    except checkpoint.Damaged as e:
        raise damaged("checkpoint", field, workdir, step, e) from e
    params = overlay(base_parameters(source, layout), stored) if meta.get("base") else join(stored)
    if source.which is not None and (method := adapters.build(source.config.tune)) is not None:
        params = method.pick(params, source.which)
    if merged and source.adapter is not None:
        params = source.adapter.merge(params, merge_into) if merge_into else source.adapter.merge(params)
    return params


def check_merge(source: Parent, merge_into: str, field: str) -> None:
    """Raises UserError where `merge_into` is missing, or given for a model that has no quantized base."""
    if source.quantization and not merge_into:
        raise UserError(
            f"{source.name} was trained on a base in {source.quantization.format}, so a plain model of it has to be chosen by "
            f"{field}: 'dequantized' adds its adapter to the kernels as it was trained on them (the same logits); "
            "'original' adds it to the base's own, more exact kernels, for which it was not trained (other logits)"
        )
    if merge_into and not source.quantization:
        raise UserError(f"{field} = {merge_into!r}: {source.name} has no quantized base")


def _read(source: Source, name: str, layout: Layout) -> dict[str, Any]:
    flat = flatten(checkpoint.shapes(source.workdir, source.step, name))
    like = {p: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=layout(p, a.shape)) for p, a in flat.items()}
    return checkpoint.read(source.workdir, source.step, name, unflatten(like), source.meta)


def fisher(source: Parent, layout: Layout) -> dict[str, Any]:
    """The importance of parameters (`ptft_jax.regularization.fisher`) that a run was kept near its own parent by, whole, flat by
    path; {} where it was not. Raises UserError for a damaged checkpoint."""
    if not isinstance(source, Source) or "fisher" not in source.meta["checksums"]:
        return {}
    try:
        return flatten(join(_read(source, "fisher", layout)))
    except checkpoint.Damaged as e:
        raise damaged("config.init.from", source.name, source.workdir, source.step, e) from e


def base_reference(
    parent: Parent,
    workdir: pathlib.Path,
    fingerprint: str,
    weights: str,
    config: configs.Section,
    wide: Sequence[str] = (),
) -> dict[str, Any]:
    """What an adapter checkpoint in `workdir` records of the base that it does not contain, and of how it was read: `wide` are
    the paths that were read in float32 whatever `model.param_dtype` is."""
    model = config.as_dict()["model"]
    return {
        "workdir": parent.reference,
        "relative": parent.relative_to(workdir),
        "step": parent.step,
        "adapter": parent.lineage("")[0].get("adapter", ""),
        "fingerprint": fingerprint,
        "weights": weights,
        "dtype": config.model.param_dtype,
        "wide": list(wide),
        "ignore": list(config.init.ignore),
        "fresh": list(config.init.fresh),
        "head": {name: model[name] for name in (*HEAD, *(SIZES if model["image_size"] else ()))},
        "merge_into": config.init.merge_into,
    }


def base_parameters(source: Source, layout: Layout) -> dict[str, Any]:
    """The parameters that an adapter checkpoint refers to, in the dtype that the run used them in.

    Raises:
      UserError: the base is not where it was, nor where it would be had both moved together; or it is another model.
    """
    base = source.meta["base"]
    kind = base["workdir"].partition(":")[0] + ":" if is_reference(base["workdir"]) else ""
    places = [base["workdir"].removeprefix(kind)]
    if base["relative"]:
        moved = pathlib.Path(os.path.abspath(source.workdir / base["relative"]))
        places.append(bucket.url_of(moved) or str(moved.resolve()))
    there = [p for p in dict.fromkeys(places) if not base["relative"] or _is_there(p, weights=bool(kind))]
    if not there:
        raise UserError(
            f"{source.workdir} holds only what it trained; its base is not at {', nor at '.join(places)}: "
            "move it back to one of them"
        )
    found, one = "", f"#{base['adapter']}" if base.get("adapter") else ""
    for place in there:
        parent = find(
            f"{kind}{place}" if kind else f"{place}@{base['step']}{one}",
            "base",
            base.get("ignore", ()),
            base.get("fresh", ()),
            plugins=source.config.plugins,
        )
        params = parent.parameters(
            layout,
            base.get("dtype", "float32"),
            wide=base.get("wide", ()),
            weights=base["weights"],
            merge_into=base.get("merge_into", ""),
            **base.get("head", {}),
        )
        found = start_fingerprint(parent, params, base["weights"], base.get("merge_into", ""), base["fingerprint"])
        if found == base["fingerprint"]:
            return jax.tree.map(functools.partial(_cast, dtype=source.config.model.param_dtype), params)
    raise UserError(
        f"{source.workdir} was trained on a base with fingerprint {base['fingerprint']}, but {there[-1]} has {found}: it is "
        "another model"
    )


def _is_there(place: str, weights: bool) -> bool:
    """Whether a base seems to be in a place."""
    if not bucket.is_url(place):
        return pathlib.Path(place).exists() if weights else bool(Workdir(pathlib.Path(place)).steps())
    try:
        return bool(Workdir(bucket.copied(place, "base")).steps())
    except UserError:
        return False


def _cast(array: jax.Array, dtype: str) -> jax.Array:
    return array.astype(dtype)


def merged_fingerprint(parent: Parent, weights: str = "auto", merge_into: str = "") -> str:
    """The fingerprint of the plain model of a run with an adapter: of what its checkpoint holds, of what that was trained on, and
    of how the two become one. Merging them computes numbers whose last bits are the device's, so they name nothing. "" of others,
    whose parameters are read as they are stored. Arguments as of `parameters`."""
    if not isinstance(parent, Source) or parent.adapter is None:
        return ""
    sums, base = parent.meta["checksums"], parent.meta.get("base") or {}
    stored = {**sums["params"], **({f"ema/{p}": s for p, s in sums.get("ema", {}).items()} if weights != "raw" else {})}
    how = {
        "base": base.get("fingerprint", ""),
        "into": merge_into,
        "one": parent.chosen,
        "without": str(parent.left_out),
    }
    return fingerprint.fingerprint({**stored, **{f"merged/{name}": text for name, text in how.items()}})


def start_fingerprint(
    parent: Parent, params: Mapping[str, Any], weights: str, merge_into: str, recorded: str = ""
) -> str:
    """The fingerprint of a parent's parameters `params`, read by `weights` and `merge_into`. Earlier versions had that of merged
    numbers: where that is what was `recorded`, it is the answer."""
    merged = merged_fingerprint(parent, weights, merge_into)
    if merged and merged == recorded:
        return merged
    if not merged or recorded:
        computed = parameters_fingerprint(params)
        return computed if not merged or computed == recorded else merged
    return merged


def parameters_fingerprint(params: Mapping[str, Any]) -> str:
    """The fingerprint of whole parameters, the same however they are laid out."""
    return fingerprint.fingerprint(fingerprint.checksums(params))


def damaged(field: str, reference: str, workdir: pathlib.Path, step: int, error: Exception) -> UserError:
    """What to say of a checkpoint that cannot be read, with the other steps there are."""
    others = [str(s) for s in Workdir(workdir).steps() if s != step]
    hint = f"other steps there:{listed(others)}" if others else "there is no other step"
    return UserError(f"{field} = {reference!r}: checkpoint {step} is damaged: {error}; {hint}")
