"""Answers improved by principles, and pairs of answers of which one is better (Bai et al. 2022, "Constitutional AI: Harmlessness from AI
Feedback")."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax import config as configs
from ptft_jax.data.cache import digest
from ptft_jax.errors import UserError, nearest
from ptft_jax.evaluation.questions import Questions
from ptft_jax.evaluation.samples import MAX_NEW_TOKENS, SAMPLING, check_writer
from ptft_jax.feedback import prompts
from ptft_jax.feedback.journal import PART, Journal
from ptft_jax.feedback.judging import Judged, agreement, better, total
from ptft_jax.feedback.made import Made
from ptft_jax.feedback.writing import Answer, Writer, leading
from ptft_jax.model.decode import Sampling
from ptft_jax.rewards import constitution
from ptft_jax.rewards.base import Score, Task, Unscored, Verifier, checked, scored_all
from ptft_jax.rewards.bounded import Bounded, TooLong
from ptft_jax.rewards.choosing import chosen
from ptft_jax.rewards.constitution import Principle
from ptft_jax.rewards.patterns import Regex, search
from ptft_jax.runs import meant
from ptft_jax.runs.source import parameters_fingerprint

_SECONDS = 1.0  # for the repair of an answer


class Feedback:
    """A run's answers to prompts, what becomes of them by principles, and which of them are better; ready to be made.

    Attributes:
      notes: what people should know before it begins.
    """

    def __init__(
        self,
        loaded: Any,
        questions: Questions,
        principles: Sequence[Principle],
        *,
        prefer: tuple[str, Verifier] | None = None,
        samples: int = 1,
        refusal: str = "",
        sampling: Sampling = SAMPLING,
        max_new_tokens: int = MAX_NEW_TOKENS,
        plugins: Sequence[str] = (),
        origin: Mapping[str, Any] = types.MappingProxyType({}),
    ):
        """
        Args:
          prefer: name and verifier that tell two answers apart of which neither goes against more principles.
          samples: answers to each prompt.
          refusal: a pattern of Python's re that is found in answers that refuse; "" = refusals are not counted.
          plugins: modules that may have verifiers of checks, beside those of the run's config.
          origin: further facts of what it is made of, for `Made.facts`.

        Raises:
          UserError: nothing to do; a check that is wrong, or that answers to a prompt cannot be scored by.
        """
        if not principles and prefer is None:
            raise UserError("--principles and --prefer are missing: nothing says which answers are better")
        if samples > 1 and not sampling.temperature:
            raise UserError(f"--samples={samples}: answers at --temperature=0 are all the same")
        self._loaded, self._questions, self._principles = loaded, questions, tuple(principles)
        self._prefer, self._samples = prefer, samples
        self._settings = {"max_new_tokens": max_new_tokens, "sampling": sampling}
        plugins = tuple(dict.fromkeys((*loaded.source.config.plugins, *plugins)))
        self._checks = {p.name: _verifier(p, plugins) for p in principles if p.check}
        self._refusal = _refusals(refusal) if refusal else None
        self._process = Bounded()
        named = [(p.check.verifier, self._checks[p.name]) for p in self._principles if p.check]
        named += [prefer] if prefer else []
        models: dict[tuple[str, str], Any] = {}  # a model that several ask is loaded once
        for name, verifier in named:
            verifier.share(models)
            for task in questions.tasks:
                checked(name, verifier, task)
        self._origin = {
            **origin, "principles": [dataclasses.asdict(p) for p in principles], "prefer": prefer[0] if prefer else "", "samples": samples,
            "refusal": refusal, "max_new_tokens": max_new_tokens, **dataclasses.asdict(sampling), "stop": list(questions.stop),
            "turns": questions.template is not None,
        }  # fmt: skip
        asked, left = len(questions.tasks), len(questions.unasked)
        self.notes = [f"answers are written to {asked:,} of the {questions.total:,} records of {questions.source}"]
        self.notes += [f"{left:,} are not asked, as their prompts leave no room"] if left else []
        self.notes += [note for verifier in self._verifiers() for note in verifier.notes()]
        if not self._checks and prefer is None:
            self.notes.append(
                "no pairs are made: no principle has a check, and no verifier prefers one answer (--prefer)"
            )

    def _verifiers(self) -> list[Verifier]:
        return [*self._checks.values(), *([self._prefer[1]] if self._prefer else [])]

    def made(self, seed: int = 0, folder: pathlib.Path | None = None) -> Made:
        """Everything, as it follows from the seed. Raises UserError where a verifier fails.

        Args:
          folder: where what is written and scored is kept part by part; what is there already of the same is not made again. None =
            nowhere.
        """
        self._journal = Journal(folder, self._known(seed) if folder else "")
        try:
            writer = Writer(self._loaded, self._questions, self._settings, seed, self._journal)
            answers = [writer.answers(number) for number in range(self._samples)]
            final, steps = self._revised(writer, answers[0])
            return self._told(seed, answers, final, steps)
        finally:
            for verifier in (*self._verifiers(), self._process, *([self._refusal] if self._refusal else [])):
                verifier.close()

    def _known(self, seed: int) -> str:
        """What everything follows from, beside the prompts."""
        source, model = self._loaded.source, self._loaded.model
        scorers = [
            [name, asked.name, asked.meta.get("fingerprint") if hasattr(asked, "meta") else ""]
            for verifier in self._verifiers()
            for name, asked in verifier.models().items()
        ]
        facts = [
            source.name,
            parameters_fingerprint(self._loaded.params),
            repr(getattr(model, "spec", "")),
            seed,
            self._origin,
            scorers,
        ]
        return json.dumps(facts, default=str)

    def _scored(
        self, name: str, verifier: str, checks: Verifier, texts: list[str], tasks: list[Task]
    ) -> list[Score | Unscored]:
        """As `scored_all`, of which the journal keeps part by part what it is called by, `name`."""
        found: list[Score | Unscored] = []
        for first in range(0, len(texts), PART):
            part = slice(first, first + PART)

            def score(part: slice = part) -> list[list[Any]]:
                return [list(one) for one in scored_all(verifier, checks, texts[part], tasks[part])]

            rows = self._journal.kept(f"{name}-{first}", [texts[part], [task.where for task in tasks[part]]], score)
            found += [Unscored(*row) if len(row) == 1 else Score(row[0], row[1], tuple(row[2])) for row in rows]
        return found

    def _revised(self, writer: Writer, answers: Sequence[Answer]) -> tuple[list[Answer], list[list[dict[str, Any]]]]:
        """What becomes of answers principle by principle, and the steps of each."""
        tasks, final = self._questions.tasks, list(answers)
        steps: list[list[dict[str, Any]]] = [[] for _ in tasks]
        for number, principle in enumerate(self._principles):
            wrong: Sequence[bool | None] = [True] * len(tasks)
            if principle.check is not None:
                wrong = self._against(principle, final)
            turn = [n for n, against in enumerate(wrong) if against]  # not those of which nobody knows
            if principle.repair is not None:
                made = [("", self._repaired(principle, final[n])) for n in turn]
            else:
                made = writer.revised(principle, number, [tasks[n] for n in turn], [final[n] for n in turn])
            for n, (critique, after) in zip(turn, made):
                step = {"principle": principle.name, **({"critique": critique} if critique else {})}
                steps[n].append(step | {"answer": None if after is None else after.text})
                final[n] = after or final[n]
        return final, steps

    def _against(self, principle: Principle, answers: Sequence[Answer]) -> list[bool | None]:
        """Which answers go against a principle, by its check; None of those that it gives no score."""
        assert principle.check is not None
        name, tasks, texts = principle.name, self._questions.tasks, [answer.text for answer in answers]
        try:
            scores = self._scored(
                f"check-{digest(name, *texts)}", principle.check.verifier, self._checks[name], texts, list(tasks)
            )
        except UserError as e:
            raise UserError(f"principle {name!r}: check: {e}") from e
        return [None if isinstance(score, Unscored) else not principle.check.keeps(score.value) for score in scores]

    def _repaired(self, principle: Principle, answer: Answer) -> Answer | None:
        repair = principle.repair
        assert repair is not None
        if not repair.pattern:
            text = repair.text if repair.text[:1].isspace() else f"{leading(answer.text)}{repair.text}"
            return None if text == answer.text else Answer(text, True)
        job = {"job": "substitute", "pattern": repair.pattern, "by": repair.text, "text": answer.text}
        try:
            text = self._process.run(job, _SECONDS).get("text")  # none where the process ended
        except TooLong:
            return None
        return None if text is None or text == answer.text else Answer(text, answer.ended)

    def _told(
        self,
        seed: int,
        answers: Sequence[Sequence[Answer]],
        final: Sequence[Answer],
        steps: Sequence[list[dict[str, Any]]],
    ) -> Made:
        first, tasks = answers[0], self._questions.tasks
        columns = [*answers, final]  # of each prompt, all that can be compared
        broken = [[self._against(p, column) for p in self._principles if p.check] for column in columns]
        counts = [[total([wrong[n] for wrong in column]) for n in range(len(tasks))] for column in broken]
        alone = {p.name for p in self._principles if p.check is None}
        scores = self._preferred(columns)
        revised, pairs, rows, tally = [], [], [], collections.Counter[str]()
        for n, task in enumerate(tasks):
            prompt = prompts.written(task, self._questions.form)
            judged = [Judged(column[n], count[n], score[n]) for column, count, score in zip(columns, counts, scores)]
            rows.append(_row(task, prompt, judged, steps[n]))
            # Of a principle without a check nothing but its revision says that it is kept.
            missed = any(step["principle"] in alone and step["answer"] is None for step in steps[n])
            if self._principles and judged[-1].violations == 0 and final[n].whole and not missed:
                revised.append({**prompt, "completion": prompts.answered(final[n].text, prompt["prompt"])})
            if self._principles and missed:
                tally["unrevised"] += 1
            for other in judged[1:] if steps[n] else judged[1:-1]:  # what no principle changed is the first again
                sides = better(judged[0], other)
                if isinstance(sides, str):
                    tally[sides] += 1
                    continue
                first_side, other_side = (prompts.answered(side.answer.text, prompt["prompt"]) for side in sides)
                pairs.append({**prompt, "chosen": first_side, "rejected": other_side})
        made = {"written": len(revised), "left_out": len(tasks) - len(revised), "unrevised": tally["unrevised"]}
        facts = {
            "run": self._loaded.source.name, "data": self._questions.source, "split": self._questions.split, "seed": seed,
            "asked": len(tasks), "unasked": len(self._questions.unasked), "unended": sum(not a.ended for a in first),
            **({"principles": self._counted(broken, steps), "revised": made} if self._principles else {}),
            **self._refused(first, final),
            "pairs": {"written": len(pairs), **{name: tally[name] for name in ("equal", "undecided", "unscored", "unended")}},
            **agreement(scores),
            "settings": self._origin,
        }  # fmt: skip
        return Made(revised, pairs, rows, facts)

    def _preferred(self, columns: Sequence[Sequence[Answer]]) -> list[list[Score | Unscored | None]]:
        """What is preferred by, of the answers of each column; an answer that is there twice is scored once."""
        tasks = self._questions.tasks
        if self._prefer is None:
            return [[None] * len(tasks) for _ in columns]
        name, verifier = self._prefer
        places = {(n, answer.text): None for column in columns for n, answer in enumerate(column)}
        texts, asked = [text for _, text in places], [tasks[n] for n, _ in places]
        found = self._scored("preferred", name, verifier, texts, asked)
        scores = dict(zip(places, found))
        return [[scores[n, answer.text] for n, answer in enumerate(column)] for column in columns]

    def _counted(
        self, broken: Sequence[Sequence[Sequence[bool | None]]], steps: Sequence[list[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Of each principle how many answers go against it at first and at last, where that can be told, how many of these last have no score
        by its check, and how many were changed."""
        found: dict[str, Any] = {}
        checked = iter(range(len(self._checks)))
        for principle in self._principles:
            counts: dict[str, int | None] = dict.fromkeys(("violations_before", "violations_after"))
            if principle.check:
                at = next(checked)
                places = {"violations_before": 0, "violations_after": -1}
                counts = {name: sum(map(bool, broken[place][at])) for name, place in places.items()}
                counts["unscored"] = sum(wrong is None for wrong in broken[-1][at])
            done = [step for row in steps for step in row if step["principle"] == principle.name]
            changed = sum(step["answer"] is not None for step in done)
            found[principle.name] = {**counts, "changed": changed, "unchanged": len(done) - changed}
        return found

    def _refused(self, first: Sequence[Answer], final: Sequence[Answer]) -> dict[str, Any]:
        """The shares of answers that refuse, at first and at last, of those that could be looked at in time."""
        if self._refusal is None:
            return {}
        tasks, verifier = self._questions.tasks, self._refusal
        shares: dict[str, float | int | None] = {}
        late = 0
        for name, answers in (("before", first), ("after", final)):
            found = scored_all("regex", verifier, [answer.text for answer in answers], tasks)
            values = [score.value for score in found if isinstance(score, Score)]
            shares[name] = sum(values) / len(values) if values else None
            late += len(found) - len(values)
        return {"refusals": {**shares, **({"unscored": late} if late else {})}}


def _row(
    task: Task, prompt: Mapping[str, Any], judged: Sequence[Judged], steps: list[dict[str, Any]]
) -> dict[str, Any]:
    """All that was written to a prompt: answers, what became of the first step by step, and what each of them is worth."""
    return {
        "where": task.where,
        **prompt,
        "answers": [one.answer.text for one in judged[:-1]],
        "steps": steps,
        "revised": judged[-1].answer.text,
        "violations": [one.violations for one in judged],
        "preferred": [one.value.value if isinstance(one.value, Score) else None for one in judged],
    }


def _verifier(principle: Principle, plugins: tuple[str, ...]) -> Verifier:
    try:
        return principle.verifier(plugins)
    except UserError as e:
        raise UserError(f"principle {principle.name!r}: check: {e}") from e


def _refusals(pattern: str) -> Regex:
    search(pattern, "first", "--refusal")
    verifier = Regex(pattern)
    verifier.strictly()
    if verifier.group:
        raise UserError(f"--refusal={pattern}: its groups mean nothing here: make them (?:...)")
    return verifier


def prepared(
    loaded: Any,
    source: str,
    split: str = "",
    *,
    principles: str = "",
    prefer: str = "",
    rewards: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
    records: int = 0,
    stop: Sequence[str] = (),
    template: str = "",
    max_new_tokens: int = MAX_NEW_TOKENS,
    plugins: Sequence[str] = (),
    **options: Any,
) -> Feedback:
    """What a loaded run (`ptft_jax.runs.loading.load`) is to make of the prompts of a data source, as `ptft feedback` does.

    Args:
      source, split, template, plugins: as of `ptft_jax.evaluation.standalone.evaluate`. The records have prompts and answers, which are
        references of verifiers, or are texts.
      principles: a file, see `ptft_jax.rewards.constitution.read`.
      prefer: the verifier that tells answers apart, by name.
      rewards: its settings, {verifier: {setting: value}}.
      records: use only the first so many; 0 = all.
      stop: texts that end an answer.
      options: as of `Feedback`.

    Raises:
      UserError: a model that writes no text, data without prompts, and what `constitution.read` and `Feedback` refuse.
    """
    check_writer(loaded)
    if loaded.model.several:
        raise UserError(f"--run: {loaded.source.name} has several adapters; choose one: RUN#NAME")
    read = constitution.read(principles) if principles else ()
    values = meant.of_source(loaded.source)
    values["plugins"] = tuple(dict.fromkeys((*values["plugins"], *plugins)))
    values["data"] |= {"source": source, **({"template": template} if template else {})}
    for verifier, settings in rewards.items():
        values["rewards"][verifier] = {**values["rewards"].get(verifier, {}), **settings}
    config = configs.check(values)
    known = config.tables.verifiers
    if prefer and prefer not in known:
        raise UserError(f"--prefer={prefer}: no such verifier: expected of {', '.join(known)}{nearest(prefer, known)}")
    used = (prefer, *(name for name, _ in config.rewards.combined.parts if prefer == "combined"))
    if idle := [name for name in rewards if name not in used]:
        raise UserError(f"--rewards: {idle[0]!r} is not what --prefer names; a check has its settings beside it")
    verifier = (prefer, chosen((prefer,), config, "rewards")[prefer]) if prefer else None
    settings = {"records": records, "reference": "", "max_new_tokens": max_new_tokens, "stop": tuple(stop)}
    questions = prompts.asked(config.data, split, loaded, settings)
    used_by = {name: config.rewards[name].read_all() for name in used if name and known[name].fields}
    found = Feedback(
        loaded,
        questions,
        read,
        prefer=verifier,
        max_new_tokens=max_new_tokens,
        plugins=config.plugins,
        origin={"records": records, "template": config.data.template, "rewards": used_by},
        **options,
    )
    found.notes += prompts.notes(questions, loaded)
    return found
