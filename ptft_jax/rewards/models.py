"""What verifiers share that are models: the model is found and checked at once, loaded with the first answer, and kept."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data import chat, turns
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError
from ptft_jax.model import heads
from ptft_jax.model import spec as specs
from ptft_jax.model.decode import rounded
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.params import finite
from ptft_jax.params.rules import flatten
from ptft_jax.rewards.base import Score, Task, Unscored, Verifier
from ptft_jax.runs import identity, loading
from ptft_jax.runs import source as restore

PLAIN = "none"  # in the place of a template's name: texts as they are


class ModelVerifier(Verifier):
    """A verifier that asks a model, some answers at a time.

    Attributes:
      name: its own, in `config.rewards`.
      key: what its model is known by, see `Verifier.models`.
      setting: the one that names the model.
      source: the run, or imported weights.
      template: the chat template by which the model is asked; None = plain texts.
      most: the longest row that the model sees, in tokens.
    """

    name: ClassVar[str]
    wanted: ClassVar[str]  # of models, for messages
    key = ""
    setting = "run"

    def __init__(self, run: str, template: str, batch_size: int, unscored: str):
        self._field = f"config.rewards.{self.name}"
        self._run = f"{self._field}.{self.setting}"
        self._models: dict[tuple[str, str], Any] = {}
        if not run:
            raise UserError(f"{self._run} is '': the verifier {self.name!r} asks it; {self.wanted}")
        self.source = restore.find(run, self._run)
        if self.source.fields["image_size"]:
            self._refuse("it reads images")
        self._check_model()
        self.batch, self.partial = batch_size, unscored == "drop"
        self.template = self._chosen(template)
        adapter = self.source.adapter
        spec = specs.from_config(self.source.config.model, self.source.fields["vocab_size"])
        self.most = Transformer(spec, None if adapter is None or adapter.mergeable else adapter).max_tokens

    @abc.abstractmethod
    def _check_model(self) -> None:
        """Raises UserError for a model that cannot do what is asked of it, by its config alone."""

    @abc.abstractmethod
    def _asked(self, answer: str, task: Task) -> list[int]:
        """What the model is given, to score an answer. Raises UserError where that cannot be put together."""

    @abc.abstractmethod
    def _scores(self, rows: Sequence[list[int]]) -> list[Score | Unscored]:
        """What the model gives, of rows that it has room for."""

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(f"{self._run}: {self.source.name}: {why}; {self.wanted}")

    def _chosen(self, name: str) -> Template | None:
        """The chat template that the setting `template` names, on the day that rows are made on. Raises UserError."""
        field, tokenizer = f"{self._field}.template", self.source.tokenizer
        if name == PLAIN:
            return None
        if name:
            return chat.template(tokenizer, name, field, turns.DAY)
        own = identity.rendered_by(self.source)
        return Template(own, f"{self.source.name}: chat template", turns.DAY) if own else None

    def models(self) -> dict[str, Any]:
        return {self.key or self.name: self.source}

    def share(self, models: dict[tuple[str, str], Any]) -> None:
        self._models = models

    def _once(self, what: str, make: Callable[[], Any]) -> Any:
        """What is made of the source once, for all that share it."""
        key = (self.source.name, what)
        if key not in self._models:
            self._models[key] = make()
        return self._models[key]

    @property
    def loaded(self) -> loading.Loaded:
        """The model with its parameters. Raises UserError where they are not finite."""
        return self._once("loaded", self._load)

    def _load(self) -> loading.Loaded:
        found = loading.load(self.source.name, field=self._run)
        finite.refuse(flatten(found.params), f"{self._run}: {self.source.name}", "\nno score comes of them")
        return found

    def check(self, task: Task) -> None:
        self._row("", task)

    def score(self, answer: str, task: Task) -> Score | Unscored:
        return self.score_all([answer], [task])[0]

    def score_all(self, answers: Sequence[str], tasks: Sequence[Task]) -> list[Score | Unscored]:
        rows = [self._row(answer, task) for answer, task in zip(answers, tasks, strict=True)]
        given = [row for row in rows if not isinstance(row, Unscored)]
        scores = iter(self._scores(given) if given else ())
        found = [row if isinstance(row, Unscored) else next(scores) for row in rows]
        for score, task in zip(found, tasks):
            if isinstance(score, Unscored):
                self._none(score.reason, task)
        return found

    def _row(self, answer: str, task: Task) -> list[int] | Unscored:
        """What the model is given; nothing where it has no room for that, or where it cannot be told from a turn."""
        try:
            row = self._asked(answer, task)
        except UserError as e:
            reason = str(e).removeprefix(f"{task.where}: ")
        else:
            if len(row) <= self.most:
                return row
            reason = f"{len(row):,} tokens, and {self.source.name} sees at most {self.most:,}"
        return self._none(reason, task)

    def _none(self, reason: str, task: Task) -> Unscored:
        """No score. Raises UserError unless such answers are left out."""
        if self.partial:
            return Unscored(reason)
        raise UserError(
            f"{task.where}: verifier {self.name!r}: {reason}; {self._field.removeprefix('config.')}.unscored='drop' leaves such answers out, "
            "and counts them"
        )

    def notes(self) -> list[str]:
        how = "plain texts" if self.template is None else "turns, by a chat template"
        return [f"verifier {self.name!r} asks {self.source.name}, which is given {how}"]


def padded(rows: Sequence[Sequence[int]], batch: int, most: int) -> tuple[Inputs, np.ndarray]:
    """Rows of token ids as the input of a program of one of few shapes, and where the last token of each is, int32 [B]. What fills the
    batch up repeats the first row."""
    many = 1
    while many < len(rows):
        many = min(4 * many, max(batch, len(rows)))
    length = min(rounded(max(map(len, rows))), most)
    values, segments = np.zeros((many, length), np.int32), np.zeros((many, length), np.int32)
    last = np.zeros((many,), np.int32)
    for n in range(many):
        row = rows[n if n < len(rows) else 0]
        values[n, : len(row)], segments[n, : len(row)], last[n] = row, 1, len(row) - 1
    return Inputs(jnp.asarray(values), segments=jnp.asarray(segments)), last


@functools.partial(jax.jit, static_argnums=0)
def class_scores(model: Transformer, params: Any, inputs: Inputs) -> jax.Array:
    """float32 [B, classes]: what the head reads off the last token of each row."""
    return model(params, inputs)


@functools.partial(jax.jit, static_argnums=0)
def position_scores(model: Transformer, params: Any, inputs: Inputs) -> jax.Array:
    """float32 [B, S]: what a head of one number reads off each of the positions `inputs.reads`."""
    return heads.numbers(model, params, model.hidden(params, inputs))


@functools.partial(jax.jit, static_argnums=0)
def next_log_probabilities(
    model: Transformer, params: Any, inputs: Inputs, last_B: jax.Array, ids: jax.Array | None = None
) -> jax.Array:
    """float32 [B, ids]: log-probabilities of these tokens (None = all) as the one after the token of each row at `last_B`."""
    x_BTD = model.hidden(params, inputs)
    x_B1D = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)
    found_BV = jax.nn.log_softmax(model.logits(params, x_B1D)[:, 0])
    return found_BV if ids is None else found_BV[:, ids]
