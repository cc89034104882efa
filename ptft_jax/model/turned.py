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


def turned(params: dict[str, Any], consume: bool = False) -> dict[str, Any]:
    """A layer's parameters, or those of a part with layers, with the kernels of those turned that have no adapter: of matrices, alone
    or one behind the other on a leading axis. The others are as they were. With `consume` kernels are deleted that were turned."""
    made: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            made[name] = value if "adapter" in value or name == "adapter" else turned(value, consume)
        elif name == "kernel" and isinstance(value, jax.Array) and value.ndim <= 3:
            made[name] = Turned(jnp.swapaxes(value, -1, -2))
            if consume:
                jax.block_until_ready(made[name])
                value.delete()
        else:
            made[name] = value
    return made


def each_turned(rest: dict[str, Any], blocks: list[Any], consume: bool = False) -> dict[str, Any]:
    """A model's parameters with the kernels of layers and of a head for tokens turned: one layer after the other, so that of layers that nobody
    else holds there is no second one.

    Args:
      rest: what is no layer.
      blocks: layers apart (`ptft_jax.model.stacks.apart`), the last one first; the list is empty afterwards.
      consume: kernels are deleted that were turned.
    """
    made = []
    while blocks:
        made.append(turned(blocks.pop(), consume))
    head = {"head": turned(rest["head"], consume)} if isinstance(rest.get("head"), dict) else {}
    return {**rest, **head, "blocks": tuple(made)}
