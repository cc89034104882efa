"""Models of muP as plain ones, whose logits are the same: its factors go into weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.interop.names import Model
from ptft_jax.model.spec import ModelSpec


def folded(params: Mapping[str, Any], fields: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """(flat parameters, fields) of the same model without `mup_base_width`; as they are where it is 0.

    The factor on attention's scores goes into queries, that on scores of tokens of a tied head into the norm before it.

    Args:
      params: flat whole parameters of a plain model.
      fields: its structural fields, with `vocab_size`.

    Raises:
      UserError: a tied head behind no norm.
    """
    if not fields.get("mup_base_width"):
        return dict(params), dict(fields)
    spec, flat = ModelSpec(**fields), dict(params)
    plain = {**fields, "mup_base_width": 0, "mup_base_head_dim": 0}
    queries = spec.score_scale / ModelSpec(**plain).score_scale
    normed = spec.query_key_norm != "none"
    _scale(flat, "blocks/attention/query_norm" if normed else "blocks/attention/query", queries, spec)
    if spec.tied and spec.head in ("lm", "masked_lm"):
        norm = "final_norm" if spec.head == "lm" else "head/norm"
        if f"{norm}/scale" not in flat:
            raise UserError(
                "model.mup_base_width: no plain model has these scores of tokens: the tied head divides them, and stands behind no norm that "
                "could (model.norm_placement='post'): use the run as it is"
            )
        _scale(flat, norm, 1 / spec.width_ratio, spec)
    return flat, plain


def _scale(flat: dict[str, Any], path: str, factor: float, spec: ModelSpec) -> None:
    """What a layer or norm puts out times a factor."""
    if factor == 1:
        return
    for name in ("kernel", "scale", "bias"):
        if f"{path}/{name}" in flat:
            leaf = flat[f"{path}/{name}"]
            array = np.asarray(jax.device_get(leaf)).astype(np.float32)
            above = 1.0 if name == "scale" and spec.norm == "rms_plus_one" else 0.0  # kept as its difference from one
            flat[f"{path}/{name}"] = ((above + array) * np.float32(factor) - above).astype(leaf.dtype)
