"""Answers judged by a model that writes, by a rubric (Zheng et al. 2023, "Judging LLM-as-a-Judge")."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ptft_jax.config.field import number
from ptft_jax.data import chat, endings
from ptft_jax.errors import UserError, nearest
from ptft_jax.model import decode
from ptft_jax.rewards.base import Score, Task, Unscored
from ptft_jax.rewards.bounded import Bounded, TooLong
from ptft_jax.rewards.models import ModelVerifier, next_log_probabilities, padded
from ptft_jax.rewards.patterns import search
from ptft_jax.rewards.texts import shown

PLACES = ("prompt", "answer", "reference")
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
_NUMBER = r"-?\d+(?:\.\d+)?"
# Where a judge writes numbers, that after "4 of", "4 out of" and "4/" is what it counts up to.
_SAID = rf"(?<!\d)(?<!\d\.)(?<!\d of )(?<!\d out of )(?<!\d/)(?<!\d / ){_NUMBER}"
_SECONDS = 1.0  # for the search in a text


class Judge(ModelVerifier):
    """What a model says of an answer that it is shown in a rubric, on a scale of labels with values.

    With how="probabilities" it is the mean of the values, each weighted by the probability of its label as the next token (Liu et al.
    2023, "G-Eval", equation 1, from the probabilities themselves and not from samples). With how="text" the model writes, greedily,
    and the value is found in that.
    """

    name: ClassVar[str] = "judge"
    wanted: ClassVar[str] = "expected a causal model that writes text: a run, hf:FOLDER or gguf:FILE"

    def __init__(
        self,
        run: str,
        rubric: str = "",
        rubric_file: str = "",
        scale: Sequence[tuple[str, float]] = (("1", 1.0), ("2", 2.0), ("3", 3.0), ("4", 4.0), ("5", 5.0)),
        how: str = "probabilities",
        least_mass: float = 0.01,
        pattern: str = "",
        which: str = "only",
        max_new_tokens: int = 64,
        template: str = "",
        batch_size: int = 16,
        unscored: str = "raise",
    ):
        self._rubric = _read(rubric, rubric_file)
        self._scale = _checked(scale)
        for setting, value, usual in (("pattern", pattern, ""), ("which", which, "only")):
            if value != usual and how != "text":
                raise UserError(
                    f"config.rewards.judge.{setting} = {value!r}: nothing is written with rewards.judge.how={how!r}: leave it at {usual!r}, or "
                    "set how='text'"
                )
        super().__init__(run, template, batch_size, unscored)
        self._process, self._least = Bounded(), least_mass
        self._ids = self._labels() if how == "probabilities" else []
        self._new = 0 if self._ids else max_new_tokens
        self.most -= self._new
        if self.most < 1:
            raise UserError(
                f"config.rewards.judge.max_new_tokens = {max_new_tokens}: {self.source.name} sees at most {self.most + self._new} tokens, its "
                "rubric included"
            )
        self._job = search(pattern or self._usual(), which, "config.rewards.judge.pattern") | {"all": which == "only"}

    def _check_model(self) -> None:
        model = self.source.config.model
        if model.head == "classes":
            scores = ": that is for rewards.reward_model" if model.classes == 1 and model.causal else ""
            self._refuse(f"it has a head for classes, and writes no text{scores}")
        if model.head != "lm" or not model.causal:
            self._refuse("it predicts no next token")
        tables = self.source.config.tables.objectives
        if does := tables[self.source.config.objective.name].does:
            self._refuse(f"it {does} and writes no text")

    def check(self, task: Task) -> None:
        if "{reference}" in self._rubric and not task.references:
            raise UserError(f"{task.where}: the rubric has a place {{reference}}, and there is no right answer")
        super().check(task)

    def close(self) -> None:
        self._process.close()

    def _labels(self) -> list[int]:
        """The token of each label. Raises UserError where one is not a token, or two are the same one."""
        found = self.source.tokenizer.encode_all([label for label, _ in self._scale])
        whose = f"config.rewards.judge.scale: of the tokenizer of {self.source.name}"
        several = [f"{label!r} is {len(ids)}" for (label, _), ids in zip(self._scale, found) if len(ids) != 1]
        if several:
            raise UserError(
                f"{whose} each label has to be one token: {', '.join(several)}; choose other labels, or rewards.judge.how='text'"
            )
        ids = [int(ids[0]) for ids in found]
        same = [repr(label) for (label, _), i in zip(self._scale, ids) if ids.count(i) > 1]
        if same:
            raise UserError(f"{whose} the labels {' and '.join(same)} are the same token: choose others")
        return ids

    def _usual(self) -> str:
        labels = [label for label, _ in self._scale]
        if all(re.fullmatch(_NUMBER, label.strip()) for label in labels):
            return _SAID
        return rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted((label.strip() for label in labels), key=len, reverse=True)))})(?!\w)"

    def _asked(self, answer: str, task: Task) -> list[int]:
        text = _filled(
            self._rubric, {"prompt": _question(task), "answer": answer, "reference": "\n".join(task.references)}
        )
        tokenizer = self.source.tokenizer
        if self.template is not None:
            messages = [{"role": "user", "content": text}]
            return chat.encode_chat(tokenizer, messages, True, template=self.template).tolist()
        return [*tokenizer.prefix_ids, *tokenizer.encode(text).tolist()]

    def _scores(self, rows: Sequence[list[int]]) -> list[Score | Unscored]:
        return self._by_probabilities(rows) if self._ids else self._by_texts(rows)

    def _by_probabilities(self, rows: Sequence[list[int]]) -> list[Score | Unscored]:
        loaded = self.loaded
        inputs, last = padded(rows, self.batch, self.most)
        if loaded.reads_prompt:
            inputs = inputs._replace(prefix=inputs.segments > 0)
        found = next_log_probabilities(loaded.model, loaded.params, inputs, last, np.asarray(self._ids))
        return [self._mean(row) for row in np.asarray(found, np.float64)[: len(rows)]]

    def _mean(self, logs: np.ndarray) -> Score | Unscored:
        """The mean of the values, by log-probabilities [labels] of their labels."""
        mass = float(np.exp(logs).sum())
        labels = ", ".join(repr(label) for label, _ in self._scale)
        if not np.isfinite(logs).any():
            raise UserError(f"{self.source.name}: its log-probabilities of the labels {labels} are not finite")
        if mass < self._least:
            return Unscored(
                f"the labels {labels} have {mass:.2g} of the probability of the next token, less than rewards.judge.least_mass = "
                f"{self._least:g}: the model is about to write something else"
            )
        weights = np.exp(logs - logs.max())
        value = float(weights @ [value for _, value in self._scale] / weights.sum())
        return Score(value, f"the labels have {mass:.2g} of the probability")

    def _by_texts(self, rows: Sequence[list[int]]) -> list[Score | Unscored]:
        loaded, tokenizer = self.loaded, self.source.tokenizer
        end = None if self.template is None else endings.of(tokenizer, self.template)
        stops = tokenizer.stop_ids if self.template is None else endings.stops(tokenizer, self.template)
        written = decode.generate(
            loaded.model, self._laid_out(), rows, max_new_tokens=self._new, sampling=decode.Sampling(temperature=0.0),
            stop_ids=stops, prefix=loaded.reads_prompt, places=self.batch,
        )  # fmt: skip
        texts = [tokenizer.decode_after((), row.ids) for row in written]
        return [self._found(text.partition(end.text)[0] if end and end.text else text) for text in texts]

    def _laid_out(self) -> Any:
        return self._once("laid out", lambda: decode.laid_out(self.loaded.params))

    def _found(self, text: str) -> Score | Unscored:
        """The value in a text that the model wrote."""
        try:
            found = self._process.run({**self._job, "text": text}, _SECONDS)
        except TooLong:
            return Unscored(f"the search in {shown(text)} took more than {_SECONDS:g} seconds")
        if not found["found"]:
            return Unscored(f"it wrote {shown(text)}, without a score")
        several = [(one or "").strip() for one in found.get("texts", [found["text"]])]
        values = {said: self._worth(said) for said in several}
        for said, value in values.items():
            if value is None:
                return Unscored(f"it wrote {shown(text)}: {shown(said)} is not on the scale, {self._told()}")
        by_value = {value: said for said, value in values.items() if value is not None}
        if len(by_value) > 1:
            first, second = list(by_value.values())[:2]
            return Unscored(
                f"it wrote {shown(text)}: {shown(first)} and {shown(second)}; rewards.judge.pattern or which says which of these counts"
            )
        [value] = by_value
        return Score(value, f"it wrote {shown(text)}")

    def _worth(self, said: str) -> float | None:
        """The value of a label, also of a number spelled otherwise; where labels are their values, of each number among them."""
        by_label = {label.strip(): value for label, value in self._scale}
        if said in by_label:
            return by_label[said]
        if not re.fullmatch(_NUMBER, said):
            return None
        numbers = {float(label): value for label, value in by_label.items() if re.fullmatch(_NUMBER, label)}
        if float(said) in numbers:
            return numbers[float(said)]
        between = self._is_line and min(numbers) <= float(said) <= max(numbers)
        return float(said) if between else None

    @property
    def _is_line(self) -> bool:
        """Whether the labels are numbers that are worth what they say."""
        return all(re.fullmatch(_NUMBER, label.strip()) and float(label) == value for label, value in self._scale)

    def _told(self) -> str:
        """The scale, for messages."""
        values = [value for _, value in self._scale]
        labels = ", ".join(repr(label) for label, _ in self._scale)
        return f"{min(values):g} to {max(values):g}" if self._is_line else f"of {labels}"


def _question(task: Task) -> str:
    """What was asked, for people: turns without the marks of a template."""
    if task.conversation is None:
        return task.prompt
    said = [(m["role"], m.get("content") or "") for m in task.conversation.messages]
    return said[0][1] if len(said) == 1 else "\n\n".join(f"{role}: {content}" for role, content in said)


def _read(rubric: str, file: str) -> str:
    """The rubric. Raises UserError where it shows no answer, or has a place that nothing is put into."""
    if bool(rubric) == bool(file):
        raise UserError(
            f"config.rewards.judge: rubric (a text) and rubric_file are {'both set' if rubric else 'both empty'}: give one of them"
        )
    where = "config.rewards.judge.rubric"
    if file:
        where = f"config.rewards.judge.rubric_file = {file!r}"
        try:
            rubric = pathlib.Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"{where}: cannot be read: {e}") from e
    for name in _PLACE.findall(rubric):
        if name not in PLACES:
            raise UserError(
                f"{where}: {{{name}}}: expected one of {', '.join(f'{{{place}}}' for place in PLACES)}{nearest(name, PLACES)}"
            )
    if "{answer}" not in rubric:
        raise UserError(f"{where}: it has no place {{answer}}, so the judge would not see what it judges")
    return rubric


def _filled(rubric: str, texts: Mapping[str, str]) -> str:
    """The rubric with these texts, which are looked for no places of their own."""
    return _PLACE.sub(lambda found: texts[found[1]], rubric)


def _checked(scale: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Raises UserError for a scale that tells nothing apart."""
    labels = [label.strip() for label, _ in scale]
    for label, value in scale:
        if wrong := number(value) or ("" if label.strip() else "'' is no label"):
            raise UserError(f"config.rewards.judge.scale: {label!r}: {wrong}")
        if labels.count(label.strip()) > 1:
            raise UserError(f"config.rewards.judge.scale: {label!r} is there twice")
    if len({value for _, value in scale}) < 2:
        raise UserError("config.rewards.judge.scale: it needs two labels of different values, ((label, value), ...)")
    return tuple((label, float(value)) for label, value in scale)
