"""Numbers of whole rows: the loss beside its formula, correlations beside scipy's, and how they add up over batches."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from scipy import stats

from ptft_jax.errors import UserError
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.evaluation.standalone import Program
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives import correlation
from ptft_jax.objectives.regression import Regression
from tests.helpers import SPEC
from tests.objectives.test_classification import BERT, loss_of, rows, scores


@pytest.fixture(scope="module")
def built():
    model = Transformer(dataclasses.replace(SPEC, init_std=0.3, **{**BERT, "classes": 1}))
    return model, jax.jit(model.init)(jax.random.key(0))


def batch_of(seed=0):
    return {
        **rows(seed=seed),
        "targets": np.array([0.5, -2.0, 3.25, np.nan], np.float32),
    }  # the last row weighs nothing


def test_the_loss_is_the_mean_squared_error(built):
    model, params = built
    batch = batch_of()
    predicted = scores(model, params, batch)[:, 0]
    loss = loss_of(Regression(), model, params, batch)
    np.testing.assert_allclose(loss.total / loss.weight, np.mean((predicted - batch["targets"])[:3] ** 2), rtol=1e-5)
    assert loss.metrics.keys() == {"loss", "mse"}
    gradient = jax.jit(jax.grad(lambda p: Regression().loss(model, p, batch).total))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_correlations_are_of_the_whole_set(built):
    """Means of those of batches are something else."""
    model, params = built
    batches = [batch_of(seed) for seed in range(4)]
    found = EvalSet("test", batches, Program(model, Regression(), ()), None).run(params)
    pairs = [(scores(model, params, b)[:3, 0], b["targets"][:3]) for b in batches]
    predicted, targets = map(np.concatenate, zip(*pairs))
    assert found["test/mse"] == pytest.approx(np.mean((predicted - targets) ** 2), rel=1e-5)
    assert found["test/pearson"] == pytest.approx(stats.pearsonr(predicted, targets).statistic, abs=1e-6)
    assert found["test/spearman"] == pytest.approx(stats.spearmanr(predicted, targets).statistic, abs=1e-6)
    assert set(found) == {f"test/{name}" for name in (*Regression.metrics, *Regression.scores)}


@pytest.mark.parametrize("kind", ["apart", "equal among them", "few values", "far from zero", "alike", "opposite"])
def test_correlations_are_those_of_scipy(kind):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200))
    x, y = {
        "apart": (x, y),
        "equal among them": (np.round(x, 1), np.round(x + y, 0)),
        "few values": (rng.integers(0, 3, 200), rng.integers(0, 6, 200)),
        "far from zero": (1e4 + x, y),
        "alike": (x, 3 * x + 1),
        "opposite": (x, -(x**3)),
    }[kind]
    values = correlation.values(np.stack([x, y, np.ones(200)], -1))
    assert values["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert values["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    np.testing.assert_array_equal(correlation.ranks(np.asarray(x, float)), stats.rankdata(x))


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0, 2.0]])
def test_what_does_not_vary_correlates_with_nothing(x):
    table = np.stack([x, np.arange(len(x)), np.ones(len(x))], -1)
    assert all(np.isnan(value) for value in correlation.values(table).values())


def test_a_number_is_no_distribution(built):
    with pytest.raises(UserError, match="predicts a number and no probabilities"):
        Regression().divergence(built[0], None, None, {}, lambda a, b: a)


def test_rows_of_all_devices_stand_one_after_the_other(built):
    """As pmap's programs give them, whose tables are else added up."""
    from ptft_jax.training import programs

    devices = jax.devices()
    made = types.SimpleNamespace(_devices=devices)
    rows = np.arange(len(devices) * 6, dtype=np.float32).reshape(len(devices), 2, 3)
    evaluate = programs.PmapProgram._summed(made, lambda a: {correlation.ROWS: a, "loss": (a.sum(), a.size * 1.0)})
    found = evaluate(rows)
    np.testing.assert_array_equal(np.asarray(found[correlation.ROWS])[0], rows.reshape(-1, 3))
    assert float(np.asarray(found["loss"][0])[0]) == rows.sum()
