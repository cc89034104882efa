"""Answers scored by a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data import formats, turns
from ptft_jax.errors import UserError
from ptft_jax.interop import padding
from ptft_jax.interop.pretrained import Pretrained
from ptft_jax.rewards.base import Score, Task, Unscored
from ptft_jax.rewards.models import ModelVerifier, class_scores, padded
from ptft_jax.runs.workdir import Workdir

_EVERYTHING = turns.TrainOn.parse("all")  # of rows that nothing is learned of: no turn is looked for


class RewardModel(ModelVerifier):
    """The number that a reward model gives (`ptft_jax.objectives.reward`). Prompt and answer are put together, and end, as in the pairs that
    it learned from; the number is read off the last token."""

    name: ClassVar[str] = "reward_model"
    objective: ClassVar[str] = "reward"
    remedy: ClassVar[str] = ": name the chat template that it is to be rendered by in rewards.reward_model.template"
    wanted: ClassVar[str] = (
        "expected a run of objective.name='reward' (docs/feedback.md), or hf:FOLDER of a sequence classifier with one number"
    )

    def __init__(self, run: str, template: str = "", batch_size: int = 16, unscored: str = "raise"):
        super().__init__(run, template, batch_size, unscored)
        tokenizer = self.source.tokenizer
        form = formats.Format("answers", "prompt-completion", {})
        self._joined = formats.encoder(form, tokenizer)
        self._whole = (
            self.template is None and not isinstance(self.source, Pretrained) and _without_prompts(self.source)
        )
        if isinstance(self.source, Pretrained):
            last = self._asked("x", Task("x", (), {}, ""))[-1]
            padding.refuse_end(self.source, (last,), self._run)

    def _check_model(self) -> None:
        model = self.source.config.model
        if model.head == "lm":
            judge = ": that is for rewards.judge" if model.causal else ""
            self._refuse(f"it predicts tokens, and scores no answers{judge}")
        if model.head != "classes" or model.classes != 1:
            self._refuse(
                f"it tells {model.classes} classes apart"
                if model.head == "classes"
                else f"it has a head for {model.head}"
            )
        if not model.causal:
            self._refuse(
                "it reads in both directions (model.causal=False), and such a head is not read off an answer's end"
            )
        objective = self.source.config.objective.name
        if objective != self.objective and not isinstance(self.source, Pretrained):
            self._refuse(f"it learned by objective.name={objective!r}, and not by {self.objective!r}")

    def _asked(self, answer: str, task: Task) -> list[int]:
        asked = task.conversation
        if self.template is not None:
            before = [{"role": "user", "content": task.prompt}] if asked is None else list(asked.messages)
            told = turns.Conversation([], {}, task.where) if asked is None else asked
            told = told._replace(messages=[*before, {"role": turns.ASSISTANT, "content": answer}])
            [row] = turns.encode(self.source.tokenizer, self.template, [told], _EVERYTHING)
            return row.ids.tolist()
        prompt = task.prompt if asked is None else self._only_turn(asked)
        texts = ("", prompt + answer) if self._whole else (prompt, answer)
        [row] = self._joined.pairs(texts[:1], texts[1:], [task.where])
        return row.ids.tolist()

    def _only_turn(self, asked: turns.Conversation) -> str:
        """The text of a conversation that is a single question. Raises UserError for others: the model was shown no turns."""
        first = asked.messages[0]
        if len(asked.messages) > 1 or first["role"] != "user" or not isinstance(first.get("content"), str):
            raise UserError(
                f"{self.source.name} was trained on plain texts, and this is a conversation of {len(asked.messages)} messages{self.remedy}"
            )
        return first["content"]

    def _scores(self, rows: Sequence[list[int]]) -> list[Score | Unscored]:
        inputs, _ = padded(rows, self.batch, self.most)
        loaded = self.loaded
        found = np.asarray(class_scores(loaded.model, loaded.params, inputs))[: len(rows), 0]
        return [Score(float(value), f"{len(row)} tokens, by {self.source.name}") for value, row in zip(found, rows)]


def _without_prompts(source: Any) -> bool:
    """Whether a run learned from pairs of whole texts, of which the prompt is a part."""
    told = [str(row.get("format", "")) for row in Workdir(source.workdir).read_data()]
    pairs = [text for text in told if text.startswith("preference: ")]
    return bool(pairs) and not any("prompt from column" in text for text in pairs)
