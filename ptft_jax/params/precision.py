"""What each number of a run is kept in: the one policy for parameters, moments, averages, starts and sums.

- What trains, its moments, its averages and where it started are kept in `training.state_dtype`, float32 unless said otherwise.
- What is frozen is kept in `model.param_dtype`, or quantized. What methods add is small, and is kept as what trains is.
- A step computes in float32, but for the model itself, which computes in `model.dtype`: gradients and their sums over
  micro-batches and devices, the optimizer's arithmetic, statistics that have not the shape of a parameter, and Fisher
  information are float32 always.
- A state that is narrower than float32 is rounded once a step, stochastically (`stochastic`), so that changes far below its last
  digit add up to what they should on average (Gupta et al. 2015, "Deep Learning with Limited Numerical Precision", section 3;
  Zamirai et al. 2020, "Revisiting BFloat16 Training").
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, path_of


def floating(array: Any) -> bool:
    """Whether an array, or the shape of one, holds floating-point numbers."""
    return jnp.issubdtype(array.dtype, jnp.floating)


@dataclasses.dataclass(frozen=True)
class Kept:
    """The dtype of a parameter in a run, called with (path, the parameter as the model has it, whether it trains).

    Attributes:
      state: of what trains, and of what a method adds.
      added: whether the parameter at a path was added by a method.
    """

    state: str
    added: Callable[[str], bool]

    def __call__(self, path: str, array: Any, trains: bool) -> Any:
        own = floating(array) and (trains or self.added(path))
        return jnp.dtype(self.state if own else array.dtype)


def read_wide(partition: Partition, shapes: Any, added: Callable[[str], bool]) -> tuple[str, ...]:
    """Paths of a parent's parameters that are read in float32 although the model keeps frozen ones narrower: those of which
    something trains.

    Args:
      shapes: whole parameters as the model has them.
      added: as of `Kept`.
    """
    own = flatten(shapes)
    trained = dict.fromkeys(leaf.source for leaf in partition.leaves if leaf.trains and not added(leaf.source))
    return tuple(p for p in trained if floating(own[p]) and own[p].dtype != jnp.float32)


def wide(tree: Any) -> Any:
    """The tree with its floating-point leaves in float32; what is that already is the same object."""
    return jax.tree.map(lambda a: a.astype(jnp.float32) if floating(a) and a.dtype != jnp.float32 else a, tree)


def narrowed(moments: Any, params: Any) -> Any:
    """An optimizer's first state, made for float32 parameters, in the dtypes that it is kept in: a leaf at the path, and in the
    shape, of one of `params` (a nested dict) has its dtype."""
    known = flatten(params)

    def narrow(keys: Any, leaf: Any) -> Any:
        parts = path_of(keys).split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        found = next((known[path] for path in ends if path in known), None)
        if found is None or not floating(leaf) or leaf.shape != found.shape:
            return leaf
        return leaf.astype(found.dtype)

    return jax.tree_util.tree_map_with_path(narrow, moments)


def stored(new: Any, old: Any, key: jax.Array) -> Any:
    """What a step made, as it is kept: each leaf of `new` in the dtype of its counterpart in `old`, rounded stochastically where
    that is narrower than float32. What is unchanged, or can be held exactly, stays as it is.

    Each leaf draws from a key of its own, a function of `key` and its path: the same on every device, however it is laid out.
    """

    def narrow(keys: Any, new: Any, old: Any) -> Any:
        if new is old or new.dtype == old.dtype or not floating(new) or not floating(old):
            return new
        own = jax.random.fold_in(key, zlib.crc32(path_of(keys).encode()) & 0x7FFFFFFF)
        return stochastic(new, jax.random.bits(own, new.shape, jnp.uint16))

    return jax.tree_util.tree_map_with_path(narrow, new, old)


def stochastic(array: jax.Array, bits: jax.Array) -> jax.Array:
    """float32 to bfloat16, up or down with the probabilities that make the mean over `bits` the number itself.

    Args:
      bits: uint16, in the shape of `array`, uniform.
    """
    # The upper half of a float32 is a bfloat16. Adding a uniform lower half carries into it with the probability that the
    # number's own lower half is of the distance to the next one.
    raw = jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32) + bits.astype(jnp.uint32)
    rounded = jax.lax.bitcast_convert_type((raw >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(array), rounded, array.astype(jnp.bfloat16))
