"""Training rows that the model itself writes: answers to prompts, rewarded by verifiers."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ptft_jax import config as configs
from ptft_jax.config.seeds import Use, mixed
from ptft_jax.data import batches
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.pipeline import TrainingData
from ptft_jax.data.rows import Rows
from ptft_jax.errors import UserError
from ptft_jax.evaluation.answers import row_of, shown
from ptft_jax.evaluation.samples import ENDED, Continuation, Written, written_ids
from ptft_jax.model.decode import Sampling
from ptft_jax.objectives.policy import FACTS, deviation
from ptft_jax.parallel import processes
from ptft_jax.rewards.base import Score, Task, Unscored, scored_all
from ptft_jax.runs.checkpoint import together
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import rollout_files
from ptft_jax.training.hooks import Hook, Moment
from ptft_jax.training.prompts import FIELD, Asks, Prompts, shared_out
from ptft_jax.training.trainer import Trainer

FORM = 1  # of the files
Row = dict[str, Any]  # of an answer, as its file has it


class Rollouts:
    """A feed (`ptft_jax.data.feed.Feed`) of answers that the state's model writes, `updates` steps of each.

    Which prompts a rollout has is as the rows of any run: a function of the data, the seed and its number. What is written to them is one
    of the seed, the number and the state before its first step. Each is kept in a file of the run: a run that goes on after that step
    reads it again, as that state is gone.
    """

    def __init__(
        self,
        config: configs.Section,
        prompts: Prompts,
        data: TrainingData,
        trainer: Trainer,
        tokenizer: tok.Tokenizer,
        workdir: pathlib.Path,
        first_step: int = 0,
    ):
        """`first_step`: what the run begins with. Nothing was sampled for it before that step.

        Attributes:
          check: called between parts of sampling and scoring; may raise to end them.
        """
        p = config.objective.policy
        self._first_step, self.check = first_step, _go_on
        self._prompts, self._trainer, self._tokenizer, self._workdir = prompts, trainer, tokenizer, workdir
        self._objective, self._seed, self._updates = trainer.objective, config.seed, data.updates
        self._size, self._length, self._key = config.data.batch_size, config.data.length, data.key
        self._sampling = Sampling(p.temperature, p.top_k, p.top_p, p.min_p)
        self._new, self._answers = p.max_new_tokens, prompts.draws.rows * prompts.samples
        self._configure(config)
        self._jitted = config.parallel.compile == "jit"
        self._part = self._size // config.training.micro_batches
        self._drawn = batches.Batches(
            data.sets, data.mixture, batch_size=prompts.draws.rows, seed=config.seed, process=0, processes=1
        )
        self._model = dataclasses.replace(trainer.model, constrain=None)
        self._held: tuple[int, Rows] | None = None

    @classmethod
    def asks(cls, config: configs.Section) -> Asks:
        """What is asked at a step. Raises UserError for settings that do not fit together."""
        rows, samples = config.data.batch_size, config.objective.policy.samples
        if rows == 1:
            raise UserError(
                "config.data.batch_size = 1: an answer is rewarded by how it compares with others: expected 2 or more"
            )
        return Asks(shared_out(rows, samples, f"{FIELD}.samples"), samples)

    def _configure(self, config: configs.Section) -> None:
        """Reads what decides what is learned of answers that have scores."""
        p, objective = config.objective.policy, self._objective
        self._buffer, self._bound = p.overlong_buffer, p.max_mismatch
        self._drop = {"alike": p.alike == "drop", "overlong": p.overlong == "drop"}
        refuse_buffer(self._buffer, self._new)
        self._kl = objective.kl if not objective.compares else 0.0  # taken off rewards

    def next(self, step: int, state: Any) -> Rows:
        """As `Feed.next`. Raises UserError: a verifier fails, or gives a score that is not finite; the model's logits are not finite; the
        answers of a step in the middle of a rollout are not there."""
        number, lag = divmod(step, self._updates)
        if self._held is None or self._held[0] != number:
            whole = self._trainer.program.whole(state)
            if int(whole.step) != step:  # the run has ended
                return self._mine(self._empty(self._size))
            rows = self._kept(number, step) if lag and step != self._first_step else self._made(number, whole)
            self._held = number, self._mine(self._batch(number, rows, whole))
        return self._held[1]

    def forms(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, of all processes."""
        return {name: jax.ShapeDtypeStruct((self._size, *v.shape[1:]), v.dtype) for name, v in self._empty(1).items()}

    @property
    def hooks(self) -> list[Hook]:
        """What is looked at after steps: whether sampling and training give tokens the same probabilities."""
        return [Hook(self._fresh, self._check_mismatch)] if self._bound else []

    def _fresh(self, moment: Moment) -> bool:
        """Whether the last step was made by the model that had written its answers."""
        return not moment.first and ((moment.step - 1) % self._updates == 0 or moment.step - 1 == self._first_step)

    def _check_mismatch(self, moment: Moment) -> None:
        found = moment.metrics.get("mismatch", 0.0)
        if found > self._bound:
            raise UserError(
                f"step {moment.step}: the log-probabilities of the answers' tokens are {found:.3g} nats apart, on average, between sampling "
                f"and the step that learns from them, more than config.{FIELD}.max_mismatch = {self._bound:g}: the same command with a higher bound "
                "(0 = none) goes on from the last checkpoint; or begin another run with model.dtype='float32', no dropout (model.dropout, "
                "tune.METHOD.dropout) and no tune.mixout"
            )

    # Making and keeping

    def _header(self, number: int) -> dict[str, Any]:
        """What the file of a rollout is known by."""
        return {
            "rollout": number,
            "steps": [number * self._updates, (number + 1) * self._updates],
            "run_id": Workdir(self._workdir).run_id,
            "data": self._key,
            "form": FORM,
        }

    def _kept(self, number: int, step: int) -> list[Row]:
        """The answers of a rollout that was made before the run stopped."""
        path, header = Workdir(self._workdir).rollout(number), self._header(number)
        found = processes.shared(together(lambda: rollout_files.read(path, header) if processes.main() else None))
        if found is None or len(found) != self._answers:
            first = number * self._updates
            raise UserError(
                f"{path}: the answers that steps {first + 1} to {first + self._updates} learn from are not there, or are another run's, and the "
                f"model that wrote them is gone: the run cannot go on from step {step}; another can, with new answers: "
                f"--config.init.from={self._workdir}@{step} --config.init.optimizer=True"
            )
        return found

    def _made(self, number: int, whole: Any) -> list[Row]:
        prompts = [self._prompts.asked(int(s), int(r)) for s, r in zip(*self._drawn.addresses(number))]
        asked = [prompt for prompt in prompts for _ in range(self._prompts.samples)]
        written = written_ids(
            self._model,
            self._trainer.partition.merge(whole.trainable, whole.frozen),
            self._tokenizer,
            [ids for _, ids in asked],
            max_new_tokens=self._new,
            sampling=self._sampling,
            seed=mixed(self._seed, Use.ROLLOUT, number),
            stop=self._prompts.stop,
            apart=True,
            check=self.check,
            with_stop=True,
            logprobs=True,
            support=self._sampling.truncates,
        )
        rows = [_row(*row) for row in zip(asked, written)]
        check = self.check if jax.process_count() == 1 else _go_on  # several ask equally often, and one of them scores
        tasks = [task for task, _ in asked]
        found = processes.shared(
            together(lambda: self._scores(number, tasks, rows, check) if processes.main() else None)
        )
        for row, scores in zip(rows, found):
            row["scores"] = scores
        self._reward(rows, whole)
        together(lambda: self._keep(number, rows) if processes.main() else None)
        return rows

    def _keep(self, number: int, rows: Sequence[Row]) -> None:
        path = Workdir(self._workdir).rollout(number)
        try:
            rollout_files.write(path, self._header(number), rows)
        except OSError as e:
            raise UserError(f"{path}: cannot be written: {e}") from e

    def _scores(
        self, number: int, tasks: Sequence[Task], rows: Sequence[Row], check: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Of each answer {verifier: its score}: those of the file where a launch that was killed after it had scored the same answers,
        as a verifier may score them otherwise now."""
        before = self._before(number)
        if [row["ids"] for row in before] == [row["ids"] for row in rows]:
            return [row["scores"] for row in before]
        verifiers, texts = self._prompts.verifiers, [row["answer"] for row in rows]
        try:
            found = {name: scored_all(name, verifier, texts, tasks, check) for name, verifier in verifiers.items()}
            if not any(all(isinstance(score, Score) for score in scores) for scores in zip(*found.values())):
                name, lost = next(
                    (name, s) for name, scores in found.items() for s in scores if isinstance(s, Unscored)
                )
                raise UserError(
                    f"verifier {name!r}: none of the {len(texts)} answers has a score, the first for this reason: {lost.reason}"
                )
            return [{name: shown(scores[n]) for name, scores in found.items()} for n in range(len(rows))]
        finally:
            for verifier in verifiers.values():
                verifier.close()

    def _before(self, number: int) -> list[Row]:
        """The answers of the run's file of a rollout, none where it has none that can be read."""
        try:
            return rollout_files.read(Workdir(self._workdir).rollout(number), self._header(number)) or []
        except UserError:
            return []

    def _reward(self, rows: list[Row], whole: Any) -> None:
        """Fills in what follows from scores: rewards, advantages, and which answers count."""
        add_up(rows, self._new, self._buffer)
        for row in rows:
            row["kl"] = 0.0
        if self._kl:
            for row, kl in zip(rows, self._divergences(rows, whole)):
                row["kl"] = float(kl)
        groups = (len(rows) // self._prompts.samples, self._prompts.samples)
        rewards = np.array([row["reward"] - row["penalty"] for row in rows]).reshape(groups)
        held = self._kl * np.array([row["kl"] for row in rows]).reshape(groups)
        known = ~np.array([row["unscored"] for row in rows]).reshape(groups)
        advantages = self._objective.advantages(rewards, held, known.astype(float))
        everywhere = np.ones(groups, bool)
        spreads = deviation(rewards, known.astype(float), 1) * everywhere
        most, least = (np.where(known, rewards, -sign * np.inf) for sign in (1, -1))
        alike = (most.max(axis=1, keepdims=True) <= least.min(axis=1, keepdims=True)) & (groups[1] > 1) & everywhere
        ended = np.array([row["reason"] in ENDED for row in rows]).reshape(groups)
        counts = known & ~((self._drop["alike"] & alike) | (self._drop["overlong"] & ~ended))
        if not counts.any():  # a step needs a weight to divide by: all count, and none is better than another
            counts, advantages = known, 0 * advantages
        told = {"advantage": advantages, "counts": counts, "reward_std": spreads, "alike": alike, "ended": ended}
        for name, values in told.items():
            for row, value in zip(rows, values.reshape(-1).tolist()):
                row[name] = value

    @functools.cached_property
    def _of_reference(self) -> Callable[[Any, Any], jax.Array]:
        """(parameters, batch) -> float32 [B], the log-probability of each answer; compiled once."""
        objective, model = self._objective, self._trainer.model
        layout = NamedSharding(self._trainer.mesh, PartitionSpec()) if self._jitted else None
        return jax.jit(
            lambda params, batch: jnp.sum(objective.by_reference(model, params, batch), axis=1), out_shardings=layout
        )

    def _divergences(self, rows: list[Row], whole: Any) -> np.ndarray:
        """float [rows]: of each answer the sum of log-probabilities as sampled less those of the reference."""
        trainer = self._trainer
        params = trainer.partition.merge(whole.anchor, whole.frozen)
        unknown: Row = {"advantage": 0.0, "counts": True, **dict.fromkeys(FACTS, 0.0)}
        batch = self._arrays([{**unknown, **row} for row in rows])
        found = []
        for first in range(0, len(rows), self._part):
            part = self._mine({name: values[first : first + self._part] for name, values in batch.items()})
            placed = trainer.program.place(part) if self._jitted else jax.device_put(part)
            found.append(np.asarray(self._of_reference(params, placed)))
        return batch["sampled"].sum(axis=1) - np.concatenate(found)

    # Arrays

    def _batch(self, number: int, rows: list[Row], whole: Any) -> Rows:
        """The batch of the answers of a rollout, of all processes; `whole`: the state of the step that is to learn from it."""
        return self._arrays(rows)

    def _empty(self, count: int) -> Rows:
        """A batch of so many answers that has none."""
        shape = (count, self._length)
        out: Rows = {name: np.zeros(shape, np.int32) for name in ("inputs", "targets", "positions", "segments")}
        out |= {name: np.zeros(shape, np.float32) for name in ("weights", "sampled")}
        out |= {name: np.zeros(count, np.float32) for name in ("advantages", "counts", *FACTS)}
        if self._kl:
            out["kl"] = np.zeros(count, np.float32)
        if self._sampling.truncates:
            out["support"] = np.zeros((*shape, -(-self._model.spec.vocab_size // 8)), np.uint8)
        return out

    def _arrays(self, rows: Sequence[Mapping[str, Any]]) -> Rows:
        """The batch of answers, as `ptft_jax.objectives.policy.Policy.loss_of` has it."""
        out = self._empty(len(rows))
        for n, row in enumerate(rows):
            ids, stop = np.asarray(row["ids"], np.int32), len(row["ids"]) - 1
            here = slice(row["prompt_tokens"] - 1, stop)
            out["inputs"][n, :stop], out["targets"][n, :stop] = ids[:-1], ids[1:]
            out["positions"][n, :stop], out["segments"][n, :stop] = np.arange(stop), 1
            out["weights"][n, here], out["sampled"][n, here] = 1, row["log_probs"]
            out["advantages"][n], out["counts"][n] = row["advantage"], row["counts"]
            for name in FACTS:
                out[name][n] = row[name]
            if "kl" in out:
                out["kl"][n] = row["kl"]
            if "support" in out:
                out["support"][n, here] = rollout_files.unpacked(row["support"], len(row["log_probs"]))
        return out

    def _mine(self, batch: Rows) -> Rows:
        """This process' rows."""
        mine = batches.share_of(len(batch["inputs"]), jax.process_index(), jax.process_count())
        return {name: values[mine] for name, values in batch.items()}


def _go_on() -> None:
    """Ends nothing."""


def _row(asked: tuple[Task, list[int]], written: Written) -> Row:
    """An answer, as people and `Rollouts` read it. It is learned with what ended it, and never from its text."""
    (task, prompt), (text, generated) = asked, written
    new = [*generated.ids, *([] if generated.end is None else [generated.end])]
    assert generated.drawn is not None and len(new) == len(generated.drawn), "a log-probability for each token"
    return {
        **row_of(task, Continuation("", text, len(new), generated.reason), {}),
        "prompt_tokens": len(prompt),
        "ids": [*prompt, *new],
        "log_probs": generated.drawn,
        **({} if generated.support is None else {"support": rollout_files.packed(generated.support)}),
    }


def add_up(rows: Sequence[Row], most: int, buffer: int) -> None:
    """Says of answers with scores what they are worth: "reward", the sum of their scores, or that they are "unscored"; and the "penalty" of
    those that use the last `buffer` of `most` tokens."""
    for row in rows:
        values = [score["value"] for score in row["scores"].values()]
        row["unscored"] = None in values
        row["reward"] = 0.0 if row["unscored"] else sum(values)
        row["penalty"] = _overlong(row["tokens"], most, buffer)


def refuse_buffer(buffer: int, most: int) -> None:
    """Raises UserError where more tokens would cost reward than an answer may have."""
    if buffer > most:
        raise UserError(f"config.{FIELD}.overlong_buffer = {buffer}: expected at most {FIELD}.max_new_tokens = {most}")


def _overlong(tokens: int, most: int, buffer: int) -> float:
    """What an answer of so many tokens costs (Yu et al. 2025, DAPO, equation 13)."""
    return min(max(tokens - (most - buffer), 0) / buffer, 1.0) if buffer else 0.0
