"""A model that answers, looks at its answers, and writes them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.config.seeds import Use, mixed
from ptft_jax.data import chat
from ptft_jax.errors import UserError
from ptft_jax.evaluation.questions import Questions
from ptft_jax.evaluation.samples import ENDED, Continuation, continue_ids, prompt_ids
from ptft_jax.feedback.journal import PART, Journal
from ptft_jax.model import decode
from ptft_jax.rewards.base import Task
from ptft_jax.rewards.constitution import Principle

_ANSWERS, _CRITIQUES, _REVISIONS = range(3)  # what a seed is for
_BLANK = "\n\n"  # between the parts of a plain text


@dataclasses.dataclass(frozen=True)
class Answer:
    """A text, and whether it came to its end by itself."""

    text: str
    ended: bool

    @property
    def whole(self) -> bool:
        """Whether it can be learned from: it says something, and has an end."""
        return self.ended and bool(self.text.strip())


def leading(text: str) -> str:
    """The white space that an answer begins with; what takes its place begins so, too."""
    return text[: len(text) - len(text.lstrip())]


class Writer:
    """A loaded run (`ptft_jax.runs.loading.load`) and the prompts that it answers. What it writes follows from the seed."""

    def __init__(
        self,
        loaded: Any,
        questions: Questions,
        settings: Mapping[str, Any],
        seed: int,
        journal: Journal | None = None,
    ):
        """`settings`: "max_new_tokens" and "sampling" of `continue_ids`; `journal`: of what was written already."""
        self._loaded, self._questions, self._settings, self._seed = loaded, questions, settings, seed
        self._journal = journal or Journal()
        self._params = decode.laid_out(loaded.params)

    def answers(self, number: int) -> list[Answer]:
        """An answer to each prompt; `number`: which one, counted from 0."""
        return self._written(self._questions.ids, self._questions.stop, (_ANSWERS, number))

    def revised(
        self, principle: Principle, number: int, tasks: Sequence[Task], answers: Sequence[Answer]
    ) -> list[tuple[str, Answer | None]]:
        """Of each answer the model's critique by the principle with this number, "" where there was no room for one, and what it made of the
        answer after that; None where no whole text came of it."""
        spoken = [[answer.text, principle.critique] for answer in answers]
        critiques = self._replies(tasks, spoken, (_CRITIQUES, number))
        spoken = [[*said, (c.text.strip() if c else ""), principle.revision] for said, c in zip(spoken, critiques)]
        there = [n for n, critique in enumerate(critiques) if critique and critique.text.strip()]
        found = self._replies([tasks[n] for n in there], [spoken[n] for n in there], (_REVISIONS, number))
        revisions: list[Answer | None] = [None] * len(answers)
        for n, revision in zip(there, found):
            if revision and revision.whole:
                revisions[n] = Answer(leading(answers[n].text) + revision.text.strip(), True)
        return [(said[2], revision) for said, revision in zip(spoken, revisions)]

    def _replies(
        self, tasks: Sequence[Task], spoken: Sequence[Sequence[str]], place: tuple[int, int]
    ) -> list[Answer | None]:
        """What the model says next, where it has room for that: `spoken` are an answer of its own, a request, and so on in turns."""
        rows = [self._ids(task, said) for task, said in zip(tasks, spoken)]
        there = [n for n, row in enumerate(rows) if row is not None]
        found: list[Answer | None] = [None] * len(rows)
        if there:
            stop = self._questions.stop if self._questions.template else (*self._questions.stop, _BLANK)
            for n, answer in zip(there, self._written([rows[n] for n in there], stop, place)):
                found[n] = answer
        return found

    def _ids(self, task: Task, spoken: Sequence[str]) -> list[int] | None:
        """None where there is no room, or where a text cannot be told from a turn."""
        tokenizer, template = self._loaded.tokenizer, self._questions.template
        if task.conversation is None or template is None:
            parts = [f"{task.prompt}{spoken[0]}"]
            for name, text in zip(("Critique request: ", "Critique: ", "Revision request: "), spoken[1:]):
                parts.append(f"{name}{text}")
            parts.append("Revision:" if len(spoken) > 2 else "Critique:")
            [row] = prompt_ids(tokenizer, [_BLANK.join(parts)], {})
        else:
            turns = [{"role": ("assistant", "user")[n % 2], "content": text} for n, text in enumerate(spoken)]
            asked = task.conversation
            try:
                row = chat.encode_chat(
                    tokenizer, [*asked.messages, *turns], True, template=template, **asked.variables
                ).tolist()
            except UserError:
                return None
        return row if len(row) + self._settings["max_new_tokens"] <= self._loaded.model.max_tokens else None

    def _written(self, ids: Sequence[Sequence[int]], stop: Sequence[str], place: tuple[int, int]) -> list[Answer]:
        """What is written after prompts, part by part: what is in the journal is not written again."""
        found: list[Answer] = []
        for first in range(0, len(ids), PART):
            numbers = range(first, min(first + PART, len(ids)))
            part = [list(ids[n]) for n in numbers]

            def write(part: list[list[int]] = part, numbers: range = numbers) -> list[tuple[str, bool]]:
                return [(row.text, row.reason in ENDED) for row in self._continued(part, stop, place, numbers)]

            name = f"{('answers', 'critiques', 'revisions')[place[0]]}-{place[1]}-{first}"
            found += [Answer(*row) for row in self._journal.kept(name, [part, list(stop), list(place)], write)]
        return found

    def _continued(
        self, ids: Sequence[Sequence[int]], stop: Sequence[str], place: tuple[int, int], numbers: Sequence[int]
    ) -> list[Continuation]:
        """`numbers`: of the prompts among those that are asked at this place."""
        loaded, seed = self._loaded, mixed(self._seed, Use.FEEDBACK, *place)
        return continue_ids(
            loaded.model, self._params, loaded.tokenizer, ids, seed=seed, stop=stop, prefix=loaded.reads_prompt, apart=True,
            numbers=numbers, **self._settings,
        )  # fmt: skip
