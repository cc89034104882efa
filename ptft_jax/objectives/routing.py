"""What keeps a mixture of experts in use: the load-balancing term, and what is measured of the router."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ptft_jax.config.objectives import ObjectiveOptions
from ptft_jax.errors import UserError
from ptft_jax.model.moe import BIAS, ROUTER, Routing
from ptft_jax.model.spec import ModelSpec
from ptft_jax.params.apart import Apart
from ptft_jax.params.partition import Partition, layers_of, source_of


class Loads(NamedTuple):
    """Of a whole batch, over all its parts and devices.

    Attributes:
      tokens: float32 [], how many were routed.
      shares: float32 [L, E], of them that each expert of each layer got; 1 in all of a layer.
      weight: float32 [], what the loss is divided by.
    """

    tokens: jax.Array
    shares: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class Balance:
    """Terms of the loss of what a router does.

    Attributes:
      weight: of E * sum over experts e of f_e * P_e in each layer, f_e the share of the tokens' choices that went to e, and P_e
        the router's mean probability of it (Fedus et al. 2021, "Switch Transformers", equations 4 to 6, for one expert a
        token; for several f is their mean, as in Lepikhin et al. 2020, "GShard", algorithm 1). It is 1 where experts are used
        evenly, E where one gets all.
      z_loss: weight of the mean of log(Z)^2 of the router in each layer (Zoph et al. 2022, "ST-MoE", equation 5).

      bias_rate: by how much a step moves each bias of `ptft_jax.model.moe.MoE`, where there are any.

    Layers are added up. Tokens are all of the batch but padding, so that both are the same however it is packed, padded, cut into
    parts or spread over devices: f is that of the whole batch, and a constant in the gradient.
    """

    weight: float
    z_loss: float
    bias_rate: float = 0.0

    @property
    def weighs(self) -> bool:
        """Whether anything is added to the loss."""
        return bool(self.weight or self.z_loss)

    def loads(self, sums: Routing, weight: jax.Array) -> Loads:
        """What `term` needs to know of the whole batch: its `sums`, and the weight of its loss."""
        sent = jax.lax.stop_gradient(sums.sent)
        return Loads(sums.tokens[0], sent / jnp.maximum(jnp.sum(sent, axis=-1, keepdims=True), 1.0), weight)

    def term(self, routing: Routing, loads: Loads) -> jax.Array:
        """A part's share of the batch's terms, to add to the loss' total."""
        experts = routing.sent.shape[-1]
        balance = experts * jnp.sum(loads.shares * routing.shares)
        each = (self.weight * balance + self.z_loss * jnp.sum(routing.log_z)) / jnp.maximum(loads.tokens, 1.0)
        return loads.weight * each

    def moved(self, trainable: Mapping[str, jax.Array], sums: Routing) -> dict[str, jax.Array]:
        """Biases [L, E] of those of a step by path, after it: those of experts that got more than the mean are lowered, of those that got less
        raised (Wang et al. 2024, algorithm 1; DeepSeek-AI 2024, "DeepSeek-V3", section 2.1.2)."""
        found = {}
        for path, bias in trainable.items():
            if source_of(path) == BIAS:
                sent = sums.sent[layers_of(path)]
                found[path] = bias + self.bias_rate * jnp.sign(jnp.mean(sent, axis=-1, keepdims=True) - sent)
        return found

    def metrics(self, sums: Routing) -> dict[str, tuple[jax.Array, float]]:
        """Of a whole batch. "balance" is the mean over layers of what `weight` weighs, "expert_most" and "expert_least" are the
        loads of the most and the least used expert of any layer, in even shares (1 = even, E = all), "router_entropy" the mean
        over tokens and layers, in nats (ln E = undecided), "router_z" that of log(Z)^2."""
        experts, tokens = sums.sent.shape[-1], jnp.maximum(sums.tokens, 1.0)
        loads = self.loads(sums, jnp.ones(()))
        even = experts * loads.shares
        found = {
            "balance": jnp.mean(jnp.sum(even * sums.shares / tokens[:, None], axis=-1)),
            "expert_most": jnp.max(even),
            "expert_least": jnp.min(even),
            "router_entropy": jnp.mean(sums.entropy / tokens),
            "router_z": jnp.mean(sums.log_z / tokens),
        }
        return {name: (value, 1.0) for name, value in found.items()}


def build(
    section: ObjectiveOptions, spec: ModelSpec, partition: Partition, phase: int, apart: Apart | None
) -> Balance | None:
    """What `config.objective` asks for in a phase in which the router trains: there is nothing else that it could be kept even by.
    None in others, and with several adapters, each of which is trained by its own rows alone.

    Raises:
      UserError: a router that the loss teaches nothing.
    """
    frozen = partition.frozen_in(phase)
    trained = [leaf for leaf in partition.leaves if leaf.trains and leaf.path not in frozen]
    if apart is not None or not any(leaf.source.startswith(ROUTER) for leaf in trained):
        return None
    if spec.experts_per_token == 1 and spec.normalize_experts:
        raise UserError(
            "config.model.normalize_experts = True: with model.experts_per_token = 1 the one expert's weight is always 1, so the loss "
            "teaches the router nothing; set it to False (Switch), or freeze the router by tune.rates"
        )
    return Balance(section.balance, section.router_z_loss, section.router_bias_rate if spec.router_bias else 0.0)
