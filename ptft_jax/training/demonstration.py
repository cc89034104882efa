"""A prompt with an answer shown in it, as one that knows the answer reads it."""

from __future__ import annotations

import re
from typing import Any

from ptft_jax.data import turns
from ptft_jax.errors import UserError

TEXT = "objective.on_policy.demonstration"


def shown_ids(encoder: Any, question: turns.Question, text: str) -> list[int]:
    """The ids of a prompt with its answer: of `text`, in the place of the prompt, or of the last turn of one that is a conversation.

    Args:
      encoder: that the question is of (`ptft_jax.data.formats.answers.QuestionEncoder`).
      text: with {prompt} and {answer}.

    Raises:
      UserError: a conversation that ends with another turn than the user's.
    """

    def filled(prompt: str) -> str:
        # Not str.format: a prompt may have braces of its own.
        return re.sub(
            r"\{(prompt|answer)\}", lambda found: {"prompt": prompt, "answer": question.answer}[found[1]], text
        )

    said = question.conversation
    if said is None:
        [ids] = encoder.ids([filled(question.text)], ["a demonstration"])
        return [*encoder.tokenizer.prefix_ids, *ids.tolist()]
    *before, last = said.messages
    if last["role"] != "user" or not isinstance(last["content"], str):
        raise UserError(f"{said.where}: config.{TEXT}: the last turn before the answer is no text of the user's")
    answer = {"role": turns.ASSISTANT, "content": question.answer}
    messages = [*before, {**last, "content": filled(last["content"])}, answer]
    return turns.question(encoder.tokenizer, encoder.template, said._replace(messages=messages)).ids
