"""Which of its own answers a model learns, by hand and by enumeration."""

import itertools
import types

import numpy as np
import pytest

from ptft_jax.objectives.own_answers import SPARE, ExpertIteration, OnlineDPO
from ptft_jax.training.answer_facts import add_up
from ptft_jax.training.answer_rows import blank, put_answer
from ptft_jax.training.best_answers import Kept, Paired


def made(kind, samples, rows, *, length=8, unended=True, buffer=0, **changes):
    """What chooses among answers, of no run."""
    out = kind.__new__(kind)
    out._prompts, out._size, out._length = types.SimpleNamespace(samples=samples), rows, length
    out._buffer, out._new, out._unended = buffer, 4, unended
    out._more, out._checks = (), False
    out._objective = (ExpertIteration if kind is Kept else OnlineDPO)()
    for name, value in changes.items():
        setattr(out, f"_{name}", value)
    return out


def kept(samples, rows, *, most=0, above=0.0, once=False, **options):
    return made(Kept, samples, rows, most=most or samples, above=above, once=once, **options)


def answers(rewards, ids=None, tokens=None, reasons=None, before=2, prompt=5):
    """Answers to prompts of `before` tokens; a reward of None is none."""
    count = len(rewards)
    ids = [[7, *([n] * 2)] for n in range(count)] if ids is None else ids
    return [
        {
            "scores": {"a": {"value": r, "reason": ""}}, "reason": why, "tokens": n, "prompt_tokens": before, "ids": [prompt] * before + list(i),
            "mismatch": 0.25,
        }
        for r, i, n, why in zip(rewards, ids, tokens or [1] * count, reasons or ["end"] * count)
    ]  # fmt: skip


def used(choosing, rows):
    add_up(rows, 4, choosing._buffer)
    choosing._reward(rows, None)
    return [row["use"] for row in rows]


K, D, N = "kept", "duplicate", ""
REWARDS = [1.0, 0.0, 0.5, 1.0, 0.0, None, 0.0, 0.0]
CHOICES = {
    "above": (kept(4, 8), {}, [K, N, K, K, N, N, N, N]),
    "above a bound": (kept(4, 8, above=0.5), {}, [K, N, N, K, N, N, N, N]),
    "at most one, the first of equal ones": (kept(4, 8, most=1), {}, [K, N, N, N, N, N, N, N]),
    "the best, whatever they are worth": (kept(4, 8, most=2, above=-np.inf), {}, [K, N, N, K, K, N, K, N]),
    "once": (kept(4, 8, once=True), {"ids": [[1, 2], [1], [1], [1, 2], *[[3]] * 4]}, [K, N, K, D, N, N, N, N]),
    "again": (kept(4, 8), {"ids": [[1, 2], [1], [1], [1, 2], *[[3]] * 4]}, [K, N, K, K, N, N, N, N]),
    "ended": (kept(4, 8, unended=False), {"reasons": ["length", "end", "stop", "end"] * 2}, [N, N, K, K, N, N, N, N]),
    # The last of four tokens costs all of a reward of 1, the one before half of it.
    "short": (kept(4, 8, buffer=2), {"tokens": [4, 1, 2, 3] * 2}, [N, N, K, K, N, N, N, N]),
}


@pytest.mark.parametrize("name", CHOICES)
def test_what_is_kept(name):
    choosing, options, expected = CHOICES[name]
    assert used(choosing, answers(REWARDS, **options)) == expected


def test_rows_are_the_ids_that_were_sampled_and_say_what_was_left():
    rows, choosing = answers(REWARDS), kept(4, 8, once=True)
    add_up(rows, 4, choosing._buffer)
    choosing._reward(rows, None)
    out = choosing._batch(0, rows, None)
    for n, ids in enumerate(([5, 5, 7, 0, 0], [5, 5, 7, 2, 2], [5, 5, 7, 3, 3])):  # in the order of the answers
        assert out["inputs"][n].tolist() == ids[:-1] + [0] * 4 and out["targets"][n].tolist() == ids[1:] + [0] * 4
        assert out["weights"][n].tolist() == [0, 1, 1, 1, 0, 0, 0, 0]  # the answer, its end with it
        assert (
            out["positions"][n].tolist() == [0, 1, 2, 3] + [0] * 4 and out["segments"][n].tolist() == [1] * 4 + [0] * 4
        )
    assert not out["weights"][3:].any() and not out["segments"][3:].any()
    facts = {
        "reward": 2.5 / 7,
        "kept": 3 / 8,
        "unsolved": 1 / 2,
        "duplicates": 0,
        "ended": 1,
        "unscored": 1 / 8,
        "mismatch": 0.25,
        SPARE: 0,
    }
    assert {name: set(out[name].tolist()) for name in facts} == {name: {np.float32(v)} for name, v in facts.items()}


def test_where_nothing_is_kept_that_is_said():
    rows, choosing = answers([0.0] * 8), kept(4, 8)
    add_up(rows, 4, choosing._buffer)
    choosing._reward(rows, None)
    out = choosing._batch(0, rows, None)
    assert not out["weights"].any() and out[SPARE].all() and out["unsolved"].all() and not out["kept"].any()


def distribution(choosing, p, rewards, samples):
    """What is learned of answers that are drawn from p, by enumeration of all that could be."""
    total = np.zeros(len(p))
    for arms in itertools.product(range(len(p)), repeat=samples):
        rows = answers([rewards[a] for a in arms], ids=[[a] for a in arms])
        add_up(rows, 4, choosing._buffer)
        choosing._reward(rows, None)
        learned = choosing._batch(0, rows, None)
        for target, weight in zip(learned["targets"][:, 1], learned["weights"][:, 1]):
            total[target] += weight * np.prod(p[list(arms)])
    return total / total.sum()


P = np.array([0.5, 0.2, 0.2, 0.1])


def test_in_expectation_it_is_the_policy_restricted_to_what_is_rewarded():
    """And so the step's optimum; of the best of n what the order of rewards says."""
    rewards = [0.0, 1.0, 0.0, 1.0]
    np.testing.assert_allclose(distribution(kept(3, 3), P, rewards, 3), [0, 2 / 3, 0, 1 / 3], atol=1e-12)
    ranked = [1.0, 2.0, 3.0, 4.0]
    below = np.cumsum(P) - P
    expected = (below + P) ** 3 - below**3
    np.testing.assert_allclose(distribution(kept(3, 1, most=1), P, ranked, 3), expected, atol=1e-12)


def paired(samples, rows, **options):
    return made(Paired, samples, rows, **options)


PAIRS = {
    "best and worst": (REWARDS, {}, ["chosen", "rejected", N, N, N, N, N, N]),
    "of those with a score": ([None, 2.0, 1.0, 3.0, None, None, 1.0, None], {}, [N, N, "rejected", "chosen", N, N, N, N]),
    "other answers": ([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], {"ids": [[3]] * 8}, [N] * 8),
    "that ended": ([3.0, 2.0, 1.0, 0.0] * 2, {"reasons": ["length", "end"] * 4}, [N, "chosen", N, "rejected"] * 2),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_which_answers_are_a_pair(name):
    rewards, options, expected = PAIRS[name]
    assert used(paired(4, 2, unended="reasons" not in options), answers(rewards, **options)) == expected


def test_pairs_lie_side_by_side():
    rows, choosing = answers([0.0, 1.0, 0.0, 0.0], ids=[[1, 2], [3], [4], [4]]), paired(2, 2)
    add_up(rows, 4, choosing._buffer)
    choosing._reward(rows, None)
    out = choosing._batch(0, rows, None)
    assert out["inputs"][0].tolist() == [5, 5, 5, 5, 1, 0, 0, 0]
    assert out["targets"][0].tolist() == [5, 3, 5, 1, 2, 0, 0, 0]
    assert out["weights"][0].tolist() == [0, 1, 0, 1, 1, 0, 0, 0]
    assert out["segments"][0].tolist() == [1, 1, 2, 2, 2, 0, 0, 0]
    assert out["positions"][0].tolist() == [0, 1, 0, 1, 2, 0, 0, 0]
    assert out["pairs"].tolist() == [[1], [0]] and not out["segments"][1].any()
    assert set(out["ties"].tolist()) == {0.5} and not out[SPARE].any()


def test_what_a_tool_said_is_read_and_not_learned():
    """In the place that an answer has among others of its row."""
    out = blank(1, 10)
    at = put_answer(out, 0, {"ids": [5, 1], "prompt_tokens": 1})
    stop = put_answer(out, 0, {"ids": [5, 5, 7, 3, 3, 8], "prompt_tokens": 2, "given": [[3, 5]]}, at, 2)
    assert (at, stop) == (1, 6)
    assert out["targets"][0].tolist() == [1, 5, 7, 3, 3, 8, 0, 0, 0, 0]
    assert out["weights"][0].tolist() == [1, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    assert out["segments"][0].tolist() == [1, 2, 2, 2, 2, 2, 0, 0, 0, 0]
