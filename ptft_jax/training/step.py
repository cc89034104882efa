"""The training step and the evaluation step, as pure functions. `ptft_jax.training.programs` compiles them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ptft_jax.config.metrics import Measures
from ptft_jax.errors import UserError, listed
from ptft_jax.model.moe import Routing
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.base import Batch, Context, Loss, Objective, Scored, evaluated
from ptft_jax.objectives.routing import Balance, Loads
from ptft_jax.params import precision
from ptft_jax.params.apart import Apart
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, path_of, unflatten
from ptft_jax.regularization.regularizers import Regularization
from ptft_jax.runs.state import TrainState

_KEPT = ("trainable", "optimizer", "ema", "anchor")  # what a state may keep narrower than it is computed with
_CHANGED = ("step", "trainable", "optimizer", "ema")  # what an update changes
_ROUNDED = 0x726F756E  # tells the draws by which a step's results are rounded from those of its rows


class Whole(NamedTuple):
    """What the loss of a part needs of the whole batch; None = nothing.

    Attributes:
      loads: of a mixture of experts.
      objective: the sums of an objective that `gathers`.
    """

    loads: Loads | None
    objective: Any


@dataclasses.dataclass(frozen=True)
class Step:
    """`(state, batch) -> (state, metrics)`, the state in the shapes and dtypes that it came in (`ptft_jax.params.precision`).

    Attributes:
      model, objective: what is trained, and on what loss.
      partition: which parameters the gradient is taken for.
      optimizer: Optax chain over the trainable tree.
      regularization: what keeps the run near its start.
      frozen: stored paths of what trains in the run, but not in this phase of it: no gradient is taken for them, and they keep
        their values. `optimizer` is that of the phase.
      micro_batches: the batch is run in this many equal parts, one after the other; the result is the same.
      ema_decay: decay of the average of the trainable parameters, 0 for none; see `newest`.
      apart: which leaves hold several adapters, each of which is trained by the mean loss of its own rows.
      balance: terms of the loss of what a mixture of experts' router does; None = none, and nothing is measured of it.
      measures: what evaluations measure beside the objective's own metrics.
      learning_rate: that of an update, by the number of those before it: a metric of the step; None = not measured.
    """

    model: Transformer
    objective: Objective
    partition: Partition
    optimizer: optax.GradientTransformation
    micro_batches: int = 1
    ema_decay: float = 0.0
    regularization: Regularization = dataclasses.field(default_factory=Regularization)
    frozen: frozenset[str] = frozenset()
    apart: Apart | None = None
    balance: Balance | None = None
    measures: Measures = ()
    learning_rate: Callable[[jax.Array], Any] | None = None

    def train(self, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, dict[str, Any]]:
        """One optimizer update. Metrics are (sum, weight) pairs, plus the scalars "grad_norm", "learning_rate" and "halted".

        `axis` names the mapped device axis in the per-device (pmap) form, where `batch` is one device's rows and
        sums are taken across devices by hand. Under jit over a mesh the compiler does that, and `axis` is None.
        """
        (loss, routing), sums = self._gradients(state, batch, axis)
        own = None if self.apart is None else self.apart.weights(batch, self.objective.weights(batch))
        loss, routing, sums, own = _over_devices((loss, routing, sums, own), axis)
        wide = dataclasses.replace(state, **{name: precision.wide(getattr(state, name)) for name in _KEPT})
        grads, pulls = self._pulled(sums, own, loss.weight, wide)
        scalars = {"grad_norm": optax.tree.norm(grads)}
        if self.learning_rate is not None:
            scalars["learning_rate"] = jnp.asarray(self.learning_rate(state.step), jnp.float32)
        good = jnp.isfinite(loss.total) & jnp.isfinite(scalars["grad_norm"]) & ~state.halted
        made = (sums, own, loss.weight, scalars["grad_norm"], routing)
        state = dataclasses.replace(state, **_guarded(good, self._updated, state, wide, *made), halted=~good)
        routed = {} if self.balance is None else self.balance.metrics(routing)
        return state, {**loss.metrics, **pulls, **routed, **scalars, "halted": ~good}

    def _pulled(self, sums: dict[str, Any], own: Any, weight: jax.Array, wide: TrainState) -> tuple[Any, Any]:
        """Gradients of the mean loss by path, with those of what pulls parameters themselves, and the metrics of that.

        Args:
          sums: gradients of the loss' sum, whose weight is `weight`.
          own: the weights of several adapters; None = there are none.
        """
        if self.apart is None:
            inverse = 1 / weight  # a product per element, which the compiler repeats rather than writing it to memory
            grads = {path: g * inverse for path, g in sums.items()}
        else:
            grads = self.apart.means(sums, own, weight)
        return self.regularization.pulled(grads, flatten(wide.trainable), flatten(wide.anchor), flatten(wide.fisher))

    def _updated(
        self, state: TrainState, wide: TrainState, sums: Any, own: Any, weight: Any, norm: Any, routing: Any
    ) -> dict[str, Any]:
        """What an update makes of those parts of the state that it changes; `wide` is the state as it is computed with, `norm`
        that of the gradients, `routing` how experts were used, and the rest as of `_pulled`: in the branch that this is, means are
        taken again in the passes that update, where as its argument they would be written to memory, and read."""
        before = flatten(wide.trainable)
        flat, _ = self._pulled(sums, own, weight, wide)
        grads = unflatten({p: flat[p] if p in flat else jnp.zeros_like(a) for p, a in before.items()})
        updates, optimizer = self.optimizer.update(grads, wide.optimizer, wide.trainable, anchor=wide.anchor, norm=norm)
        after = flatten(optax.apply_updates(wide.trainable, updates))
        if self.balance is not None and routing is not None:
            after |= self.balance.moved(before, routing)
        after |= self.objective.bounded(after)
        trainable = unflatten({p: before[p] if p in self.frozen else a for p, a in after.items()})
        ema = wide.ema
        if self.ema_decay:
            share = newest(self.ema_decay, state.step + 1)
            ema = jax.tree.map(lambda e, p: e + share * (p - e), ema, trainable)
        new = dataclasses.replace(state, step=state.step + 1, trainable=trainable, optimizer=optimizer, ema=ema)
        new = precision.stored(new, state, jax.random.fold_in(jax.random.fold_in(state.rng, state.step), _ROUNDED))
        return {name: getattr(new, name) for name in _CHANGED}

    def evaluate(self, state: TrainState, batch: Batch) -> dict[str, Any]:
        """What the objective measures of one batch without dropout (`ptft_jax.objectives.base.Rows.measured`), on the averaged
        parameters where there are any."""
        return self._measured(state.ema or state.trainable, state, batch)

    def evaluate_raw(self, state: TrainState, batch: Batch) -> dict[str, Any]:
        """As `evaluate`, on the parameters themselves."""
        return self._measured(state.trainable, state, batch)

    def _measured(self, trainable: Any, state: TrainState, batch: Batch) -> dict[str, Any]:
        params = self.partition.merge(trainable, state.frozen)
        reference = self._reference(state) if self.regularization.compared else None
        return evaluated(self.objective, self.measures, self.model, params, batch, reference)

    def _reference(self, state: TrainState) -> Any:
        """The whole parameters of step 0."""
        return self.partition.merge(state.anchor, state.frozen)

    def _gradients(self, state: TrainState, batch: Batch, axis: str | None) -> tuple[Any, dict[str, Any]]:
        """((the summed loss of a batch, how its tokens were sent to experts or None), gradients by path of what trains in this
        phase), of this device's rows where `axis` is given."""
        rows = batch["inputs"].shape[0]
        if rows % self.micro_batches:
            raise ValueError(f"{rows} rows per device do not divide into {self.micro_batches} micro-batches")
        first = 0 if axis is None else jax.lax.axis_index(axis) * rows
        key = jax.random.fold_in(state.rng, state.step)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))

        # Of what is kept narrower, too: gradients are float32.
        regularization, flat = self.regularization, flatten(precision.wide(state.trainable))
        trained = {path: a for path, a in flat.items() if path not in self.frozen}
        anchor = flatten(state.anchor)
        reference = self._reference(state) if regularization.refers else None
        average = (
            self.partition.merge(state.ema, state.frozen)
            if regularization.smooth and regularization.smooth.bregman
            else None
        )

        def run(trained: dict[str, Any], part: Batch, part_keys: jax.Array) -> tuple[Context, Scored, Routing | None]:
            trainable = unflatten({**flat, **regularization.mixed(trained, anchor, key)})
            params = self.partition.merge(trainable, state.frozen)
            context = Context(part_keys, reference, average, state.step)
            if self.balance is None:
                return context, (params, self.objective.hidden(self.model, params, part, context)), None
            hidden_BTD, routing = self.objective.routed(self.model, params, part, context)
            return context, (params, hidden_BTD), routing

        gathers = self.objective.gathers and (self.micro_batches > 1 or axis is not None)  # else the part is the whole

        def counted(part: Batch, context: Context, mine: Scored, routing: Routing | None) -> Any:
            """A part's share of what `whole` is made of."""
            sums = self.objective.gathered(self.model, mine, part, context) if gathers else None
            return routing, self.objective.weight(part), jax.lax.stop_gradient(sums)

        def whole(sums: Any) -> Whole:
            routing, weight, own = _over_devices(sums, axis)
            return Whole(None if self.balance is None else self.balance.loads(routing, weight), own)

        def total(
            trained: dict[str, Any], part: Batch, part_keys: jax.Array, known: Whole | None = None
        ) -> tuple[jax.Array, tuple[Loss, Routing | None]]:
            context, mine, routing = run(trained, part, part_keys)
            if known is None:
                needed = gathers or self.balance is not None
                known = whole(counted(part, context, mine, routing)) if needed else Whole(None, None)
            context = context._replace(whole=known.objective)
            loss = regularization.loss(self.objective, self.model, mine, part, context)
            if self.balance is None:
                return loss.total, (loss, None)
            assert routing is not None, "an objective whose experts are balanced says how they were used"
            assert known.loads is not None
            return loss.total + self.balance.term(routing, known.loads), (loss, jax.lax.stop_gradient(routing))

        gradient = jax.value_and_grad(total, has_aux=True)
        if self.micro_batches == 1:
            (_, sums), grads = gradient(trained, batch, keys)
            return sums, grads

        def split(x: jax.Array) -> jax.Array:
            # Every micro-batch takes rows from every device: [B] -> [micro, B / micro], interleaved.
            return jnp.swapaxes(x.reshape(-1, self.micro_batches, *x.shape[1:]), 0, 1)

        parts = jax.tree.map(split, (batch, keys))
        known = None
        if gathers or (self.balance is not None and self.balance.weighs):
            # What each part's loss is depends on all parts: a forward pass more.
            known = whole(_added_up(lambda part: counted(part[0], *run(trained, *part)), parts))

        def one(part: Any) -> tuple[Any, dict[str, Any]]:
            (_, sums), grads = gradient(trained, *part, known)
            return sums, grads

        return _added_up(one, parts)


def _over_devices(sums: Any, axis: str | None) -> Any:
    """Sums over all devices, of those over each one's rows."""
    return sums if axis is None else jax.lax.psum(sums, axis)


def _added_up(function: Callable[[Any], Any], parts: Any) -> Any:
    """The sum of what a function gives of each of `parts`, which are stacked, one after the other."""
    like = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
    return jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, function(part)), None), zeros, parts)[0]


def newest(decay: float, count: jax.Array) -> jax.Array:
    """The share of the newest of `count` parameters (1, 2, ...) in their average with `decay` d: (1 - d) / (1 - d^count).

    By it the average is a mean of all of them, with weights d^age that add up to 1: that of Adam's moments, corrected for what it
    began with (Kingma & Ba 2015, algorithm 1). Nothing is left in it of the parameters before the first update.
    """
    # 1 - d^count without the cancellation of float32.
    return jnp.minimum((1 - decay) / -jnp.expm1(count.astype(jnp.float32) * math.log(decay)), 1.0)


def check(train: Callable[..., Any], state: TrainState, batch: Batch, name: str = "") -> None:
    """Raises UserError where a step would not return the state as it takes it: another shape or dtype, which every later step
    would be compiled again for, and no checkpoint would be continued with.

    Args:
      train: the step, compiled or not; it is traced, not run.
      state, batch: arrays or ShapeDtypeStructs.
      name: of the phase, for the message.
    """
    made, _ = jax.eval_shape(train, state, batch)
    given, found = (
        {path_of(keys): a for keys, a in jax.tree_util.tree_leaves_with_path(tree)} for tree in (state, made)
    )
    wrong = [
        f"{path}: {_form(given.get(path))} becomes {_form(found.get(path))}"
        for path in dict.fromkeys((*given, *found))
        if _form(given.get(path)) != _form(found.get(path))
    ]
    if wrong:
        raise UserError(
            f"the training step{f' of {name}' if name else ''} changes the form of its own state:{listed(wrong, 20)}\n"
            "an optimizer or a method that returns other shapes or dtypes than its state had cannot be trained with"
        )


def _form(array: Any) -> str:
    if array is None:
        return "nothing"
    return f"{array.dtype}{list(array.shape)}" + (" of no fixed dtype" if getattr(array, "weak_type", False) else "")


def _guarded(good: jax.Array, update: Callable[..., dict[str, Any]], state: TrainState, *rest: Any) -> dict[str, Any]:
    """Parts of the state after `update(state, *rest)`; where not `good` they are as they were, bit for bit.

    On CPUs a branch decides it once: a choice for each element makes XLA copy every moment, as old ones are still needed where
    new ones have been written in their place. Elsewhere the choice costs nothing, and a branch would wait for the device.
    """
    old = {name: getattr(state, name) for name in _CHANGED}
    made = jax.jit(update, inline=True)  # is traced once
    new = jax.eval_shape(made, state, *rest)
    if jax.tree.map(_form, new) != jax.tree.map(_form, old):  # no step at all: `check` refuses it
        return made(state, *rest)

    def branch(old: dict[str, Any], *args: Any) -> dict[str, Any]:
        return jax.lax.cond(good, lambda: made(*args), lambda: old)

    def choice(old: dict[str, Any], *args: Any) -> dict[str, Any]:
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), made(*args), old)

    return jax.lax.platform_dependent(old, state, *rest, cpu=branch, default=choice)
