"""A mixture of experts in place of the MLP: every token goes to a few of many."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.layers import ACTIVATIONS, Linear
from ptft_jax.model.spec import ModelSpec


class Experts(nnx.Module):
    """The experts' gated MLPs, stacked: `gate` and `up` [E, D, F], `down` [E, F, D]."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        dtype, residual_std = jnp.dtype(spec.param_dtype), spec.init_std / (2 * spec.layers) ** 0.5

        def kernel(size_in, size_out, std):
            init = jax.nn.initializers.normal(std)
            return nnx.Param(init(rngs.params(), (spec.experts, size_in, size_out), dtype))

        self.gate = kernel(spec.width, spec.mlp_width, spec.init_std)
        self.up = kernel(spec.width, spec.mlp_width, spec.init_std)
        self.down = kernel(spec.mlp_width, spec.width, residual_std)


class MoE(nnx.Module):
    """The weighted sum of a token's `experts_per_token` best experts (Jiang et al. 2024, "Mixtral of Experts", eq. 2).

    No expert has a capacity, so none drops a token: the tokens are sorted by expert, and each expert multiplies its
    own run of rows.
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        self.router = Linear(spec.width, spec.experts, spec, rngs, bias=False, std=spec.init_std)
        self.experts = Experts(spec, rngs)
        self.adapter = None  # as that of `MLP`

    def __call__(self, x_BTD: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        spec, shape = self.spec, x_BTD.shape
        each = spec.experts_per_token
        x = x_BTD.reshape(-1, spec.width)
        shares = jax.nn.softmax(self.router(x_BTD, keys).reshape(-1, spec.experts).astype(jnp.float32), axis=-1)
        weights, chosen = jax.lax.top_k(shares, each)
        if spec.normalize_experts:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        order = jnp.argsort(chosen.reshape(-1))
        sizes = jnp.bincount(chosen.reshape(-1), length=spec.experts)
        token = order // each

        def multiply(rows, kernels):
            return jax.lax.ragged_dot(rows, kernels[...].astype(rows.dtype), sizes)

        rows = x[token]
        h = ACTIVATIONS[spec.activation](multiply(rows, self.experts.gate)) * multiply(rows, self.experts.up)
        y = multiply(h, self.experts.down) * weights.reshape(-1)[order][:, None].astype(x.dtype)
        return jnp.zeros_like(x).at[token].add(y).reshape(shape)
