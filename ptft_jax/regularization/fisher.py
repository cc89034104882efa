"""How much each parameter matters to what a model predicts: the diagonal of its Fisher information.

For a row of the data with targets y_t of weight w_t, t = 1..T, and N the sum of all weights:

labels "sampled": F = 1/N sum over rows of E[(sum_t sqrt(w_t) d log p(y_t) / d theta)^2], with every y_t drawn from the model.
  Draws of different positions are independent and each score has mean zero, so the cross terms vanish: it is the Fisher
  information of a single predicted token (or class), averaged over those of the data. A draw of all of a row's targets estimates
  it without bias; the mean over several has a smaller error.
labels "data": F = 1/N sum over rows of (sum_t w_t d log p(y_t) / d theta)^2, with the y_t of the data: the "empirical Fisher"
  of whole rows, per token. It has the cross terms, and is no Fisher information where the model does not fit the data
  (Kunstner et al. 2019, "Limitations of the empirical Fisher approximation").
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.objectives.base import Batch, Context, Objective
from ptft_jax.params import precision
from ptft_jax.params.partition import Partition

LABELS = ("sampled", "data")
_NO_LIKELIHOOD = frozenset({"z_loss", "label_smoothing"})  # settings of what is no part of log p


@dataclasses.dataclass(frozen=True)
class Fisher:
    """The estimate for `partition`'s trainable parameters, rows taken one by one.

    Attributes:
      model: without constraints on its activations: it sees one row at a time.
      objective: its cross-entropy (metric "nll") is taken; whatever else is in its loss is no part of log p.
      together: rows whose gradients are held at once, one a device where there are several.
      draws: of labels "sampled", how often each row's targets are drawn.
    """

    model: Any
    objective: Objective
    partition: Partition
    labels: str = "sampled"
    together: int = 1
    draws: int = 1

    def squares(self, trainable: Any, frozen: Any, batch: Batch, key: jax.Array) -> tuple[Any, jax.Array]:
        """(sum over the rows of squared gradients, float32 in the form of `trainable`; sum of the weights).

        Args:
          batch: as the objective takes it; its rows divide into `together`.
          key: row k draws its labels the n-th time from fold_in(fold_in(key, k), n).
        """
        own = {field.name for field in dataclasses.fields(self.objective)}
        plain = dataclasses.replace(self.objective, **{name: 0.0 for name in _NO_LIKELIHOOD & own})
        trainable = precision.wide(trainable)

        def loss(trainable, row, key, draw):
            params = self.partition.merge(trainable, frozen)
            row = {name: x[None] for name, x in row.items()}
            hidden_BTD = plain.hidden(self.model, params, row)
            if self.labels == "sampled":
                logits = jax.lax.stop_gradient(self.model.logits(params, hidden_BTD))
                row |= {
                    "targets": jax.random.categorical(jax.random.fold_in(key, draw), logits),
                    "weights": jnp.sqrt(row["weights"].astype(jnp.float32)),
                }
            context = Context(reference=jax.lax.stop_gradient(params))  # they are the parent's
            return plain.loss_of(self.model, params, hidden_BTD, row, context).metrics["nll"][0]

        rows, draws = batch["inputs"].shape[0], self.draws if self.labels == "sampled" else 1
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(rows))
        # Consecutive rows lie on one device: those that are taken together are on different ones.
        parts = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(self.together, -1, *x.shape[1:]), 0, 1), (dict(batch), keys)
        )

        def add(sums, part):
            def once(sums, draw):
                grads = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0, None))(trainable, *part, draw)
                return jax.tree.map(lambda s, g: s + jnp.sum(jnp.square(g), axis=0) / draws, sums, grads), None

            return jax.lax.scan(once, sums, jnp.arange(draws))

        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), trainable)
        return jax.lax.scan(add, zeros, parts)[0], self.objective.nll_weight(batch)

    def estimate(self, trainable: Any, frozen: Any, batches: Iterable[Batch], key: jax.Array) -> Any:
        """F, in the form of `trainable`, float32, over all `batches`."""
        squares = jax.jit(self.squares)
        sums, weight = None, 0.0
        for number, batch in enumerate(batches):
            found, count = squares(trainable, frozen, batch, jax.random.fold_in(key, number))
            sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
            weight += float(count)
        return jax.tree.map(lambda s: s / weight, sums)
