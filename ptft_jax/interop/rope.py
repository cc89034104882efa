"""Rotary positions in other libraries' configs: today's `rope_parameters`, and the older fields it replaced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.interop.config_reader import Fields
from ptft_jax.model.spec import SCALINGS

Scaling = tuple[tuple[str, Any], ...]


def read(c: Fields, *, theta: float, max_length: int, fraction: float = 1.0, layer_type: str = "") -> dict[str, Any]:
    """`rope_theta`, `rope_fraction` and `rope_scaling` of `config.model`.

    Args:
      theta, fraction: what the family has where the config is silent.
      max_length: the longest sequence, from which some factors are derived.
      layer_type: the layers meant, where the config has parameters for each type of layer.

    Raises:
      UserError: a kind of stretching that is unknown here, or one that lacks a parameter.
    """
    given = _parameters(c, layer_type)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "su":  # what longrope was called first
        kind = "longrope"
    out = {
        "rope_theta": float(given.get("rope_theta") or c.get("rope_theta", c.get("rotary_emb_base", theta))),
        "rope_fraction": float(
            given.get("partial_rotary_factor") or c.get("partial_rotary_factor", c.get("rotary_pct", fraction))
        ),
        "rope_scaling": (),
    }
    if kind in ("default", "none"):
        return out
    if kind not in SCALINGS:
        raise UserError(
            f"{c.where}: config.json: rope_type = {kind!r} is not supported, only default, {', '.join(SCALINGS)}"
        )
    original = given.get("original_max_position_embeddings") or c.get("original_max_position_embeddings", max_length)
    if kind == "dynamic":  # theirs always stretches from the longest sequence of the config
        original = max_length
    values = {**given, "original": original}
    if kind == "yarn":
        factor = given.get("factor") or max_length / original
        values = {
            "factor": float(factor),
            "original": original,
            "beta_fast": float(given.get("beta_fast") or 32),
            "beta_slow": float(given.get("beta_slow") or 1),
            "attention_factor": _yarn_factor(given, factor),
            "truncate": bool(given.get("truncate", True)),
        }
    if kind == "longrope":
        factor = given.get("factor") or max_length / original
        derived = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        values["attention_factor"] = float(given.get("attention_factor") or derived)
    missing = [name for name in SCALINGS[kind] if values.get(name) is None]
    if missing:
        raise UserError(f"{c.where}: config.json: rope_type {kind!r} lacks {', '.join(missing)}")
    pairs = [(name, _value(values[name])) for name in SCALINGS[kind]]
    out["rope_scaling"] = (("kind", kind), *pairs)
    return out


def _parameters(c: Fields, layer_type: str) -> Mapping[str, Any]:
    given = c.get("rope_parameters", None) or c.get("rope_scaling", None) or {}
    if layer_type and isinstance(given.get(layer_type), Mapping):
        given = given[layer_type]
    if not isinstance(given, Mapping):
        raise UserError(f"{c.where}: config.json: rope_parameters = {given!r} is no table")
    return given


def _yarn_factor(given: Mapping[str, Any], factor: float) -> float:
    """What cos and sin are multiplied by (Peng et al. 2023, eq. 22; DeepSeek's mscale variant)."""
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])

    def scale(m: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return scale(given["mscale"]) / scale(given["mscale_all_dim"])
    return scale(1.0)


def _value(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(float(v) for v in value)
    return value if isinstance(value, bool) else (int(value) if isinstance(value, int) else float(value))


def write(model: Mapping[str, Any]) -> dict[str, Any]:
    """The config fields for a model's rotary positions, in today's form and in the one that older readers know."""
    scaling = dict(model["rope_scaling"])
    table: dict[str, Any] = {"rope_type": scaling.pop("kind", "default")}
    for name, value in scaling.items():
        key = "original_max_position_embeddings" if name == "original" else name
        table[key] = list(value) if isinstance(value, tuple) else value
    older = {"rope_scaling": None if table["rope_type"] == "default" else {**table, "type": table["rope_type"]}}
    parameters = {"rope_theta": model["rope_theta"], **table}
    if model["rope_fraction"] != 1.0:
        parameters["partial_rotary_factor"] = model["rope_fraction"]
        older["partial_rotary_factor"] = model["rope_fraction"]
    return {"rope_theta": model["rope_theta"], **older, "rope_parameters": parameters}
