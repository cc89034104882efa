"""Objectives: each turns (model, parameters, batch) into a loss. The table of those that a config can name; needs no JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax import config_fields as settings
from ptft_jax import pairing
from ptft_jax.objectives.spec import ObjectiveSpec

__all__ = ["OBJECTIVES", "ObjectiveSpec", "build", "check", "check_samples"]

_LOSSES, _ROWS = "ptft_jax.objectives", "ptft_jax.data.builders"

OBJECTIVES: Mapping[str, ObjectiveSpec] = {
    "causal_lm": ObjectiveSpec(f"{_LOSSES}.causal_lm:CausalLM", f"{_ROWS}.causal:Causal"),
    "prefix_lm": ObjectiveSpec(f"{_LOSSES}.causal_lm:PrefixLM", f"{_ROWS}.prefix:Prefix", reads_prompt=True),
    "masked_lm": ObjectiveSpec(
        f"{_LOSSES}.denoising:MaskedLM",
        f"{_ROWS}.masked:Masked",
        heads=("masked_lm", "lm"),
        causal=False,
        does="fills in masked tokens",
        fields={
            "mask_rate": settings.part(
                0.15, "of masked_lm: share of the tokens, but control tokens, that are chosen and learned"
            ),
            "mask_token_share": settings.whole_share(0.8, "of masked_lm: the chosen tokens that become the mask token"),
            "random_token_share": settings.whole_share(0.1, "of masked_lm: the chosen tokens that become random ones"),
            "whole_word": settings.Field(
                False,
                "of masked_lm: all tokens of a word (as BERT's tokenizer cuts text into words) are chosen together",
            ),
        },
    ),
    "span_corruption": ObjectiveSpec(
        f"{_LOSSES}.denoising:SpanCorruption",
        f"{_ROWS}.spans:SpanCorruption",
        reads_prompt=True,
        gaps=f"{_ROWS}.spans:sentinels",
        fields={
            "noise_density": settings.part(
                0.15, "of span_corruption: share of the tokens, but control tokens, that are cut out"
            ),
            "mean_span": settings.Field(
                3.0, "of span_corruption: mean tokens a span", valid=lambda v: v >= 1, expected="a value of 1 or more"
            ),
        },
    ),
    "classification": ObjectiveSpec(
        f"{_LOSSES}.classification:Classification",
        f"{_ROWS}.classes:Classes",
        heads=("classes",),
        causal=False,
        does="names classes",
        wrong_head="the model scores tokens; set model.head='classes' and model.classes",
        wrong_sight=(
            "the classes are read off the first position, which sees nothing of a text in a causal model; set model.causal=False, "
            "and fine-tune a model that was trained so (objective.name='masked_lm')"
        ),
    ),
}


def build(section: Any) -> Any:
    """The loss (`ptft_jax.objectives.base.Objective`) that `config.objective` names."""
    return section.tables.objectives[section.name].build(section)


def check(name: str, model: Any, table: Mapping[str, ObjectiveSpec] = OBJECTIVES) -> None:
    """As `ptft_jax.pairing.check_model`."""
    pairing.check_model(name, model, table)


def check_samples(name: str, prompts: Any, table: Mapping[str, ObjectiveSpec] = OBJECTIVES) -> None:
    """As `ptft_jax.pairing.check_samples`."""
    pairing.check_samples(name, prompts, table)
