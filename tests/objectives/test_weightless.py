"""A position that weighs nothing changes nothing, whatever its logits are: not the loss, and no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.objectives.classification import Classification
from ptft_jax.regularization.divergence import divergence, symmetric
from tests.objectives.rows import BUILDERS, packed, pieces

WIDTH, CLASSES = 8, 64


class Head:
    """The part of a model that an objective's loss is made with: scores of hidden states by one matrix, capped or not."""

    context_parts = 1

    def __init__(self, cap=0.0, first=False):
        self.cap, self.first = cap, first

    def logits(self, params, hidden_BTD):
        x = (hidden_BTD[:, 0] if self.first else hidden_BTD) @ params["w"] + params["b"]
        return self.cap * jnp.tanh(x / self.cap) if self.cap else x


def problem(name):
    """(objective, batch, positions that weigh nothing) of packed rows with padding and prompts, and of labelled rows."""
    if name == "classification":
        batch = {"targets": np.int32([1, 3, 0, 2]), "weights": np.float32([1, 0, 0.5, 0])}
        return Classification(), batch, batch["weights"] == 0
    rows = [packed(pieces(name, sizes, seed), 40) for seed, sizes in enumerate([(12, 9), (14,)])]
    batch = {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}
    batch["weights"][0, 3:7] = 0.0  # a prompt
    batch["weights"][1] *= 0.5
    return BUILDERS[name][1], batch, batch["weights"] == 0


NAMES = [*BUILDERS, "classification"]
OPTIONS = ({}, {"z_loss": 0.1, "label_smoothing": 0.2}, {"chunk": 7, "z_loss": 0.1})
VALUES = {"infinite": 1e38, "minus infinite": -1e38}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "name, options",
    [(name, options) for name in NAMES for options in OPTIONS if name != "classification" or "chunk" not in options],
    ids=str,
)
def test_infinite_logits_of_what_weighs_nothing(name, options, value):
    objective, batch, idle = problem(name)
    objective = type(objective)(**options)
    model, rng = Head(first=name == "classification"), np.random.default_rng(0)
    shape = (4, 5, WIDTH) if name == "classification" else (*idle.shape, WIDTH)
    params = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in (("w", (WIDTH, CLASSES)), ("b", (CLASSES,)))}
    hidden = rng.normal(size=shape).astype(np.float32)
    wild = hidden.copy()
    where = (idle, 0) if name == "classification" else (idle,)
    wild[where] = VALUES[value] * np.sign(hidden[where])
    assert idle.any() and not np.isfinite(model.logits(params, jnp.asarray(wild))).all()

    def total(params, hidden):
        loss = objective.loss_of(model, params, hidden, batch)
        return loss.total, loss

    gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (mine, loss), slopes = gradient(params, wild)
    (other, theirs), expected = gradient(params, hidden)
    assert np.isfinite(mine) and mine == pytest.approx(float(other), rel=1e-6)
    for metric, (amount, weight) in loss.metrics.items():
        assert amount == pytest.approx(float(theirs.metrics[metric][0]), rel=1e-5) and weight == loss.weight
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), slopes[0], expected[0])
    np.testing.assert_array_equal(slopes[1][where], 0.0)
    np.testing.assert_allclose(slopes[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("measure", [divergence, symmetric])
@pytest.mark.parametrize("name", ["causal_lm", "masked_lm", "classification"])
def test_divergences_too(name, measure):
    """Of distillation and of smoothed predictions."""
    objective, batch, idle = problem(name)
    model, rng = Head(first=name == "classification"), np.random.default_rng(0)
    shape = (4, 5, WIDTH) if name == "classification" else (*idle.shape, WIDTH)
    params = {"w": jnp.asarray(rng.normal(size=(WIDTH, CLASSES)), jnp.float32), "b": jnp.zeros(CLASSES)}
    first, second = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    where = (idle, 0) if name == "classification" else (idle,)
    found = []
    for size in (1.0, 1e38):
        first[where] = size * np.sign(first[where])

        def total(params, first, second):
            return objective.divergence(model, (params, first), (params, second), batch, measure)

        found.append(jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(params, first, second))
    assert np.isfinite(found[1][0]) and found[1][0] == pytest.approx(float(found[0][0]), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found[1][1], found[0][1])


def test_what_weighs_something_is_not_hidden():
    """An infinite logit of a target that counts is a loss that is not finite."""
    logits = jnp.zeros((1, 2, 4)).at[0, 0, 1].set(jnp.inf)
    batch = {"targets": np.int32([[2, 1]]), "weights": np.float32([[1, 1]])}
    model = type("Given", (), {"context_parts": 1, "logits": lambda self, params, hidden: hidden})()
    assert not np.isfinite(CausalLM().loss_of(model, {}, logits, batch).total)
