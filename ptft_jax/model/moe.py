"""A mixture of experts in place of the MLP: every token goes to a few of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model import dispatch
from ptft_jax.model.dispatch import Routed
from ptft_jax.model.layers import ACTIVATIONS, Linear, PerRow, SublayerAdapter
from ptft_jax.model.quantized import recomputed
from ptft_jax.model.spec import ModelSpec

ROUTER = "blocks/mlp/router/"  # what the paths of routers' parameters begin with
BIAS = "blocks/mlp/router_bias"  # where there is one


class Routing(NamedTuple):
    """How tokens were sent to the experts of a layer: sums over those that are counted, float32. Those of several layers have a
    leading axis [L]; of several parts of a batch they add up.

    Attributes:
      tokens: [], how many there are.
      sent: [E], how many each expert got; `experts_per_token` times `tokens` in all.
      shares: [E], the router's probabilities of each.
      entropy: [], of these, in nats.
      log_z: [], squares of the logarithm of what they are normalized by.
    """

    tokens: jax.Array
    sent: jax.Array
    shares: jax.Array
    entropy: jax.Array
    log_z: jax.Array


class ExpertLinear(nnx.Module):
    """One linear layer an expert, without bias: `kernel` [E, in, out].

    `adapter` and `kernel` may be filled as those of `ptft_jax.model.layers.Linear`; the adapter is called as
    `(layer, routed)`.
    """

    def __init__(self, size_in: int, size_out: int, spec: ModelSpec, rngs: nnx.Rngs, *, std: float):
        init = jax.nn.initializers.normal(std)
        self.dtype = jnp.dtype(spec.dtype)
        self.kernel = nnx.Param(init(rngs.params(), (spec.experts, size_in, size_out), jnp.dtype(spec.param_dtype)))
        self.adapter: Callable[[ExpertLinear, Routed], jax.Array] | None = None

    def __call__(self, routed: Routed) -> jax.Array:
        """[N, in] to [N, out], every row by its own expert."""

        def run(routed: Routed) -> jax.Array:
            return self.plain(routed) if self.adapter is None else self.adapter(self, routed)

        return recomputed(self.kernel, run)(routed)

    def plain(self, routed: Routed) -> jax.Array:
        """The layers without their adapter."""
        return jax.lax.ragged_dot(routed.rows, self.kernel[...].astype(routed.rows.dtype), routed.sizes)


class Experts(nnx.Module):
    """The experts' gated MLPs: `gate` and `up` from D to F, `down` from F to D."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        residual_std = spec.hidden_std / (2 * spec.layers) ** 0.5
        self.activation = spec.activation
        self.gate = ExpertLinear(spec.width, spec.mlp_width, spec, rngs, std=spec.hidden_std)
        self.up = ExpertLinear(spec.width, spec.mlp_width, spec, rngs, std=spec.hidden_std)
        self.down = ExpertLinear(spec.mlp_width, spec.width, spec, rngs, std=residual_std)

    def __call__(self, routed: Routed) -> jax.Array:
        """[N, D] to [N, D]."""
        h = ACTIVATIONS[self.activation](self.gate(routed)) * self.up(routed)
        return self.down(routed._replace(rows=h))


class MoE(nnx.Module):
    """The weighted sum of a token's `experts_per_token` best experts (Jiang et al. 2024, "Mixtral of Experts", eq. 2).

    With `spec.router_bias` the best are those of the router's probabilities plus `router_bias` [E], which has no gradient, and weighs nothing
    (Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", equation 3); it is moved by the step that trains
    (`ptft_jax.objectives.routing.Balance.moved`).

    No expert has a capacity, so none drops a token: the tokens are sorted by expert, and each expert multiplies its
    own run of rows.
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        self.router = Linear(spec.width, spec.experts, spec, rngs, bias=False, std=spec.output_std)
        if spec.router_bias:
            self.router_bias = nnx.Param(jnp.zeros(spec.experts, jnp.dtype(spec.param_dtype)))
        self.experts = Experts(spec, rngs)
        self.adapter: SublayerAdapter | None = None
        # Carries out a function of (rows [B, ...], the experts' parameters) where the rows are; None: there is one device.
        self.spread: Callable[[Callable[[Any, Any], jax.Array], Any, Any], jax.Array] | None = None
        self.parts = 1  # devices that have some of the experts each

    def __call__(self, x_BTD: jax.Array, per_row: PerRow | None = None) -> jax.Array:
        return self.routed(x_BTD, per_row)[0]

    def routed(self, x_BTD: jax.Array, per_row: PerRow | None = None) -> tuple[jax.Array, Routing | None]:
        """The output [B, T, D], and how its tokens were sent where `per_row` says which are counted."""
        spec, shape = self.spec, x_BTD.shape
        each = spec.experts_per_token
        scores = self.router(x_BTD, per_row).reshape(-1, spec.experts).astype(jnp.float32)
        shares = jax.nn.softmax(scores, axis=-1)
        bias = jax.lax.stop_gradient(self.router_bias[...]).astype(jnp.float32) if spec.router_bias else 0.0
        chosen = _best(shares + bias, each)
        weights = jnp.take_along_axis(shares, chosen, axis=-1)
        routing = None
        if per_row is not None and per_row.counted is not None:
            routing = _routing(scores, shares, chosen, per_row.counted.reshape(-1).astype(jnp.float32))
        if spec.normalize_experts:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        weights, chosen = (a.reshape(*shape[:2], each) for a in (weights, chosen))
        rows = (x_BTD, weights, chosen, None if per_row is None else per_row.keys)
        definition, state = nnx.split(self.experts)
        kernels = nnx.to_pure_dict(state)

        def mixed(rows: Any, kernels: Any) -> jax.Array:
            experts, tokens = nnx.merge(definition, kernels), dispatch.sent(*rows)
            if self.parts == 1:
                return dispatch.here(experts, spec.experts, tokens).reshape(rows[0].shape)
            return dispatch.exchanged(experts, spec.experts, self.parts, tokens).reshape(rows[0].shape)

        return mixed(rows, kernels) if self.spread is None else self.spread(mixed, rows, kernels), routing


def _best(scores: jax.Array, each: int) -> jax.Array:
    """int [N, each]: where the largest of scores [N, E] are, as `jax.lax.top_k` finds them. Over several devices that would be given the
    scores of all tokens by the compiler, each time it is used; a largest number is found where its row is."""
    chosen: list[jax.Array] = []
    for _ in range(each):
        chosen.append(jnp.argmax(scores, axis=-1))
        scores = jnp.where(jnp.arange(scores.shape[-1]) == chosen[-1][:, None], -jnp.inf, scores)
    return jnp.stack(chosen, axis=-1)


def _routing(scores: jax.Array, shares: jax.Array, chosen: jax.Array, counted: jax.Array) -> Routing:
    """Of N tokens: scores and shares [N, E], chosen int [N, experts per token], counted [N]."""
    sent = jnp.sum(jax.nn.one_hot(chosen, scores.shape[-1]) * counted[:, None, None], axis=(0, 1))
    log_z = jax.nn.logsumexp(scores, axis=-1)
    entropy = log_z - jnp.sum(shares * scores, axis=-1)
    return Routing(
        jnp.sum(counted), sent, counted @ shares, jnp.sum(counted * entropy), jnp.sum(counted * jnp.square(log_z))
    )
