"""Layers one behind the other in arrays: stacks of them, and each by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.model.attention import View


def apart(params: dict[str, Any], consume: bool = False) -> dict[str, Any]:
    """The parameters with a stack of each layer's own, [1, ...], which `Transformer.extend` reads without a copy.

    Takes the memory of the blocks once more; with `consume` of the largest leaf only: the given blocks are deleted meanwhile.
    """
    stacks = consecutive(params["blocks"])
    if all(depth(stack) == 1 for stack in stacks):
        return params
    found: list[Any] = []
    for stack in stacks:
        leaves, form = jax.tree.flatten(stack)
        parts = []
        for leaf in leaves:
            parts.append(_split(leaf))
            if consume and isinstance(leaf, jax.Array):
                jax.block_until_ready(parts[-1])
                leaf.delete()
        found += [jax.tree.unflatten(form, layer) for layer in zip(*parts)]
    return {**params, "blocks": tuple(found)}


@jax.jit
def _split(stack: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(stack[i : i + 1] for i in range(stack.shape[0]))


def consecutive(stacks: Any) -> Sequence[Any]:
    """Stacks of layers, one after the other; one alone may be given as it is."""
    return stacks if isinstance(stacks, (tuple, list)) else (stacks,)


def depth(stack: Any) -> int:
    """How many layers a stack has."""
    return jax.tree.leaves(stack)[0].shape[0]


def cut(stacks: Any, first: int) -> Iterator[Any]:
    """Stacks, of which one begins with layer number `first`, where there is such a layer."""
    done = 0
    for stack in consecutive(stacks):
        size, inside = depth(stack), first - done
        if 0 < inside < size:
            yield jax.tree.map(lambda a, inside=inside: a[:inside], stack)
            stack = jax.tree.map(lambda a, inside=inside: a[inside:], stack)
        yield stack
        done += size


def layers(stacks: Any) -> Iterator[Any]:
    """Each layer's own parameters, without the axis of layers."""
    for stack in consecutive(stacks):
        for i in range(depth(stack)):
            yield jax.tree.map(lambda a, i=i: a[i], stack)


def chooser(views: dict[str, View], kinds: Sequence[str], first: int, size: int) -> Callable[[jax.Array], View]:
    """The view of a layer by its traced index, for a scan over layers `first` to `first + size`: one compiled body
    serves layers of several kinds."""
    present = sorted(set(kinds[first : first + size]))
    if len(present) == 1:
        return lambda _: views[present[0]]
    which = jnp.asarray([present.index(kind) if kind in present else 0 for kind in kinds])
    seen, windows = views[present[0]].seen, jnp.asarray([views[kind].seen.window for kind in present])
    rotations = [views[kind].rotation for kind in present]
    tables = None if rotations[0] is None else jax.tree.map(lambda *t: jnp.stack(t), *rotations)

    def view(index: jax.Array) -> View:
        kind = which[index]
        own = dataclasses.replace(seen, window=0, reach=windows[kind])
        return View(own, jax.tree.map(lambda t: t[kind], tables))

    return view
