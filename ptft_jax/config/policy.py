"""The settings of the objectives that learn from rewards of what the model itself writes."""

from __future__ import annotations

from ptft_jax.config import field as settings
from ptft_jax.config.declare import Options, declared


class PolicyOptions(Options):
    """`config.objective.policy`, of the objectives that learn from rewards of what the model itself writes."""

    verifiers: tuple[str, ...] = declared(
        settings.texts(
            (), "what rewards answers, see docs/answers.md: their scores are added up; with weights: combined"
        )
    )
    reference: str = declared(
        settings.Field("", "column of the records with the right answer, as eval.answers.reference; '' = the answer")
    )
    stop: tuple[str, ...] = declared(settings.texts((), "texts that end an answer; they are learned with it"))
    samples: int = declared(
        settings.positive(
            8, "answers per prompt; a step has data.batch_size answers, and so batch_size / samples prompts"
        )
    )
    max_new_tokens: int = declared(settings.positive(64, "tokens of an answer, its end included"))
    temperature: float = declared(settings.temperature(1.0, "of the sampling", zero=False))
    top_k: int = declared(settings.natural(0, "sample of the k likeliest tokens; 0 = all"))
    top_p: float = declared(settings.mass(1.0, "sample of the likeliest tokens up to this mass"))
    min_p: float = declared(settings.share(0.0, "sample of tokens that are this share as likely as the likeliest"))
    scale: str = declared(
        settings.one_of(
            "group",
            "of grpo, what advantages are divided by: the standard deviation of the rewards of a prompt's answers (group), of all of a "
            "step (batch), or nothing (none)",
            *("group", "batch", "none"),
        )
    )
    ratio: str = declared(
        settings.one_of(
            "own",
            "probability of an answer over that with which it was sampled: of each token; of all tokens, their geometric mean (sequence, "
            "GSPO), or their product; own = the objective's: grpo token, others product",
            *("own", "token", "sequence", "product"),
        )
    )
    average: str = declared(
        settings.one_of(
            "sequence",
            "the loss is a mean over answers of the mean over their tokens (sequence), a mean over all tokens (token, DAPO), or over answers "
            "of the sum over their tokens / max_new_tokens (constant, Dr. GRPO)",
            *("sequence", "token", "constant"),
        )
    )
    updates: int = declared(
        settings.positive(
            1, "steps that learn from the same answers; all but the first learn from those of an older model"
        )
    )
    clip_low: float = declared(
        settings.share(
            0.2, "where updates is above 1: ratios below 1 - this have no gradient that lowers them; 0 = all have"
        )
    )
    clip_high: float = declared(
        settings.natural(
            0.2, "where updates is above 1: ratios above 1 + this have no gradient that raises them; 0 = all have"
        )
    )
    kl: float = declared(settings.natural(0.0, "weight of the divergence from the parent; 0 = none"))
    kl_estimator: str = declared(
        settings.one_of(
            "k3",
            "of log-probabilities p of the model and q of the parent, of sampled tokens: k2, (p - q)^2 / 2, and k3, exp(q - p) - 1 - (q - p), "
            "are terms of the loss of each token; k1, the sum of p - q over an answer, is taken off its reward (of ppo: p - q of each token)",
            *("k1", "k2", "k3"),
        )
    )
    gamma: float = declared(settings.mass(1.0, "of ppo: what a reward one token later is worth"))
    gae_lambda: float = declared(
        settings.whole_share(
            0.95,
            "of ppo, advantages of tokens: 1 = by all rewards that follow, 0 = by the next token's value; between, less bias or variance",
        )
    )
    whiten: bool = declared(
        settings.Field(True, "of ppo: advantages have mean 0 and deviation 1 over the tokens of a rollout")
    )
    value_weight: float = declared(settings.natural(0.1, "of ppo: what the squared error of values weighs in the loss"))
    value_clip: float = declared(
        settings.natural(
            0.2, "of ppo, where updates is above 1: how far values may move from those of the rollout; 0 = however far"
        )
    )
    value_rate: float = declared(settings.positive(1.0, "of ppo: factor of the learning rate of the value head"))
    alike: str = declared(
        settings.one_of(
            "keep", "prompts whose answers all have the same reward: keep, or drop from the loss", "keep", "drop"
        )
    )
    resample: int = declared(
        settings.natural(
            0,
            "of grpo and rloo: how often in a step as many further prompts are asked as there are whose answers all have the same reward, "
            "which are then not learned from (DAPO's dynamic sampling); 0 = never",
        )
    )
    overlong: str = declared(
        settings.one_of(
            "keep", "answers that did not end within max_new_tokens: keep, or drop from the loss", "keep", "drop"
        )
    )
    overlong_buffer: int = declared(
        settings.natural(
            0, "the last so many of max_new_tokens cost reward, in a straight line up to 1 (DAPO); 0 = none"
        )
    )
    max_mismatch: float = declared(
        settings.natural(
            0.1,
            "nats by which log-probabilities of tokens may differ on average between sampling and the step after it; 0 = no bound",
        )
    )
    from_random: bool = declared(
        settings.Field(False, "without a parent, a model of random parameters learns from what it writes")
    )
