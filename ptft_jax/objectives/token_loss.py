"""Cross-entropy of tokens: what every objective over tokens is made of."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.config.metrics import Measures
from ptft_jax.errors import UserError
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Rows, Scored, Sum
from ptft_jax.objectives.readout import read


@dataclasses.dataclass(frozen=True)
class TokenLoss(Rows):
    """Weighted cross-entropy of the targets, in nats. Which targets, and what the model sees of the others, is the batch's
    (`ptft_jax.data.builders`).

    Attributes:
      z_loss: weight of log(Z)^2 per token, which keeps logits from drifting (Chowdhery et al. 2022, section 5).
      label_smoothing: share e of the target mass spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
      chunk: positions scored at a time, 0 = all. The [B, T, V] logits are then never held at once: they are
        recomputed chunk by chunk in the backward pass.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk: int = 0

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the loss' metrics."""
        return metric_names(self.z_loss)

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states; of the batch: targets int [B, T], weights float [B, T]."""
        score = functools.partial(self.score, model, params)
        weights = batch["weights"].astype(jnp.float32)
        sums = summed(self.chunk, score, hidden_BTD, batch["targets"], weights, parts=model.context_parts)
        return as_loss(sums, self.weight(batch), self.z_loss)

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """How far what two models predict is apart: the sum of `measure` over the targets, each times its weight.

        Args:
          first, second: (parameters, last hidden states [B, T, D]) of the same `model`.
          measure: of logits [..., V] and [..., V] to [...].
        """

        return divergence_of(self.chunk, model, first, second, batch["weights"].astype(jnp.float32), measure)

    def measured(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, measures: Measures
    ) -> dict[str, Sum]:
        """As of `Rows`, `chunk` positions at a time."""
        weights = batch["weights"].astype(jnp.float32)
        return measured_of(self.chunk, model, (params, hidden_BTD), batch["targets"], weights, measures)

    def score(
        self, model: Any, params: Any, hidden_BTD: jax.Array, targets: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, ...]:
        """As `cross_entropy`, of hidden states [..., D]; what objectives over tokens override."""
        return cross_entropy(model.logits(params, hidden_BTD), targets, weights, self.z_loss, self.label_smoothing)


def summed(
    chunk: int, score: Callable[..., tuple[jax.Array, ...]], *arrays: jax.Array, parts: int = 1
) -> tuple[jax.Array, ...]:
    """The sums that `score` gives of arrays [B, T, ...], `chunk` positions at a time; 0 = all at once. The last chunk is padded
    with zeros, and so with positions of weight 0. Where devices have one of `parts` of the positions each, a chunk has as many of each."""
    length = arrays[0].shape[1]
    if not chunk or chunk >= length:
        return score(*arrays)

    def add(sums: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, jax.checkpoint(score)(*part)), None

    chunks = tuple(_chunks(x, chunk, parts) for x in arrays)
    sums = jax.eval_shape(score, *jax.tree.map(lambda x: x[0], chunks))
    return jax.lax.scan(add, tuple(jnp.zeros(s.shape, s.dtype) for s in sums), chunks)[0]


def mapped(chunk: int, function: Callable[..., Any], *arrays: jax.Array, parts: int = 1) -> Any:
    """What `function` gives of arrays [B, T, ...], itself arrays [B, T, ...], `chunk` positions at a time; 0 = all at once; `parts` as of
    `summed`."""
    length = arrays[0].shape[1]
    if not chunk or chunk >= length:
        return function(*arrays)
    made = jax.lax.map(lambda part: jax.checkpoint(function)(*part), tuple(_chunks(x, chunk, parts) for x in arrays))
    parts = _dividing(parts, length)

    def joined(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x.reshape(*x.shape[:2], parts, -1, *x.shape[3:]), 0, 2)
        x = x.reshape(*x.shape[:2], -1, *x.shape[4:])[:, :, : length // parts]
        return x.reshape(x.shape[0], length, *x.shape[3:])

    return jax.tree.map(joined, made)


def _chunks(x: jax.Array, chunk: int, parts: int) -> jax.Array:
    """[n, B, chunk, ...] of [B, T, ...], the last filled up with zeros. Each has as many positions of every one of `parts`, the next of each,
    so that what is divided among devices by rows or by these parts stays where it is."""
    parts = _dividing(parts, x.shape[1])
    each = -(-chunk // parts)
    x = x.reshape(x.shape[0], parts, -1, *x.shape[2:])
    x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % each)] + [(0, 0)] * (x.ndim - 3))
    x = jnp.moveaxis(x.reshape(*x.shape[:2], -1, each, *x.shape[3:]), 2, 0)
    return x.reshape(*x.shape[:2], parts * each, *x.shape[4:])


def _dividing(parts: int, length: int) -> int:
    """Parts of so many positions; 1 where they do not divide, which no device has some of each."""
    return parts if length % parts == 0 else 1


def divergence_of(
    chunk: int, model: Any, first: Scored, second: Scored, weights_BT: jax.Array, measure: Measure
) -> jax.Array:
    """The sum of `measure` of what two models make of each target, times its weight; arguments as of `TokenLoss.divergence` and
    `summed`."""

    def score(first_BTD: jax.Array, second_BTD: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        scored = (model.logits(first[0], first_BTD), model.logits(second[0], second_BTD))
        return (weighted_sum(measure(*(counted(logits, weights) for logits in scored)), weights),)

    return summed(chunk, score, first[1], second[1], weights_BT, parts=model.context_parts)[0]


def measured_of(
    chunk: int, model: Any, scored: Scored, targets_BT: jax.Array, weights_BT: jax.Array, measures: Measures
) -> dict[str, Sum]:
    """What metrics are of targets, as `sums_of`; `chunk` as of `summed`."""

    def score(hidden_BTD: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        found = sums_of(measures, model.logits(scored[0], hidden_BTD), targets, weights)
        return tuple(number for name, _ in measures for number in found[name])

    numbers = iter(summed(chunk, score, scored[1], targets_BT, weights_BT, parts=model.context_parts))
    return {name: (next(numbers), next(numbers)) for name, _ in measures}


def cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float, label_smoothing: float
) -> tuple[jax.Array, ...]:
    """Sums over targets [...] of (loss, cross-entropy, z-loss, correct), each times the target's weight; logits [..., V]."""
    logits = counted(logits, weights)
    log_z, target, best = read(logits, targets)
    nll = log_z - target
    loss = nll
    if label_smoothing:
        uniform = log_z - jnp.mean(logits, axis=-1)
        loss = (1 - label_smoothing) * nll + label_smoothing * uniform
    penalty = z_loss * jnp.square(log_z)
    correct = best == targets
    return tuple(weighted_sum(value, weights) for value in (loss + penalty, nll, penalty, correct))


def counted(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """Logits [..., V] with those of targets [...] that weigh nothing set to zero: what is made of them is then finite, and
    so is its gradient. Where only the value is masked, an infinite logit has a gradient of 0 * inf, which is NaN."""
    return jnp.where((weights > 0)[..., None], logits, 0.0)


def sums_of(measures: Measures, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, Sum]:
    """What metrics are of logits float [..., V], targets int [...] and weights float32 [...].

    Raises:
      UserError: one that fails, or gives something else than two numbers.
    """
    logits, found = counted(logits, weights), {}
    for name, measure in measures:
        try:
            total, weight = (jnp.asarray(value, jnp.float32) for value in measure(logits, targets, weights))
        except Exception as e:
            shapes = f"logits {list(logits.shape)}, targets and weights {list(targets.shape)}"
            text = " ".join(str(e).split())[:400]
            raise UserError(f"config.eval.metrics: {name!r} fails with {shapes}: {type(e).__name__}: {text}") from e
        if total.shape or weight.shape:
            given = f"{list(total.shape)} and {list(weight.shape)}"
            raise UserError(f"config.eval.metrics: {name!r}: expected (total, weight), two numbers, got shapes {given}")
        found[name] = (total, weight)
    return found


def weighted_sum(values: jax.Array, weights: jax.Array) -> jax.Array:
    """The sum of values times weights of the same shape."""
    # where, not only a product: a padded position may hold inf, and inf * 0 is NaN.
    return jnp.sum(jnp.where(weights > 0, values * weights, 0.0))


def as_loss(sums: tuple[jax.Array, ...], weight: jax.Array, z_loss: float) -> Loss:
    """The sums of `cross_entropy` with the weight they will be divided by, named."""
    total, nll, penalty, correct = sums
    values = {"loss": total, "nll": nll, "accuracy": correct, "z_loss": penalty}
    return Loss(total, weight, {name: (values[name], weight) for name in metric_names(z_loss)})


def metric_names(z_loss: float) -> tuple[str, ...]:
    """What `as_loss` names."""
    return ("loss", "nll", "accuracy", *(("z_loss",) if z_loss else ()))
