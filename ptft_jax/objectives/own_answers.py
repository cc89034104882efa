"""Objectives of data, on rows that the model itself writes: answers that are kept, pairs of them, or such as a teacher is asked about."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from ptft_jax.config.objectives import ObjectiveOptions
from ptft_jax.errors import UserError
from ptft_jax.objectives.base import PLAIN, Batch, Context, Loss, Measure, Scored
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.objectives.distill import Distill
from ptft_jax.objectives.dpo import DPO
from ptft_jax.objectives.policy import of_calls, of_members

# Of batches of answers, float32 [B]: what is added to the weight that a loss is divided by; above 0 where there is nothing to learn.
SPARE = "spare"


@dataclasses.dataclass(frozen=True)
class OwnAnswers(CausalLM, abc.ABC):
    """What `inner` makes of a batch of answers that the model wrote. Other batches are of right answers, as evaluations have them, and are
    measured by the cross-entropy of these.

    A batch of answers has what `inner` reads, `SPARE`, `facts`, and may have `MEMBERS` and `CALLS` of `ptft_jax.objectives.policy`. Of a batch without anything to learn the loss is 0 and has no gradient;
    what would be a mean over nothing is no metric then.

    Attributes:
      inner: the objective of these rows.
      facts: names of what a batch says of all answers to its prompts, float32 [B], whose means over rows are metrics of the step.
    """

    inner: Any = None

    facts: ClassVar[tuple[str, ...]] = ()
    needs_parent: ClassVar[bool] = True  # what no answer is right of, nothing is learned from
    section: ClassVar[str] = "policy"

    @classmethod
    @abc.abstractmethod
    def of(cls, section: ObjectiveOptions) -> Self:
        """The objective of `config.objective`, which reads only the settings that matter to it. Raises UserError for settings that
        contradict each other."""

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        """As of `Rows`."""
        return bool(self.inner.needs_reference)

    @property
    def live(self) -> CausalLM:
        """Other rows are right answers."""
        return CausalLM(self.z_loss, self.label_smoothing, self.chunk)

    @property
    def alone(self) -> CausalLM:
        return self.live

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """The loss of a batch by its last hidden states."""
        if SPARE not in batch:
            return super().loss_of(model, params, hidden_BTD, batch, context)
        loss = self.inner.loss_of(model, params, hidden_BTD, batch, context)
        facts = {name: (jnp.sum(batch[name]), jnp.asarray(float(len(batch[name])), jnp.float32)) for name in self.facts}
        metrics = {**loss.metrics, **facts, **of_members(batch), **of_calls(batch)}
        return Loss(loss.total, loss.weight + jnp.sum(batch[SPARE]), metrics)

    def remarks(self, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
        """As of `Rows`, those of `inner`."""
        return list(self.inner.remarks(before, after))

    def reference_of(self, model: Any, params: Any, batch: Batch) -> dict[str, jax.Array]:
        return self.inner.reference_of(model, params, batch)

    def weights(self, batch: Batch) -> jax.Array:
        """As of `Rows`."""
        return self.inner.weights(batch) if SPARE in batch else super().weights(batch)

    def weight(self, batch: Batch) -> jax.Array:
        """As of `Rows`."""
        return super().weight(batch) + (jnp.sum(batch[SPARE]) if SPARE in batch else 0.0)

    def divergence(self, model: Any, first: Scored, second: Scored, batch: Batch, measure: Measure) -> jax.Array:
        """As of `TokenLoss`, by `inner` of answers."""
        of = self.inner.divergence if SPARE in batch else super().divergence
        return of(model, first, second, batch, measure)


@dataclasses.dataclass(frozen=True)
class ExpertIteration(OwnAnswers):
    """The cross-entropy of those of the model's own answers that are kept (Anthony et al. 2017, "Thinking Fast and Slow"; Zelikman et al.
    2022, STaR; Dong et al. 2023, RAFT; Gulcehre et al. 2023, ReST): of answers that were sampled from p, those with a reward above a bound.
    In expectation that of p restricted to these and renormalized, which is where the step is a fixed point.

    `facts`: "kept" the share of all answers that is learned, "unsolved" that of prompts of whose answers none is, "duplicates" of answers
    that others to their prompt say already, where these are dropped.
    """

    facts: ClassVar[tuple[str, ...]] = ("reward", "kept", "unsolved", "duplicates", "ended", "unscored", "mismatch")

    @classmethod
    def of(cls, section: ObjectiveOptions) -> Self:
        given = {name: section[name] for name in ("z_loss", "label_smoothing", "chunk")}
        return cls(inner=CausalLM(**given), **given)


@dataclasses.dataclass(frozen=True)
class OnlineDPO(OwnAnswers):
    """The loss of DPO on the best and the worst of the model's own answers to a prompt (Guo et al. 2024, "Direct Language Model Alignment
    from Online AI Feedback").

    `facts`: "ties" the share of prompts of whose answers none is better than another, which teach nothing.
    """

    facts: ClassVar[tuple[str, ...]] = ("reward", "ties", "ended", "unscored", "mismatch")

    @classmethod
    def of(cls, section: ObjectiveOptions) -> Self:
        if section.preference.precompute:
            raise UserError(
                "config.objective.preference.precompute = True: of answers that are yet to be written nothing can be computed before: set it "
                "to False"
            )
        if section.policy.samples < 2:
            raise UserError(
                f"config.objective.policy.samples = {section.policy.samples}: {section.name} compares the answers to a prompt: expected 2 or "
                "more"
            )
        return cls(chunk=section.chunk, inner=DPO.of(section))


@dataclasses.dataclass(frozen=True)
class GKD(OwnAnswers):
    """The divergence of `Distill` on the model's own answers, or the data's, by what a teacher predicts of each of their tokens (Agarwal et
    al. 2024, "On-Policy Distillation", algorithm 1). The gradient is not taken through the sampling.

    Batches have what the teacher says, as those of `Distill`, and "written" float32 [B], 1 where the model itself wrote the answer.
    """

    facts: ClassVar[tuple[str, ...]] = ("written",)
    asks_teacher: ClassVar[bool] = True

    @classmethod
    def of(cls, section: ObjectiveOptions) -> Self:
        if not section.distill.teacher:
            raise UserError(
                "config.objective.distill.teacher = '': a model that is asked about its own answers teaches itself nothing: name a run, or "
                "weights (hf:FOLDER, gguf:FILE)"
            )
        return cls(chunk=section.chunk, inner=_divergence(section))

    def loss_of(self, model: Any, params: Any, hidden_BTD: jax.Array, batch: Batch, context: Context = PLAIN) -> Loss:
        """As of `OwnAnswers`; with the length of answers, and how many of those that were written ended by themselves."""
        loss = super().loss_of(model, params, hidden_BTD, batch, context)
        if SPARE not in batch:
            return loss
        rows, written = jnp.asarray(float(len(batch["written"])), jnp.float32), jnp.sum(batch["written"])
        more = {"answer_tokens": (self.weight(batch), rows), "ended": (jnp.sum(batch["ended"]), written)}
        more["mismatch"] = (jnp.sum(batch["mismatch"]), written)  # 0 of answers of the data
        return loss._replace(metrics={**loss.metrics, **more})


@dataclasses.dataclass(frozen=True)
class SDFT(GKD):
    """As `GKD`: the teacher is the model itself, as it started or averaged over its steps, which is shown an answer of the data's in its
    prompt (Shenfeld et al. 2026, "Self-Distillation Enables Continual Learning", section 3).

    Attributes:
      average: the teacher has the averaged parameters.
    """

    average: bool = False

    asks_teacher: ClassVar[bool] = False

    @classmethod
    def of(cls, section: ObjectiveOptions) -> Self:
        return cls(chunk=section.chunk, inner=_divergence(section), average=section.on_policy.teacher == "average")

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return not self.average


def _divergence(section: ObjectiveOptions) -> Distill:
    """`Distill` of what the teacher predicts alone: a model learns nothing from the targets that it has sampled itself."""
    return Distill(**Distill.given(section), data_weight=0.0, precomputed=False)
