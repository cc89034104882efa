"""What every objective returns, and how its numbers are summed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ptft_jax.config.metrics import Measures
from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs, last_of_each
from ptft_jax.model.moe import Routing

Scored = tuple[Any, jax.Array]  # parameters, and what the model with these made of a batch: its last hidden states
Measure = Callable[[jax.Array, jax.Array], jax.Array]  # logits [..., V], logits [..., V] -> [...]
Batch = dict[str, jax.Array]
# (sum, weight): a mean that has not been taken yet. Sums of micro-batches, devices and steps add up exactly to
# what one large batch would have given; means of means do not.
Sum = tuple[jax.Array, jax.Array]


class Loss(NamedTuple):
    """`total` is what is differentiated, a sum; `weight` is what it will be divided by; `metrics` name (sum, weight)."""

    total: jax.Array
    weight: jax.Array
    metrics: dict[str, Sum]


class Context(NamedTuple):
    """What a loss may look at besides the parameters and the batch.

    Attributes:
      keys: one dropout key per row [B]; None = no dropout, as in evaluation.
      reference: whole parameters of the model as its run started, its parent's, which do not train; None where neither the
        objective nor the run's regularization needs them.
      average: whole averaged parameters; None where the run does not need them.
      step: int32 [], updates that were made; None outside of training.
      whole: what an objective that `gathers` needs of the whole batch, of which this may be a part; None = the batch is whole.
    """

    keys: jax.Array | None = None
    reference: Any = None
    average: Any = None
    step: jax.Array | None = None
    whole: Any = None


PLAIN = Context()


class Objective(Protocol):
    """Turns (model, parameters, batch, context) into a loss: what `loss_of` makes of what `hidden` gives (`routed`: and how
    experts were used for it). Pure, and hashable as a static argument. `metrics`: the names of the loss' metrics, "nll" (cross-entropy)
    among them where there is one. `chained`, `scores`, `needs_reference`, `needs_parent`, `weights`, `measured`, `tables`, `remarks`, `precomputed`,
    `reference_of`, `live`, `alone`, `gathers`, `crosses_rows`, `gathered`, `asks_teacher`, `value_head`: see `Rows`."""

    metrics: tuple[str, ...]
    chained: ClassVar[bool]
    scores: ClassVar[tuple[str, ...]]
    needs_reference: ClassVar[bool]
    needs_parent: ClassVar[bool]
    section: ClassVar[str]
    gathers: ClassVar[bool]
    crosses_rows: ClassVar[bool]
    asks_teacher: ClassVar[bool]
    informs: ClassVar[bool]
    value_head: ClassVar[bool]

    @property
    def precomputed(self) -> bool: ...

    def loss(self, model: Any, params: Any, batch: Batch, context: Context = PLAIN) -> Loss: ...

    def hidden(
        self, model: Any, params: Any, batch: Batch, context: Context = PLAIN, noise_BTD: jax.Array | None = None
    ) -> jax.Array: ...

    def routed(
        self, model: Any, params: Any, batch: Batch, context: Context = PLAIN
    ) -> tuple[jax.Array, Routing | None]: ...

    def loss_of(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN
    ) -> Loss: ...

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array: ...

    def measured(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, measures: Measures
    ) -> dict[str, Sum]: ...

    def tables(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> dict[str, jax.Array]: ...

    def bounded(self, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]: ...

    def remarks(self, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]: ...

    def reference_of(self, model: Any, params: Any, batch: Batch) -> dict[str, jax.Array]: ...

    @property
    def live(self) -> Objective: ...

    @property
    def alone(self) -> Objective: ...

    def gathered(self, model: Any, mine: Scored, batch: Batch, context: Context) -> Any: ...

    def weights(self, batch: Batch) -> jax.Array: ...

    def weight(self, batch: Batch) -> jax.Array: ...

    def nll_weight(self, batch: Batch) -> jax.Array: ...


class Rows:
    """What an objective makes hidden states of: the rows of a batch, with what a builder says of them.

    Attributes:
      chained: whether the targets' probabilities multiply to that of the text they are, so that bits per byte mean something.
      needs_reference: whether the loss compares the model with its parent (`Context.reference`), in training and evaluation.
      precomputed: batches hold what it needs of another model, the reference or a teacher (`reference_of`), and no parameters of that are
        kept.
      informs: whether the gradient of its "nll" by targets that are drawn tells what matters to a model (EWC).
      needs_parent: whether it teaches a model nothing that has learned nothing before, so that a run without a parent has to be asked for.
      section: of `config.objective`, whose `from_random` asks for it; "" = `config.objective` itself.
      crosses_rows: whether a row's loss, and its gradient, are made of all rows of the batch, so that it cannot be run in parts.
      gathers: whether a row's loss depends on sums over the whole batch (`gathered`), a constant in the gradient.
      value_head: whether training needs a head for values beside that for tokens (`ptft_jax.model.heads.value`).
      asks_teacher: whether what a teacher says of each batch of training is put into it by its feed, just before the step.
      scores: names of what evaluation makes of `tables`, beside the means of metrics.
    """

    chained: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ()
    needs_reference: ClassVar[bool] = False
    precomputed: bool = False
    informs: ClassVar[bool] = True
    needs_parent: ClassVar[bool] = False
    section: ClassVar[str] = "preference"
    gathers: ClassVar[bool] = False
    crosses_rows: ClassVar[bool] = False
    value_head: ClassVar[bool] = False
    asks_teacher: ClassVar[bool] = False

    def loss(self, model: Any, params: Any, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch: `inputs` int [B, T] and what `loss_of` needs; optional positions, segments and types int [B, T], prefix
        bool [B, T], adapters int [B]."""
        return self.loss_of(model, params, self.hidden(model, params, batch, context), batch, context)

    def hidden(
        self,
        model: Any,
        params: Any,
        batch: Batch,
        context: Context = PLAIN,
        noise_BTD: jax.Array | None = None,
    ) -> jax.Array:
        """The last hidden states [B, T, D] of a batch; `noise_BTD` is added to the vectors of its tokens."""
        return model.run(params, inputs_of(batch, context)._replace(noise=noise_BTD))[0]

    def routed(
        self, model: Any, params: Any, batch: Batch, context: Context = PLAIN
    ) -> tuple[jax.Array, Routing | None]:
        """The last hidden states, and how experts were used for them (`ptft_jax.model.transformer.Transformer.run`)."""
        return model.run(params, inputs_of(batch, context), routing=True)

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states; an objective's own."""
        raise NotImplementedError

    def measured(
        self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, measures: Measures
    ) -> dict[str, Sum]:
        """The sums of metrics (`ptft_jax.config.metrics.MetricSpec`) by their names, of the last hidden states of a batch; those
        of an objective's own logits and targets. Raises UserError, see `ptft_jax.objectives.token_loss.sums_of`."""
        name = type(self).__name__
        raise UserError(
            f"config.eval.metrics: the objective {name} does not say what they are measured of ({name}.measured)"
        )

    def bounded(self, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Those of the trainable parameters after an update, by path, that the objective keeps within bounds."""
        return {}

    def remarks(self, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
        """What people should know of a run that ended, by the evaluations of its start and of its selected checkpoint, "SET/NAME" ->
        value."""
        return []

    def reference_of(self, model: Any, params: Any, batch: Batch) -> dict[str, jax.Array]:
        """What the loss of each row of a batch needs of the reference model, whose parameters these are: what is put into the batch,
        [B, ...] each, by its name there."""
        raise NotImplementedError

    @property
    def live(self) -> Any:
        """The objective for rows of which nothing was computed before (`precomputed`): the same, which asks the reference each time, or
        what of it needs none."""
        return self

    @property
    def alone(self) -> Any:
        """What measures what was learned by it without a reference: the same where it needs none, or nothing is known."""
        return self

    def gathered(self, model: Any, mine: Scored, batch: Batch, context: Context) -> Any:
        """A part's share of the sums over the whole batch that its loss needs, as `Context.whole` then has them; `mine`: parameters
        and last hidden states of the model."""
        raise NotImplementedError

    def tables(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Counts that evaluation adds up over batches, float32 [n, m], by the names that `ptft_jax.objectives.counts` has; or that of
        `ptft_jax.objectives.correlation` and `ptft_jax.objectives.recall`, whose rows it puts one after the other."""
        return {}

    def weights(self, batch: Batch) -> jax.Array:
        """What each target weighs in the loss, float32 of the shape of the batch's `weights`."""
        return batch["weights"].astype(jnp.float32)

    def nll_weight(self, batch: Batch) -> jax.Array:
        """What the cross-entropy of a batch, the metric "nll", is divided by, float32 []."""
        return jnp.sum(batch["weights"].astype(jnp.float32))

    def weight(self, batch: Batch) -> jax.Array:
        """What a loss of a batch is divided by, float32 []."""
        return jnp.sum(self.weights(batch))


def inputs_of(batch: Batch, context: Context = PLAIN) -> Inputs:
    """What a model is given of a batch. Of rows that hold `pairs` [B, P], a head on the last token reads that of each answer; of rows of steps
    (`right` [B, T]) every token."""
    pairs, shape = batch.get("pairs"), batch["inputs"].shape
    reads = None if pairs is None else last_of_each(batch["segments"], 2 * pairs.shape[1])
    if "right" in batch:
        reads = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)
    return Inputs(
        batch["inputs"],
        positions=batch.get("positions"),
        segments=batch.get("segments"),
        prefix=batch.get("prefix"),
        types=batch.get("types"),
        adapters=batch.get("adapters"),
        neighbors=batch.get("neighbors"),
        keys=context.keys,
        visible=batch.get("visible"),
        images=batch.get("images"),
        reads=reads,
    )


def evaluated(
    objective: Objective, measures: Measures, model: Any, params: Any, batch: Batch, reference: Any = None
) -> dict[str, Any]:
    """All that an evaluation adds up over batches: the metrics of the loss, and others, (sum, weight) each, and tables of counts;
    `reference` as of `Context`."""
    context = Context(reference=reference)
    hidden_BTD = objective.hidden(model, params, batch, context)
    metrics = objective.loss_of(model, params, hidden_BTD, batch, context).metrics
    more = objective.measured(model, params, hidden_BTD, batch, measures) if measures else {}
    return {**metrics, **more, **objective.tables(model, params, hidden_BTD, batch)}


def means(metrics: dict[str, Sum]) -> dict[str, jax.Array]:
    """Takes the means, once. A weight of zero gives NaN, so that nothing averaged over nothing passes as a number."""
    return {name: total / weight for name, (total, weight) in metrics.items()}
