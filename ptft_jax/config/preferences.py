"""The settings of objectives that learn from answers of which one is better, or good or bad."""

from __future__ import annotations

from ptft_jax.config import field as settings
from ptft_jax.config.declare import Options, declared


class RewardOptions(Options):
    """`config.objective`, of reward alone."""

    center: float = declared(
        settings.natural(
            0.0, "of reward: weight of the squared sum of a pair's rewards, which holds them near 0; 0 = none"
        )
    )


class ScoringOptions(Options):
    """`config.objective`, of reward and process_reward."""

    from_random: bool = declared(
        settings.Field(
            False,
            "of reward and process_reward: without a parent, a model of random parameters learns to score answers",
        )
    )


class PreferenceOptions(Options):
    """`config.objective.preference`, of the objectives that learn from pairs."""

    beta: float = declared(
        settings.natural(
            0.0,
            "factor of log-probabilities in the rewards; of orpo, weight of the odds; 0 = the objective's own: simpo 2, others 0.1",
        )
    )
    loss: str = declared(
        settings.one_of(
            "sigmoid",
            "of dpo: the loss of the rewards of a pair's answers",
            *("sigmoid", "robust", "hinge", "exo", "nca", "apo_zero", "apo_down"),
        )
    )
    divergence: str = declared(
        settings.one_of(
            "reverse_kl",
            "of dpo: what the model is held near the reference by",
            *("reverse_kl", "forward_kl", "jensen_shannon", "alpha"),
        )
    )
    alpha: float = declared(settings.whole_share(0.5, "of divergence=alpha: 0 = reverse_kl, 1 = forward_kl"))
    label_noise: float = declared(
        settings.Field(
            0.0,
            "of dpo (loss sigmoid, robust, exo) and cpo: share of the pairs that are taken to be labeled the wrong way round",
            valid=lambda v: 0 <= v < 0.5,
            expected="a share below a half",
        )
    )
    normalize: bool = declared(settings.Field(False, "of dpo: log-probabilities per token, in place of sums"))
    tail_weight: float = declared(
        settings.whole_share(
            1.0, "of dpo: what tokens of the longer answer weigh that come after the length of the shorter (LD-DPO)"
        )
    )
    keep_chosen: float = declared(
        settings.natural(
            0.0,
            "of dpo: weight of how far the better answer falls below the reference's log-probability (DPOP); 0 = none",
        )
    )
    margin: float = declared(settings.natural(1.0, "of simpo and slic: by how much the better answer should be ahead"))
    desirable: float = declared(settings.positive(1.0, "of kto: what good answers weigh"))
    undesirable: float = declared(settings.positive(1.0, "of kto: what bad answers weigh"))
    sft: float = declared(
        settings.Field(
            -1.0,
            "weight of the cross-entropy per token of the better answer; -1 = the objective's own: orpo (always), cpo and rrhf 1, slic 0.1, "
            "others 0",
            valid=lambda v: v >= 0 or v == -1,
            expected="0 or more, or -1",
        )
    )
    precompute: bool = declared(
        settings.Field(
            False,
            "of dpo, ipo and kto: the reference's log-probabilities are computed once, before the first step, and kept in the cache; else at "
            "each step",
        )
    )
    from_random: bool = declared(
        settings.Field(
            False,
            "of those without a reference: without a parent, preferences are learned by a model of random parameters",
        )
    )
