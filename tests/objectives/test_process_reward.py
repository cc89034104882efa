"""Scores of steps: the loss by its formula, however answers lie in rows."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives import calibration
from ptft_jax.objectives.base import evaluated
from ptft_jax.objectives.process_reward import ProcessReward
from tests.helpers import LLAMA, SPEC

# Of each answer: its length, and where its steps end, with whether they are right.
ANSWERS = ((6, {3: True, 5: False}), (4, {3: True}), (7, {1: False, 4: True, 6: False}))


@functools.cache
def built():
    model = Transformer(dataclasses.replace(SPEC, init_std=0.3, **LLAMA, head="classes", classes=1))
    return model, jax.jit(model.init)(jax.random.key(2))


def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, SPEC.vocab_size, n).astype(np.int32) for n, _ in ANSWERS]


@functools.cache
def alone():
    """(number, whether it is right) of each step: of a row that ends with it, by the head on the last token."""
    model, params = built()
    apply = jax.jit(model)
    return [
        (float(apply(params, text[None, : end + 1])[0, 0]), right)
        for text, (_, steps) in zip(texts(), ANSWERS)
        for end, right in steps.items()
    ]


def batch_of(rows, length, left=False):
    out = {k: np.zeros((len(rows), length), np.int32) for k in ("inputs", "positions", "segments")}
    out |= {"weights": np.zeros((len(rows), length), np.float32), "right": np.zeros((len(rows), length), bool)}
    for r, numbers in enumerate(rows):
        at = length - sum(ANSWERS[n][0] for n in numbers) if left else 0
        for piece, n in enumerate(numbers, 1):
            size, steps = ANSWERS[n]
            where = slice(at, at + size)
            out["inputs"][r, where], out["positions"][r, where], out["segments"][r, where] = texts()[n], np.arange(size), piece  # fmt: skip
            for end, right in steps.items():
                out["weights"][r, at + end], out["right"][r, at + end] = 1, right
            at += size
    return out


LAYOUTS = {"apart": ([[0], [1], [2]], 8), "packed": ([[2, 0], [], [1]], 16), "padded left": ([[0, 1], [2]], 14, True)}


@pytest.mark.parametrize("name", ["packed", "padded left", pytest.param("apart", marks=pytest.mark.slow)])
def test_the_loss_is_the_binary_cross_entropy_of_each_step(name):
    model, params = built()
    found = jax.jit(functools.partial(evaluated, ProcessReward(), (), model))(params, batch_of(*LAYOUTS[name]))
    numbers, right = (np.array(part) for part in zip(*alone()))
    chance = 1 / (1 + np.exp(-numbers))
    truth = np.where(right, chance, 1 - chance)
    expected = {
        "loss": -np.log(truth), "nll": -np.log(truth), "accuracy": truth > 0.5, "right_score": chance[right], "wrong_score": chance[~right],
    }  # fmt: skip
    for metric, values in expected.items():
        total, weight = found[metric]
        assert float(weight) == len(values) and float(total) == pytest.approx(values.sum(), rel=1e-4), metric
    scored = calibration.values(np.asarray(found[calibration.TABLE]))
    assert scored["brier"] == pytest.approx(np.mean((1 - truth) ** 2), rel=1e-4)


def test_how_far_two_models_are_apart_is_of_each_step():
    """The Kullback-Leibler divergence of the two classes, by hand."""
    logits = lambda params, x: x[:, 0] * params  # noqa: E731
    model = type("M", (), {"logits": staticmethod(logits)})
    batch = {"weights": np.float32([[0, 1, 1]]), "right": np.zeros((1, 3), bool)}
    one, two = np.float32([[[9.0], [1.0], [-2.0]]]), np.float32([[[0.0], [0.5], [0.0]]])

    def kl(a, b):
        a, b = jax.nn.log_softmax(a), jax.nn.log_softmax(b)
        return (np.exp(a) * (a - b)).sum(-1)

    def by_hand(x, y):
        p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-y))
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))

    found = ProcessReward().divergence(model, (np.float32([1]), one), (np.float32([1]), two), batch, kl)
    assert float(found) == pytest.approx(by_hand(1.0, 0.5) + by_hand(-2.0, 0.0), rel=1e-5)
