"""Adapters of one method for one base, combined into an adapter: a run's workdir that refers to the same base."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.adapters.base import is_added
from ptft_jax.adapters.ia3 import SCALE, Ia3
from ptft_jax.adapters.lora import START_A, START_B, STARTS, A, B, Lora
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.combining import arithmetic, lowrank, writing
from ptft_jax.combining.models import Model, Stored, notes
from ptft_jax.data import class_names
from ptft_jax.errors import UserError, listed
from ptft_jax.runs import identity
from ptft_jax.runs import source as restore
from ptft_jax.runs.parent import Parent


def combine(method: str, sources: Sequence[Parent], out: pathlib.Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """See `ptft_jax.combining.combine.combine`. Raises UserError where the adapters are not of one kind and one base."""
    models = [Model(_adapter_run(source), Stored(source)) for source in sources]
    first, weights = models[0], options["weights"]
    _check_one_base(models)
    _check_identities(models)
    kinds = {type(model.source.adapter.bare) for model in models}
    alike = len({_kept(model) for model in models}) == 1
    if kinds == {Lora} and alike:
        params, tune, facts = _lora(method, models, options)
    elif kinds == {Ia3} and alike and method == "linear":
        params, tune, facts = _ia3(models, weights)
    else:
        theirs = "".join(f"\n  {m.name}: {_method(m)}" for m in models)
        whole = all(m.source.adapter.mergeable and not m.source.quantization for m in models)
        advice = "\nwithout --adapter they are merged into their base and combined as whole models" if whole else ""
        raise UserError(
            f"--adapter --method={method} combines runs of tune.method='lora' without dora (and with linear those of "
            f"'ia3') on a base that is kept alike (tune.quantize), but:{theirs}{advice}"
        )
    config = writing.config_of(first, first.source.config.init.from_, options["seed"])
    config["tune"] |= {**tune, "quantize": first.source.config.as_dict()["tune"]["quantize"]}
    recipe = {"method": method, "adapter": True, "weights": weights, **facts, **writing.noted(notes(models))}
    for name in ("density", "sign", "seed", "rank"):
        if name in options["reads"]:
            recipe.setdefault(name, options[name])
    base = writing.moved_reference(first.source.meta["base"], first, out)
    behind = first.behind()
    entries = [
        {**model.source.lineage(model.source.meta["fingerprint"])[0], "weight": w} for model, w in zip(models, weights)
    ]
    fingerprint = writing.write(out, params, config, first, runs=entries, chain=behind, refers_to=base, recipe=recipe)
    names = [model.name for model in models]
    return {"out": str(out), **recipe, "base": base["workdir"], "runs": names, "fingerprint": fingerprint}


def _kept(model: Model) -> tuple[Any, ...]:
    """How a run kept its base: what was learned for kernels that are rounded otherwise is for another function."""
    adapter = model.source.adapter
    return (adapter.how, adapter.targets) if isinstance(adapter, QuantizedBase) else ()


def _method(model: Model) -> str:
    tune = model.source.config.tune
    how = tune.quantize
    base = (
        ""
        if how.format == "none"
        else f" on a base in {how.format} (block={how.block}, double={how.double}, targets={tuple(how.targets)})"
    )
    return f"tune.method={tune.method!r}" + (" with dora" if tune.method == "lora" and tune.lora.dora else "") + base


def _adapter_run(source: Parent) -> restore.Source:
    if not isinstance(source, restore.Source) or source.adapter is None or not source.meta.get("base"):
        raise UserError(
            f"--adapter: {source.name} is no adapter for another model; without --adapter models are combined"
        )
    return source


def _check_one_base(models: Sequence[Model]) -> None:
    """Raises UserError for adapters for different bases, and for runs that changed more than their adapter."""
    first = models[0]
    mine = first.source.meta["base"]
    for model in models:
        theirs = model.source.meta["base"]
        if theirs["fingerprint"] != mine["fingerprint"]:
            raise UserError(
                f"--adapter: {model.name} is for the base {theirs['workdir']}@{theirs['step']} with the fingerprint "
                f"{theirs['fingerprint']}, {first.name} for {mine['workdir']}@{mine['step']} with {mine['fingerprint']}"
            )
        more = [path for path in model.leaves.shapes if not is_added(path)]
        if more:
            raise UserError(
                f"--adapter: {model.name} changed more than its adapter:{listed(more)}\n"
                "without --adapter the whole models are combined"
            )


def _check_identities(models: Sequence[Model]) -> None:
    """Raises UserError for adapters of models that mean other things by the same numbers."""
    first, *others = (identity.of(model.source) for model in models)
    for other in others:
        if identity.check(first, other) is not None:
            raise UserError(
                f"--adapter: {class_names.differences(other.classes, first.classes)}: in another order, so their adapters do not "
                "go with one head\nwithout --adapter the whole models are combined, their heads in one order"
            )


def _lora(
    way: str, models: Sequence[Model], options: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """The combined factors by path, `config.tune` for them, and what is to be told."""
    ranks = [_rank(model) for model in models]
    if not (way == "cat" or way.endswith("svd")) and len(set(ranks)) > 1:
        raise UserError(
            f"--method={way} adds factors of one shape, but the ranks are {', '.join(map(str, ranks))}: "
            f"take cat, svd or {way if way != 'linear' else 'ties'}{lowrank.SVD}"
        )
    if way == "svd" and options["rank"] > sum(ranks):
        raise UserError(f"--rank={options['rank']}: the updates together have rank {sum(ranks)} at most")
    rank = lowrank.rank_of(way, ranks, options["rank"])
    params, squared, lost = {}, 0.0, 0.0
    layers = dict.fromkeys(p.rpartition("/adapter/")[0] for model in models for p in model.leaves.shapes)
    for layer in layers:
        updates = [_update(model, layer) for model in models]
        there = [u for u in updates if u is not None]
        sizes = (there[0].a.shape[-2], there[0].b.shape[-1])
        if rank > min(sizes):
            raise UserError(
                f"--method={way} gives adapters of rank {rank}, above the size of {layer}/kernel {sizes}: "
                "--method=svd with a --rank makes smaller ones"
            )
        if way == "cat":
            used = lowrank.padded(updates, ranks, {"a": there[0].a.shape, "b": there[0].b.shape})
            factors = options["weights"]
        else:
            used, factors = there, [w for u, w in zip(updates, options["weights"]) if u is not None]
        choices = {name: options[name] for name in ("density", "sign", "seed")}
        found = lowrank.combine(way, used, factors, rank, path=layer, **choices)
        dtypes = (arithmetic.wider(u.a for u in there), arithmetic.wider(u.b for u in there))
        params |= {f"{layer}/{A}": found.a.astype(dtypes[0]), f"{layer}/{B}": found.b.astype(dtypes[1])}
        squared, lost = squared + found.squared, lost + found.lost
    targets = dict.fromkeys(pattern for model in models for pattern in model.source.adapter.bare.targets)
    lora = {**models[0].source.config.as_dict()["tune"]["lora"], "rank": rank, "alpha": float(rank)}
    lora |= {"rank_stabilized": False, "targets": list(targets), "init": "uniform"}
    facts = {"rank": rank} | ({"lost": (lost / squared) ** 0.5 if squared else 0.0} if way.endswith("svd") else {})
    return params, {"method": "lora", "lora": lora}, facts


def _rank(model: Model) -> int:
    """The rank of a run's updates to the base: twice that of factors that did not start at zero."""
    lora = model.source.adapter.bare
    return lora.rank * (2 if lora.init in STARTS else 1)


def _update(model: Model, layer: str) -> lowrank.Update | None:
    """What a run adds to the base's own kernel of a layer. Factors that started at a part of it (PiSSA, OLoRA) are trained in its
    place, so that is what they make less what they made at the start: an update of twice the rank, as PEFT converts such
    adapters to plain LoRA."""
    own = [path for path in model.leaves.shapes if path.startswith(f"{layer}/adapter/")]
    if not own:
        return None
    lora = model.source.adapter.bare
    moved = lora.init in STARTS
    known = {f"{layer}/{name}" for name in (A, B, *((START_A, START_B) if moved else ()))}
    if set(own) != known:
        raise UserError(
            f"--adapter: {model.name} has other factors in a layer than two, which have no sum of the same form:"
            f"{listed(path for path in own if path not in known)}"
        )
    a, b = (model.leaves[f"{layer}/{name}"] for name in (A, B))
    if moved:
        start_a, start_b = (model.leaves[f"{layer}/{name}"] for name in (START_A, START_B))
        a, b = np.concatenate([a, a - start_a], axis=-1), np.concatenate([b - start_b, start_b], axis=-2)
    return lowrank.Update(a, b, lora.scale)


def _ia3(
    models: Sequence[Model], weights: Sequence[float]
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """The weighted sum of the vectors, as PEFT's; weights that sum to 1 keep the base's activations where they are."""
    first = models[0]
    tunes = [model.source.config.as_dict()["tune"] for model in models]
    for model, tune in zip(models, tunes):
        if tune["ia3"] != tunes[0]["ia3"]:
            raise UserError(
                f"--adapter: {model.name} has tune.ia3 = {tune['ia3']!r}, {first.name} has {tunes[0]['ia3']!r}"
            )
    params = {}
    for path in first.leaves.shapes:
        assert path.endswith(SCALE), path
        arrays = [model.leaves[path] for model in models]
        total = sum(w * array.astype(np.float64) for w, array in zip(weights, arrays))
        params[path] = total.astype(arithmetic.wider(arrays))
    return params, {"method": "ia3", "ia3": tunes[0]["ia3"]}, {}
