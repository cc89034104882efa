"""Methods on layers (LoRA, also of tables, DoRA, IA3, OFT) between PEFT's modules, some of them fused, and our layers."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ptft_jax.adapters import dora, ia3, lora, oft
from ptft_jax.adapters.base import LayerMethod, adapted
from ptft_jax.adapters.low_rank import LowRankMethod
from ptft_jax.errors import UserError, listed
from ptft_jax.interop.peft_modules import ROOT, Module, by_pattern, named, targets
from ptft_jax.interop.peft_tables import tied_factors, tied_heads

Sites = Mapping[tuple[str, int], Mapping[str, np.ndarray]]

# Ends of tensor names by the type of adapter, and what they are called below; those of tables apart.
_TABLES = {"lora_embedding_A": "a", "lora_embedding_B": "b"}
_LEAVES = {
    "LORA": {
        "lora_A.weight": "a",
        "lora_B.weight": "b",
        "lora_magnitude_vector": "m",
        "lora_magnitude_vector.weight": "m",
    },
    "IA3": {"ia3_l": "l"},
    "OFT": {"oft_R.weight": "r"},
    "SHIRA": {"shira_weight": "weight", "shira_indices": "places"},
    "MISS": {"miss_block": "block"},
    "GRALORA": {
        "gralora_A": "gralora_a",
        "gralora_B": "gralora_b",
        "gralora_A_general.weight": "general_a",
        "gralora_B_general.weight": "general_b",
    },
    "HIRA": {"hira_A": "a", "hira_B": "b"},
    "OSF": {
        "osf_svd_params.U_low": "right",
        "osf_svd_params.S_low": "singular",
        "osf_svd_params.V_low": "left",
    },
}


def tensor_ends(kind: str, module: Module) -> dict[str, str]:
    """The ends of a module's tensors in an adapter of this type -> what they are called here."""
    return _TABLES if module.table else _LEAVES[kind]


def read_lora(
    config: Mapping[str, Any], sites: Sites, found: Mapping[str, Module], base: Mapping[str, Any], where: str
):
    """(tune, flat leaves) of a LoRA or DoRA adapter; see `ptft_jax.interop.peft.read`."""
    with_dora, stable = bool(config.get("use_dora")), bool(config.get("use_rslora"))
    ranks, scales = _ranks(config, sites, found, stable, where)
    wanted = {"a", "b", "m"} if with_dora else {"a", "b"}
    shapes = {}
    for place, rank in ranks.items():
        module = found[place[0]]
        shapes[place] = {"a": (rank, module.size_in), "b": (module.size_out, rank), "m": (module.size_out,)}
    check(sites, found, wanted, shapes, config["peft_type"], where)
    # Of a fused module, the part of the rank that is each layer's own.
    own = {place: _own(found[place[0]], site) for place, site in sites.items()}
    rank = max(len(kept) for parts in own.values() for kept in parts.values())
    counts = collections.Counter(scales.values())
    scale = max(counts, key=lambda value: (counts[value], value))  # of the most modules; whatever the file's order
    alpha = scale * (math.sqrt(rank) if stable else rank)
    r, given = config.get("r"), config.get("lora_alpha")
    if rank == r and given and math.isclose(alpha, given, rel_tol=1e-12):
        alpha = float(given)  # as it was given, not rounded on the way
    leaves, paths = {}, []
    for module in adapted_modules(sites, found):
        for path, rows in module.layers.items():
            kernel = base[f"{path}/embedding" if module.table else f"{path}/kernel"]
            parts = [_low_rank(module, layer, path, rows, sites, own, scales, rank, scale) for layer in layers(module)]
            leaves[f"{path}/{lora.A}"] = module.stack([a for a, _ in parts]).astype(kernel.dtype)
            leaves[f"{path}/{lora.B}"] = module.stack([b for _, b in parts]).astype(kernel.dtype)
            if with_dora:
                leaves[f"{path}/{dora.MAGNITUDE}"] = _lengths(module, rows, sites, kernel, where)
            paths.append(path)
    drops = any(not found[template].table for template, _ in sites)  # of a table nothing is dropped
    section = {
        "rank": rank,
        "alpha": alpha,
        "rank_stabilized": stable,
        "dora": with_dora,
        "dropout": float(config.get("lora_dropout") or 0.0) if drops else 0.0,
        "targets": tuple(paths),
    }
    return {"method": "lora", "lora": section}, leaves


def read_ia3(config: Mapping[str, Any], sites: Sites, found: Mapping[str, Module], base: Mapping[str, Any], where: str):
    """(tune, flat leaves) of an IA3 adapter."""
    feedforward = config.get("feedforward_modules") or []
    ahead = {
        (module.template, layer): bool(re.fullmatch(feedforward, name))
        if isinstance(feedforward, str)
        else name.endswith(tuple(feedforward))
        for name, module, layer in named(found)
    }
    shapes = {
        place: {"l": (1, found[place[0]].size_in) if ahead[place] else (found[place[0]].size_out, 1)} for place in sites
    }
    check(sites, found, {"l"}, shapes, "IA3", where)
    leaves, paths, inputs = {}, [], []
    for module in adapted_modules(sites, found):
        ends = {ahead[module.template, layer] for layer in layers(module) if (module.template, layer) in sites}
        if len(ends) > 1:
            raise UserError(f"{where}: feedforward_modules: {module.suffix} is one in some layers and not in others")
        for path, rows in module.layers.items():
            before = ends == {True}
            ones = np.ones(module.size_in if before else len(rows), np.float32)
            vectors = []
            for layer in layers(module):
                site = sites.get((module.template, layer))
                vectors.append(ones if site is None else site["l"].reshape(-1)[slice(None) if before else rows])
            leaves[f"{path}/{ia3.SCALE}"] = module.stack(vectors).astype(base[f"{path}/kernel"].dtype)
            paths.append(path)
            inputs += [path] if before else []
    return {"method": "ia3", "ia3": {"targets": tuple(paths), "feedforward": tuple(inputs)}}, leaves


def read_oft(config: Mapping[str, Any], sites: Sites, found: Mapping[str, Module], base: Mapping[str, Any], where: str):
    """(tune, flat leaves) of an adapter of rotations."""
    size = config.get("oft_block_size")
    if isinstance(size, bool) or not isinstance(size, int) or size < 2:
        raise UserError(f"{where}: oft_block_size = {size!r}: expected a whole number above 1")
    numbers = size * (size - 1) // 2
    shapes = {place: {"r": (found[place[0]].size_in // size, numbers)} for place in sites}
    check(sites, found, {"r"}, shapes, "OFT", where)
    leaves = {}
    for module in adapted_modules(sites, found):
        zeros = {"r": np.zeros((module.size_in // size, numbers), np.float32)}
        skews = [sites.get((module.template, layer), zeros)["r"].astype(np.float32) for layer in layers(module)]
        leaves |= {f"{path}/{oft.SKEW}": module.stack(skews) for path in module.layers}
    targets = tuple(path.removesuffix(f"/{oft.SKEW}") for path in leaves)
    return {"method": "oft", "oft": {"block_size": size, "targets": targets}}, leaves


READERS = {"LORA": read_lora, "IA3": read_ia3, "OFT": read_oft}


def write(adapter: LayerMethod, flat: Mapping[str, Any], found: Mapping[str, Module], ties: Mapping[str, str]):
    """(config, tensors) of an adapter of layers; see `ptft_jax.interop.peft.write`."""
    if isinstance(adapter, LowRankMethod) and not (isinstance(adapter, lora.Lora) and adapter.init not in lora.STARTS):
        adapter, flat = lora.as_lora(adapter, flat)
    chosen, ends, common = places(flat, found)
    if isinstance(adapter, lora.Lora):
        config, tensors = write_lora(adapter, flat, chosen, ends, ties)
    elif isinstance(adapter, ia3.Ia3):
        config, tensors = _write_ia3(adapter, flat, chosen, ends)
    else:
        assert isinstance(adapter, oft.Oft)
        config, tensors = _write_oft(adapter, flat, chosen)
    return {**common, **config}, tensors


def write_lora(adapter: lora.Lora, flat, chosen: list[Module], ends: Mapping[str, list[str]], ties: Mapping[str, str]):
    tensors, ranks, alphas = {}, {}, {}
    for module in chosen:
        paths = [path for path in module.layers if f"{path}/{lora.A}" in flat]
        downs = [np.asarray(flat[f"{path}/{lora.A}"]) for path in paths]
        ups = [np.asarray(flat[f"{path}/{lora.B}"]) for path in paths]
        shared = all(np.array_equal(a, downs[0]) for a in downs)
        blocks = 1 if shared else len(paths)
        if blocks > 1:
            factor = math.sqrt(blocks) if adapter.rank_stabilized else blocks
            ranks |= dict.fromkeys(ends[module.template], blocks * adapter.rank)
            alphas |= dict.fromkeys(ends[module.template], adapter.alpha * factor)
        for layer in layers(module):
            name, at = ROOT + module.name(layer), (layer,) if module.depth else ()
            up = np.zeros((module.size_out, blocks * adapter.rank), ups[0].dtype)
            for i, (path, b) in enumerate(zip(paths, ups)):
                first = 0 if shared else i * adapter.rank
                up[module.layers[path], first : first + adapter.rank] = b[at].T
            down = [a[at].T for a in downs[:1]] if shared else [a[at].T for a in downs]
            factors = {"a": np.concatenate(down), "b": up}
            ours = tensor_ends("LORA", module).items()
            tensors |= {f"{name}.{end}": factors[leaf] for end, leaf in ours if leaf in factors}
            tensors |= tied_factors(module, ties, **factors)
            if isinstance(adapter, dora.Dora):
                tensors[f"{name}.lora_magnitude_vector"] = _magnitudes(module, layer, flat)
    config = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": _whole(adapter.alpha),
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rank_stabilized,
        "use_dora": isinstance(adapter, dora.Dora),
        "rank_pattern": ranks,
        "alpha_pattern": {k: _whole(v) for k, v in alphas.items()},
        "bias": "none",
        "init_lora_weights": True,
        **({"ensure_weight_tying": True} if any(tied_heads(module, ties) for module in chosen) else {}),
    }
    return config, tensors


def _write_ia3(adapter: ia3.Ia3, flat, chosen: list[Module], ends: Mapping[str, list[str]]):
    tensors, inputs = {}, []
    for module in chosen:
        vectors = {p: np.asarray(flat[f"{p}/{ia3.SCALE}"]) for p in module.layers if f"{p}/{ia3.SCALE}" in flat}
        before = {adapter.scales_input(path) for path in vectors}
        first = next(iter(vectors.values()))
        if before == {True}:
            alike = len(vectors) == len(module.layers) and all(np.array_equal(v, first) for v in vectors.values())
            if not alike:
                raise UserError(
                    f"{module.template} takes one input for {', '.join(module.layers)}: PEFT cannot scale it for each, or "
                    "for some, of them"
                )
            inputs += ends[module.template]
        elif before != {False}:
            raise UserError(f"{module.template}: PEFT scales its input or its output, not both ({', '.join(vectors)})")
        for layer in layers(module):
            at = (layer,) if module.depth else ()
            if before == {True}:
                vector = first[at][None, :]
            else:
                vector = np.ones((module.size_out, 1), first.dtype)
                for path, values in vectors.items():
                    vector[module.layers[path], 0] = values[at]
            tensors[f"{ROOT}{module.name(layer)}.ia3_l"] = vector
    return {"peft_type": "IA3", "feedforward_modules": inputs, "init_ia3_weights": True}, tensors


def _write_oft(adapter: oft.Oft, flat, chosen: list[Module]):
    tensors = {}
    for module in chosen:
        if module.transposed:
            raise UserError(
                f"{module.template}: PEFT has no rotations of modules with weights [in, out], as GPT-2's; merge the adapter, "
                "and export the whole model"
            )
        skews = [np.asarray(flat[f"{p}/{oft.SKEW}"]) for p in module.layers if f"{p}/{oft.SKEW}" in flat]
        if len(skews) < len(module.layers) or not all(np.array_equal(skews[0], skew) for skew in skews):
            raise UserError(
                f"{module.template} takes one input for {', '.join(module.layers)}: PEFT cannot rotate it for each, or for "
                "some, of them"
            )
        for layer in layers(module):
            tensors[f"{ROOT}{module.name(layer)}.oft_R.weight"] = skews[0][(layer,) if module.depth else ()]
    config = {
        "peft_type": "OFT",
        "oft_block_size": adapter.block_size,
        "r": 0,
        "use_cayley_neumann": False,
        "bias": "none",
    }
    return config, tensors


# Parts


def places(flat: Mapping[str, Any], found: Mapping[str, Module]) -> tuple[list[Module], dict[str, list[str]], dict]:
    """The modules that hold adapted layers, what names each of them, and what the config says of them. Raises UserError
    for a layer that is in none."""
    paths = adapted(flat)
    homeless = [path for path in paths if not any(path in module.layers for module in found.values())]
    if homeless:
        raise UserError(f"adapted layers that the format has no name for:{listed(homeless, 20)}")
    chosen = [module for module in found.values() if any(path in paths for path in module.layers)]
    ends = targets(chosen, found)
    common = {
        "target_modules": [name for names in ends.values() for name in names],
        "fan_in_fan_out": any(module.transposed for module in chosen),
    }
    return chosen, ends, common


def layers(module: Module) -> range:
    return range(module.depth or 1)


def adapted_modules(sites: Sites, found: Mapping[str, Module]) -> list[Module]:
    return [module for template, module in found.items() if any(t == template for t, _ in sites)]


def _ranks(config, sites: Sites, found, stable: bool, where: str):
    """Rank and scale of every module, by the config."""
    if not sites:
        raise UserError(f"{where}: the adapter is empty")
    ranks, scales = {}, {}
    for template, layer in sites:
        name = found[template].name(layer)
        rank = by_pattern(config.get("rank_pattern") or {}, name, config.get("r"))
        alpha = by_pattern(config.get("alpha_pattern") or {}, name, config.get("lora_alpha"))
        for key, value in (("r", rank), ("lora_alpha", alpha)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise UserError(f"{where}: {key} = {value!r} for {name}: expected a number above 0")
        ranks[template, layer], scales[template, layer] = rank, alpha / (math.sqrt(rank) if stable else rank)
    return ranks, scales


def check(sites: Sites, found, wanted: set[str], shapes, kind: str, where: str) -> None:
    """Raises UserError with every tensor that is missing, of another shape, or not of this kind of adapter."""
    problems = []
    for (template, layer), site in sites.items():
        name = found[template].name(layer)
        ends = {short: end for end, short in reversed(tensor_ends(kind, found[template]).items())}
        problems += [f"missing  {name}.{ends[leaf]}" for leaf in sorted(wanted - site.keys())]
        problems += [f"extra    {name}.{ends[leaf]}" for leaf in sorted(site.keys() - wanted)]
        for leaf in sorted(wanted & site.keys()):
            expected = shapes[template, layer][leaf]
            if site[leaf].shape != expected:
                problems.append(f"shape    {name}.{ends[leaf]} {site[leaf].shape}, expected {expected}")
    if problems:
        raise UserError(f"{where}: the tensors do not fit the config or the model:{listed(problems, 40)}")


def _own(module: Module, site: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By our layer, the components of the rank that it has. In a fused module a component may serve some layers only
    (`lora_B` is zero in the others' rows), as where `write` gave each a block; one that is zero everywhere is fresh."""
    used = {path: np.any(site["b"][rows] != 0, axis=0) for path, rows in module.layers.items()}
    fresh = ~np.any(list(used.values()), axis=0)
    return {path: np.flatnonzero(mine | fresh) for path, mine in used.items()}


def _low_rank(module: Module, layer: int, path: str, rows, sites: Sites, own, scales, rank: int, scale: float):
    """(lora_a [in, rank], lora_b [rank, out]), float32, of one layer of ours; zeros where it is not adapted."""
    a, b = np.zeros((module.size_in, rank), np.float32), np.zeros((rank, len(rows)), np.float32)
    place = (module.template, layer)
    if place in sites:
        kept = own[place][path]
        a[:, : len(kept)] = sites[place]["a"][kept].T
        b[: len(kept)] = sites[place]["b"][np.ix_(rows, kept)].T.astype(np.float32)
        if not math.isclose(scales[place], scale, rel_tol=1e-12):
            b *= np.float32(scales[place] / scale)
    return a, b


def _lengths(module: Module, rows, sites: Sites, kernel: Any, where: str) -> np.ndarray:
    """The magnitudes of a layer of ours, float32; those of its kernel where it is not adapted."""
    found = []
    for layer in layers(module):
        site = sites.get((module.template, layer))
        if site is None and isinstance(kernel, jax.ShapeDtypeStruct):
            raise UserError(
                f"{where}: {module.name(layer)} has no magnitudes of its own; they are taken from the base's arrays"
            )
        found.append(site["m"][rows] if site else dora.norms(np.asarray(kernel[layer], np.float32)))
    return module.stack(found).astype(np.float32)


def _magnitudes(module: Module, layer: int, flat: Mapping[str, Any]) -> np.ndarray:
    """[out] of a module of theirs; rows of layers that are not adapted have their kernel's own."""
    out, at = np.zeros((module.size_out,), np.float32), (layer,) if module.depth else ()
    for path, rows in module.layers.items():
        given = flat.get(f"{path}/{dora.MAGNITUDE}")
        out[rows] = dora.norms(np.asarray(flat[f"{path}/kernel"][at], np.float32)) if given is None else given[at]
    return out


def _whole(number: float) -> float | int:
    return int(number) if float(number).is_integer() else number
