"""Training rows that the model itself writes: answers to prompts, rewarded by verifiers."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ptft_jax import config as configs
from ptft_jax.config.located import located
from ptft_jax.config.seeds import Use, mixed
from ptft_jax.data import batches
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.pipeline import TrainingData
from ptft_jax.data.rows import Rows
from ptft_jax.errors import UserError
from ptft_jax.evaluation.samples import ENDED
from ptft_jax.evaluation.tool_turns import talk
from ptft_jax.model.decode import Sampling
from ptft_jax.objectives.policy import ASKED, CALLS, MEMBERS, Policy, deviation
from ptft_jax.objectives.ppo import explained
from ptft_jax.parallel import processes
from ptft_jax.rewards.base import Task
from ptft_jax.runs.checkpoint import together
from ptft_jax.runs.source import Source
from ptft_jax.training import redrawing, rollout_files
from ptft_jax.training.answer_facts import (
    Row,
    add_up,
    compare_members,
    count_calls,
    refuse_buffer,
    row_of_written,
    turns_of,
)
from ptft_jax.training.answer_rows import AnswerRows, answer_of
from ptft_jax.training.answer_scores import scores
from ptft_jax.training.hooks import Halted, Hook, Moment
from ptft_jax.training.prompt_order import Order
from ptft_jax.training.prompts import FIELD, Asks, Prompts, shared_out
from ptft_jax.training.trainer import Trainer

_ByToken = Callable[[Any, Any], jax.Array]  # (parameters, batch) -> float32 [B, T]


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
        before: Source | None = None,
    ):
        """`first_step`: what the run begins with. Nothing was sampled for it before that step; what `before`, the run that it goes on from,
        has asked is not asked again.

        Attributes:
          check: called between parts of sampling and scoring; may raise to end them.
        """
        p = config.objective.policy
        self._first_step, self._middle, self.check = first_step, False, _go_on
        self._prompts, self._trainer, self._tokenizer, self._workdir = prompts, trainer, tokenizer, workdir
        self._objective, self._seed, self._updates = trainer.objective, config.seed, data.updates
        self._size, self._length = config.data.batch_size, config.data.length
        self._sampling = Sampling(p.temperature, p.top_k, p.top_p, p.min_p)
        self._new, self._answers = p.max_new_tokens, prompts.draws.rows * prompts.samples
        self._model = dataclasses.replace(trainer.model, constrain=None)
        self._several = any(verifier.several for verifier in prompts.verifiers.values())
        self._more = (*(MEMBERS if self._several else ()), *(CALLS if prompts.tools else ()))
        self._redraws, self._bound, self._support = prompts.draws.again, p.max_mismatch, self._sampling.truncates
        self._checks = False  # whether what weighs answers leaves it to compare their probabilities
        self._files = rollout_files.Files(workdir, data.updates, data.key)
        self._order = Order(config, self._files, data.key, again=self._redraws, first_step=first_step, other=before)
        self._configure(config)
        self._jitted = config.parallel.compile == "jit"
        self._part = self._size // config.training.micro_batches
        self._drawn = batches.Batches(
            data.sets, data.mixture, batch_size=prompts.draws.rows, seed=config.seed, process=0, processes=1
        )
        self._held: tuple[int, Rows] | None = None

    @classmethod
    def asks(cls, config: configs.Section) -> Asks:
        """What is asked at a step. Raises UserError for settings that do not fit together."""
        p, rows = config.objective.policy, config.data.batch_size
        objective = located(config.tables.objectives[config.objective.name].loss)
        if rows == 1 and not objective.value_head:
            raise UserError(
                "config.data.batch_size = 1: an answer is rewarded by how it compares with others: expected 2 or more"
            )
        again = p.resample if objective.least > 1 else 0  # else no answer is compared with others to its prompt
        return Asks(shared_out(rows, p.samples, f"{FIELD}.samples"), p.samples, again=again)

    def _configure(self, config: configs.Section) -> None:
        """Reads what decides what is learned of answers that have scores."""
        p, objective = config.objective.policy, self._objective
        self._buffer = p.overlong_buffer
        self._drop = {"alike": p.alike == "drop", "overlong": p.overlong == "drop"}
        refuse_buffer(self._buffer, self._new)
        self._kl = objective.kl if not objective.compares else 0.0  # taken off rewards
        bits = self._support_bytes()
        facts = (*(ASKED if self._redraws else ()), *self._more)
        self._form = AnswerRows(self._length, objective.value_head, bool(self._kl), bits, facts)

    def _support_bytes(self) -> int:
        """How many bytes per token what could be sampled takes, which is kept where that is not all."""
        return -(-self._model.spec.vocab_size // 8) if self._support else 0

    def _configure_checks(self, config: configs.Section) -> None:
        """Likewise for those that learn from answers whatever their probabilities: these are compared with what the model gives them in rows of
        training."""
        p = config.objective.policy
        self._checks = True
        self._form = AnswerRows(self._length, support=self._support_bytes())
        self._policy = Policy(chunk=config.objective.chunk, temperature=p.temperature)

    def next(self, step: int, state: Any) -> Rows:
        """As `Feed.next`. Raises UserError: a verifier fails, or gives a score that is not finite; the model's logits are not finite; the
        answers of a step in the middle of a rollout are not there."""
        number, lag = divmod(step, self._updates)
        if self._held is None or self._held[0] != number:
            whole = self._trainer.program.whole(state)
            if int(whole.step) != step:  # the run has ended
                return self._mine(self._empty(self._size))
            begins = not lag or step == self._first_step
            rows = self._begun(number, whole, bool(lag)) if begins else self._kept(number, step)
            self._held = number, self._mine(self._batch(number, rows, whole))
        return self._held[1]

    def forms(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, of all processes."""
        row = self._empty(1)
        return {name: jax.ShapeDtypeStruct((self._size, *v.shape[1:]), v.dtype) for name, v in row.items()}

    @property
    def hooks(self) -> list[Hook]:
        """What is looked at after steps: whether sampling and training give tokens the same probabilities."""
        return [Hook(self._fresh, self._check_mismatch)] if self._bound else []

    def _fresh(self, moment: Moment) -> bool:
        """Whether the last step was made by the model that had written its answers."""
        begins = (moment.step - 1) % self._updates == 0
        return not moment.first and (begins or (moment.step - 1 == self._first_step and not self._middle))

    def _check_mismatch(self, moment: Moment) -> None:
        found = moment.metrics.get("mismatch", 0.0)
        if found > self._bound:
            raise Halted(
                f"step {moment.step}: the log-probabilities of the answers' tokens are {found:.3g} nats apart, on average, between sampling "
                f"and the step that learns from them, more than config.{FIELD}.max_mismatch = {self._bound:g}: the same command with a higher bound "
                "(0 = none) goes on from there; or begin another run with model.dtype='float32', no dropout (model.dropout, "
                "tune.METHOD.dropout) and no tune.mixout"
            )

    # Making and keeping

    def _begun(self, number: int, whole: Any, middle: bool) -> list[Row]:
        """The answers of a rollout that the run begins; `middle`: in the middle of which another run was left."""
        rows = self._order.begun(number) if middle else None
        if rows is None:
            return self._made(number, whole)
        self._middle = True
        self._files.write(number, rows)
        return redrawing.kept(rows)

    def _kept(self, number: int, step: int) -> list[Row]:
        """The answers of a rollout that was made before the run stopped, those that are learned from."""
        path, kept = self._files.path(number), redrawing.kept(self._files.read(number) or [])
        if len(kept) != self._answers:
            first = number * self._updates
            raise UserError(
                f"{path}: the answers that steps {first + 1} to {first + self._updates} learn from are not there, or are another run's, and the "
                f"model that wrote them is gone: the run cannot go on from step {step}; another can, with new answers: "
                f"--config.init.from={self._workdir}@{step} --config.init.optimizer=True"
            )
        return kept

    def _made(self, number: int, whole: Any) -> list[Row]:
        """The answers of a new rollout, those that are learned from. All that were written are kept in its file."""
        samples, count = self._prompts.samples, self._answers // self._prompts.samples
        first = self._order.first(number, count)
        rows = self._asked(number, 0, range(first, first + count), whole)
        for again in range(1, self._redraws + 1):
            if not (missing := count - redrawing.varied(rows, samples)):
                break
            first = rows[-1]["number"] + 1
            rows += self._asked(number, again, range(first, first + missing), whole)
        if self._redraws:
            redrawing.choose(rows, samples, count)
        kept = redrawing.kept(rows)
        self._reward(kept, whole)
        if self._checks:
            self._compare(kept, whole)
        self._files.write(number, rows)
        return kept

    def _compare(self, rows: Sequence[Row], whole: Any) -> None:
        """Says of answers how far the log-probabilities of their tokens are, on average, from those that the model that wrote them gives them in
        rows of training: "mismatch"."""
        batch = self._form.tokens(rows)
        room = -len(rows) % self._part  # parts are all of one size
        whole_parts = {name: np.pad(v, [(0, room)] + [(0, 0)] * (v.ndim - 1)) for name, v in batch.items()}
        found = self._by_parts(self._of_sampler, whole.trainable, whole.frozen, whole_parts)
        for n, row in enumerate(rows):
            here = answer_of(row)
            row["mismatch"] = float(np.abs(found[n, here] - batch["sampled"][n, here]).mean())

    def _asked(self, number: int, again: int, numbers: range, whole: Any) -> list[Row]:
        """Answers to prompts of these numbers, with their scores; `again`: how often prompts were drawn again for the rollout."""
        size = self._prompts.draws.rows
        places = [[int(part[n % size]) for part in self._drawn.addresses(n // size)] for n in numbers]
        asked = [prompt for place in places for prompt in [self._prompts.asked(*place)] * self._prompts.samples]
        tools = self._prompts.tools
        before = self._files.before(number) if tools else []
        before = [row for row in before if row.get("again", 0) == again]
        written = talk(
            self._model,
            self._trainer.partition.merge(whole.trainable, whole.frozen),
            self._tokenizer,
            [ids for _, ids in asked],
            tools=tools,
            tasks=[task for task, _ in asked],
            templates=[self._prompts.template(place[0]) for place in places for _ in range(self._prompts.samples)],
            before=[turns_of(row) for row in before] if len(before) == len(asked) else (),
            max_new_tokens=self._new,
            sampling=self._sampling,
            seed=mixed(self._seed, Use.ROLLOUT, number, *([again] if again else [])),
            stop=self._prompts.stop,
            with_stop=True,
            check=self.check,
            logprobs=True,
            support=self._support,
        )
        rows = [row_of_written(*row, tools=tools is not None) for row in zip(asked, written)]
        if self._redraws:
            for place, row in enumerate(rows):
                row |= {"number": numbers[place // self._prompts.samples], "again": again}
        self._score(number, [task for task, _ in asked], rows)
        if tools:
            count_calls(rows)
        return rows

    def _score(self, number: int, tasks: Sequence[Task], rows: list[Row]) -> None:
        """Fills in scores, and what they add up to."""
        check = self.check if jax.process_count() == 1 else _go_on  # several ask equally often, and one of them scores
        given = (self._prompts.verifiers, tasks, rows)
        found = processes.shared(
            together(lambda: scores(*given, self._files.before(number), check) if processes.main() else None)
        )
        for row, scored in zip(rows, found):
            row["scores"] = scored
        add_up(rows, self._new, self._buffer)
        if self._several:
            compare_members(rows, self._prompts.samples)

    def _reward(self, rows: list[Row], whole: Any) -> None:
        """Fills in what follows from rewards: advantages, which answers count, and what values learn."""
        batch, ahead = self._form.tokens(rows), np.zeros((len(rows), self._length))
        if self._kl:
            behind = self._by_parts(self._of_reference, whole.anchor, whole.frozen, batch)
            ahead = (batch["sampled"] - behind) * batch["weights"]  # of each token that was sampled
        for row, kl in zip(rows, ahead.sum(axis=1).tolist()):
            row["kl"] = kl
        groups = (len(rows) // self._prompts.samples, self._prompts.samples)
        rewards = np.array([row["reward"] - row["penalty"] for row in rows]).reshape(groups)
        known = ~np.array([row["unscored"] for row in rows]).reshape(groups)
        everywhere = np.ones(groups, bool)
        spreads = deviation(rewards, known.astype(float), 1) * everywhere
        alike = redrawing.alike(rows, self._prompts.samples)[:, None] & everywhere
        ended = np.array([row["reason"] in ENDED for row in rows]).reshape(groups)
        counts = known & ~((self._drop["alike"] & alike) | (self._drop["overlong"] & ~ended))
        none = not counts.any()  # a step needs a weight to divide by: all count, and none is better than another
        told = {"counts": known if none else counts, "reward_std": spreads, "alike": alike, "ended": ended}
        if self._objective.value_head:
            self._value(rows, batch, -self._kl * ahead, rewards.reshape(-1), none, whole)
        else:
            held = self._kl * ahead.sum(axis=1).reshape(groups)
            told["advantage"] = self._objective.advantages(rewards, held, known.astype(float)) * (not none)
        for name, values in told.items():
            for row, value in zip(rows, values.reshape(-1).tolist()):
                row[name] = value

    def _value(
        self, rows: list[Row], batch: Rows, held_BT: np.ndarray, rewards_B: np.ndarray, none: bool, whole: Any
    ) -> None:
        """Fills in of each token of an answer its value, its advantage and what its value is to be, by the reward of each token and that
        of the whole answer, which comes with the last. `none`: no answer counts as better than another."""
        found_BT = self._by_parts(self._of_values, whole.trainable, whole.frozen, batch)
        values, rewards = [], []
        for row, held, found, reward in zip(rows, held_BT, found_BT, rewards_B):
            here = answer_of(row)
            values.append(found[here].astype(float))
            rewards.append(held[here].astype(float))
            rewards[-1][-1] += reward
        known = [not row["unscored"] for row in rows]
        advantages, returns = self._objective.estimated(rewards, values, known)
        share = explained(*(np.concatenate([a for a, k in zip(part, known) if k]) for part in (returns, values)))
        for n, row in enumerate(rows):
            row["values"], row["returns"] = values[n].tolist(), returns[n].tolist()
            row["advantages"] = (0 * advantages[n] if none else advantages[n]).tolist()
            row["explained"], row["varied"] = share or 0.0, share is not None

    def _empty(self, count: int) -> Rows:
        """A batch of so many rows that has no answers."""
        return self._form.empty(count)

    def _batch(self, number: int, rows: list[Row], whole: Any) -> Rows:
        """The batch of the answers of a rollout, of all processes; `whole`: the state of the step that is to learn from it."""
        return self._form.batch(rows)

    @functools.cached_property
    def _of_reference(self) -> _ByToken:
        """The log-probability of each token of answers; compiled once."""
        return self._compiled(self._objective.by_reference)

    @functools.cached_property
    def _of_sampler(self) -> _ByToken:
        """Likewise of the distribution that was sampled from."""
        return self._compiled(self._policy.by_reference)

    @functools.cached_property
    def _of_values(self) -> _ByToken:
        """Likewise what the rest of the answer is worth."""
        return self._compiled(self._objective.values)

    def _compiled(self, function: Callable[..., jax.Array]) -> _ByToken:
        layout = NamedSharding(self._trainer.mesh, PartitionSpec()) if self._jitted else None
        return jax.jit(functools.partial(function, self._trainer.model), out_shardings=layout)

    def _by_parts(self, function: _ByToken, changed: Any, frozen: Any, batch: Rows) -> np.ndarray:
        """float32 [rows, T]: what a function gives of the answers of a batch, as many at a time as a step has. The parameters as of
        `Partition.merge`."""
        params, found = self._trainer.partition.merge(changed, frozen), []
        for first in range(0, len(batch["inputs"]), self._part):
            part = self._mine({name: values[first : first + self._part] for name, values in batch.items()})
            placed = self._trainer.program.place(part) if self._jitted else jax.device_put(part)
            found.append(np.asarray(function(params, placed)))
        return np.concatenate(found)

    def _mine(self, batch: Rows) -> Rows:
        """This process' rows."""
        mine = batches.share_of(len(batch["inputs"]), jax.process_index(), jax.process_count())
        return {name: values[mine] for name, values in batch.items()}


def _go_on() -> None:
    """Ends nothing."""
