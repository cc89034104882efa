"""The objectives that `config.objective.name` can name: what is to know of each before its loss is loaded. Needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptft_jax.config import field as settings
from ptft_jax.config.declare import Options, declared, fields_of
from ptft_jax.config.located import located
from ptft_jax.config.objective_sections import (
    ClassificationOptions,
    ContrastiveOptions,
    ExpertSection,
    MaskedImagesOptions,
    MaskedLMOptions,
    OnPolicySection,
    PairSection,
    RewardedSection,
    SpanCorruptionOptions,
    TaughtSection,
    UnlikelihoodOptions,
)
from ptft_jax.config.preferences import RewardOptions, ScoringOptions

_LOSSES, _ROWS = "ptft_jax.objectives", "ptft_jax.data.builders"
_NEW_HEAD = ", and of a run that starts from such a model init.fresh=('head/.*',)"
_BOTH_WAYS = "set model.causal=False, and fine-tune a model that was trained so (objective.name='masked_lm')"


@dataclasses.dataclass(frozen=True)
class ObjectiveSpec:
    """An objective that `config.objective.name` can name.

    What is loaded late, because it needs JAX or reads files, may be given by its place, "package.module:name".

    Attributes:
      loss: the class of `ptft_jax.objectives.base.Objective`. Of the settings of `config.objective` it is given those that are
        named as its fields; or its `of(config.objective)` makes it.
      rows: the class of `ptft_jax.data.builders.Builder` that makes the rows it learns from.
      pictures: the class of `ptft_jax.data.builders.pictures.Pictures` that makes rows of images; None = it learns from texts alone.
      heads: values of `config.model.head` that it goes with.
      causal: whether positions of the model see only what came before them; None = either.
      fields: settings of its own, by their names in `config.objective`.
      reads_prompt: whether what comes first is read in both directions, when generating too.
      does: what a model that was trained on it does, where it writes no text, for messages.
      gaps: a function of a tokenizer to {id: text} of the tokens that stand for gaps in a prompt.
      single: of a head for classes, whether it gives one number (model.classes = 1), or scores of several.
      selects: the metric of the validation split that checkpoints are selected by where `config.select.metric` is as it is.
      alone: of one that compares a model with its parent or a teacher, the name of another that measures what was learned without it.
      feed: of one whose rows the model writes itself, the class that makes them (`ptft_jax.training.rollouts.Rollouts`).
      texts: whether it learns from texts, too.
      pair_bias: of one that compares images with texts, `model.pair_bias` that it goes with; None = it does not.
      tower: whether it learns texts of images that the model reads before them, by a tower (`model.tower`).
      wrong_head, wrong_sight: what is wrong with a model that has another head, or another `causal`; "" = said in general words.
    """

    loss: Any
    rows: Any
    heads: tuple[str, ...] = ("lm",)
    causal: bool | None = True
    fields: Mapping[str, settings.Field] = dataclasses.field(default_factory=dict)
    reads_prompt: bool = False
    does: str = ""
    gaps: Any = None
    single: bool = False
    selects: str = "nll"
    alone: str = ""
    feed: Any = "ptft_jax.training.rollouts:Rollouts"
    wrong_head: str = ""
    wrong_sight: str = ""
    pictures: Any = None
    texts: bool = True
    pair_bias: bool | None = None
    tower: bool = False

    def build(self, section: Any) -> Any:
        """The objective with the settings of `config.objective`."""
        made = located(self.loss)
        if hasattr(made, "of"):
            return made.of(section)
        names = [field.name for field in dataclasses.fields(made) if field.init and field.name in section]
        return made(**{name: section[name] for name in names})

    @property
    def builder(self) -> Any:
        """The class of its row builder."""
        return located(self.rows)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of data (`ptft_jax.data.formats.Format.kind`) that it learns from."""
        return (*(self.builder.kinds if self.texts else ()), *(located(self.pictures).kinds if self.pictures else ()))

    def gaps_of(self, tokenizer: Any) -> Mapping[int, str]:
        """Id -> text of the tokens that stand for gaps in a prompt; {} where there are none."""
        return {} if self.gaps is None else located(self.gaps)(tokenizer)

    def fits(self, model: Any) -> bool:
        """Whether a model (its `ModelSpec`, or `config.model`) can be trained or measured on it."""
        return (
            self._reads(model)
            and model.head in self.heads
            and self.causal in (None, model.causal)
            and not self._wrong_number(model)
            and not self._wrong_pairs(model)
        )

    def _reads(self, model: Any) -> bool:
        """Whether the model is given what it learns from."""
        if self.tower:
            return bool(model.tower)
        return self.pictures is not None if model.image_size else self.texts

    def _wrong_number(self, model: Any) -> str:
        """What is wrong with how many numbers the head gives, or ""."""
        if model.head not in self.heads or model.head != "classes" or (model.classes == 1) == self.single:
            return ""
        if self.single:
            return f"the model's head scores {model.classes} classes, and this predicts one number; set model.classes=1{_NEW_HEAD}"
        return (
            "the model's head gives one number (regression, model.classes = 1), and this tells classes apart: it takes 2 or "
            "more; a run that starts from it may have another head (init.fresh=('head/.*',))"
        )

    def _wrong_pairs(self, model: Any) -> str:
        """What is wrong with how the model compares images with texts, or ""."""
        if self.pair_bias is None or model.head not in self.heads:
            return ""
        if not model.text_layers:
            return f"the model has no tower for texts (model.text_layers = 0); set model.text_layers{_NEW_HEAD}"
        if model.pair_bias == self.pair_bias:
            return ""
        return f"its scores {'have a' if self.pair_bias else 'have no'} bias; set model.pair_bias={self.pair_bias}"

    def misfits(self, model: Any, others: str) -> list[str]:
        """What is wrong with a model that does not fit, and what to do; `others`: objectives that it fits, after "or "."""
        wrong = []
        if self.tower and not model.tower:
            what = "of images alone" if model.image_size else "of text alone"
            return [
                f"it learns texts of images, and the model is one {what} (model.tower = ()); join a run of each by ptft combine "
                "--method=tower --run=TEXT --run=IMAGES, and start from that"
            ]
        if model.image_size and self.pictures is None:
            return [
                f"config.model.image_size = {model.image_size!r} makes a model of images, and it learns from texts{others}"
            ]
        if not model.image_size and not self.texts:
            return [
                f"the model reads texts (model.image_size = 0), and it learns from images; set model.image_size{others}"
            ]
        if model.causal and self.causal is False:
            wrong.append(self.wrong_sight or f"the model sees only what came before (model.causal=True); {_BOTH_WAYS}")
        if self.causal and not model.causal:
            wrong.append(
                self.wrong_sight
                or f"the model is bidirectional, and predicts no next token; set model.causal=True{others}"
            )
        if model.head not in self.heads:
            heads = " or ".join(map(repr, self.heads))
            wrong.append(self.wrong_head or f"the model has a head for {model.head}; set model.head={heads}")
        if number := self._wrong_number(model):
            wrong.append(f"{number}{others}")
        if pairs := self._wrong_pairs(model):
            wrong.append(pairs)
        return wrong


def _of_pairs(place: str, alone: str = "") -> ObjectiveSpec:
    return ObjectiveSpec(
        f"{_LOSSES}.{place}",
        f"{_ROWS}.pairs:Pairs",
        fields=fields_of(PairSection),
        selects="loss",
        alone=alone,
    )


def _of_captions(place: str, bias: bool) -> ObjectiveSpec:
    return ObjectiveSpec(
        f"{_LOSSES}.image_text:{place}",
        f"{_ROWS}.pictures:CaptionedPictures",
        pictures=f"{_ROWS}.pictures:CaptionedPictures",
        texts=False,
        heads=("vector",),
        causal=False,
        does="makes vectors of images and texts",
        selects="loss",
        pair_bias=bias,
        wrong_head=f"the model makes no vectors of images and texts; set model.head='vector' and model.text_layers{_NEW_HEAD}",
    )


def _of_rewards(place: str) -> ObjectiveSpec:
    return ObjectiveSpec(
        f"{_LOSSES}.{place}", f"{_ROWS}.prompts:Prompts", fields=fields_of(RewardedSection), alone="causal_lm"
    )


def _of_answers(place: str, feed: str, *more: type[Options]) -> ObjectiveSpec:
    """An objective that exists for rows of data, of answers that the model writes; `more`: its settings."""
    return ObjectiveSpec(
        f"{_LOSSES}.own_answers:{place}",
        f"{_ROWS}.prompts:Prompts",
        fields={name: field for options in (RewardedSection, *more) for name, field in fields_of(options).items()},
        alone="causal_lm",
        feed=f"ptft_jax.training.{feed}",
    )


OBJECTIVES: Mapping[str, ObjectiveSpec] = {
    "causal_lm": ObjectiveSpec(f"{_LOSSES}.causal_lm:CausalLM", f"{_ROWS}.causal:Causal"),
    "prefix_lm": ObjectiveSpec(f"{_LOSSES}.causal_lm:PrefixLM", f"{_ROWS}.prefix:Prefix", reads_prompt=True),
    "masked_lm": ObjectiveSpec(
        f"{_LOSSES}.denoising:MaskedLM",
        f"{_ROWS}.masked:Masked",
        heads=("masked_lm", "lm"),
        causal=False,
        does="fills in masked tokens",
        fields=fields_of(MaskedLMOptions),
    ),
    "span_corruption": ObjectiveSpec(
        f"{_LOSSES}.denoising:SpanCorruption",
        f"{_ROWS}.spans:SpanCorruption",
        reads_prompt=True,
        gaps=f"{_ROWS}.spans:sentinels",
        fields=fields_of(SpanCorruptionOptions),
    ),
    "classification": ObjectiveSpec(
        f"{_LOSSES}.classification:Classification",
        f"{_ROWS}.classes:Classes",
        pictures=f"{_ROWS}.pictures:ClassedPictures",
        heads=("classes",),
        causal=None,
        does="names classes",
        fields=fields_of(ClassificationOptions),
        wrong_head=f"the model scores tokens; set model.head='classes' and model.classes{_NEW_HEAD}",
    ),
    "masked_images": ObjectiveSpec(
        f"{_LOSSES}.masked_images:MaskedImages",
        f"{_ROWS}.pictures:MaskedPictures",
        pictures=f"{_ROWS}.pictures:MaskedPictures",
        texts=False,
        heads=("pixels",),
        causal=False,
        does="predicts hidden parts of images",
        selects="loss",
        fields=fields_of(MaskedImagesOptions),
        wrong_head=f"the model has no decoder for pixels; set model.head='pixels'{_NEW_HEAD}",
    ),
    "regression": ObjectiveSpec(
        f"{_LOSSES}.regression:Regression",
        f"{_ROWS}.numbers:Numbers",
        heads=("classes",),
        causal=None,
        does="predicts numbers",
        single=True,
        selects="mse",
        wrong_head=f"the model scores tokens; set model.head='classes' and model.classes=1{_NEW_HEAD}",
    ),
    "clip": _of_captions("Clip", False),
    "siglip": _of_captions("Siglip", True),
    "vision_lm": ObjectiveSpec(
        f"{_LOSSES}.vision_lm:VisionLM",
        f"{_ROWS}.described:Described",
        pictures=f"{_ROWS}.described:Described",
        texts=False,
        tower=True,
    ),
    "contrastive": ObjectiveSpec(
        f"{_LOSSES}.contrastive:Contrastive",
        f"{_ROWS}.matched:Matched",
        heads=("lm", "masked_lm"),
        causal=None,
        does="makes vectors",
        fields=fields_of(ContrastiveOptions),
    ),
    "distill": ObjectiveSpec(
        f"{_LOSSES}.distill:Distill",
        f"{_ROWS}.causal:Causal",
        fields=fields_of(TaughtSection),
        selects="loss",
        alone="causal_lm",
    ),
    "unlikelihood": ObjectiveSpec(
        f"{_LOSSES}.unlikelihood:Unlikelihood",
        f"{_ROWS}.good_or_bad:GoodOrBad",
        fields=fields_of(UnlikelihoodOptions),
        selects="loss",
    ),
    "dpo": _of_pairs("dpo:DPO", alone="cpo"),
    "ipo": _of_pairs("dpo:IPO", alone="cpo"),
    "simpo": _of_pairs("reference_free:SimPO"),
    "cpo": _of_pairs("reference_free:CPO"),
    "orpo": _of_pairs("reference_free:ORPO"),
    "slic": _of_pairs("reference_free:SLiC"),
    "rrhf": _of_pairs("reference_free:RRHF"),
    "kto": ObjectiveSpec(
        f"{_LOSSES}.kto:KTO",
        f"{_ROWS}.rated:Rated",
        fields=fields_of(PairSection),
        selects="loss",
    ),
    "reward": ObjectiveSpec(
        f"{_LOSSES}.reward:Reward",
        f"{_ROWS}.scored_pairs:ScoredPairs",
        heads=("classes",),
        does="scores answers",
        single=True,
        fields={**fields_of(RewardOptions), **fields_of(ScoringOptions)},
        wrong_head=f"the model scores tokens; set model.head='classes' and model.classes=1{_NEW_HEAD}",
    ),
    "process_reward": ObjectiveSpec(
        f"{_LOSSES}.process_reward:ProcessReward",
        f"{_ROWS}.steps:Steps",
        heads=("classes",),
        does="scores the steps of answers",
        single=True,
        fields=fields_of(ScoringOptions),
        wrong_head=f"the model scores tokens; set model.head='classes' and model.classes=1{_NEW_HEAD}",
    ),
    "grpo": _of_rewards("policy:GRPO"),
    "rloo": _of_rewards("policy:RLOO"),
    "reinforce": _of_rewards("policy:Reinforce"),
    "ppo": _of_rewards("ppo:PPO"),
    "expert_iteration": _of_answers("ExpertIteration", "best_answers:Kept", ExpertSection),
    "online_dpo": _of_answers("OnlineDPO", "best_answers:Paired", PairSection),
    "gkd": _of_answers("GKD", "taught_answers:Taught", TaughtSection, OnPolicySection),
    "sdft": _of_answers("SDFT", "self_taught:Demonstrated", TaughtSection, OnPolicySection),
}


class _CommonOptions(Options):
    """`config.objective`, of every objective."""

    name: str = declared(
        settings.one_of(
            "causal_lm",
            "what is predicted: the next token; the same after a prefix that is read in both directions; masked tokens; "
            "spans cut out of a text; the class of a text or an image; the pixels of hidden patches of an image (masked_images); which caption belongs to an image (clip, siglip); the next token of a text about an image (vision_lm); a text's number; which passage belongs to a question (contrastive); what a teacher predicts; the next token of good texts, and not that of bad ones (unlikelihood); which of two answers is better (dpo and "
            "the following), or that one is good or bad (kto); how good an answer is (reward), or which of its steps are right (process_reward); or nothing: what is written is rewarded (grpo, rloo, "
            "reinforce, and the following)",
            *OBJECTIVES,
        )
    )
    z_loss: float = declared(settings.natural(0.0, "weight of log(Z)^2"))
    label_smoothing: float = declared(settings.share(0.0, "share of the target spread over the vocabulary"))
    balance: float = declared(
        settings.natural(
            0.01,
            "of a mixture of experts whose router trains: weight of the load-balancing term, summed over layers; 0 = none",
        )
    )
    router_z_loss: float = declared(
        settings.natural(0.0, "of such a mixture: weight of the mean log(Z)^2 of the router, summed over layers")
    )
    router_bias_rate: float = declared(
        settings.positive(0.001, "of such a mixture with model.router_bias: by how much each step moves each bias")
    )
    chunk: int = declared(settings.natural(0, "positions whose logits are held at once; 0 = all"))


# Dataclasses have the fields of their last base first.
class ObjectiveOptions(
    OnPolicySection,
    ExpertSection,
    RewardedSection,
    RewardOptions,
    ScoringOptions,
    UnlikelihoodOptions,
    ContrastiveOptions,
    PairSection,
    TaughtSection,
    ClassificationOptions,
    MaskedImagesOptions,
    SpanCorruptionOptions,
    MaskedLMOptions,
    _CommonOptions,
):
    """`config.objective`: what is learned."""
