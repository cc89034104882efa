"""The settings of objectives that learn from answers of the model's own in another way than by policy gradients."""

from __future__ import annotations

from ptft_jax.config import field as settings
from ptft_jax.config.declare import Options, declared


class ExpertOptions(Options):
    """`config.objective.expert`, of expert_iteration: which of its answers a model learns."""

    choice: str = declared(
        settings.one_of(
            "above",
            "answers that are learned: those with a reward above objective.expert.above, or the best ones whatever their reward",
            *("above", "best"),
        )
    )
    above: float = declared(settings.Field(0.0, "of choice=above: the reward that an answer has to be better than"))
    keep: int = declared(
        settings.natural(
            0,
            "at most so many answers to a prompt are learned, the best ones, of equal ones the first; 0 = all; a step has batch_size rows, "
            "and so asks batch_size / keep prompts",
        )
    )
    duplicates: str = declared(
        settings.one_of("keep", "answers to a prompt that are the same tokens: keep all, or the first", "keep", "drop")
    )


class OnPolicyOptions(Options):
    """`config.objective.on_policy`, of gkd and sdft: whose answers the teacher is asked about."""

    share: float = declared(
        settings.whole_share(
            1.0,
            "of gkd: share of the rollouts that the model writes itself (lambda); the others are the data's answers",
        )
    )
    teacher: str = declared(
        settings.one_of(
            "parent",
            "of sdft: the model that is shown demonstrations: what the run started as, or the average of its parameters (training.ema_decay)",
            *("parent", "average"),
        )
    )
    demonstration: str = declared(
        settings.Field(
            "{prompt}\n\nThis is an example of a response to that:\n{answer}\n\nNow answer with a response of your own:\n",
            "of sdft: what the teacher reads in the place of a prompt, which {prompt} stands for; {answer} is the data's answer",
            valid=lambda v: "{answer}" in v and "{prompt}" in v,
            expected="a text with {prompt} and {answer}",
        )
    )
