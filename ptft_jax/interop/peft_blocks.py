"""Adapters of layers that PEFT keeps as one set of numbers a module, between its files and ours: ShiRA, MiSS, GraLoRA, HiRA,
BD-LoRA and OSF. Of a module that holds several of our layers, fused, they are of the whole, which ours cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ptft_jax.adapters import bd_lora, gralora, hira, lora, miss, osf, shira
from ptft_jax.adapters.base import Method
from ptft_jax.errors import UserError
from ptft_jax.interop.peft_layers import (
    Sites,
    adapted_modules,
    check,
    layers,
    places,
    read_lora,
    tensor_ends,
    write_lora,
)
from ptft_jax.interop.peft_modules import ROOT, Module

Tensors = dict[str, np.ndarray]
Read = tuple[dict[str, Any], dict[str, np.ndarray]]  # what config.tune says, flat leaves


def read_shira(config, sites: Sites, found: Mapping[str, Module], base, where: str) -> Read:
    """(tune, flat leaves) of numbers in places of kernels."""
    rank = _whole(config, "r", where)
    counts = {place: rank * (found[place[0]].size_in + found[place[0]].size_out) for place in sites}
    shapes = {place: {"weight": (n,), "places": (2, n)} for place, n in counts.items()}

    def leaves(module: Module, site: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        rows, columns = site["places"].astype(np.int64)  # [out, in] of theirs; kept as float32 on Windows
        if min(rows.min(), columns.min()) < 0 or rows.max() >= module.size_out or columns.max() >= module.size_in:
            raise UserError(
                f"{where}: shira_indices of {module.template} lie outside ({module.size_out}, {module.size_in})"
            )
        flat = columns * module.size_out + rows
        order = np.argsort(flat, kind="stable")
        return {"weight": site["weight"][order], "places": flat[order].astype(np.int32)}

    def neutral(module: Module) -> Mapping[str, np.ndarray]:
        count = rank * (module.size_in + module.size_out)
        return {"weight": np.zeros(count, np.float32), "places": np.arange(count, dtype=np.int32)}

    kept = _collected(sites, found, base, shapes, "SHIRA", where, leaves, neutral)
    return {"method": "shira", "shira": {"rank": rank, "targets": _targets(kept)}}, kept


def read_miss(config, sites: Sites, found: Mapping[str, Module], base, where: str) -> Read:
    """(tune, flat leaves) of sharded updates. Raises UserError for PEFT's two other forms of them."""
    form, rank = config.get("init_weights", True), _whole(config, "r", where)
    if form in ("bat", "mini"):
        raise UserError(f"{where}: init_weights = {form!r}: of MiSS the plain form alone is read")
    shapes = {place: {"block": (rank, found[place[0]].size_out)} for place in sites}
    kept = _collected(sites, found, base, shapes, "MISS", where, lambda _, site: site)
    section = {"rank": rank, "dropout": float(config.get("miss_dropout") or 0.0), "targets": _targets(kept)}
    return {"method": "miss", "miss": section}, kept


def read_gralora(config, sites: Sites, found: Mapping[str, Module], base, where: str) -> Read:
    """(tune, flat leaves) of updates of blocks."""
    rank, count = _whole(config, "r", where), _whole(config, "gralora_k", where)
    hybrid = _whole(config, "hybrid_r", where, least=0)
    alpha = config.get("alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or alpha <= 0:
        raise UserError(f"{where}: alpha = {alpha!r}: expected a number above 0")
    shapes = {}
    for place in sites:
        sizes = found[place[0]].size_in, found[place[0]].size_out
        if any(size % count for size in (*sizes, rank)):
            raise UserError(f"{where}: gralora_k = {count} does not divide {place[0]} {sizes} and r = {rank}")
        shapes[place] = {"gralora_a": (count, sizes[0] // count, rank), "gralora_b": (count, rank, sizes[1] // count)}
        if hybrid:
            shapes[place] |= {"general_a": (hybrid, sizes[0]), "general_b": (sizes[1], hybrid)}

    def leaves(_: Module, site: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {name: array.T if array.ndim == 2 else array for name, array in site.items()}

    kept = _collected(sites, found, base, shapes, "GRALORA", where, leaves)
    section = {
        "rank": rank,
        "alpha": float(alpha),
        "blocks": count,
        "hybrid_rank": hybrid,
        "dropout": float(config.get("gralora_dropout") or 0.0),
        "targets": _targets(kept),
    }
    return {"method": "gralora", "gralora": section}, kept


def read_hira(config, sites: Sites, found: Mapping[str, Module], base, where: str) -> Read:
    """(tune, flat leaves) of factors of kernels: two matrices as LoRA's of scale 1."""
    # PEFT 0.21 has a rank_pattern, and makes every module of rank r whatever that says: the rank is that of the tensors.
    ranks = {re.escape(found[t].name(i)): len(site["a"]) for (t, i), site in sites.items() if "a" in site}
    same = {"lora_alpha": config.get("r"), "rank_pattern": ranks, "alpha_pattern": ranks}
    tune, leaves = read_lora({**config, **same, "lora_dropout": config.get("hira_dropout")}, sites, found, base, where)
    section = {key: tune["lora"][key] for key in ("rank", "dropout", "targets")}
    return {"method": "hira", "hira": section}, leaves


def read_bd_lora(config, sites: Sites, found: Mapping[str, Module], base, where: str) -> Read:
    """(tune, flat leaves) of LoRA with `use_bdlora`."""
    given = config["use_bdlora"]
    if not isinstance(given, dict):
        raise UserError(f"{where}: use_bdlora = {given!r}: expected a table of settings")
    mixed = [key for key in ("rank_pattern", "alpha_pattern", "use_dora") if config.get(key)]
    if mixed:
        raise UserError(f"{where}: {mixed[0]} = {config[mixed[0]]!r} beside use_bdlora has no counterpart here")
    rank, count, alpha = _whole(config, "r", where), _whole(given, "nblocks", where), config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or alpha <= 0:
        raise UserError(f"{where}: lora_alpha = {alpha!r}: expected a number above 0")
    sides, shapes = {}, {}
    for place in sites:
        module = found[place[0]]
        name = module.template.rpartition(".")[2]
        side = [x for x in "ab" if any(part in name for part in given.get(f"target_modules_bd_{x}") or ())]
        if len(side) != 1:
            raise UserError(
                f"{where}: use_bdlora: {name} is in {len(side)} of target_modules_bd_a and _b; one is needed"
            )
        sides[place[0]] = side[0]
        split = count if side[0] == "a" else 1, count if side[0] == "b" else 1
        shapes[place] = {"a": (rank, module.size_in // split[0]), "b": (module.size_out, rank // split[1])}

    def leaves(module: Module, site: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        def blocks(array: np.ndarray) -> np.ndarray:  # theirs are one above the other
            return np.swapaxes(array.reshape(count, -1, array.shape[1]), 1, 2)

        of_inputs = sides[module.template] == "a"
        return {f"lora_{x}": blocks(array) if (x == "a") == of_inputs else array.T for x, array in site.items()}

    kept = _collected(sites, found, base, shapes, "LORA", where, leaves)
    rows = tuple(p for p in _targets(kept) if kept[f"{p}/{bd_lora.A}"].ndim > kept[f"{p}/{bd_lora.B}"].ndim)
    section = {
        "rank": rank,
        "alpha": float(alpha),
        "blocks": count,
        "dropout": float(config.get("lora_dropout") or 0.0),
        "targets": _targets(kept),
        "rows": rows,
    }
    return {"method": "bd_lora", "bd_lora": section}, kept


def read_osf(config, sites: Sites, found: Mapping[str, Module], base, where: str) -> Read:
    """(tune, flat leaves) of trained triplets. What they started from is that of the base's kernels, which PEFT does not save
    either, so `base` has to be arrays."""
    if config.get("rank_pattern"):
        raise UserError(f"{where}: rank_pattern = {config['rank_pattern']!r} has no counterpart here")
    kept = 0.5 if config.get("effective_rank") is None else config["effective_rank"]
    if (
        isinstance(kept, bool)
        or not isinstance(kept, (int, float))
        or kept <= 0
        or (kept == 1.0 and isinstance(kept, float))
    ):
        raise UserError(f"{where}: effective_rank = {kept!r}: expected a whole number from 1 on, or a share below 1")
    method, shapes = osf.Osf(float(kept), ()), {}
    for place in sites:
        sizes = found[place[0]].size_in, found[place[0]].size_out
        rest = min(sizes) - min(method.count(sizes), min(sizes))
        if not rest:
            raise UserError(f"{where}: effective_rank = {kept!r} leaves nothing of {place[0]} {sizes} to train")
        shapes[place] = {"left": (rest, sizes[0]), "singular": (rest,), "right": (sizes[1], rest)}
    theirs = _collected(sites, found, base, shapes, "OSF", where, lambda _, site: {k: a.T for k, a in site.items()})
    out: dict[str, np.ndarray] = {}
    for path in _targets(theirs):
        module = next(m for m in found.values() if path in m.layers)
        kernels = np.asarray(base[f"{path}/kernel"])
        starts = [osf.start(kernel, method.count(kernel.shape)) for kernel in (kernels if module.depth else [kernels])]
        made = {name: module.stack([np.asarray(start[name]) for start in starts]) for name in starts[0]}
        own = [i for i in layers(module) if (module.template, i) in sites]
        for name in ("left", "singular", "right"):
            array, given = made[name].copy(), theirs[f"{path}/adapter/{name}"].astype(made[name].dtype)
            if module.depth:
                array[own] = given[own]
            made[name] = array if module.depth else given
        out |= {f"{path}/adapter/{name}": array for name, array in made.items()}
    return {"method": "osf", "osf": {"kept": float(kept), "targets": _targets(theirs)}}, out


READERS = {
    "SHIRA": read_shira,
    "MISS": read_miss,
    "GRALORA": read_gralora,
    "HIRA": read_hira,
    "BD_LORA": read_bd_lora,
    "OSF": read_osf,
}


def write(
    adapter: Method, flat: Mapping[str, Any], found: Mapping[str, Module]
) -> tuple[dict[str, Any], Tensors] | None:
    """(config, tensors) of an adapter in the form that PEFT has for its method; None where another form has to do.

    Raises:
      UserError: ShiRA of modules that PEFT cannot adapt so.
    """
    if isinstance(adapter, hira.Hira):
        chosen, ends, common = places(flat, found)
        plain = lora.Lora(adapter.rank, float(adapter.rank), False, adapter.dropout, adapter.targets)
        made, tensors = write_lora(plain, flat, chosen, ends, {})
        rank = max([adapter.rank, *made["rank_pattern"].values()])  # of blocks of fused modules; PEFT has one for all
        out = {}
        for key, array in tensors.items():
            side = key.endswith(".lora_B.weight")
            missing = rank - array.shape[side]
            padded = np.pad(array, ((0, 0), (0, missing)) if side else ((0, missing), (0, 0)))
            out[re.sub(r"\.lora_([AB])\.weight$", r".hira_\1", key)] = padded
        config = {"r": rank, "hira_dropout": adapter.dropout, "init_weights": True}
        return {**common, "peft_type": "HIRA", **config}, out
    if type(adapter) not in WRITERS:
        return None
    chosen, _, common = places(flat, found)
    alone = all(len(module.layers) == 1 and not module.transposed for module in chosen)
    if isinstance(adapter, shira.Shira) and not alone:
        raise UserError(
            f"{chosen[0].template}: PEFT has ShiRA of whole linear modules alone, not of parts of fused ones or of weights "
            "[in, out]; merge the adapter, and export the whole model"
        )
    if not alone:
        return None
    kind, config, tensors = WRITERS[type(adapter)](adapter, chosen, flat)
    if config is None:
        return None
    if kind not in ("SHIRA", "GRALORA", "LORA"):
        del common["fan_in_fan_out"]
    return {**common, "peft_type": kind, **config}, tensors


def _write_shira(adapter: shira.Shira, chosen: list[Module], flat):
    def of(module: Module, leaves: Mapping[str, np.ndarray]) -> Tensors:
        rows, columns = leaves["places"] % module.size_out, leaves["places"] // module.size_out
        order = np.lexsort((columns, rows))
        return {"weight": leaves["weight"][order], "places": np.stack([rows, columns])[:, order].astype(np.int32)}

    config = {"r": adapter.rank, "mask_type": "random", "init_weights": True}
    return "SHIRA", config, _written("SHIRA", chosen, flat, of)


def _write_miss(adapter: miss.Miss, chosen: list[Module], flat):
    config = {"r": adapter.rank, "miss_dropout": adapter.dropout, "mini_r": 1, "bias": "none", "init_weights": True}
    return "MISS", config, _written("MISS", chosen, flat, lambda _, leaves: leaves)


def _write_gralora(adapter: gralora.Gralora, chosen: list[Module], flat):
    config = {
        "r": adapter.rank,
        "alpha": adapter.alpha,
        "gralora_k": adapter.blocks,
        "hybrid_r": adapter.hybrid_rank,
        "gralora_dropout": adapter.dropout,
        "bias": "none",
        "init_weights": True,
    }
    turned = lambda _, leaves: {n: a.T if a.ndim == 2 else a for n, a in leaves.items()}  # noqa: E731
    return "GRALORA", config, _written("GRALORA", chosen, flat, turned)


def _write_bd_lora(adapter: bd_lora.BdLora, chosen: list[Module], flat):
    """None for a config where the names of modules do not tell which factor has blocks: PEFT looks for parts of them."""
    sides: dict[str, list[str]] = {"a": [], "b": []}
    for module in chosen:
        (path,) = module.layers
        sides["a" if adapter.of_inputs(path) else "b"].append(module.template.rpartition(".")[2])
    if any(one in other or other in one for one in sides["a"] for other in sides["b"]):
        return "LORA", None, {}

    def of(module: Module, leaves: Mapping[str, np.ndarray]) -> Tensors:
        stacked = lambda a: np.swapaxes(a, 1, 2).reshape(-1, a.shape[1])  # noqa: E731
        return {name[-1]: stacked(a) if a.ndim == 3 else a.T for name, a in leaves.items()}

    blocks = {f"target_modules_bd_{x}": names for x, names in sides.items()}
    config = {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "bias": "none",
        "init_lora_weights": True,
        "use_bdlora": {**blocks, "nblocks": adapter.blocks, "match_strict": True},
    }
    return "LORA", config, _written("LORA", chosen, flat, of)


def _write_osf(adapter: osf.Osf, chosen: list[Module], flat):
    names = ("left", "singular", "right")
    tensors = _written("OSF", chosen, flat, lambda _, leaves: {name: leaves[name].T for name in names})
    kept = adapter.kept if adapter.kept < 1 else int(adapter.kept)
    return "OSF", {"effective_rank": kept, "init_weights": True}, tensors


WRITERS: Mapping[type, Callable[..., tuple[str, Any, Tensors]]] = {
    shira.Shira: _write_shira,
    miss.Miss: _write_miss,
    gralora.Gralora: _write_gralora,
    bd_lora.BdLora: _write_bd_lora,
    osf.Osf: _write_osf,
}


# Parts


def _written(kind: str, chosen: list[Module], flat: Mapping[str, Any], of: Callable[..., Tensors]) -> Tensors:
    """Their tensors by name, `of` (module, our leaves of one layer by name)."""
    tensors: Tensors = {}
    for module in chosen:
        (path,) = module.layers
        start = f"{path}/adapter/"
        leaves = {p.removeprefix(start): np.asarray(a) for p, a in flat.items() if p.startswith(start)}
        ends = {short: end for end, short in reversed(tensor_ends(kind, module).items())}
        for layer in layers(module):
            own = of(module, {name: a[layer] if module.depth else a for name, a in leaves.items()})
            tensors |= {f"{ROOT}{module.name(layer)}.{ends[short]}": array for short, array in own.items()}
    return tensors


def _zeros(shapes: Mapping[str, tuple[int, ...]], leaves: Callable, module: Module) -> Mapping[str, np.ndarray]:
    return leaves(module, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def _collected(
    sites: Sites, found, base, shapes, kind: str, where: str, leaves: Callable, neutral: Any = None
) -> dict[str, np.ndarray]:
    """Our flat leaves in the dtypes that a model with them has, from `leaves` (module, tensors of one); layers that are not
    adapted get those of `neutral` (module), or of zeros.

    Raises:
      UserError: tensors of other shapes; a module that holds several of our layers.
    """
    check(sites, found, set().union(*(s.keys() for s in shapes.values())), shapes, kind, where)
    out: dict[str, np.ndarray] = {}
    for module in adapted_modules(sites, found):
        if len(module.layers) > 1:
            raise UserError(
                f"{where}: {module.template} is {', '.join(module.layers)} in one, and an adapter of {kind} is of the whole; "
                "have PEFT convert it to LoRA (peft.convert_to_lora), or merge it into its base"
            )
        (path,) = module.layers
        some = next(s for (template, _), s in shapes.items() if template == module.template)
        rows = []
        for layer in layers(module):
            site = sites.get((module.template, layer))
            if site is not None:
                rows.append(leaves(module, site))
            else:
                rows.append(neutral(module) if callable(neutral) else _zeros(some, leaves, module))
        for name in rows[0]:
            array = module.stack([row[name] for row in rows])
            kept = np.int32 if array.dtype == np.int32 else base[f"{path}/kernel"].dtype
            out[f"{path}/adapter/{name}"] = array.astype(np.float32 if name == "singular" else kept)
    return out


def _targets(leaves: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path.split("/adapter/")[0] for path in leaves))


def _whole(config: Mapping[str, Any], key: str, where: str, least: int = 1) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{where}: {key} = {value!r}: expected a whole number from {least} on")
    return value
