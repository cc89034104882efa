"""Divergences against NumPy; distillation, R3F and SMART against what their papers say, written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.base import Context
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.objectives.classification import Classification
from ptft_jax.regularization.divergence import Distill, Smooth, divergence, symmetric
from tests.helpers import SPEC, random_batch

MODEL = Transformer(dataclasses.replace(SPEC, layers=1, dropout=0.2))
CLASSES = Transformer(dataclasses.replace(SPEC, layers=1, head="classes", classes=5, causal=False))
KEYS = jax.random.split(jax.random.key(3), 16)
CONTEXT = Context(KEYS)


@pytest.fixture(scope="module")
def params():
    make = jax.jit(MODEL.init)
    one, other = make(jax.random.key(0)), make(jax.random.key(1))
    return jax.tree.map(lambda p: 3 * p, one), jax.tree.map(lambda p: 3 * p, other)


def softmax(logits):
    e = np.exp(np.float64(logits) - np.float64(logits).max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum(-1)


def test_divergences_in_numpy():
    a, b = (np.random.default_rng(k).normal(size=(4, 7)).astype(np.float32) for k in (0, 1))
    p, q = softmax(a), softmax(b)
    np.testing.assert_allclose(divergence(a, b), kl(p, q), rtol=1e-5)
    np.testing.assert_allclose(symmetric(a, b), kl(p, q) + kl(q, p), rtol=1e-5)
    # To second order in a small difference d it is sum p (d - mean d)^2, where each KL alone is lost in rounding.
    d = 1e-4 * np.random.default_rng(2).normal(size=a.shape).astype(np.float32)
    exact = (p * (d - (p * d).sum(-1, keepdims=True)) ** 2).sum(-1)
    # Logits of size 1 take up d to 1e-7 / 1e-4.
    np.testing.assert_allclose(symmetric(a, a + d), exact, rtol=1e-2)


@pytest.mark.parametrize("chunk", [0, pytest.param(5, marks=pytest.mark.slow)])
def test_distillation(params, chunk):
    batch, term = random_batch(0), Distill(0.5, 3.0)
    objective = CausalLM(chunk=chunk)

    def run(mine):
        hidden = objective.hidden(MODEL, mine, batch, CONTEXT)
        return term(objective, MODEL, (mine, hidden), params[1], batch)

    (total, metric), slope = jax.jit(jax.value_and_grad(run, has_aux=True))(params[0])
    p = softmax(MODEL(params[1], batch["inputs"]) / 3.0)
    q = softmax(MODEL(params[0], Inputs(batch["inputs"], keys=KEYS)) / 3.0)
    expected = (batch["weights"] * kl(p, q)).sum()
    np.testing.assert_allclose(metric, expected, rtol=1e-4)
    np.testing.assert_allclose(total, 0.5 * 9 * expected, rtol=1e-4)
    assert all(np.any(g) for g in jax.tree.leaves(slope))


def test_a_model_does_not_differ_from_itself(params):
    objective, batch = CausalLM(), random_batch(0)
    hidden = objective.hidden(MODEL, params[0], batch)
    total, _ = Distill(1.0)(objective, MODEL, (params[0], hidden), params[0], batch)
    assert float(total) == 0.0


@pytest.mark.parametrize("uniform", [False, True])
def test_r3f(params, uniform):
    """Equation 3, by two forward passes of which one has noise on its token vectors."""
    objective, batch, term = CausalLM(), random_batch(0), Smooth(2.0, 0.01, uniform)

    def run(mine):
        hidden = objective.hidden(MODEL, mine, batch, CONTEXT)
        drawn = term.draw(objective, MODEL, (mine, hidden), batch, CONTEXT)
        return *term(objective, MODEL, (mine, hidden), batch, CONTEXT), drawn

    total, metric, drawn = jax.jit(run)(params[0])
    assert drawn.shape == (*batch["inputs"].shape, SPEC.width)
    if uniform:
        assert np.abs(drawn).max() <= 0.01 and np.std(drawn) == pytest.approx(0.01 / 3**0.5, rel=0.03)
    else:
        assert np.std(drawn) == pytest.approx(0.01, rel=0.03)
    p = softmax(MODEL(params[0], Inputs(batch["inputs"], keys=KEYS)))
    # The token's vector and its position's are added: noise on one is noise on the other.
    q = softmax(MODEL.logits(params[0], MODEL.hidden(params[0], Inputs(batch["inputs"], keys=KEYS, noise=drawn))))
    expected = (batch["weights"] * (kl(p, q) + kl(q, p))).sum()
    # Float32 logits of size 10 differ by about 0.1, to 1e-6 or so.
    np.testing.assert_allclose(metric, expected, rtol=1e-3)
    np.testing.assert_allclose(total, 2 * metric, rtol=1e-6)
    assert expected > 1e-3


@pytest.mark.slow
@pytest.mark.heavy
def test_smart_climbs(params):
    """Algorithm 1: a step along the gradient divided by its largest entry, then back into the ball; the noise it finds is
    worse than what it started from, and worse than random noise of the same size."""
    objective, batch = CausalLM(), random_batch(0)

    @jax.jit
    def found(mine):
        hidden = objective.hidden(MODEL, mine, batch, CONTEXT)
        out = []
        for term in (
            Smooth(1.0, 1e-3, radius=1e-3),
            Smooth(1.0, 1e-3, steps=1, step=1e-3, radius=1e-3),
            Smooth(1.0, 1e-3, steps=3, step=1e-3, radius=1e-3),
        ):
            z = term.draw(objective, MODEL, (mine, hidden), batch, CONTEXT)
            z = jnp.sign(z) * 1e-3 if not term.steps else z
            noisy = (mine, objective.hidden(MODEL, mine, batch, CONTEXT, z))
            out.append((z, objective.divergence(MODEL, (mine, hidden), noisy, batch, symmetric)))
        return out

    (_, random), (one, first), (three, third) = found(params[0])
    for z in (one, three):
        assert np.abs(z).max() <= 1e-3 * (1 + 1e-6)
    # Each is the worst direction as far as its slope tells: several times random noise of the largest size.
    assert third > first > 0 and third > 2 * random
    # One step of it, by hand, from the noise it draws: the entry with the largest slope moves by `step`.
    term = Smooth(1.0, 1e-3, steps=1, step=1e-4, radius=1.0)
    hidden = objective.hidden(MODEL, params[0], batch, CONTEXT)
    start = dataclasses.replace(term, steps=0).draw(objective, MODEL, (params[0], hidden), batch, CONTEXT)
    moved = term.draw(objective, MODEL, (params[0], hidden), batch, CONTEXT) - start
    np.testing.assert_allclose(np.abs(moved).max(axis=(1, 2)), 1e-4, rtol=1e-2)


def test_noise_of_classes():
    objective, batch = Classification(), random_batch(0)
    batch = {"inputs": batch["inputs"], "targets": batch["targets"][:, 0] % 5, "weights": np.ones(16, np.float32)}
    mine = jax.tree.map(lambda p: 3 * p, jax.jit(CLASSES.init)(jax.random.key(0)))
    hidden = objective.hidden(CLASSES, mine, batch)
    term = Smooth(1.0, 0.01)
    _, metric = term(objective, CLASSES, (mine, hidden), batch, CONTEXT)
    noise = term.draw(objective, CLASSES, (mine, hidden), batch, CONTEXT)
    p, q = softmax(CLASSES(mine, batch["inputs"])), softmax(CLASSES(mine, Inputs(batch["inputs"], noise=noise)))
    np.testing.assert_allclose(metric, (kl(p, q) + kl(q, p)).sum(), rtol=1e-2)
