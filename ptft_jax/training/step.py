"""The training step and the evaluation step, as pure functions. `ptft_jax.parallel.compile` compiles them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ptft_jax.objectives.base import Batch, Loss, Objective
from ptft_jax.params.partition import Partition
from ptft_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Step:
    """`(state, batch) -> (state, metrics)`.

    Attributes:
      model, objective: what is trained, and on what loss.
      partition: which parameters the gradient is taken for.
      optimizer: Optax chain over the trainable tree.
      micro_batches: the batch is run in this many equal parts, one after the other; the result is the same.
      ema_decay: decay of the average of the trainable parameters, 0 for none.
    """

    model: Any
    objective: Objective
    partition: Partition
    optimizer: optax.GradientTransformation
    micro_batches: int = 1
    ema_decay: float = 0.0

    def train(self, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, dict]:
        """One optimizer update. Metrics are (sum, weight) pairs, plus "grad_norm" and "halted" scalars.

        `axis` names the mapped device axis in the per-device (pmap) form, where `batch` is one device's rows and
        sums are taken across devices by hand. Under jit over a mesh the compiler does that, and `axis` is None.
        """
        loss, grads = self._gradients(state, batch, axis)
        if axis is not None:
            loss, grads = jax.lax.psum((loss, grads), axis)
        grads = jax.tree.map(lambda g: g / loss.weight, grads)
        grad_norm = optax.tree.norm(grads)
        updates, optimizer = self.optimizer.update(grads, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        ema = state.ema
        if self.ema_decay:
            ema = jax.tree.map(lambda e, p: e + (1 - self.ema_decay) * (p - e), ema, trainable)

        good = jnp.isfinite(loss.total) & jnp.isfinite(grad_norm) & ~state.halted
        new = dataclasses.replace(state, step=state.step + 1, trainable=trainable, optimizer=optimizer, ema=ema)
        state = jax.tree.map(lambda new, old: _choose(good, new, old), new, state)
        state = dataclasses.replace(state, halted=~good)
        return state, {**loss.metrics, "grad_norm": grad_norm, "halted": ~good}

    def evaluate(self, state: TrainState, batch: Batch) -> dict:
        """(sum, weight) metrics of one batch without dropout, on the averaged parameters where there are any."""
        params = self.partition.merge(state.ema or state.trainable, state.frozen)
        return self.objective(self.model, params, batch, None).metrics

    def _gradients(self, state: TrainState, batch: Batch, axis: str | None) -> tuple[Loss, Any]:
        rows = batch["tokens"].shape[0]
        if rows % self.micro_batches:
            raise ValueError(f"{rows} rows a device do not divide into {self.micro_batches} micro-batches")
        first = 0 if axis is None else jax.lax.axis_index(axis) * rows
        key = jax.random.fold_in(state.rng, state.step)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))

        def total(trainable, part, part_keys):
            params = self.partition.merge(trainable, state.frozen)
            loss = self.objective(self.model, params, part, part_keys)
            return loss.total, loss

        gradient = jax.value_and_grad(total, has_aux=True)
        if self.micro_batches == 1:
            (_, loss), grads = gradient(state.trainable, batch, keys)
            return loss, grads

        def split(x):  # every micro-batch takes rows from every device: [B] -> [micro, B / micro], interleaved
            return jnp.swapaxes(x.reshape(-1, self.micro_batches, *x.shape[1:]), 0, 1)

        def accumulate(sums, part):
            (_, loss), grads = gradient(state.trainable, *part)
            return jax.tree.map(jnp.add, sums, (loss, grads)), None

        parts = jax.tree.map(split, (batch, keys))
        shapes = jax.eval_shape(lambda p: gradient(state.trainable, *p), jax.tree.map(lambda x: x[0], parts))
        (_, loss), grads = shapes
        # Gradients are summed in float32 even where parameters are narrower.
        zeros = (
            jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), loss),
            jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), grads),
        )
        return jax.lax.scan(accumulate, zeros, parts)[0]


def _choose(good: jax.Array, new: Any, old: Any) -> Any:
    if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
        return old  # the base key never changes
    return jnp.where(good, new, old)
