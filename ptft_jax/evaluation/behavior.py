"""Measures of behavior of a run while it trains, and of models that are there: which questions, which tasks, one pass over them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ptft_jax import config as configs
from ptft_jax.config.behaviors import BEHAVIOR
from ptft_jax.config.located import located
from ptft_jax.data import records, source_splits, token_folder, trained_on
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.records.table import limit
from ptft_jax.errors import UserError, nearest
from ptft_jax.evaluation.samples import check_writer
from ptft_jax.evaluation.tasks import question as questions_
from ptft_jax.evaluation.tasks.base import Behavior
from ptft_jax.evaluation.tasks.observed import Asking, Observed, Rendering, Writing
from ptft_jax.evaluation.tasks.probe import Probe
from ptft_jax.evaluation.tasks.question import Question
from ptft_jax.evaluation.tasks.scoring import Reader
from ptft_jax.evaluation.tasks.styles import Styles
from ptft_jax.model import decode
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel import processes
from ptft_jax.params.partition import Partition
from ptft_jax.rewards.choosing import chosen
from ptft_jax.runs import meant
from ptft_jax.runs.checkpoint import together

FIELD = "eval.behavior"


class Tasks:
    """Tasks with their questions, ready to be measured of a model's parameters again and again.

    Attributes:
      names: what `measured` gives, "behavior/TASK/NAME"; some are left out where there is nothing to measure.
      notes: what people should know before it begins.
    """

    def __init__(
        self,
        config: configs.Section,
        model: Transformer,
        tokenizer: tok.Tokenizer,
        split: str | Mapping[str, str],
        *,
        reads_prompt: bool,
        adapter: int | None,
    ):
        """`config`: whose `eval.behavior` has tasks and a source; `split`: of that and of `also`, or of each by its name; "" = as
        `ptft_jax.data.source_splits.to_measure` has it. Raises UserError."""
        b = config.eval.behavior
        decode.check_writes(model)
        self.tasks = _tasks(config)
        sources = (b.source, *b.also)
        splits = [split if isinstance(split, str) else split[source] for source in sources]
        self.split, found, self.total = _read(config.data, sources, splits, b.records)
        self.source, self.also = b.source, b.also
        self.asked: dict[str, list[Question]] = {}
        for name, task in self.tasks.items():
            self.asked[name] = [question for question in found if task.takes(question)]
            if not self.asked[name]:
                raise UserError(
                    f"config.{FIELD}.tasks: {name!r}: {b.source} ({self.split}) has no questions {task.lacking}"
                )
            task.check(self.asked[name])
        needed: dict[str, dict[str, Question]] = {}
        for name, task in self.tasks.items():
            for part in task.parts:
                asked = [one for q in self.asked[name] for one in (q, *task.also(q))]
                needed.setdefault(part, {}).update({q.where: q for q in asked})
        self._questions = [q for q in found if any(q.where in part for part in needed.values())]
        writing = Writing(b.max_new_tokens, b.stop, b.normalize, b.match) if "text" in needed else None
        probes = [task for task in self.tasks.values() if isinstance(task, Probe)]
        self._asking = Asking(
            Rendering.of(tokenizer, config.data.template, b.before),
            Reader(model, rows=config.eval.batch_size or 16, reads_prompt=reads_prompt, adapter=adapter),
            writing,
            {part: list(found.values()) for part, found in needed.items()},
            at=probes[0].at if probes else "",
            reads_prompt=reads_prompt,
            adapter=adapter,
        )
        specs = config.tables.tasks
        self.names = tuple(
            f"{BEHAVIOR}{name}/{metric}"
            for name, task in self.tasks.items()
            for metric in (*specs[name].metrics, *getattr(task, "own", ()))
        )
        counts = ", ".join(f"{name} of {len(rows):,}" for name, rows in self.asked.items())
        self.notes = [
            f"behavior is measured by {' and '.join(sources)} ({self.split}), {self.total:,} records: {counts}"
        ]

    def measured(
        self, params: Any, check: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, float], dict[str, Any], Iterator[dict[str, Any]]]:
        """The values of `names`, {task: details}, and a row for each question (`Observed.row`).

        Args:
          params: of the model, merged.
          check: called often; may raise to end it.

        Raises:
          UserError: the model's logits are not finite.
        """
        seen = self._asking.ask(params, check)
        # All processes ask the same; one of them counts, and asks verifiers, which may be programs.
        values, details = processes.shared(together(lambda: self._counted(seen) if processes.main() else None))
        return values, details, (seen.row(question) for question in self._questions)

    def _counted(self, seen: Observed) -> tuple[dict[str, float], dict[str, Any]]:
        values: dict[str, float] = {}
        details: dict[str, Any] = {}
        for name, task in self.tasks.items():
            found = task.measured(self.asked[name], seen)
            values |= {f"{BEHAVIOR}{name}/{metric}": value for metric, value in found.values.items()}
            details[name] = {"questions": len(self.asked[name]), **found.details}
        return values, details


class BehaviorSet:
    """Tasks in the place of an `EvalSet`: what every evaluation of a run measures of its average, where it has one."""

    name = BEHAVIOR.rstrip("/")

    def __init__(self, tasks: Tasks, partition: Partition, whole: Callable[[Any], Any]):
        """`whole`: gives a state as one process has it."""
        self._tasks, self._partition, self._whole = tasks, partition, whole

    def run(self, state: Any, check: Callable[[], None] = lambda: None) -> dict[str, float]:
        """The values of `Tasks.names`."""
        state = self._whole(state)
        return self._tasks.measured(self._partition.merge(state.ema or state.trainable, state.frozen), check)[0]


def of_run(
    config: configs.Section, model: Transformer, tokenizer: tok.Tokenizer, adapters: Mapping[str, int]
) -> Tasks | None:
    """What a run's `config.eval.behavior` measures; None where that is nothing. `adapters`: the number of the adapter of each source, where
    each has one. Raises UserError: no source, a task that is not known, questions that a task can do nothing with."""
    b = config.eval.behavior
    if not b.tasks:
        return None
    if not b.source:
        raise UserError(
            f"config.{FIELD}.source is missing: the questions of {', '.join(b.tasks)}, such as jsonl:questions.jsonl"
        )
    if adapters and b.source not in adapters:
        raise UserError(
            f"config.{FIELD}.source = {b.source!r}: it has none of config.tune.adapters; choose a source of data.mixture"
        )
    kinds = config.data.tables.sources
    trained = {records.identity(name, kinds) for name, _ in trained_on.weighted(config.data)}
    return Tasks(
        config,
        dataclasses.replace(model, constrain=None),
        tokenizer,
        {name: "validation" if records.identity(name, kinds) in trained else "" for name in (b.source, *b.also)},
        reads_prompt=config.tables.objectives[config.objective.name].reads_prompt,
        adapter=adapters.get(b.source),
    )


def of_loaded(
    loaded: Any,
    source: str,
    tasks: Sequence[str],
    split: str = "",
    *,
    settings: Mapping[str, Any] = types.MappingProxyType({}),
    rewards: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
    batch_size: int = 0,
    plugins: Sequence[str] = (),
    **reading: Any,
) -> Tasks:
    """Tasks for a loaded run (`ptft_jax.runs.loading.load`).

    Args:
      source, tasks: as `config.eval.behavior.source` and `tasks`; "" and () = those of the run's config.
      split: of the source.
      settings: other ones of `config.eval.behavior` than the run's, a dict for each section: {"groups": {"level": 0.9}}.
      rewards: likewise of `config.rewards`.
      batch_size: rows at a time; 0 = as the run has it, else 16.
      plugins: modules that may have tasks, verifiers or kinds of sources.
      reading: other settings of `config.data`, such as `template`.

    Raises:
      UserError: see `of_run`.
    """
    check_writer(loaded)
    if loaded.model.several:
        raise UserError(f"--tasks: {loaded.source.name} has several adapters; choose one: RUN#NAME")
    config = loaded.source.config
    values = meant.of_source(loaded.source)
    values["plugins"] = tuple(dict.fromkeys((*config.plugins, *plugins)))
    values["data"] |= reading
    values["eval"]["batch_size"] = batch_size or values["eval"]["batch_size"]
    own = values["eval"]["behavior"]
    own |= {"tasks": tuple(tasks) or own["tasks"], "source": source or own["source"]}
    own["also"] = () if source else own["also"]
    for name, given in settings.items():
        own[name] = {**own.get(name, {}), **given} if isinstance(given, Mapping) else given
    for verifier, given in rewards.items():
        values["rewards"][verifier] = {**values["rewards"].get(verifier, {}), **given}
    changed = configs.check(values)
    if not changed.eval.behavior.tasks:
        raise UserError(f"--tasks is missing: what is measured, of {', '.join(changed.tables.tasks)}")
    if not changed.eval.behavior.source:
        raise UserError("--data is missing: the questions, such as jsonl:questions.jsonl")
    return Tasks(changed, loaded.model, loaded.tokenizer, split, reads_prompt=loaded.reads_prompt, adapter=None)


def _tasks(config: configs.Section) -> dict[str, Behavior]:
    """The tasks that a config names, by name. Raises UserError."""
    b, known = config.eval.behavior, config.tables.tasks
    found = {}
    for name in b.tasks:
        if name not in known:
            raise UserError(
                f"config.{FIELD}.tasks: no task {name!r}: expected of {', '.join(known)}{nearest(name, known)}"
            )
        if name in found:
            raise UserError(f"config.{FIELD}.tasks: {name!r} is named twice")
        made = located(known[name].task)
        settings = b[name].read_all() if known[name].fields else {}
        if issubclass(made, Styles):
            settings["verifiers"] = chosen(settings["verifiers"], config, f"{FIELD}.{name}.verifiers")
        found[name] = made(**settings)
    return found


def _read(data: Any, sources: Sequence[str], splits: Sequence[str], most: int) -> tuple[str, list[Question], int]:
    """(the split of the first source, the first questions of each, how many records all have). Raises UserError."""
    if twice := [source for source in sources if sources.count(source) > 1]:
        raise UserError(f"config.{FIELD}.also: {twice[0]!r} is there twice: each question would count twice")
    first, found, total = "", {}, 0
    for source, split in zip(sources, splits):
        of, rows = _records(data, source, split)
        first = first or of
        total += len(rows)
        for n in range(min(len(rows), most or len(rows))):
            where = rows.where(n)
            where = f"{source}: {where}" if where in found else where  # two streams of one world
            found[where] = questions_.read(rows[n], where)
    return first, list(found.values()), total


def _records(data: Any, source: str, split: str) -> tuple[str, records.Records]:
    """(the split, its records). Raises UserError."""
    kinds = data.tables.sources
    if records.parted(source)[0] == token_folder.KIND:
        raise UserError(f"config.{FIELD}.source: {source} holds tokens, and no questions")
    opened = records.open_source(source, broken=data.broken, kinds=kinds, trains=False)
    own = opened.own
    name = source_splits.measured_split(opened.reference, own, split)
    if name not in own and "train" not in own:
        raise opened.reference.error(f"it has no {name}, which was asked for: it has {' and '.join(own)}")
    if name not in own or (split == "train" and len(own) == 1):  # a share of what is trained on
        return name, opened.split(name, data.held_out)
    rows = opened.whole(name)
    limit(opened.reference, name, rows)
    return ("all" if name == "train" and len(own) == 1 else name), rows
