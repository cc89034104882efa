"""Answers step by step, of which each step is right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptft_jax.data.examples import Encoded
from ptft_jax.data.formats.base import Encoder, Record
from ptft_jax.data.formats.layouts import truth
from ptft_jax.errors import UserError

END = "\n"  # what a step ends with; its last token is where a step is scored


class StepsEncoder(Encoder):
    """A prompt, and the steps of an answer, each with whether it is right (TRL's stepwise supervision; Lightman et al. 2023, "Let's Verify
    Step by Step", section 2.6). A step is a line: prompt, steps and the line breaks that end them are tokenized apart. Of the ids those that end
    a step are learned."""

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        parts = [self._parts(record, where) for record, where in zip(records, wheres)]
        labels = [self._labels(record, len(steps), where) for record, (_, steps), where in zip(records, parts, wheres)]
        return self.joined([prompt for prompt, _ in parts], [steps for _, steps in parts], labels, wheres)

    def joined(
        self,
        prompts: Sequence[str],
        steps: Sequence[Sequence[str]],
        labels: Sequence[Sequence[int]],
        wheres: Sequence[str],
    ) -> list[Encoded]:
        """Prompts with the steps of their answers, and the labels of these."""
        texts = [END, *prompts, *(step for one in steps for step in one)]
        ids = iter(self.ids(texts, [wheres[0], *wheres, *(w for one, w in zip(steps, wheres) for _ in one)]))
        end, before = next(ids), np.asarray(self.tokenizer.prefix_ids, np.int32)
        asked = [next(ids) for _ in prompts]
        found = []
        for prompt, one, said in zip(asked, steps, labels):
            row = [before, prompt]
            sizes = []
            for _ in one:
                step = next(ids)
                row += [step, end]
                sizes.append(len(step) + len(end))
            ends = len(before) + len(prompt) + np.cumsum(sizes) - 1
            trained = np.zeros(ends[-1] + 1, bool)
            trained[ends] = True
            right = tuple(int(at) for at, label in zip(ends, said) if label)
            found.append(Encoded(np.concatenate(row), trained, right=right))
        return found

    def _parts(self, record: Record, where: str) -> tuple[str, list[str]]:
        prompt, column = self.format.text(record, "prompt", where), self.format.columns["completions"]
        steps = self.format.value(record, "completions", where)
        if not isinstance(steps, (list, tuple)) or not steps:
            raise UserError(f"{where}: column {column!r} is {steps!r}: expected a list of steps, one or more")
        for number, step in enumerate(steps):
            at = f"{where}: {column}[{number}]"
            if not isinstance(step, str):
                raise UserError(f"{at} is a {type(step).__name__}, expected a text")
            if not step.strip():
                raise UserError(f"{at} = {step!r}: a step without anything in it")
            if END in step:
                raise UserError(
                    f"{at}: a step is one line, and this has a line break in it: make two steps of it, or one line"
                )
        return prompt, list(steps)

    def _labels(self, record: Record, steps: int, where: str) -> list[int]:
        column, value = self.format.columns["labels"], self.format.value(record, "labels", where)
        if not isinstance(value, (list, tuple)) or len(value) != steps:
            has = f"{len(value)} labels" if isinstance(value, (list, tuple)) else repr(value)
            raise UserError(f"{where}: column {column!r} has {has}: expected one for each of the {steps} steps")
        found = []
        for number, one in enumerate(value):
            label = truth(one) if isinstance(one, (bool, int, float, str)) else None
            if label is None:
                raise UserError(
                    f"{where}: {column}[{number}] is {one!r}: expected true of a right step, or false of a wrong one"
                )
            found.append(label)
        return found

    def texts(self, record: Record, where: str = "record") -> list[str]:
        prompt, steps = self._parts(record, where)
        return [prompt, *(step + END for step in steps)]
