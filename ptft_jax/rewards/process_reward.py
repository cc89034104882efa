"""Answers scored step by step by a process reward model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from ptft_jax.data import formats
from ptft_jax.data.formats.steps import END, StepsEncoder
from ptft_jax.interop.pretrained import Pretrained
from ptft_jax.rewards.base import Score, Task, Unscored
from ptft_jax.rewards.models import PLAIN, padded, position_scores
from ptft_jax.rewards.reward_model import RewardModel


class _Steps(list[int]):
    """The ids of a prompt and the steps of an answer, and where these end."""

    ends: tuple[int, ...] = ()


class ProcessReward(RewardModel):
    """What a process reward model (`ptft_jax.objectives.process_reward`) gives the steps of an answer, which are its lines but blank ones, as
    one number: the probability that all are right, the product of theirs; that of the least probable one; or that of the last (Lightman et
    al. 2023, section 2.6; Uesato et al. 2022; Wang et al. 2024, "Math-Shepherd", section 3.4)."""

    name: ClassVar[str] = "process_reward"
    objective: ClassVar[str] = "process_reward"
    remedy: ClassVar[str] = ""
    wanted: ClassVar[str] = "expected a run of objective.name='process_reward' (docs/feedback.md)"

    def __init__(self, run: str, how: str = "product", batch_size: int = 16, unscored: str = "raise"):
        self._how = {"product": math.prod, "min": min, "last": lambda chances: chances[-1]}[how]
        super().__init__(run, PLAIN, batch_size, unscored)
        self._steps = StepsEncoder(formats.Format("steps", "steps", {}), self.source.tokenizer, "", "assistant")

    def _check_model(self) -> None:
        super()._check_model()
        if isinstance(self.source, Pretrained):
            self._refuse("nobody knows that it scores steps")

    def _asked(self, answer: str, task: Task) -> list[int]:
        prompt = task.prompt if task.conversation is None else self._only_turn(task.conversation)
        steps = [line for line in answer.split(END) if line.strip()] or [""]
        [row] = self._steps.joined([prompt], [steps], [[0] * len(steps)], [task.where])
        found = _Steps(row.ids.tolist())
        assert row.trained is not None, "steps end somewhere"
        found.ends = tuple(np.flatnonzero(row.trained).tolist())
        return found

    def _scores(self, rows: Sequence[list[int]]) -> list[Score | Unscored]:
        inputs, _ = padded(rows, self.batch, self.most)
        ends = [row.ends for row in rows if isinstance(row, _Steps)]
        many = 1 << (max(map(len, ends)) - 1).bit_length()  # one of few shapes
        reads = np.zeros((len(inputs.values), many), np.int32)
        for n, places in enumerate(ends):
            reads[n, : len(places)] = places
        loaded = self.loaded
        numbers = np.asarray(position_scores(loaded.model, loaded.params, inputs._replace(reads=jnp.asarray(reads))))
        return [self._joined_up(numbers[n, : len(places)].astype(float)) for n, places in enumerate(ends)]

    def _joined_up(self, numbers: np.ndarray) -> Score:
        chances = [1 / (1 + math.exp(-number)) if number > -700 else 0.0 for number in numbers.tolist()]
        told = ", ".join(f"{chance:.3g}" for chance in chances)
        return Score(self._how(chances), f"{len(chances)} step{'s' * (len(chances) > 1)}: {told}")
