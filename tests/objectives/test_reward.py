"""Rewards of answers: the loss by its formula, however pairs lie in rows, and what it makes of a latent reward that is known."""

import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives import calibration
from ptft_jax.objectives.base import evaluated
from ptft_jax.objectives.reward import Reward
from tests.helpers import LLAMA, SPEC

HEAD = dict(head="classes", classes=1)
SIZES = ((3, 6), (5, 2), (1, 4))  # of the answers of each pair
MARGINS = np.float32([0.0, 0.7, -0.3])


@functools.cache
def built():
    model = Transformer(dataclasses.replace(SPEC, init_std=0.3, **LLAMA, **HEAD))
    return model, jax.jit(model.init)(jax.random.key(2))


@functools.cache
def answers():
    rng = np.random.default_rng(0)
    return [[rng.integers(0, SPEC.vocab_size, n).astype(np.int32) for n in sizes] for sizes in SIZES]


@functools.cache
def alone():
    """float64 [pairs, 2]: the reward of every answer, each in a row of its own."""
    model, params = built()
    apply = jax.jit(model)
    return np.asarray([[float(apply(params, a[None])[0, 0]) for a in pair] for pair in answers()])


def batch_of(rows, length, most, left=False):
    """Rows that hold the pairs `rows` names, [[0, 1], [2]], padded to `length` positions and `most` pairs."""
    out = {k: np.zeros((len(rows), length), np.int32) for k in ("inputs", "positions", "segments")}
    out |= {k: np.zeros((len(rows), most), np.float32) for k in ("pairs", "margins")}
    out["inputs"][:] = 7  # padding is a token that answers have, too
    for r, numbers in enumerate(rows):
        texts = [text for number in numbers for text in answers()[number]]
        at = length - sum(map(len, texts)) if left else 0
        for n, text in enumerate(texts, 1):
            where = slice(at, at + len(text))
            out["inputs"][r, where], out["segments"][r, where] = text, n
            out["positions"][r, where], at = np.arange(len(text)), where.stop
        out["pairs"][r, : len(numbers)] = 1
        out["margins"][r, : len(numbers)] = MARGINS[list(numbers)]
    return out | {"weights": out["pairs"]}


LAYOUTS = {
    "apart": ([[0], [1], [2]], 12, 1, False),
    "packed": ([[0, 1], [2]], 16, 2, False),
    "packed, with room": ([[2, 0], [1]], 20, 4, False),
    "padded left": ([[0, 1], [2]], 18, 2, True),
    "a row of padding": ([[0], [], [1], [2]], 12, 2, False),
}


KEPT = ("packed, with room", 0.1), ("padded left", 0.0)


@pytest.mark.parametrize(
    "name, center",
    [p if p in KEPT else pytest.param(*p, marks=pytest.mark.slow) for p in itertools.product(LAYOUTS, (0.0, 0.1))],
)
def test_the_loss_does_not_depend_on_how_pairs_lie(name, center):
    model, params = built()
    rows, *layout = LAYOUTS[name]
    batch = batch_of(rows, *layout)
    found = jax.jit(functools.partial(evaluated, Reward(center), (), model))(params, batch)
    chosen, rejected = alone().T
    apart = chosen - rejected
    expected = {
        "loss": np.log1p(np.exp(MARGINS - apart)) + center * (chosen + rejected) ** 2,
        "nll": np.log1p(np.exp(-apart)),
        "accuracy": apart > 0, "margin": apart, "chosen_reward": chosen, "rejected_reward": rejected,
    }  # fmt: skip
    for metric, values in expected.items():
        total, weight = found[metric]
        assert weight == 3
        assert float(total) == pytest.approx(values.sum(), rel=1e-4, abs=1e-5), metric
    sigmoid = 1 / (1 + np.exp(-apart))
    scored = calibration.values(np.asarray(found[calibration.TABLE]))
    assert scored["brier"] == pytest.approx(np.mean((1 - sigmoid) ** 2), rel=1e-4)


@pytest.mark.slow
def test_gradients_do_not_depend_on_it_either():
    model, params = built()

    def slope(name):
        rows, *layout = LAYOUTS[name]
        loss = functools.partial(Reward(0.1).loss, model)
        return jax.jit(jax.grad(lambda p, b: loss(p, b).total))(params, batch_of(rows, *layout))

    one, other = slope("apart"), slope("packed, with room")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), one, other)


def test_a_pair_that_is_not_there_changes_nothing_whatever_its_numbers():
    model = types.SimpleNamespace(logits=lambda params, x: x[:, 0] @ params)
    batch = {"weights": np.float32([[1, 0]]), "margins": np.float32([[0.0, 3.0]])}

    def total(params, hidden):
        return Reward(0.5).loss_of(model, params, hidden, batch).total

    hidden = np.float32(np.random.default_rng(0).normal(size=(1, 4, 5)))
    wild = hidden.copy()
    wild[:, 2:] = 3e38 * np.sign(hidden[:, 2:])
    assert not np.isfinite(model.logits(jnp.ones((5, 1)), wild[0][:, None])[2:]).all()
    params = jnp.ones((5, 1))
    mine, other = (jax.value_and_grad(total)(params, x) for x in (wild, hidden))
    assert mine[0] == other[0] and np.isfinite(mine[1]).all()
    np.testing.assert_array_equal(mine[1], other[1])


def test_calibration_by_hand():
    """Four choices: two of 0.95 and 0.85 that are right, one of 0.95 that is wrong, and a tie, which is half right."""
    right = np.float32([[0.95, 0.85], [0.05, 0.5]])
    found = calibration.values(np.asarray(calibration.tables(right, np.float32([[1, 1], [2, 1]]))["calibration"]))
    assert found["brier"] == pytest.approx((0.05**2 + 0.15**2 + 0.95**2 + 0.25) / 4, rel=1e-5)
    # Of the bin up to 1: 1.9 sure, 1 right; up to 0.9 (0.85): 0.85, 1; up to 0.55: 0.5, 0.5.
    assert found["ece"] == pytest.approx((0.9 + 0.15 + 0.0) / 4, rel=1e-5)
    nothing = calibration.values(np.asarray(calibration.tables(right, np.zeros((2, 2), np.float32))["calibration"]))
    assert all(np.isnan(value) for value in nothing.values())


def test_a_latent_reward_is_recovered_from_noisy_pairs():
    """Of a linear model of features: the true weights, up to what so many pairs can tell, and those of maximum likelihood by scipy."""
    rng = np.random.default_rng(0)
    truth, pairs = np.asarray([1.5, -1.0, 0.5, 0.0]), 6000
    features = rng.normal(size=(pairs, 2, 4))
    first = rng.random(pairs) < 1 / (1 + np.exp(-(features @ truth) @ [1, -1]))
    features[~first] = features[~first][
        :, ::-1
    ]  # the better one first; who is better is drawn by Bradley and Terry's model
    model = types.SimpleNamespace(logits=lambda params, x: x[:, 0] @ params[:, None])
    batch = {"weights": np.ones((1, pairs), np.float32), "margins": np.zeros((1, pairs), np.float32)}
    hidden = features.reshape(1, 2 * pairs, 4).astype(np.float32)

    @jax.jit
    def step(params, _):
        slope = jax.grad(lambda p: Reward().loss_of(model, p, hidden, batch).total / pairs)(params)
        return params - 2.0 * slope, None

    found = np.asarray(jax.lax.scan(step, jnp.zeros(4), None, 300)[0], np.float64)
    apart = features[:, 0] - features[:, 1]
    likeliest = optimize.minimize(lambda w: np.logaddexp(0, -apart @ w).mean(), np.zeros(4)).x
    np.testing.assert_allclose(found, likeliest, atol=2e-3)
    np.testing.assert_allclose(found, truth, atol=0.12)  # about three standard errors
    values = calibration.values(np.asarray(Reward().tables(model, jnp.asarray(found), hidden, batch)["calibration"]))
    assert values["ece"] < 0.03


def test_models_and_settings():
    section = configs.check({"objective": {"name": "reward", "center": 0.1}})
    assert objectives.build(section.objective) == Reward(0.1)
    objectives.check("reward", dataclasses.replace(SPEC, **HEAD))
    new = r"set model.head='classes' and model.classes=1, and of a run .* init.fresh=\('head/.\*',\)"
    with pytest.raises(UserError, match=new):
        objectives.check("reward", SPEC)
    with pytest.raises(UserError, match="scores 3 classes, and this predicts one number; set model.classes=1"):
        objectives.check("reward", dataclasses.replace(SPEC, head="classes", classes=3))
    with pytest.raises(UserError, match="model is bidirectional"):
        objectives.check("reward", dataclasses.replace(SPEC, causal=False, **HEAD))
    with pytest.raises(UserError, match="scores answers and writes no text"):
        objectives.check_samples("reward", ("a",))
    with pytest.raises(UserError, match="'reward' gives a number per answer and no probabilities"):
        Reward().divergence(None, None, None, {}, None)


def test_a_model_reads_the_ends_of_answers():
    model, params = built()
    batch = batch_of([[0, 1]], 16, 2)
    hidden = Reward().hidden(model, params, batch)
    assert hidden.shape == (1, 4, SPEC.width)
    row = Inputs(*(batch[name] for name in ("inputs", "positions", "segments")))
    last = jax.jit(model)(params, row)  # as rows of one text: the last token of all
    np.testing.assert_allclose(last[0, 0], alone()[1, 1], rtol=1e-4, atol=1e-5)
