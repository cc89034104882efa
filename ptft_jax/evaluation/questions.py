"""Prompts of a data source that a model is asked, and what its answers are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.data import endings, formats, records, source_splits, token_folder, tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError, nearest
from ptft_jax.rewards.base import Task

FIELD = "eval.answers"


@dataclasses.dataclass(frozen=True)
class Questions:
    """Prompts of a data source, with what answers to them are scored against.

    Attributes:
      source, split: where they are from.
      total: records that the split has.
      tasks: of those that are asked.
      ids: their prompts, as the model reads them.
      unasked: places of those that leave no room for an answer.
      stop: texts that end an answer.
      form: how their records are read (`ptft_jax.data.formats.Format.name`).
      template: the chat template that they are rendered by; None where they are plain texts.
    """

    source: str
    split: str
    total: int
    tasks: tuple[Task, ...]
    ids: tuple[list[int], ...]
    unasked: tuple[str, ...]
    stop: tuple[str, ...]
    form: str = ""
    template: Template | None = None


def asked(
    data: Any, source: str, split: str, tokenizer: tok.Tokenizer, most: int, settings: Mapping[str, Any]
) -> Questions:
    """The questions of a source.

    Args:
      data: `config.data`, which says how records are read.
      split: as of `ptft_jax.data.source_splits.to_measure`.
      most: tokens that the model sees.
      settings: of `settings_of`.

    Raises:
      UserError: see `ptft_jax.evaluation.answers.of_run`.
    """
    if records.parted(source)[0] == token_folder.KIND:
        raise UserError(
            f"config.{FIELD}.source: {source} holds tokens, and no records that answers are compared with: name the source that it was "
            "prepared of"
        )
    split, opened = source_splits.to_measure(data, source, split)
    opened = opened or source_splits.opened_of(data, source, split)
    form = opened.format
    if form.kind != "answers":
        raise UserError(
            f"config.{FIELD}.verifiers: {source}: {form.describe()}: it has no prompts with answers; name a source that has some in "
            f"{FIELD}.source, and its columns where they are called otherwise: KIND:NAME?prompt=COLUMN&completion=COLUMN"
        )
    encoder: Any = formats.encoder(form, tokenizer, template=data.template, train_on=data.train_on)
    tasks, ids, unasked = _tasks(opened, encoder, most, settings)
    if not tasks:
        raise UserError(
            f"config.{FIELD}.max_new_tokens = {settings['max_new_tokens']}: the model sees at most {most} tokens, and no prompt of "
            f"{source} ({split}) leaves room for so many new ones"
        )
    stop, rows = stops(tokenizer, encoder.template, settings["stop"]), len(opened.records)
    return Questions(source, split, rows, tasks, ids, unasked, stop, form.name, encoder.template)


def _tasks(
    opened: tokenize.Opened, encoder: Any, most: int, settings: Mapping[str, Any]
) -> tuple[tuple[Task, ...], tuple[list[int], ...], tuple[str, ...]]:
    rows = opened.records
    tasks, ids, unasked = [], [], []
    for index in range(min(len(rows), settings["records"] or len(rows))):
        task, prompt = task_of(rows[index], rows.where(index), encoder, settings["reference"])
        if len(prompt) + settings["max_new_tokens"] > most:
            unasked.append(task.where)
            continue
        tasks.append(task)
        ids.append(prompt)
    return tuple(tasks), tuple(ids), tuple(unasked)


def task_of(
    record: Mapping[str, Any], where: str, encoder: Any, column: str, field: str = FIELD
) -> tuple[Task, list[int]]:
    """What a model is asked by a record, and the ids of its prompt. Arguments as of `_references`. Raises UserError."""
    question = encoder.question(record, where)
    bad = not column and record.get("label") is False  # of answers that are good or bad
    references = () if bad else _references(record, question.answer, column, where, field)
    task = Task(question.text, references, record, where, question.conversation)
    return task, question.ids or [encoder.tokenizer.end_id]


def stops(tokenizer: tok.Tokenizer, template: Template | None, texts: Sequence[str]) -> tuple[str, ...]:
    """What ends an answer: these texts, and what the template ends a turn with where no token of the tokenizer's does."""
    stop = list(texts)
    if template is not None:
        end = endings.of(tokenizer, template)
        if end.text and end.token not in tokenizer.stop_ids and end.text not in stop:
            stop.append(end.text)
    return tuple(stop)


def _references(record: Mapping[str, Any], answer: str, column: str, where: str, field: str) -> tuple[str, ...]:
    """The right answers of a record: texts and numbers, or a list of such, as SQuAD has them in "text".

    Args:
      answer: the one that is learned.
      column: that has others, "" = none; `field` is the section of the config that names it.
    """
    if not column:
        return (answer,)
    value = record.get(column)
    if value is None:
        near = "is null" if column in record else f"is missing{nearest(column, record)}"
        raise UserError(f"{where}: column {column!r}, which config.{field}.reference names, {near}")
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, tuple)):
        value = list(value["text"]) or [""]  # of SQuAD 2.0: what cannot be answered
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values or not all(isinstance(v, (str, int, float)) and not isinstance(v, bool) for v in values):
        raise UserError(f"{where}: column {column!r}: expected a text, a number, or a list of such as the right answer")
    return tuple(map(str, values))
