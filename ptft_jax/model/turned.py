"""Kernels that lie in memory by outputs, as CPUs read them fastest for the few rows of a step of decoding."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

FEW = 64  # rows up to which the kernel is the left side of the product


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Turned:
    """Stands for a kernel [..., in, out] and holds `by_output` [..., out, in]. Only products read it: of layers without adapters."""

    by_output: jax.Array

    def __getitem__(self, index: Any) -> Turned:
        """As it is, as a parameter's `[...]` is read."""
        assert index is Ellipsis, "a turned kernel is read whole"
        return self

    def astype(self, dtype: Any) -> Turned:
        """The same in another dtype."""
        return Turned(self.by_output.astype(dtype))

    @property
    def size_out(self) -> int:
        """How many outputs there are."""
        return self.by_output.shape[-2]


def behind(rows: jax.Array, kernel: Turned, dtype: jnp.dtype | None) -> jax.Array:
    """rows [M, in] @ kernel -> [M, out], in `dtype` (None: theirs).

    XLA's matrix product on CPUs packs its right side, whatever the left side's size is: with some rows on the left it would write the
    whole kernel once more. So the kernel comes first, and what comes out is turned, which the barrier keeps from being undone.
    """
    by_output = kernel.by_output

    def last(rows: jax.Array, by_output: jax.Array) -> jax.Array:
        return jax.lax.dot_general(rows, by_output, (((1,), (1,)), ((), ())), preferred_element_type=dtype)

    def first(rows: jax.Array, by_output: jax.Array) -> jax.Array:
        y = jax.lax.dot_general(by_output, rows, (((1,), (1,)), ((), ())), preferred_element_type=dtype)
        return jax.lax.optimization_barrier(y).T

    if not 1 < rows.shape[0] <= FEW:
        return last(rows, by_output)
    return jax.lax.platform_dependent(rows, by_output, cpu=first, default=last)


def turned(params: dict[str, Any]) -> dict[str, Any]:
    """A layer's parameters, or those of a part with layers, with the kernels of those turned that have no adapter: of matrices, alone
    or one behind the other on a leading axis. The others are as they were."""
    made: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            made[name] = value if "adapter" in value or name == "adapter" else turned(value)
        else:
            kernel = name == "kernel" and isinstance(value, jax.Array) and value.ndim <= 3
            made[name] = Turned(jnp.swapaxes(value, -1, -2)) if kernel else value
    return made


def each_turned(params: dict[str, Any]) -> dict[str, Any]:
    """A model's parameters with layers apart (`ptft_jax.model.stacks.apart`), those of each and of a head for tokens turned: one after
    the other, so that of a model that nobody else holds there is no second one."""
    blocks = params["blocks"]
    waiting = list(reversed(blocks)) if isinstance(blocks, (tuple, list)) else [blocks]
    del blocks
    params = {name: value for name, value in params.items() if name != "blocks"}
    made = []
    while waiting:
        made.append(jax.block_until_ready(turned(waiting.pop())))
    head = {name: turned({name: params[name]})[name] for name in ("head",) if isinstance(params.get(name), dict)}
    return {**params, **head, "blocks": tuple(made)}
