"""What `config.objective` has of some objectives alone. Needs no JAX."""

from __future__ import annotations

from ptft_jax.config import field as settings
from ptft_jax.config.declare import Options, declared, section
from ptft_jax.config.distill import DistillOptions
from ptft_jax.config.own_answers import ExpertOptions, OnPolicyOptions
from ptft_jax.config.policy import PolicyOptions
from ptft_jax.config.preferences import PreferenceOptions


def _class_weights(value: tuple) -> str:
    wrong = next(filter(None, map(settings.number, value)), "")
    return wrong or ("" if all(weight > 0 for weight in value) else "expected weights above 0")


class MaskedLMOptions(Options):
    """`config.objective`, of masked_lm alone."""

    mask_rate: float = declared(
        settings.part(0.15, "of masked_lm: share of the tokens, but control tokens, that are chosen and predicted")
    )
    mask_token_share: float = declared(
        settings.whole_share(0.8, "of masked_lm: the chosen tokens that become the mask token")
    )
    random_token_share: float = declared(
        settings.whole_share(0.1, "of masked_lm: the chosen tokens that become random ones")
    )
    whole_word: bool = declared(
        settings.Field(
            False,
            "of masked_lm: all tokens of a word (as BERT's tokenizer cuts text into words) are chosen together",
        )
    )


class SpanCorruptionOptions(Options):
    """`config.objective`, of span_corruption alone."""

    noise_density: float = declared(
        settings.part(0.15, "of span_corruption: share of the tokens, but control tokens, that are cut out")
    )
    mean_span: float = declared(
        settings.Field(
            3.0, "of span_corruption: mean tokens a span", valid=lambda v: v >= 1, expected="a value of 1 or more"
        )
    )


class ClassificationOptions(Options):
    """`config.objective`, of classification alone."""

    class_weights: tuple[float, ...] = declared(
        settings.Field(
            (),
            "of classification: what the loss of a row weighs, by the number of its class; () = all the same",
            form=_class_weights,
        )
    )


class MaskedImagesOptions(Options):
    """`config.objective`, of masked_images alone."""

    hidden_patches: float = declared(
        settings.part(
            0.75, "of masked_images: share of the patches of an image that the model does not see, and predicts"
        )
    )
    normalize_patches: bool = declared(
        settings.Field(
            True, "of masked_images: the pixels of each patch are predicted less their mean, over their deviation"
        )
    )


class UnlikelihoodOptions(Options):
    """`config.objective`, of unlikelihood alone."""

    bad_weight: float = declared(
        settings.natural(
            1.0, "of unlikelihood: weight of how likely the tokens of bad texts are; 0 = they are only read"
        )
    )


class ContrastiveOptions(Options):
    """`config.objective`, of contrastive alone."""

    pooling: str = declared(
        settings.one_of(
            "mean",
            "of contrastive: what a text's vector is: the mean of its last hidden states, or the last",
            "mean",
            "last",
        )
    )
    similarity_temperature: float = declared(
        settings.temperature(0.05, "of contrastive: what cosines are divided by", zero=False)
    )


class TaughtSection(Options):
    """`config.objective`, of distill alone."""

    distill: DistillOptions = section(DistillOptions)


class PairSection(Options):
    """`config.objective`, of the objectives that learn from pairs."""

    preference: PreferenceOptions = section(PreferenceOptions)


class RewardedSection(Options):
    """`config.objective`, of the objectives that learn from rewards."""

    policy: PolicyOptions = section(PolicyOptions)


class ExpertSection(Options):
    """`config.objective`, of expert_iteration."""

    expert: ExpertOptions = section(ExpertOptions)


class OnPolicySection(Options):
    """`config.objective`, of gkd and sdft."""

    on_policy: OnPolicyOptions = section(OnPolicyOptions)
