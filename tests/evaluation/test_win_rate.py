"""Win rates with and without the advantage of longer answers, in closed form and beside scipy's optimizer."""

import json

import numpy as np
import pytest
from scipy import optimize

from ptft_jax.errors import UserError
from ptft_jax.evaluation.win_rate import Others, against, others
from ptft_jax.rewards.at_equal_length import length_controlled, rates
from ptft_jax.rewards.base import Function, Task, Unscored, Verifier

TASKS = [Task(f"{n}?", (f"answer {n}",), {}, f"x.jsonl, line {n + 1}") for n in range(4)]


def test_of_two_lengths_it_is_the_mean_of_the_logits():
    """Half of the answers are as much longer as the others are shorter; of these 80% and 30% win."""
    wins = np.repeat([1.0, 0.0, 1.0, 0.0], [40, 10, 15, 35])
    longer = np.repeat([7.0, -7.0], 50)
    logit = (np.log(0.8 / 0.2) + np.log(0.3 / 0.7)) / 2
    assert length_controlled(wins, longer, deviation=1e6) == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-6)
    assert rates(wins - 0.5, longer)["win_rate"] == pytest.approx(0.55)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_optimum_that_scipy_finds(seed):
    rng = np.random.default_rng(seed)
    longer = rng.normal(3, 20, 60).round()
    wins = rng.choice([0.0, 0.5, 1.0], 60) if seed else (longer > 0).astype(float)  # seed 0: length alone decides
    x = np.tanh(longer / np.std(longer, ddof=1))

    def cost(found):
        z = found[0] + found[1] * x
        return np.sum(np.logaddexp(0, z) - wins * z) + found[1] ** 2 / 18

    expected = optimize.minimize(cost, np.zeros(2), tol=1e-12).x[0]
    assert length_controlled(wins, longer) == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-5)


def test_where_length_says_nothing_it_is_the_win_rate():
    for wins, longer in (([1, 1, 0.5], [4, 4, 4]), ([1, 1, 1], [1, 2, 3]), ([0, 0], [1, 2]), ([0.5], [3])):
        assert length_controlled(np.array(wins, float), np.array(longer, float)) == np.mean(wins)
    assert rates(np.zeros(0), np.zeros(0)) == {"win_rate": None, "length_controlled": None, "wins": 0, "ties": 0, "losses": 0}  # fmt: skip


def test_other_answers_are_scored_by_the_same_verifiers():
    class Sometimes(Verifier):
        partial = True

        def score(self, answer, task):
            return Unscored("") if answer == "skip" else Function(lambda a, t: a.count("g")).score(answer, task)

    rows = [{"answer": text, "scores": {"v": {"value": value}}} for text, value in (("gg", 2), ("g", 1), ("", 0), ("ggg", None))]  # fmt: skip
    found = against(Others(("g", "skip", "gg", "g"), 0.5), rows, {"v": Sometimes()}, TASKS)
    assert (found["v"]["wins"], found["v"]["losses"], found["v"]["ties"], found["v"]["unscored"]) == (1, 1, 0, 2)
    assert found["v"]["win_rate"] == 0.5 and found["theirs"] == {"ended": 0.5, "characters": 2.0}


def test_they_answer_the_same_prompts(tmp_path):
    assert others("reference", TASKS) == Others(tuple(f"answer {n}" for n in range(4)), None)
    rows = [{"prompt": task.prompt, "answer": "a", "reason": reason} for task, reason in zip(TASKS, ("end", "stop", "length", "end"))]  # fmt: skip
    path = tmp_path / "answers.jsonl"

    def written(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return others(str(path), TASKS)

    assert written(rows) == Others(("a",) * 4, 0.75)
    for wrong, words in (
        (rows[:3], "it has 3 answers, and 4 prompts are asked"),
        ([*rows[:3], {**rows[3], "prompt": "no"}], r"line 4: it answers 'no', and x.jsonl, line 4 asks '3\?'"),
        ([{"prompt": "x"}], "line 1: expected an object with prompt and answer"),
    ):
        with pytest.raises(UserError, match=words):
            written(wrong)
    with pytest.raises(UserError, match="cannot be read: .*expected a file of ptft eval --answers_out, or 'reference'"):
        others(str(tmp_path / "none"), TASKS)
    with pytest.raises(UserError, match="x.jsonl, line 1: there is no right answer"):
        others("reference", [TASKS[0]._replace(references=())])
