"""Answers that a model writes to the prompts of a data source, and how good they are by verifiers."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax

from ptft_jax import config as configs
from ptft_jax.config import spans
from ptft_jax.config.seeds import Use, mixed
from ptft_jax.config.verifiers import ANSWERS, OF_CALLS, OWN_ANSWERS, SPREAD, UNSCORED
from ptft_jax.data import records, trained_on
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.questions import FIELD, Questions, asked
from ptft_jax.evaluation.samples import ENDED, MAX_NEW_TOKENS, Continuation, check_writer
from ptft_jax.evaluation.tool_turns import Talk, check_template, measured_calls, talk, told
from ptft_jax.model.decode import Sampling
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel import processes
from ptft_jax.params.partition import Partition
from ptft_jax.rewards.base import Score, Task, Unscored, Verifier, checked, named, scored_all
from ptft_jax.rewards.choosing import chosen
from ptft_jax.rewards.ensemble import spread
from ptft_jax.runs import meant
from ptft_jax.runs import source as restore
from ptft_jax.runs.checkpoint import together
from ptft_jax.runs.state import TrainState
from ptft_jax.runs.workdir import Workdir
from ptft_jax.tools import toolbox
from ptft_jax.tools.toolbox import Toolbox


class Answers:
    """Questions that a model answers, ready to be asked.

    Attributes:
      names: what `measured` gives, by name: "SET/answers/NAME" of the run's own data, else "answers/NAME".
      notes: what people should know before it begins.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        questions: Questions,
        verifiers: Mapping[str, Verifier],
        model: Transformer,
        tokenizer: tok.Tokenizer,
        *,
        prefix: str = "",
        reads_prompt: bool = False,
        adapter: int | None = None,
        tools: Toolbox | None = None,
    ):
        """
        Args:
          settings: "max_new_tokens", "temperature", "top_p" of `config.eval.answers`.
          prefix: of the names.
          reads_prompt: the model reads a prompt in both directions.
          adapter: the number of the one that answers, in a model with several.
          tools: that answers may call; None = none.
        """
        self.questions, self._tools = questions, tools
        if tools:
            check_template(tokenizer, questions.template, tools)
        self.verifiers, self._model, self._tokenizer = verifiers, model, tokenizer
        self._prefix = f"{prefix}{ANSWERS}"
        partial = [f"{name}{UNSCORED}" for name, verifier in verifiers.items() if verifier.partial]
        spreads = [f"{name}{SPREAD}" for name, verifier in verifiers.items() if verifier.several]
        own = (*OWN_ANSWERS, *(OF_CALLS if tools else ()))
        self.names = tuple(f"{self._prefix}{name}" for name in (*verifiers, *partial, *spreads, *own))
        self._options = {
            "max_new_tokens": settings["max_new_tokens"],
            "sampling": Sampling(temperature=settings["temperature"], top_p=settings["top_p"]),
            "stop": questions.stop,
            "prefix": reads_prompt,
            "adapters": None if adapter is None else [adapter] * len(questions.tasks),
            "tools": tools,
            "tasks": questions.tasks,
            "templates": [questions.template] * len(questions.tasks),
        }
        for task in questions.tasks:
            for name, verifier in verifiers.items():
                checked(name, verifier, task)
        self.notes = [_said(questions, settings["max_new_tokens"], model.max_tokens)]
        self.notes += [note for verifier in verifiers.values() for note in verifier.notes()]

    def measured(
        self, params: Any, seed: int, check: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """The values of `names`, means over the questions: the scores of verifiers (of those answers that have one; where none has, there is no
        mean), the share of answers that have none of a verifier that may leave some out, the share that "ended" by themselves, and their "length" in tokens; and a row for each question: "where", "prompt", "answer", "reference", "tokens", "reason" why it
        ended, and "scores", {verifier: {"score", "reason"}}.

        Args:
          params: of the model, merged.
          seed: of the sampling; what is written to a prompt follows from it and the prompt's number.
          check: called every few tokens, and before answers are scored; may raise to end it.

        Raises:
          UserError: a verifier fails, or gives a score that is not finite; the model's logits are not finite.
        """
        ids = self.questions.ids
        written = talk(self._model, params, self._tokenizer, ids, seed=seed, check=check, **self._options)
        # Programs may take as long as they may, or a little more: one process decides.
        alone = jax.process_count() == 1  # several ask equally often, and one of them scores
        check = check if alone else lambda: None
        values, rows = processes.shared(together(lambda: self._scored(written, check) if processes.main() else None))
        return values, rows

    def report(self, params: Any, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """({"data", "split", "asked": how many prompts, "unasked": those that leave no room for an answer, and the values of `measured`
        by their last names}, its rows)."""
        values, rows = self.measured(params, seed)
        found = self.questions
        facts = {"data": found.source, "split": found.split, "asked": len(found.tasks), "unasked": len(found.unasked)}
        return {**facts, **{name.rpartition("/")[2]: value for name, value in values.items()}}, rows

    def _scored(
        self, written: Sequence[Talk], check: Callable[[], None]
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        tasks, texts = self.questions.tasks, [one.text for one in written]
        try:
            found = {name: scored_all(name, verifier, texts, tasks, check) for name, verifier in self.verifiers.items()}
            values = {name: value for item in found.items() for name, value in self._means(*item).items()}
        finally:
            for verifier in self.verifiers.values():
                verifier.close()
        rows = [
            row_of(task, one.answer, {name: shown(scores[n]) for name, scores in found.items()})
            | (told(one) if self._tools else {})
            for n, (task, one) in enumerate(zip(tasks, written))
        ]
        values |= {
            "ended": _mean([float(row["reason"] in ENDED) for row in rows]),
            "length": _mean([float(row["tokens"]) for row in rows]),
        }
        values |= measured_calls(written) if self._tools else {}
        return {f"{self._prefix}{name}": value for name, value in values.items()}, rows

    def _means(self, name: str, found: Sequence[Score | Unscored]) -> dict[str, float]:
        """What is measured by one verifier; no mean where no answer has a score."""
        scores = [score.value for score in found if isinstance(score, Score)]
        left = {f"{name}{UNSCORED}": 1 - len(scores) / len(found)} if self.verifiers[name].partial else {}
        away = spread(score.members for score in found if isinstance(score, Score))
        return {
            **({name: _mean(scores)} if scores else {}),
            **left,
            **({} if away is None else {f"{name}{SPREAD}": away}),
        }


def shown(found: Score | Unscored) -> dict[str, Any]:
    """A score as rows have it; without a value where there is none."""
    if isinstance(found, Unscored):
        return {"value": None, "reason": found.reason}
    return {name: value for name, value in found._asdict().items() if value != ()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def row_of(task: Task, answer: Continuation, scores: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as files have it, for people and programs."""
    return {
        "where": task.where,
        "prompt": task.prompt,
        "answer": answer.text,
        "reference": task.reference,
        "tokens": answer.tokens,
        "reason": answer.reason,
        "scores": dict(scores),
    }


def _said(questions: Questions, new: int, most: int) -> str:
    asked = len(questions.tasks)
    text = (
        f"answers are written to {asked:,} of the {questions.total:,} records of {questions.source} ({questions.split})"
    )
    if left := questions.unasked:
        more = ", ..." if len(left) > 1 else ""
        text += (
            f"; {len(left):,} are not asked, as their prompts leave no room for {new} new tokens (the model sees at most {most}): "
            f"{left[0]}{more}"
        )
    return text


def settings_of(config: configs.Section) -> dict[str, Any]:
    """The settings of `config.eval.answers` that say how answers are written."""
    a = config.eval.answers
    return {
        "max_new_tokens": a.max_new_tokens or MAX_NEW_TOKENS,
        "temperature": a.temperature,
        "top_p": a.top_p if a.temperature else 1.0,
        "records": a.records,
        "reference": a.reference,
        "stop": tuple(a.stop),
    }


def of_run(
    config: configs.Section,
    model: Transformer,
    tokenizer: tok.Tokenizer,
    adapters: Mapping[str, int],
    built: Mapping[str, Verifier] = types.MappingProxyType({}),
    pinned: Mapping[str, str] = types.MappingProxyType({}),
) -> Answers | None:
    """What a run's `config.eval.answers` asks for; None where that is nothing.

    Args:
      adapters: the number of the adapter of each source, where each has one.
      built: verifiers that the run has already: the same need not be there twice.
      pinned: as of `ptft_jax.rewards.choosing.chosen`.

    Raises:
      UserError: no prompts with answers, or none that leave room for an answer; a record that a verifier cannot score answers to; see
        also `ptft_jax.rewards.choosing.chosen`.
    """
    a = config.eval.answers
    if not a.verifiers:
        return None
    verifiers = chosen(a.verifiers, config, f"{FIELD}.verifiers", built, pinned)
    source, data, kinds = a.source or config.data.source, config.data, config.data.tables.sources
    trained = {records.identity(name, kinds) for name, _ in trained_on.weighted(data)}
    own = records.identity(source, kinds) in trained | {records.identity(data.source, kinds)}
    if adapters and source not in adapters:
        raise UserError(
            f"config.{FIELD}.source = {source!r}: it has none of config.tune.adapters; choose a source of data.mixture"
        )
    settings = settings_of(config)
    questions = asked(data, source, "validation" if own else "", tokenizer, model.max_tokens, settings)
    return Answers(
        settings,
        questions,
        verifiers,
        dataclasses.replace(model, constrain=None),
        tokenizer,
        prefix="" if a.source else "validation/",
        reads_prompt=config.tables.objectives[config.objective.name].reads_prompt,
        adapter=adapters.get(source),
        tools=toolbox.chosen(config),
    )


def every(config: configs.Section) -> int:
    """The steps between answers; 0 = with every evaluation. Raises UserError where they are not at evaluations."""
    asked, steps = config.eval.answers.every, config.training.steps
    found, evaluated = spans.steps_of(asked, steps), spans.steps_of(config.eval.every, steps)
    if found and (not evaluated or found % evaluated):
        expected = f"a multiple of eval.every ({evaluated} steps)" if evaluated else "0 where eval.every is 0"
        raise UserError(f"config.{FIELD}.every = {spans.text(asked)}: expected {expected}")
    return found


def of_loaded(
    loaded: Any,
    source: str = "",
    split: str = "",
    *,
    verifiers: Sequence[str] = (),
    answers: Mapping[str, Any] = types.MappingProxyType({}),
    rewards: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
    tools: Mapping[str, Any] = types.MappingProxyType({}),
    plugins: Sequence[str] = (),
    **reading: Any,
) -> Answers:
    """What a loaded run (`ptft_jax.runs.loading.load`) is to answer of a data source; see `answer`.

    Args:
      source, split, plugins, reading: as of `ptft_jax.evaluation.standalone.evaluate`.
      verifiers: what scores the answers, by name; () = as the run's config has it.
      answers: other settings of `config.eval.answers` than the run's, such as `max_new_tokens`.
      rewards: likewise of `config.rewards`: {verifier: {setting: value}}.
      tools: likewise of `config.tools`, such as `use`; a setting of a tool is "NAME.SETTING".

    Raises:
      UserError: see `of_run`; a model that writes no text, or whose parameters are not finite.
    """
    check_writer(loaded)
    if loaded.model.several:
        raise UserError(f"--answers: {loaded.source.name} has several adapters; choose one: RUN#NAME")
    if not source and loaded.source.data is None:
        raise UserError(f"--data is missing: what {loaded.source.name} was trained on is not known")
    config = _changed(loaded, source, verifiers, answers, rewards, tools, plugins, reading)
    pins = _pinned(loaded.source, {f"{name}.{setting}" for name, given in rewards.items() for setting in given})
    scorers = chosen(config.eval.answers.verifiers, config, f"{FIELD}.verifiers", pinned=pins)
    settings, data = settings_of(config), config.data
    split = split or ("" if source else "validation")
    questions = asked(data, data.source, split, loaded.tokenizer, loaded.model.max_tokens, settings)
    return Answers(
        settings,
        questions,
        scorers,
        loaded.model,
        loaded.tokenizer,
        reads_prompt=loaded.reads_prompt,
        tools=toolbox.chosen(config),
    )


def _pinned(source: Any, other: Collection[str]) -> dict[str, str]:
    """What a model is known by -> the checkpoint that scored the run's own answers, which the scores of others do not compare with; not of
    such as `other` settings of `config.rewards` name now."""
    workdir = getattr(source, "workdir", None)
    if workdir is None:
        return {}
    found, rewards = {}, meant.of_source(source)["rewards"]
    for key, was in Workdir(workdir).read_scorers().items():
        setting, given = named(rewards, key)
        if given is not None and setting.partition("[")[0] not in other:
            found[key] = restore.at_step(given, was["step"])
    return found


def answer(
    loaded: Any, source: str = "", split: str = "", *, seed: int = 0, **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a loaded run answers to the prompts of a data source, and how good that is, as `ptft eval --answers` does.

    Args:
      source, split, options: as of `of_loaded`, which has the errors.
      seed: of the sampling, where there is a temperature.

    Returns:
      What `Answers.report` gives.
    """
    return of_loaded(loaded, source, split, **options).report(loaded.params, seed)


def _changed(
    loaded: Any,
    source: str,
    verifiers: Sequence[str],
    answers: Mapping[str, Any],
    rewards: Mapping[str, Mapping[str, Any]],
    tools: Mapping[str, Any],
    plugins: Sequence[str],
    reading: Mapping[str, Any],
) -> configs.Section:
    """The config of a loaded run with other settings of what is asked."""
    config = loaded.source.config
    values = meant.of_source(loaded.source)
    values["plugins"] = tuple(dict.fromkeys((*config.plugins, *plugins)))
    values["data"] |= {**reading, **({"source": source} if source else {})}
    own = values["eval"]["answers"]
    values["eval"]["answers"] = own | dict(answers) | {"verifiers": tuple(verifiers) or own["verifiers"]}
    for verifier, settings in rewards.items():
        values["rewards"][verifier] = {**values["rewards"].get(verifier, {}), **settings}
    toolbox.change(values, tools)
    changed = configs.check(values)
    if not changed.eval.answers.verifiers:
        raise UserError(f"--answers is missing: what scores the answers, of {', '.join(changed.tables.verifiers)}")
    used = (*changed.eval.answers.verifiers, *(name for name, _ in changed.rewards.combined.parts))
    if idle := [name for name in rewards if name not in used]:
        raise UserError(f"rewards: {idle[0]!r} is none of the verifiers that score the answers, {', '.join(used)}")
    return changed


def sampler(
    answers: Answers, partition: Partition, seed: int
) -> Callable[..., tuple[dict[str, float], list[dict[str, Any]]]]:
    """A function of (state, step, check) that gives what `Answers.measured` gives of the state's average, where it has one."""

    def measure(
        state: TrainState, step: int, check: Callable[[], None]
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        params = partition.merge(state.ema or state.trainable, state.frozen)
        return answers.measured(params, mixed(seed, Use.ANSWERS, step), check)

    return measure
