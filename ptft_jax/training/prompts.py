"""The prompts that a model learns from its own answers to: records of the sources that are trained on, with what rewards answers."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ptft_jax import config as configs
from ptft_jax.data import formats, tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.filling import Filled
from ptft_jax.data.packing import Plan
from ptft_jax.data.pipeline import Draws
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError
from ptft_jax.evaluation.questions import stops, task_of
from ptft_jax.evaluation.tool_turns import check_template
from ptft_jax.rewards.base import Task, checked
from ptft_jax.rewards.choosing import chosen
from ptft_jax.tools import toolbox
from ptft_jax.training.demonstration import TEXT, shown_ids

FIELD = "objective.policy"


class _Source(NamedTuple):
    """Records [rows] of a source, as the rows of it are numbered."""

    opened: tokenize.Opened
    encoder: Any
    records: np.ndarray


class Asks(NamedTuple):
    """How much is asked at a step.

    Attributes:
      prompts: how many.
      samples: answers to each.
      beside: how many answers lie in a row of training, each after its prompt.
      rewarded: whether verifiers score them.
      again: how often others are drawn in the place of prompts whose answers are all as good as each other.
      demonstration: a text with a prompt and its right answer that is read, too (`ptft_jax.training.demonstration`); "" = none.
    """

    prompts: int
    samples: int
    beside: int = 1
    rewarded: bool = True
    again: int = 0
    demonstration: str = ""


def shared_out(rows: int, each: int, name: str) -> int:
    """How many prompts a batch of `rows` has, of which each has `each` of these: the setting `name`. Raises UserError."""
    if rows % each:
        raise UserError(
            f"config.data.batch_size = {rows}: a row per answer: expected a multiple of {name} = {each}, answers per prompt"
        )
    return rows // each


class Prompts:
    """What is asked, and how answers are rewarded.

    Attributes:
      draws: how rows are drawn; its `chosen` is to be called with each source, in their order.
      samples: answers per prompt.
      verifiers: whose scores are added up.
      tools: that answers may call; None = none.
      notes: what people should know before it begins.
      longest: tokens of the longest prompt with its demonstration; 0 where there are none.
    """

    def __init__(
        self,
        config: configs.Section,
        tokenizer: tok.Tokenizer,
        asks: Asks,
        pinned: Mapping[str, str] = types.MappingProxyType({}),
    ):
        """`pinned` as of `ptft_jax.rewards.choosing.chosen`. Raises UserError for settings that do not fit together."""
        p = config.objective.policy
        verifiers = p.verifiers if asks.rewarded else ()
        if asks.rewarded and not verifiers:
            raise UserError(
                f"config.{FIELD}.verifiers is (): what rewards answers, of {', '.join(config.tables.verifiers)}"
            )
        if config.tune.adapters:
            raise UserError(
                f"config.tune.adapters = {config.tune.adapters!r}: objective.name = {config.objective.name!r} trains one model: leave them at ()"
            )
        self.verifiers = chosen(verifiers, config, f"{FIELD}.verifiers", pinned=pinned)
        self.tools = toolbox.chosen(config)
        if self.tools and not asks.rewarded:
            raise UserError(
                f"config.{toolbox.FIELD}.use = {self.tools.names}: objective.name = {config.objective.name!r} has a teacher, who calls no tools: "
                "choose an objective that rewards answers, or leave it at ()"
            )
        self.samples, self._new, self._stop, self._beside = asks.samples, p.max_new_tokens, p.stop, asks.beside
        self._reference = p.reference if asks.rewarded else ""
        self._data, self._tokenizer = config.data, tokenizer
        self._demonstration, self._most, self.longest = asks.demonstration, config.model.max_length, 0
        self.draws = Draws(asks.prompts, p.updates, self._chosen, asks.again)
        self.notes = [note for verifier in self.verifiers.values() for note in verifier.notes()]
        self._sources: list[_Source] = []

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        templates = [source.encoder.template for source in self._sources]
        found = [stops(self._tokenizer, template, self._stop) for template in templates]
        return tuple(dict.fromkeys(text for texts in found for text in texts))

    def template(self, source: int) -> Template | None:
        """The chat template of a source's prompts; None where they are plain texts."""
        return self._sources[source].encoder.template

    def asked(self, source: int, row: int) -> tuple[Task, list[int]]:
        """What a row of a source asks, and the ids of its prompt."""
        opened, encoder, records = self._sources[source]
        return self._task(opened, encoder, int(records[row]))

    def shown(self, source: int, row: int) -> list[int]:
        """The ids of the prompt of a row of a source with its demonstration."""
        opened, encoder, records = self._sources[source]
        return self._shown(opened, encoder, int(records[row]))

    def _shown(self, opened: tokenize.Opened, encoder: Any, index: int) -> list[int]:
        rows = opened.records
        return shown_ids(encoder, encoder.question(rows[index], rows.where(index)), self._demonstration)

    def _task(self, opened: tokenize.Opened, encoder: Any, index: int) -> tuple[Task, list[int]]:
        rows = opened.records
        return task_of(rows[index], rows.where(index), encoder, self._reference, FIELD)

    def _chosen(self, filled: Filled) -> Filled:
        """The rows of a source whose prompts leave room for an answer. Raises UserError where some do not and are not to be left out;
        for a record that a verifier cannot score answers to."""
        tokens, data = filled.tokens, self._data
        if tokens.opened is None:
            raise UserError(
                f"{tokens.reference} holds tokens, and no records that answers are compared with: name the source that it was prepared of"
            )
        encoder: Any = formats.encoder(
            tokens.opened.format, self._tokenizer, template=data.template, train_on=data.train_on
        )
        if self.tools:
            check_template(self._tokenizer, encoder.template, self.tools)
        plan, store = filled.rows.plan, filled.rows.store
        assert isinstance(plan, Plan), "records are rows of their own"
        records = store.origins[np.searchsorted(store.offsets, plan.spans[:, 0], side="right") - 1]
        fits, shows = np.zeros(len(records), bool), bool(self._demonstration)
        for row, index in enumerate(records.tolist()):
            task, ids = self._task(tokens.opened, encoder, index)
            fits[row] = self._beside * (len(ids) + self._new) <= data.length
            if not fits[row] and data.overlong != "drop":
                twice = "" if self._beside == 1 else f", {self._beside} times in a row,"
                raise UserError(
                    f"{task.where}: a prompt of {len(ids)} tokens{twice} leaves no room for {FIELD}.max_new_tokens = {self._new} in data.length = "
                    f"{data.length}: make it longer, or leave such prompts out (data.overlong='drop')"
                )
            if fits[row] and shows:
                shown = len(self._shown(tokens.opened, encoder, index))
                fits[row] = shown + self._new <= self._most
                if not fits[row] and data.overlong != "drop":
                    raise UserError(
                        f"{task.where}: a prompt of {shown} tokens with its demonstration leaves no room for {FIELD}.max_new_tokens = "
                        f"{self._new} in the {self._most} tokens that the model sees: leave such prompts out (data.overlong='drop')"
                    )
                self.longest = max(self.longest, shown if fits[row] else 0)
            for name, verifier in self.verifiers.items() if fits[row] else ():
                checked(name, verifier, task)
        if not fits.any():
            twice = "" if self._beside == 1 else f", {self._beside} times in a row,"
            raise UserError(
                f"config.{FIELD}.max_new_tokens = {self._new}: no prompt of {tokens.reference}{twice} leaves room for so many in data.length = "
                f"{data.length}"
                + (f", and with its demonstration ({TEXT}) in the {self._most} that the model sees" if shows else "")
            )
        self._sources.append(_Source(tokens.opened, encoder, records[fits]))
        return filled if fits.all() else _without(filled, plan, fits)


def _without(filled: Filled, plan: Plan, stay: np.ndarray) -> Filled:
    """Without some of the rows, each of which is a record."""
    spans = plan.spans[stay]
    gone = int((~stay).sum())
    lost = int(np.diff(plan.spans[~stay]).sum())
    report = dataclasses.replace(
        plan.report,
        rows=len(spans),
        pieces=len(spans),
        used=int(np.diff(spans).sum()) - len(spans),
        dropped=plan.report.dropped + gone,
        tokens_lost=plan.report.tokens_lost + lost,
    )
    made = Plan(spans, np.arange(len(spans) + 1), report)
    return dataclasses.replace(filled, rows=dataclasses.replace(filled.rows, plan=made))
