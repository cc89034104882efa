"""What keeps a run near where it started, as settings of the step: each a term of the loss, or a change of its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from ptft_jax.config import Config
from ptft_jax.errors import UserError, listed
from ptft_jax.model.spec import VALUES
from ptft_jax.objectives.base import Batch, Context, Loss, Objective, Scored
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import matches, regex
from ptft_jax.regularization.anchored import Mixout, distance, pulled
from ptft_jax.regularization.divergence import Distill, Smooth
from ptft_jax.regularization.options import MixoutOptions

_MIXED = 0x6D697865  # tells mixout's draws of a step from those of its rows


@dataclasses.dataclass(frozen=True)
class Regularization:
    """Nothing, by default.

    Attributes:
      l2_sp: weight of half the squared distance to the start (Li et al. 2018, equation 2, with beta = 0: parameters without
        a start of their own are pulled to what they were made as).
      start_decay: decoupled decay to the start; done by the optimizer.
      ewc: weight of half the squared distance with each parameter's Fisher information as its importance (Kirkpatrick et al.
        2017, equation 3).
      distill, mixout, smooth: see there; None = not.
      compared: the objective itself compares the model with its start (`needs_reference`).
    """

    l2_sp: float = 0.0
    start_decay: float = 0.0
    ewc: float = 0.0
    distill: Distill | None = None
    mixout: Mixout | None = None
    smooth: Smooth | None = None
    compared: bool = False

    @property
    def anchored(self) -> bool:
        """Whether the parameters of step 0 are needed."""
        return bool(self.l2_sp or self.start_decay or self.ewc or self.mixout or self.refers)

    @property
    def refers(self) -> bool:
        """Whether what the model predicts is compared with what it predicted at step 0."""
        return self.distill is not None or self.compared

    def mixed(self, flat: Mapping[str, Any], anchor: Mapping[str, Any], key: jax.Array) -> Mapping[str, Any]:
        """The parameters, by path, that a step with `key` runs the model with."""
        return flat if self.mixout is None else self.mixout(flat, anchor, jax.random.fold_in(key, _MIXED))

    def loss(self, objective: Objective, model: Any, mine: Scored, batch: Batch, context: Context) -> Loss:
        """The objective's loss with the terms of what is predicted in its total, and a metric for each of them.

        Args:
          mine: parameters and last hidden states of the model.
          context: with reference parameters where that `refers` to them, averaged ones for SMART.
        """
        loss, terms = objective.loss_of(model, *mine, batch, context), {}
        if self.distill is not None:
            terms["distill"] = self.distill(objective, model, mine, context.reference, batch)
        if self.smooth is not None:
            terms["smooth"] = self.smooth(objective, model, mine, batch, context)
            if self.smooth.bregman:
                terms["bregman"] = self.smooth.teach(objective, model, mine, context.average, batch)
        metrics = {name: (total, loss.weight) for name, (_, total) in terms.items()}
        return Loss(loss.total + sum(term for term, _ in terms.values()), loss.weight, {**loss.metrics, **metrics})

    def pulled(
        self,
        gradients: dict[str, Any],
        flat: Mapping[str, Any],
        anchor: Mapping[str, Any],
        fisher: Mapping[str, Any],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Gradients of the mean loss, by path, with those of the terms of the parameters themselves; and their metrics.

        Args:
          gradients: of what trains in the phase.
          flat, anchor, fisher: the parameters, those of step 0, and their importance, by path, of all that trains in the run:
            what a phase does not move is as far from its start as it was.
        """
        metrics = {}
        if self.l2_sp:
            gradients = pulled(gradients, self.l2_sp, flat, anchor)
            metrics["l2_sp"] = (distance(flat, anchor), 1.0)
        if self.ewc:
            gradients = pulled(gradients, self.ewc, flat, anchor, fisher)
            metrics["ewc"] = (distance(flat, anchor, fisher), 1.0)
        return gradients, metrics


def build(
    config: Config,
    partition: Partition,
    model: Any,
    *,
    tuned: bool,
    fresh: tuple[str, ...],
    compared: bool = False,
    kept: bool = True,
) -> Regularization:
    """What `config.tune` asks for, in a run that starts from a parent (`tuned`) and re-initializes parameters that match `fresh`.
    Reads what has an effect, so that the rest is refused. `compared`: see there; `kept`: for it the start is kept.

    Raises:
      UserError: what cannot be: a term that needs what the parent does not have.
    """
    tune = config.tune
    smooth = _smooth(config, model.spec)
    comparing = f"config.objective.name = {config.objective.name!r}"
    if not tuned:
        if compared:
            raise UserError(f"{comparing}: it compares a model with its parent, and init.from names none")
        wanted = {"ewc.weight": tune.ewc.weight, "distill.weight": tune.distill.weight, "mixout.rate": tune.mixout.rate}
        for name, value in (wanted | {"l2_sp": tune.l2_sp, "start_decay": tune.start_decay}).items():
            if value:
                raise UserError(
                    f"config.tune.{name} = {value!r}: it keeps a run near its parent, and init.from names none"
                )
        return Regularization(smooth=smooth)
    made = Regularization(
        tune.l2_sp,
        tune.start_decay,
        tune.ewc.weight,
        Distill(tune.distill.weight, tune.distill.temperature) if tune.distill.weight else None,
        _mixout(tune.mixout, partition, fresh) if tune.mixout.rate else None,
        smooth,
        compared and kept,
    )
    distilling = f"config.tune.distill.weight = {tune.distill.weight!r}"
    weighed = f"config.tune.ewc.weight = {tune.ewc.weight!r}"
    for field, wanted in ((weighed, made.ewc), (distilling, made.distill), (comparing, compared)):
        if wanted and fresh:
            raise UserError(
                f"{field}: the parent predicts nothing with parameters that init.fresh re-initializes:{listed(fresh)}\n"
                "tune.l2_sp and tune.mixout keep the others near it"
            )
        if wanted and config.tokenizer.add:
            raise UserError(f"{field}: the parent knows no tokens of tokenizer.add, so predicts none of them")
    if made.ewc and model.adapt is not None:
        raise UserError(
            f"config.tune.ewc.weight = {tune.ewc.weight!r}: it keeps parameters of the parent, and tune.method = "
            f"{tune.method!r} trains others; use tune.method='full', or tune.distill"
        )
    if (made.refers or compared) and (model.virtual_tokens or model.prefix_length):
        raise UserError(
            f"{distilling if made.distill else comparing}: with tune.method = {tune.method!r} a run does not start "
            "as its parent, which sees no learned vectors"
        )
    return made


def _mixout(section: MixoutOptions, partition: Partition, fresh: tuple[str, ...]) -> Mixout:
    trained = [leaf for leaf in partition.leaves if leaf.trains and not matches((*fresh, VALUES), leaf.source)]
    for pattern in section.parameters:
        compiled = regex(pattern, "config.tune.mixout.parameters")
        if not any(compiled.fullmatch(leaf.source) for leaf in trained):
            sources = list(dict.fromkeys(leaf.source for leaf in trained))
            raise UserError(
                f"config.tune.mixout.parameters: {pattern!r} matches nothing that trains and was the parent's:"
                f"{listed(sources, 20)}"
            )
    return Mixout(section.rate, frozenset(f.path for f in trained if matches(section.parameters, f.source)))


def _smooth(config: Config, spec: Any) -> Smooth | None:
    section = config.tune.smooth
    if section.method == "none":
        return None
    # A token's vector is of the size of init_std at first; bfloat16 has 8 bits of it.
    least = spec.init_std * 2**-8 if spec.dtype == "bfloat16" else 0.0
    if section.noise < least:
        raise UserError(
            f"config.tune.smooth.noise = {section.noise!r}: rounded away in vectors of model.dtype='bfloat16'; at least "
            f"{least:.1g}, or model.dtype='float32'"
        )
    if section.method == "r3f":
        return Smooth(section.weight, section.noise, section.distribution == "uniform")
    if section.bregman and not config.training.ema_decay:
        raise UserError(
            f"config.tune.smooth.bregman = {section.bregman!r}: it keeps the model near the average of its parameters, and "
            "there is none: set training.ema_decay (SMART: 0.99, later 0.999)"
        )
    if section.radius < least:
        raise UserError(
            f"config.tune.smooth.radius = {section.radius!r}: as for tune.smooth.noise, at least {least:.1g}"
        )
    return Smooth(section.weight, section.noise, False, section.steps, section.step, section.radius, section.bregman)
