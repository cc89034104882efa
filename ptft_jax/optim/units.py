"""What of an optimizer looks at more than one number, for what is one: a layer's parameter, of one adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ptft_jax.params.apart import Apart
from ptft_jax.params.rules import STACK, flatten, unflatten


def stacked_axes(path: str, apart: Apart | None) -> int:
    """How many leading axes of a stored leaf run over parameters that are units of their own: the layers', the adapters'."""
    return int(path.startswith(STACK)) + int(apart is not None and path in apart.paths)


def each(direction: optax.GradientTransformation, axes: Callable[[str], int]) -> optax.GradientTransformation:
    """`direction` for every unit by itself, so that its norms, means and factors are those of one layer, however layers are
    stacked or the stack is cut.

    Its state has the form of `direction`'s own for one array, with a nested dict by path in the place of each leaf, and the
    units' axes in front.

    Args:
      axes: how many leading axes of the leaf at a path run over units.
    """

    def over(path: str, function: Callable[..., Any]) -> Callable[..., Any]:
        for _ in range(axes(path)):
            function = jax.vmap(function)
        return function

    def gathered(paths, states):
        return jax.tree.map(lambda *parts: unflatten(dict(zip(paths, parts))), *states)

    def init(params):
        flat = flatten(params)
        return gathered(flat, [over(path, direction.init)(array) for path, array in flat.items()])

    def update(updates, state, params):
        flat, theirs = flatten(updates), flatten(params)
        form = jax.tree.structure(jax.eval_shape(direction.init, jnp.zeros(())))
        parts = [flatten(part) for part in form.flatten_up_to(state)]
        out, states = {}, []
        for path, array in flat.items():
            own = form.unflatten([part[path] for part in parts])
            out[path], made = over(path, direction.update)(array, own, theirs[path])
            states.append(made)
        return unflatten(out), gathered(flat, states)

    return optax.GradientTransformation(init, update)


def clip(most: float, apart: Apart | None, first: bool = False) -> optax.GradientTransformationExtraArgs:
    """Scales gradients down to a norm of `most`: all together; of several adapters each by its own, and what they share by
    its own. Where it is the `first` of a chain, it takes the norm that is given as `norm`, if one is."""

    def share(norm: jax.Array) -> jax.Array:
        return most / jnp.maximum(norm, most)

    def update(updates, state, params=None, *, norm=None, **extra):
        if apart is None:
            by = share(norm if first and norm is not None else optax.tree.norm(updates))
            return jax.tree.map(lambda g: g * by, updates), state
        flat = flatten(updates)
        each_N, rest = map(share, apart.norms(flat))
        clipped = {p: apart.scaled(g, each_N) if p in apart.paths else g * rest for p, g in flat.items()}
        return unflatten(clipped), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
