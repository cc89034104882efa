"""What a model says to questions: computed once, whichever tasks look at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data import chat, turns
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError
from ptft_jax.evaluation.questions import stops
from ptft_jax.evaluation.samples import Written, written_ids
from ptft_jax.evaluation.tasks.question import Question
from ptft_jax.evaluation.tasks.scoring import Reader, Row, Scored
from ptft_jax.evaluation.tasks.statistics import normalized
from ptft_jax.model.decode import Sampling
from ptft_jax.rewards.texts import NORMALIZED

# Probabilities of the right answer, of each option, of the first token, of the sentences of a pair; what is written; hidden states.
PARTS = ("answer", "options", "first", "pair", "text", "streams")


class Rendering(NamedTuple):
    """How questions become token ids.

    Attributes:
      template: None = a question and its answer follow one another as plain texts.
      before: between them, where neither has white space there.
    """

    tokenizer: tok.Tokenizer
    template: Template | None
    before: str

    @classmethod
    def of(cls, tokenizer: tok.Tokenizer, template: str, before: str) -> Rendering:
        """By the name of a template, "" = none. Raises UserError."""
        compiled = chat.template(tokenizer, template, "data.template", turns.DAY) if template else None
        return cls(tokenizer, compiled, before)

    def prompt(self, question: Question) -> tuple[int, ...]:
        """The ids of what is asked, as the model reads them. Raises UserError."""
        if self.template is None:
            return self.text(question.prompt)
        messages = [{"role": "user", "content": question.prompt}]
        try:
            return tuple(chat.encode_chat(self.tokenizer, messages, True, template=self.template).tolist())
        except UserError as e:
            raise UserError(f"{question.where}: {e}") from e

    def text(self, text: str) -> tuple[int, ...]:
        """The ids of a plain text that nothing is before, or what texts start with where there is none."""
        start = self.tokenizer.prefix_ids
        return tuple([*start, *self.tokenizer.encode(text).tolist()]) or (self.tokenizer.end_id,)

    def answer(self, question: Question, answer: str) -> tuple[int, ...]:
        """The ids of an answer. Raises UserError where it has none."""
        between = "" if self.template is not None else question.lead
        if self.template is None and not question.lead and not question.prompt[-1:].isspace():
            between = self.before
        ids = tuple(self.tokenizer.encode(between + answer).tolist())
        if not ids:
            raise UserError(f"{question.where}: {answer!r} is no token of the tokenizer's")
        return ids


class Writing(NamedTuple):
    """How a model writes answers, and what they are compared by, see `config.eval.behavior`."""

    max_new_tokens: int
    stop: tuple[str, ...]
    normalize: str
    match: str

    def is_right(self, text: str, answers: Sequence[str]) -> bool:
        """Whether a text is, or starts with, one of the answers."""
        normal = NORMALIZED[self.normalize]
        found = normal(text)
        for right in map(normal, answers):
            if found == right:
                return True
            # "Parisian" does not start with the answer "Paris".
            if self.match == "starts" and right and found.startswith(right) and not found[len(right)].isalnum():
                return True
        return False


class Asking:
    """Questions as a model reads them, ready to be asked again and again."""

    def __init__(
        self,
        rendering: Rendering,
        reader: Reader,
        writing: Writing | None,
        needed: Mapping[str, Sequence[Question]],
        *,
        at: str = "",
        reads_prompt: bool = False,
        adapter: int | None = None,
    ):
        """
        Args:
          writing: None = nothing is written.
          needed: of each of `PARTS`, the questions that it is computed of.
          at: as `config.eval.behavior.probe.at`.

        Raises:
          UserError: a question that leaves no room for its answer, options that are the same tokens.
        """
        self.rendering, self.reader, self.writing, self.needed = rendering, reader, writing, needed
        self._options = {"prefix": reads_prompt, "adapter": adapter}
        self.prompts: dict[str, tuple[int, ...]] = {}
        self.answers: dict[str, Row] = {}
        self.options: dict[str, list[Row]] = {}
        self.pairs: dict[str, tuple[Row, Row]] = {}
        self.first: dict[str, Row] = {}
        self.places: dict[str, int] = {}
        for part, questions in needed.items():
            for question in questions:
                self._prepare(part, question, at)

    def _prepare(self, part: str, question: Question, at: str) -> None:
        where, rendering = question.where, self.rendering
        if part == "pair":
            self.pairs[where] = (self._sentence(question, "good"), self._sentence(question, "bad"))
            return
        if where not in self.prompts:
            self.prompts[where] = rendering.prompt(question)
        prompt = self.prompts[where]
        if part == "answer":
            self.answers[where] = self._row(question, question.one)
        elif part == "options":
            self.options[where] = [self._row(question, option) for option in question.options]
            if len({row.following for row in self.options[where]}) < len(question.options):
                raise question.error("options", "two of them are the same tokens")
        elif part == "first":
            self.first[where] = Row(prompt, (rendering.tokenizer.end_id,))
            self.reader.check_room(prompt, 1, where)
        elif part == "text":
            assert self.writing is not None
            self.reader.check_room(prompt, self.writing.max_new_tokens + 1, where)
        else:
            self.reader.check_room(prompt, 1, where)
            self.places[where] = self._place(question, at)

    def _row(self, question: Question, answer: str) -> Row:
        row = Row(self.prompts[question.where], self.rendering.answer(question, answer))
        self.reader.check_room(row.prompt, len(row.following), question.where)
        return row

    def _sentence(self, question: Question, name: str) -> Row:
        ids = self.rendering.text(getattr(question, name))
        start = len(self.rendering.tokenizer.prefix_ids)
        row = Row(ids[:start], ids[start:]) if start else Row((self.rendering.tokenizer.end_id,), ids)
        if not row.following:
            raise question.error(name, "it is no token of the tokenizer's")
        self.reader.check_room(row.prompt, len(row.following), question.where)
        return row

    def _place(self, question: Question, at: str) -> int:
        """The position whose state is read: the last token that has something of the text in column `at`."""
        prompt = self.prompts[question.where]
        if not at:
            return len(prompt) - 1
        text = question.record.get(at)
        if not isinstance(text, str) or not text or text not in question.prompt:
            raise question.error(
                at, f"{text!r}: expected a text that the question has, as eval.behavior.probe.at asks for"
            )
        decode = self.rendering.tokenizer.decode
        whole = decode(prompt)
        end = whole.rfind(text) + len(text)
        if end < len(text):
            raise question.error(at, f"{text!r} is not in the prompt as the model reads it, {whole!r}")
        return next(n for n in range(len(prompt)) if len(decode(prompt[: n + 1])) >= end)

    def ask(self, params: Any, check: Callable[[], None] = lambda: None) -> Observed:
        """What the model with these parameters says. Raises NotFinite."""
        rows = [*self.answers.values(), *self.first.values()]
        rows += [row for found in (*self.options.values(), *self.pairs.values()) for row in found]
        scored = self.reader.scored(params, rows, check) if rows else {}
        return Observed(self, scored, self._written(params, check), self._streams(params, check))

    def _written(self, params: Any, check: Callable[[], None]) -> dict[str, Written]:
        wheres = [question.where for question in self.needed.get("text", ())]
        if not wheres:
            return {}
        assert self.writing is not None
        tokenizer, adapter = self.rendering.tokenizer, self._options["adapter"]
        found = written_ids(
            self.reader.model,
            params,
            tokenizer,
            [list(self.prompts[where]) for where in wheres],
            max_new_tokens=self.writing.max_new_tokens,
            sampling=Sampling(temperature=0.0),
            stop=stops(tokenizer, self.rendering.template, self.writing.stop),
            prefix=bool(self._options["prefix"]),
            adapters=None if adapter is None else [adapter] * len(wheres),
            apart=True,
            check=check,
        )
        return dict(zip(wheres, found))

    def _streams(self, params: Any, check: Callable[[], None]) -> dict[str, np.ndarray]:
        wheres = [question.where for question in self.needed.get("streams", ())]
        if not wheres:
            return {}
        prompts, places = [self.prompts[where] for where in wheres], [self.places[where] for where in wheres]
        found = self.reader.streams(params, prompts, places, check)
        return {where: found[:, n] for n, where in enumerate(wheres)}


class Observed:
    """What a model says to questions."""

    def __init__(
        self,
        asking: Asking,
        scored: Mapping[Row, Scored],
        written: Mapping[str, Written],
        streams: Mapping[str, np.ndarray],
    ):
        self._asking, self._scored, self._written, self._streams = asking, scored, written, streams

    def answer(self, question: Question) -> Scored:
        """Of the one right answer."""
        return self._scored[self._asking.answers[question.where]]

    def options(self, question: Question) -> list[float]:
        """The log-probability of each option."""
        return [self._scored[row].log_prob for row in self._asking.options[question.where]]

    def probabilities(self, question: Question) -> np.ndarray:
        """float64 [options]: among themselves."""
        return normalized(self.options(question))

    def chosen(self, question: Question) -> int:
        """The number of the likeliest option."""
        return int(np.argmax(self.options(question)))

    def first(self, question: Question) -> Scored:
        """Of which `sure` and `entropy` are of the first token of an answer."""
        return self._scored[self._asking.first[question.where]]

    def pair(self, question: Question) -> tuple[float, float]:
        """The log-probabilities of the good sentence and of the bad one."""
        good, bad = self._asking.pairs[question.where]
        return self._scored[good].log_prob, self._scored[bad].log_prob

    def text(self, question: Question) -> str:
        """What is written."""
        return self._written[question.where].text

    def is_right(self, question: Question) -> bool:
        """Whether what is written is a right answer."""
        assert self._asking.writing is not None
        return self._asking.writing.is_right(self.text(question), question.answers)

    def says(self, text: str, answers: Sequence[str]) -> bool:
        """Whether a text is one of these answers, as `is_right` compares them."""
        assert self._asking.writing is not None
        return self._asking.writing.is_right(text, answers)

    def streams(self, question: Question) -> np.ndarray:
        """float32 [layers + 1, D]."""
        return self._streams[question.where]

    def row(self, question: Question) -> dict[str, Any]:
        """All that is there of a question, for people."""
        asking, where = self._asking, question.where
        found: dict[str, Any] = {"where": where, "prompt": question.prompt, "answers": list(question.answers)}
        if question.record.get("passages"):
            found["passages"] = question.record["passages"]
        if question.good:
            found = {"where": where, "good": question.good, "bad": question.bad}
        if where in asking.answers:
            one = self.answer(question)
            found |= {"recalled": one.greedy, "log_prob": one.log_prob}
        if where in asking.options:
            shown = zip(question.options, self.probabilities(question).tolist())
            found |= {"chosen": question.options[self.chosen(question)], "options": dict(shown)}
        if where in self._written:
            found |= {"answer": self.text(question), "right": self.is_right(question)}
        if where in asking.first:
            found |= {"sure": self.first(question).sure}
        if where in asking.pairs:
            found["log_probs"] = list(self.pair(question))
        return found
