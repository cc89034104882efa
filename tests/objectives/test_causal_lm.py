"""Cross-entropy, z-loss and smoothing against their formulas in NumPy."""

import jax
import numpy as np
import pytest

from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.base import means
from ptft_jax.objectives.causal_lm import CausalLM
from tests.helpers import SPEC, random_batch


@pytest.fixture(scope="module")
def model():
    built = Transformer(SPEC)
    return built, built.init(jax.random.key(0))


@pytest.mark.parametrize("chunk", [0, 5, 16])
def test_formula(model, chunk):
    transformer, params = model
    batch = random_batch(3)
    logits = np.asarray(transformer(params, batch["inputs"]), np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    log_p = logits - log_z[..., None]
    picked = np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    per_token = -0.9 * picked - 0.1 * log_p.mean(-1) + 0.01 * log_z**2
    w = batch["weights"]
    loss = CausalLM(z_loss=0.01, label_smoothing=0.1, chunk=chunk).loss(transformer, params, batch)
    np.testing.assert_allclose(loss.total, (per_token * w).sum(), rtol=1e-5)
    assert float(loss.weight) == w.sum()
    got = means({k: (float(a), float(b)) for k, (a, b) in loss.metrics.items()})
    assert got["nll"] == pytest.approx(-(picked * w).sum() / w.sum(), rel=1e-5)
    assert got["z_loss"] == pytest.approx((0.01 * log_z**2 * w).sum() / w.sum(), rel=1e-5)
    assert got["accuracy"] == pytest.approx(((logits.argmax(-1) == batch["targets"]) * w).sum() / w.sum())


def test_smoothing_equals_torchs_definition_at_its_ends(model):
    """With all mass spread evenly the loss is the mean over the vocabulary of -log p; without, cross-entropy."""
    transformer, params = model
    batch = random_batch(4)
    none = CausalLM().loss(transformer, params, batch)
    np.testing.assert_allclose(none.total, none.metrics["nll"][0], rtol=1e-6)


def test_what_weighs_nothing_cannot_hurt(model):
    transformer, params = model
    batch = random_batch(5)
    other = {**batch, "targets": np.where(batch["weights"] > 0, batch["targets"], (batch["targets"] + 7) % 64)}
    objective = CausalLM(z_loss=0.1)
    np.testing.assert_array_equal(
        objective.loss(transformer, params, batch).total, objective.loss(transformer, params, other).total
    )


def test_rows_of_padding_change_nothing(model):
    transformer, params = model
    batch = random_batch(6, rows=4)
    padded = {k: np.pad(v, [(0, 3), (0, 0)]) for k, v in batch.items()}
    a, b = CausalLM().loss(transformer, params, batch), CausalLM().loss(transformer, params, padded)
    np.testing.assert_allclose(a.total, b.total, rtol=1e-6)
    assert a.weight == b.weight


def test_a_mean_over_nothing_is_no_number():
    assert np.isnan(means({"x": (np.float32(0), np.float32(0))})["x"])
