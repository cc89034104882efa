"""Optimizers over the trainable part of a partition: direction, decay, schedule, rates, in one Optax chain a phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from ptft_jax.optim import eight_bit, mup, units
from ptft_jax.optim.options import OptimizerOptions
from ptft_jax.optim.pulls import Pulls
from ptft_jax.params.apart import Apart
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import STACK, flatten, unflatten

OPTIMIZERS = ("adamw", "adafactor", "lion", "muon", "sgd")


def build(
    config: OptimizerOptions,
    schedule: optax.Schedule,
    partition: Partition,
    *,
    phase: int = 0,
    start_decay: float = 0.0,
    ratio: float = 0.0,
    gradients: Sequence[optax.GradientTransformation] = (),
    finished: Sequence[optax.GradientTransformation] = (),
    apart: Apart | None = None,
) -> optax.GradientTransformationExtraArgs:
    """What the method does to gradients -> clip -> direction -> muP -> decoupled weight decay, decay to the start ->
    -schedule(step) -> the partition's rates -> what the method does to finished updates.

    Reads `config.optimizer`. Everything is over the trainable tree only, so frozen leaves have no moments and do not
    count in the norm that is clipped.

    Args:
      phase: of the partition's, the one this is the optimizer of. Those of all phases have states of one form; what a
        phase does not train keeps its moments, and the updates of it mean nothing.
      start_decay: strength of the decay to the start, after the direction: as weight decay in AdamW, with the start in place
        of 0 (`ptft_jax.optim.pulls`). `update` then takes the argument `anchor`.
      ratio: of muP, the width over the base width: directions of weights that a width goes into are divided by it, and so shares that
        are decayed do not depend on the width; 0 = no muP.
      gradients, finished: see `ptft_jax.adapters.base.Updates`.
      apart: which leaves hold several adapters, each clipped and directed by itself.
    """
    chain = list(gradients)
    if config.clip_norm > 0:
        chain.append(units.clip(config.clip_norm, apart, first=not chain))
    groups = {leaf.path: leaf.phases for leaf in partition.leaves if leaf.trains}
    direction = _direction(config, apart)
    chain.append(_by_phases(direction, groups, phase) if any(len(g) > 1 for g in groups.values()) else direction)
    if ratio:
        chain.append(mup.divide(mup.divisors(config.name, partition, ratio)))
    rates = partition.multipliers()
    shares = partition.choose(config.decay_rules, "optimizer.decay_rules") if config.weight_decay > 0 else {}
    decay = jax.tree.map(lambda share: config.weight_decay * share, shares) or jax.tree.map(lambda _: 0.0, rates)
    pulls = Pulls(decay, start_decay, rates)
    if config.weight_decay > 0:
        chain.append(pulls.to_zero())
    if start_decay:
        chain.append(pulls.to_start())
    place = len(chain)
    chain.append(optax.scale_by_learning_rate(schedule))
    if any(set(leaf.rates) != {1.0} for leaf in partition.leaves if leaf.trains):
        chain.append(optax.stateless(lambda updates, _: jax.tree.map(lambda u, r: u * r, updates, rates)))
    return _informed(optax.chain(*chain, *finished), schedule, place)


def _informed(
    chain: optax.GradientTransformationExtraArgs, schedule: optax.Schedule, place: int
) -> optax.GradientTransformationExtraArgs:
    """The chain, whose parts get what goes into its first as the keyword `gradients`, and the step's rate as `rate`, too.

    Args:
      place: of the part that multiplies by the schedule, and counts its steps.
    """

    def update(updates, state, params=None, **extra):
        rate = schedule(state[place].count)
        return chain.update(updates, state, params, gradients=updates, rate=rate, **extra)

    return optax.GradientTransformationExtraArgs(chain.init, update)


def _by_phases(
    direction: optax.GradientTransformation, groups: Mapping[str, tuple[bool, ...]], phase: int
) -> optax.GradientTransformation:
    """`direction` for each group of leaves that train in the same phases, with a state of its own: what begins to train
    late has its first step then (Adam's correction for moments that start at zero counts its own steps), and what does not
    train in `phase` keeps its state and is not moved.

    Args:
      groups: of each trainable leaf's path, the phases it trains in.
    """
    names = {path: "".join("01"[trains] for trains in phases) for path, phases in groups.items()}

    def part(tree, name):
        return unflatten({path: leaf for path, leaf in flatten(tree).items() if names[path] == name})

    def init(params):
        return {name: direction.init(part(params, name)) for name in sorted(set(names.values()))}

    def update(updates, state, params=None):
        out, states = {}, dict(state)
        for name in state:
            own = part(updates, name)
            if name[phase] == "1":
                own, states[name] = direction.update(own, state[name], part(params, name))
            else:
                own = jax.tree.map(jnp.zeros_like, own)
            out |= flatten(own)
        return unflatten({path: out[path] for path in flatten(updates)}), states

    return optax.GradientTransformation(init, update)


def _direction(config: OptimizerOptions, apart: Apart | None) -> optax.GradientTransformation:
    """The update's direction, before rate and decay. All are Optax's own; those that look at more than one number do so layer by
    layer."""

    def moments(direction: optax.GradientTransformation) -> optax.GradientTransformation:
        if config.moments == "plain":
            return direction
        return eight_bit.kept(direction, lambda path: units.stacked_axes(path, apart))

    builders = {
        "adamw": lambda c: moments(optax.scale_by_adam(c.b1, c.b2, c.eps)),
        "lion": lambda c: moments(optax.scale_by_lion(c.b1, c.b2)),
        "sgd": lambda c: optax.trace(c.momentum) if c.momentum else optax.identity(),
        "muon": _muon,
        # Without a rate of its own; Optax's form ends in a sign flip, which the chain applies again later.
        "adafactor": lambda c: units.each(
            optax.chain(optax.adafactor(None), optax.scale(-1.0)), lambda path: units.stacked_axes(path, apart)
        ),
    }
    return builders[config.name](config)


def _muon(config: OptimizerOptions) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) on the kernels of the blocks but experts, Adam on the rest. Muon's updates are scaled to Adam's
    RMS (Liu et al. 2025, "Muon is Scalable", eq. 4), so that one rate serves both."""
    dimensions = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)  # stacked: [L, in, out]

    def labels(params):
        return unflatten(
            {
                p: "muon" if p.startswith(STACK) and p.endswith("/kernel") and a.ndim == 3 else "adam"
                for p, a in flatten(params).items()
            }
        )

    def scale(updates, _):
        return jax.tree.map(lambda u: 0.2 * max(u.shape[1:]) ** 0.5 * u, updates)

    muon = optax.contrib.scale_by_muon(
        beta=config.momentum, weight_dimension_numbers=lambda params: jax.tree.map(lambda _: dimensions, params)
    )
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    return optax.partition({"muon": optax.chain(muon, optax.stateless(scale)), "adam": adam}, labels)
