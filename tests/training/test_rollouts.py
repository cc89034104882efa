"""What follows from the scores of answers, and the files that hold them, by hand; whole runs are in tests/e2e/test_rollouts.py."""

import functools
import types

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.objectives.policy import FACTS, GRPO, RLOO, Reinforce
from ptft_jax.objectives.ppo import PPO
from ptft_jax.rewards.base import Function
from ptft_jax.training import rollout_files
from ptft_jax.training.answer_facts import add_up
from ptft_jax.training.answer_rows import AnswerRows
from ptft_jax.training.answer_scores import scores
from ptft_jax.training.hooks import Halted, Moment
from ptft_jax.training.prompt_order import Order
from ptft_jax.training.rollouts import Rollouts
from ptft_jax.training.termination import Terminated


def rollouts(objective, samples=2, drop=(), buffer=0, kl=0.0, behind=()):
    """What scores answers, of no run. `behind`: the reference's log-probability of each answer."""
    made = Rollouts.__new__(Rollouts)
    made._objective, made._kl, made._drop = objective, kl, {name: name in drop for name in ("alike", "overlong")}
    made._new, made._buffer, made._length, made._part = 4, buffer, 8, 4
    made._jitted, made._form, made._checks, made._redraws = False, AnswerRows(8), False, 0
    made._prompts = types.SimpleNamespace(samples=samples)
    made._trainer = types.SimpleNamespace(partition=types.SimpleNamespace(merge=lambda *parts: None))
    first = np.eye(1, 8, dtype=np.float32)  # the reference has it all in one place
    made.__dict__["_of_reference"] = lambda params, batch: np.array(behind, np.float32)[:, None] * first
    return made


def answers(rewards, tokens=(1, 2, 3, 4), reasons=("end", "stop", "end", "length")):
    """Of a prompt of one token."""
    return [
        {"scores": {"a": {"value": r, "reason": ""}}, "tokens": n, "reason": why, "prompt_tokens": 1, "ids": [5] * (1 + n), "log_probs": [-0.5] * n}
        for r, n, why in zip(rewards, tokens, reasons)
    ]  # fmt: skip


CONFIG = types.SimpleNamespace(objective=types.SimpleNamespace(policy=types.SimpleNamespace(updates=1)))
FILES = functools.partial(rollout_files.Files, updates=1, data="")
STATE = types.SimpleNamespace(anchor=None, frozen=None, trainable=None)


def told(made, rows, *names):
    add_up(rows, made._new, made._buffer)
    made._reward(rows, STATE)
    return [[row[name] for row in rows] for name in names]


def test_what_holds_is_the_log_probability_beyond_the_reference():
    """An answer that the model makes more probable than its parent does costs reward."""
    made = rollouts(RLOO(kl=0.5, kl_estimator="k1"), kl=0.5, behind=[-0.7, -1.4, -1.5, -2.0])
    kl, advantages = told(made, answers([1.0, 0.0, 2.0, 2.0]), "kl", "advantage")
    np.testing.assert_allclose(kl, [0.2, 0.4, 0.0, 0.0], atol=1e-6)  # of -0.5 a token
    np.testing.assert_allclose(advantages, [1.1, -1.1, 0.0, 0.0], atol=1e-6)


def test_values_of_tokens_by_hand():
    """The answer's reward comes with its last token, whatever ended it; each token pays what the model has beyond its parent; an answer
    without a score teaches nothing."""
    made = rollouts(PPO(kl=0.5, kl_estimator="k1", gae_lambda=0.0, whiten=False), samples=1, buffer=2, kl=0.5)
    ratio = np.zeros((3, 8), np.float32)
    ratio[0, :2], ratio[1, :4] = (0.2, -0.4), (0.0, 0.0, 0.6, 0.0)
    found = np.array(
        [[1.0, 2.0, 9, 9, 9, 9, 9, 9], [0.5, 0.5, 0.5, 1.0, 9, 9, 9, 9], [3.0, 9, 9, 9, 9, 9, 9, 9]], np.float32
    )
    made.__dict__["_of_reference"] = lambda params, batch: (batch["sampled"] - ratio) * batch["weights"]
    made.__dict__["_of_values"] = lambda params, batch: found
    made._trainer.partition.merge = lambda *parts: None
    rows = answers([1.0, 4.0, None], (2, 4, 1), ("end", "length", "end"))
    kl, penalty, advantages, returns, values = told(made, rows, "kl", "penalty", "advantages", "returns", "values")
    np.testing.assert_allclose(kl, [-0.2, 0.6, 0.0], atol=1e-6)
    assert penalty == [0.0, 1.0, 0.0] and values == [[1.0, 2.0], [0.5, 0.5, 0.5, 1.0], [3.0]]
    # r + v' - v, with r = -0.5 kl of the token and at the last one the reward less the penalty, where v' = 0.
    expected = [[-0.1 + 2 - 1, 0.2 + 1 - 2], [0.0, 0.0, -0.3 + 1 - 0.5, 3 - 1], [0.0]]
    for got, back, old, want in zip(advantages, returns, values, expected):
        np.testing.assert_allclose(got, want, atol=1e-6)
        np.testing.assert_allclose(back, np.add(want, old), atol=1e-6)
    assert [row["counts"] for row in rows] == [True, True, False]


def test_values_of_the_tokens_around_what_a_tool_said():
    """Of four tokens after the prompt the second and the third are a tool's: the first's next value is that of the fourth."""
    made = rollouts(PPO(kl=0.5, kl_estimator="k1", gae_lambda=0.0, whiten=False), samples=1, kl=0.5, behind=[9.0])
    made.__dict__["_of_reference"] = lambda params, batch: (
        batch["sampled"] - 0.2 * np.array([[1, 9, 9, -1, 9, 9, 9, 9]])
    )
    made.__dict__["_of_values"] = lambda params, batch: np.array([[1.0, 7.0, 7.0, 2.0, 9, 9, 9, 9]], np.float32)
    [row] = answers([1.0], (2,), ("end",))
    row |= {"ids": [5] * 5, "given": [[2, 4]]}
    advantages, values, kl = told(made, [row], "advantages", "values", "kl")
    assert values == [[1.0, 2.0]] and kl == [pytest.approx(0.0)]
    np.testing.assert_allclose(advantages, [[-0.1 + 2.0 - 1.0, 0.1 + 1.0 - 2.0]], atol=1e-6)
    batch = AnswerRows(8, valued=True).batch([row | {name: 0.0 for name in (*FACTS, "counts", "explained", "varied")}])
    np.testing.assert_allclose(batch["advantages"][0], [0.9, 0, 0, -0.9, 0, 0, 0, 0], atol=1e-6)
    assert batch["weights"][0].tolist() == [1, 0, 0, 1, 0, 0, 0, 0]


def test_which_answers_count():
    rewards = [1.0, 0.0, 2.0, 2.0]
    counts, alike, ended, spread = told(
        rollouts(RLOO(), drop=("alike",)), answers(rewards), "counts", "alike", "ended", "reward_std"
    )
    assert counts == [True, True, False, False] and alike == [False, False, True, True]
    assert ended == [True, True, True, False]
    np.testing.assert_allclose(spread, [np.sqrt(0.5), np.sqrt(0.5), 0, 0])  # of a sample
    assert told(rollouts(RLOO(), drop=("overlong",)), answers(rewards), "counts") == [[True, True, True, False]]
    # A step needs one to divide by: then none is better than another.
    counts, advantages = told(
        rollouts(RLOO(), drop=("alike", "overlong")),
        answers([1.0, 0.0, 2.0, 2.0], reasons=["length"] * 4),
        "counts",
        "advantage",
    )
    assert counts == [True] * 4 and advantages == [0.0] * 4
    penalty, advantages = told(rollouts(GRPO(scale="none"), buffer=2), answers(rewards), "penalty", "advantage")
    assert penalty == [0.0, 0.0, 0.5, 1.0] and advantages == [0.5, -0.5, 0.25, -0.25]


def test_answers_without_a_score_count_for_nothing():
    """And the others of their prompt are compared among each other."""
    rows = answers([1.0, None, 3.0, 5.0])
    counts, unscored, alike = told(rollouts(RLOO(), samples=4), rows, "counts", "unscored", "alike")
    assert counts == [True, False, True, True] and unscored == [False, True, False, False] and not any(alike)
    assert told(rollouts(RLOO(), samples=4), rows, "advantage", "reward_std") == [[-3.0, 0.0, 0.0, 3.0], [2.0] * 4]
    assert told(rollouts(Reinforce(), samples=1), rows, "advantage") == [[-3.0, 0.0, 0.0, 3.0]]
    assert told(rollouts(GRPO(scale="none")), rows, "advantage", "alike") == [
        [0.0, 0.0, -1.0, 1.0],
        [True, True, False, False],
    ]
    [found] = told(rollouts(GRPO(), samples=4), rows, "advantage")
    np.testing.assert_allclose(found, [-2 / 2.0001, 0, 0, 2 / 2.0001])


def test_scores_of_the_same_answers_are_taken_and_scoring_can_be_left():
    """A verifier with a clock may give others to a run that goes on."""
    verifiers = {"a": Function(lambda answer, task: 7.0)}
    rows = [{**row, "answer": ""} for row in answers([1.0, 0.0, 2.0, 3.0])]
    fresh = [{**row, "scores": {}} for row in rows]

    def values(before=(), check=lambda: None):
        return [row["a"]["value"] for row in scores(verifiers, [None] * 4, fresh, before, check)]

    assert values() == [7.0] * 4 and values(rows) == [1.0, 0.0, 2.0, 3.0]
    fresh[2]["ids"] = [5, 5, 5, 6]
    assert values(rows) == [7.0] * 4

    def leave():
        raise Terminated("sigterm")

    with pytest.raises(Terminated):
        values(check=leave)


def test_prompts_whose_answers_are_alike_are_drawn_again(tmp_path):
    """Of two prompts a step. No prompt is lost or asked twice, also by a run that goes on; where there are no better ones, alike ones stay."""
    same, asked = {1, 2, 5, 6, 7, 8, 9}, []

    def begun():
        made = rollouts(RLOO())
        made._redraws, made._answers, made._updates = 2, 4, 1
        made._files, made._reward = FILES(tmp_path), lambda rows, whole: None
        made._order = Order(CONFIG, made._files, "", again=2, first_step=0, other=None)

        def write(number, again, numbers, whole):
            asked.append((number, again, list(numbers)))
            rows = answers([r for n in numbers for r in (1.0, 1.0 if n in same else 0.0)], [1, 2] * 2, ["end"] * 4)
            rows = [row | {"number": numbers[i // 2], "again": again} for i, row in enumerate(rows)]
            add_up(rows, 4, 0)
            return rows

        made._asked = write
        return made

    def learned(made, number):
        return [row["number"] for row in made._made(number, None)][::2]

    made = begun()
    assert learned(made, 0) == [0, 3] and asked == [(0, 0, [0, 1]), (0, 1, [2]), (0, 2, [3])]
    assert learned(made, 1) == [4, 5] and asked[3:] == [(1, 0, [4, 5]), (1, 1, [6]), (1, 2, [7])]
    kept = [row for row in FILES(tmp_path).read(1) if row["kept"]]
    assert [(row["rounds"], row["alike_asked"]) for row in kept] == [(3, 0.75)] * 4
    again = begun()
    assert again._kept(1, 2) == kept
    assert learned(again, 2) == [10, 11] and asked[6:] == [(2, 0, [8, 9]), (2, 1, [10, 11])]
    (tmp_path / "rollouts/000002.jsonl").unlink()
    with pytest.raises(UserError, match="000002.jsonl: is not there.* which prompts were asked before step 4"):
        begun()._made(3, None)


@pytest.mark.parametrize("begun", [None, ["begun"]])
def test_a_run_that_goes_on_in_the_middle_of_a_rollout_has_its_answers(begun):
    """From another run's step 25, of 2 updates each; where what that run had sampled is not its own, it begins one."""
    made = rollouts(RLOO())
    made._updates, made._first_step, made._held, made._middle = 2, 25, None, False
    written, files = {}, types.SimpleNamespace(write=lambda number, rows: written.update({number: rows}))
    made._order, made._files = types.SimpleNamespace(begun=lambda number: begun and [{"a": 1}]), files
    made._trainer.program = types.SimpleNamespace(whole=lambda state: state)
    made._made, made._kept = lambda number, whole: ["made"], lambda number, step: ["kept"]
    made._form, made._mine = types.SimpleNamespace(batch=lambda rows: rows), lambda rows: rows
    at = lambda step: types.SimpleNamespace(step=step)  # noqa: E731
    assert [made.next(step, at(step)) for step in (25, 26, 27)] == [[{"a": 1}] if begun else ["made"], *[["made"]] * 2]
    assert written == ({12: [{"a": 1}]} if begun else {})
    made._held = None
    assert made.next(27, at(27)) == ["kept"]
    fresh = [step for step in range(25, 30) if made._fresh(types.SimpleNamespace(first=step == 25, step=step))]
    assert fresh == ([27, 29] if begun else [26, 27, 29])


def test_a_file_with_another_byte_is_damaged(tmp_path):
    path = tmp_path / "rollouts/000000.jsonl"
    rollout_files.write(path, {"rollout": 0}, answers([1.0, 0.0]))
    assert rollout_files.read(path, {"rollout": 0}) == answers([1.0, 0.0])
    assert rollout_files.read(path, {"rollout": 1}) is None
    path.write_text(path.read_text().replace("-0.5", "-0.6", 1))
    with pytest.raises(UserError, match="000000.jsonl: is damaged"):
        rollout_files.read(path, {"rollout": 0})


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({}, False),
        ({"optimizer": {"learning_rate": 0.5}, "training": {"steps": 99}}, False),
        ({"objective": {"policy": {"max_mismatch": 9.0}}}, False),
        ({"seed": 7}, True),
        ({"objective": {"policy": {"clip_low": 0.3}}}, True),
        ({"rewards": {"exact": {"normalize": "none"}}}, True),
        ({"tools": {"use": ("calculator",)}}, True),
        ({"data": {"batch_size": 9}}, True),
        ({"objective": {"policy": {"updates": 4}}}, True),
    ],
)
def test_whose_answers_a_run_in_the_middle_of_a_rollout_learns_from(changes, own, tmp_path):
    """Those of the run that it goes on from, where it would have written and rewarded the same; where these are gone it is told."""
    values = {"objective": {"name": "grpo", "policy": {"updates": 2}}}
    theirs = configs.check(values, complete=False)
    for section, part in changes.items():
        both = section == "objective"
        values[section] = (
            {**values[section], "policy": {**values[section]["policy"], **part["policy"]}} if both else part
        )
    mine = configs.check(values, complete=False)
    (tmp_path / "theirs").mkdir()
    files = rollout_files.Files(tmp_path / "theirs", 2, "data")
    rows = answers([1.0, 0.0])
    files.write(12, rows)
    other = types.SimpleNamespace(name="theirs", workdir=tmp_path / "theirs", config=theirs, meta={"data": "data"})

    def order(key="data"):
        own_files = rollout_files.Files(tmp_path / "mine", 2, key)
        return Order(mine, own_files, key, again=0, first_step=25, other=other)

    assert order().begun(12) == (None if own else rows) and order("other data").begun(12) is None
    files.path(12).unlink()
    if not own:
        with pytest.raises(UserError, match=r"000012.jsonl: is not there, .*theirs was left in the middle of learning"):
            order().begun(12)


def test_a_sampler_that_is_too_far_from_the_step_ends_the_run():
    """In the first step of a rollout alone, and above the bound."""
    made = Rollouts.__new__(Rollouts)
    made._bound, made._updates, made._first_step, made._middle = 0.1, 2, 0, False
    [hook] = made.hooks

    def at(step, mismatch):
        return Moment(step, first=step == 0, last=False, metrics=lambda: {"mismatch": mismatch})

    assert [hook.when(at(step, 9.0)) for step in range(5)] == [False, True, False, True, False]
    hook.do(at(1, 0.1))
    with pytest.raises(
        Halted, match="step 3: .* are 0.11 nats apart, .*objective.policy.max_mismatch = 0.1: the same command"
    ):
        hook.do(at(3, 0.11))
    made._bound = 0.0
    assert made.hooks == []
