"""How far parameters moved from where a run started, part by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.adapters.base import Method, is_added
from ptft_jax.params.partition import join
from ptft_jax.params.rules import STACK, flatten, unflatten

_ADDED = "added"


def of(
    start: Mapping[str, Any],
    end: Mapping[str, Any],
    frozen: Mapping[str, Any],
    method: Method | None,
    copied: jax.sharding.Sharding | None = None,
    which: int | None = None,
) -> list[dict[str, Any]]:
    """The distance of a model's effective parameters from their start, for embeddings, each block, final norm and head.

    What of an adapter can be merged counts by what it does to the parameters that it is merged into, so that methods can be
    compared; the rest counts as a part of its own, "added". Frozen parameters that no adapter changes are not
    computed with: their drift is 0.

    Args:
      start, end: the trainable leaves (stored, nested) at step 0 and now.
      frozen: the frozen ones.
      method: what was added to the model.
      copied: the layout of a number that every device of the parameters has.
      which: of several adapters (`ptft_jax.adapters.multi_adapter`), the one that is meant.

    Returns:
      rows {"part", "distance", "norm", "relative"}: Euclidean norms of (end - start) and of start, in float32, and their
      ratio, None where the start is 0.

    Raises:
      UserError: the method cannot be merged into these parameters after all.
    """

    def effective(whole: dict[str, Any]) -> dict[str, Any]:
        one = method
        if which is not None:
            assert method is not None
            one, whole = method.one, method.pick(whole, which)
        return whole if one is None else dict(one.folded(whole))

    summed = jax.jit(lambda start, end, frozen: _sums(start, end, frozen, effective), out_shardings=copied)
    sums = jax.device_get(summed(start, end, frozen))
    parts: dict[str, list[float]] = {}
    for path, (moved, size) in sums.items():
        for layer, pair in enumerate(zip(moved.reshape(-1), size.reshape(-1))):
            total = parts.setdefault(_part(path, layer), [0.0, 0.0])
            total[:] = total[0] + float(pair[0]), total[1] + float(pair[1])
    rows = []
    for part in sorted(parts, key=_order):
        distance, norm = map(math.sqrt, parts[part])
        rows.append({"part": part, "distance": distance, "norm": norm, "relative": distance / norm if norm else None})
    return rows


def _sums(start: Any, end: Any, frozen: Any, effective: Callable[..., Any]) -> dict[str, tuple[jax.Array, jax.Array]]:
    """{path of a whole parameter: sums of squares of (moved, start)}, one a layer for stacked ones."""
    start, end, frozen = jax.tree.map(_float32, (start, end, frozen))  # merging in less would add its rounding
    sides = []
    for trainable in (start, end):
        whole = join(unflatten({**flatten(trainable), **flatten(frozen)}))
        sides.append(flatten(effective(whole)))
    out = {}
    for path, before in sides[0].items():
        if not jnp.issubdtype(before.dtype, jnp.floating):  # packed codes of quantized kernels never train
            continue
        axes = tuple(range(1 if path.startswith(STACK + "/") else 0, before.ndim))
        first, last = (side[path] for side in sides)
        size = jnp.sum(first**2, axes)
        out[path] = (jnp.zeros_like(size) if sides[1][path] is before else jnp.sum((last - first) ** 2, axes), size)
    return out


def _float32(array: jax.Array) -> jax.Array:
    return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _part(path: str, layer: int) -> str:
    if is_added(path):
        return _ADDED
    return f"{STACK}[{layer}]" if path.startswith(STACK + "/") else path.split("/")[0]


def _order(part: str) -> tuple[int, int, str]:
    """As data flow through the model."""
    if part.startswith(STACK):
        return 1, int(part[len(STACK) + 1 : -1]), ""
    return {"embed": 0, "final_norm": 2, "head": 3, _ADDED: 5}.get(part, 4), 0, part
