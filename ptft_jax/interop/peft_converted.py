"""PEFT's AdaLoRA and VeRA adapters as the plain LoRA that does the same, in PEFT's own terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.interop.peft_modules import ROOT

Tensors = Mapping[str, np.ndarray]
Factors = dict[str, tuple[np.ndarray, np.ndarray, float]]  # module -> lora_A [R, in], lora_B [out, R], scale

_RANKNUM = 1e-5  # that PEFT adds to AdaLoRA's rank before it divides by it
_INIT_R = 12  # where a config says none
_KEPT = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "base_model_name_or_path")


def as_lora(
    config: Mapping[str, Any], tensors: Tensors, inputs: Mapping[str, int], where: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config and the tensors of the LoRA that does the same as an adapter of the types in `READERS`.

    Args:
      inputs: of the base's linear modules by their names, how many they have.

    Raises:
      UserError: factors that are missing or do not fit each other, numbers in the config that are none.
    """
    factors, dropout = READERS[config["peft_type"]](config, tensors, inputs, where)
    out: dict[str, np.ndarray] = {}
    ranks, alphas = {}, {}
    for name, (a, b, scale) in factors.items():
        if not len(a):  # all of its rank was pruned
            a, b, scale = np.zeros((1, a.shape[1]), np.float32), np.zeros((len(b), 1), np.float32), 1.0
        out |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        pattern = re.escape(name.removeprefix(ROOT))
        ranks[pattern], alphas[pattern] = len(a), scale * len(a)
    lora = {"r": max(ranks.values(), default=1), "lora_alpha": 1.0, "rank_pattern": ranks, "alpha_pattern": alphas}
    return {**{k: config.get(k) for k in _KEPT}, **lora, "peft_type": "LORA", "lora_dropout": dropout}, out


def _adalora(
    config: Mapping[str, Any], tensors: Tensors, inputs: Mapping[str, int], where: str
) -> tuple[Factors, float]:
    """x @ (lora_A * lora_E)^T @ lora_B^T * lora_alpha / (rank + 1e-5), the rank as that before any was pruned: the file's, or
    init_r where a rank_pattern says what was pruned."""
    factors: Factors = {}
    alpha, first = config.get("lora_alpha", 8), config.get("init_r", _INIT_R)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise UserError(f"{where}: lora_alpha = {alpha!r}: expected a number")
    pruned = bool(config.get("rank_pattern"))
    if pruned and (isinstance(first, bool) or not isinstance(first, int) or first < 1):
        raise UserError(f"{where}: init_r = {first!r}: expected a whole number above 0")
    for name, parts in _modules(tensors, ("lora_A", "lora_B", "lora_E"), where).items():
        a, b, e = parts
        if a.ndim != 2 or b.ndim != 2 or e.shape != (len(a), 1) or b.shape[1] != len(a):
            raise UserError(
                f"{where}: {name}: lora_A {a.shape}, lora_E {e.shape} and lora_B {b.shape} are of different ranks"
            )
        factors[name] = a * e, b, (alpha if alpha > 0 else float(len(a))) / ((first if pruned else len(a)) + _RANKNUM)
    return factors, float(config.get("lora_dropout") or 0.0)


def _vera(config: Mapping[str, Any], tensors: Tensors, inputs: Mapping[str, int], where: str) -> tuple[Factors, float]:
    """lambda_b * ((lambda_d * (x @ vera_A^T)) @ vera_B^T), with the first columns of one vera_A and rows of one vera_B."""
    own = dict(tensors)
    shared = [own.pop(f"base_model.vera_{x}", None) for x in "AB"]
    if shared[0] is None or shared[1] is None:
        raise UserError(
            f"{where}: vera_A and vera_B are not in the file (save_projection=False): torch draws them from "
            "projection_prng_key; save the adapter with save_projection=True"
        )
    a, b = (array.astype(np.float32) for array in shared)
    factors: Factors = {}
    for name, (d, out) in _modules(own, ("vera_lambda_d", "vera_lambda_b"), where).items():
        size = inputs.get(
            name.removeprefix(ROOT), a.shape[1]
        )  # of a module that the model lacks: said where tensors are placed
        if d.shape != (len(a),) or b.shape[1:] != d.shape or len(out) > len(b) or size > a.shape[1]:
            raise UserError(
                f"{where}: {name}: vera_lambda_d {d.shape} and vera_lambda_b {out.shape} do not fit vera_A {a.shape} and vera_B "
                f"{b.shape}"
            )
        factors[name] = d[:, None] * a[:, :size], out[:, None] * b[: len(out)], 1.0
    return factors, float(config.get("vera_dropout") or 0.0)


def _modules(tensors: Tensors, leaves: tuple[str, ...], where: str) -> dict[str, list[np.ndarray]]:
    """The float32 leaves of each module, in their order. Raises UserError where one is missing."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, array in tensors.items():
        name, _, leaf = key.rpartition(".")
        if leaf not in leaves:
            raise UserError(f"{where}: {key} {array.shape} is no {', '.join(leaves)} of a module")
        found.setdefault(name, {})[leaf] = array.astype(np.float32)
    for name, parts in found.items():
        if missing := [leaf for leaf in leaves if leaf not in parts]:
            raise UserError(f"{where}: {name}.{missing[0]} is missing")
    return {name: [parts[leaf] for leaf in leaves] for name, parts in found.items()}


READERS = {"ADALORA": _adalora, "VERA": _vera}
