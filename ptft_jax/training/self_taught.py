"""Training rows of a model's own answers that it teaches itself: shown an answer of the data's, it says what it would have written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ptft_jax import config as configs
from ptft_jax.data.rows import Rows
from ptft_jax.errors import UserError
from ptft_jax.training.answer_facts import Row
from ptft_jax.training.answer_rows import blank, put
from ptft_jax.training.demonstration import TEXT
from ptft_jax.training.prompts import FIELD, Asks
from ptft_jax.training.taught_answers import Taught, finite, in_parts

TEACHER = "objective.on_policy.teacher"


class Demonstrated(Taught):
    """As `Taught`: the teacher is what the run started as, or the average of its parameters, given a demonstration in its prompt."""

    def __init__(self, config: configs.Section, *args: Any, **options: Any):
        super().__init__(config, *args, **options)
        self._width = self._prompts.longest + self._new
        if self._width > self._trainer.model.max_tokens:
            raise UserError(
                f"config.{TEXT}: the longest prompt with its demonstration is {self._prompts.longest} tokens, and with {FIELD}.max_new_tokens = "
                f"{self._new} more than the {self._trainer.model.max_tokens} that the model sees"
            )

    @classmethod
    def asks(cls, config: configs.Section) -> Asks:
        return Asks(config.data.batch_size, 1, rewarded=False, demonstration=config.objective.on_policy.demonstration)

    def _configure(self, config: configs.Section) -> None:
        self._share = 1.0
        self._configure_checks(config)
        self._average = config.objective.on_policy.teacher == "average"
        if self._average and not config.training.ema_decay:
            raise UserError(f"config.{TEACHER} = 'average': there is none: set training.ema_decay, such as 0.99")
        if self._average and self._updates > 1:
            raise UserError(
                f"config.{FIELD}.updates = {self._updates}: with {TEACHER} = 'average' the teacher of a rollout is gone after a step: expected 1"
            )

    def _said(self, number: int, rows: Sequence[Row], batch: Rows, whole: Any) -> Rows:
        asked = self._to_teacher(number, rows)
        params = self._trainer.partition.merge(whole.ema if self._average else whole.anchor, whole.frozen)
        said = in_parts(lambda part: self._of_self(params, part), asked, self._part, self.check)
        # What is predicted of an answer's tokens stands elsewhere after the longer prompt.
        out = {name: np.zeros((*batch["inputs"].shape, *v.shape[2:]), v.dtype) for name, v in said.items()}
        for name, values in said.items():
            out[name][batch["weights"] > 0] = values[asked["weights"] > 0]
        return out

    def _to_teacher(self, number: int, rows: Sequence[Row]) -> Rows:
        """The same answers after prompts with demonstrations."""
        out = blank(len(rows), self._width)
        for n, (row, source, place) in enumerate(zip(rows, *self._drawn.addresses(number))):
            shown = self._prompts.shown(int(source), int(place))
            put(out, n, [*shown, *row["ids"][row["prompt_tokens"] :]], len(shown))
        return out

    @functools.cached_property
    def _of_self(self) -> Callable[[Any, Rows], Rows]:
        """(parameters, rows of a part) -> what the model with these predicts at their targets; compiled once."""
        objective, trainer = self._objective, self._trainer
        layout = NamedSharding(trainer.mesh, PartitionSpec()) if self._jitted else None
        compiled = jax.jit(
            lambda params, batch: objective.reference_of(trainer.model, params, batch), out_shardings=layout
        )

        def said(params: Any, part: Rows) -> Rows:
            placed = trainer.program.place(self._mine(part)) if self._jitted else jax.device_put(part)
            found = {name: np.asarray(values) for name, values in compiled(params, placed).items()}
            return finite(found, f"config.{TEACHER}", "the teacher's predictions")

        return said
