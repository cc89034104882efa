"""Texts that are good or bad: the loss and its gradient beside their formulas, the rows, and what is learned."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import filling, source_splits
from ptft_jax.data.tokenizers.byte import ByteTokenizer
from ptft_jax.errors import UserError
from ptft_jax.objectives.base import means
from ptft_jax.objectives.unlikelihood import Unlikelihood
from tests.helpers import train

V = 5


class Plain:
    """A model whose logits are its hidden states."""

    context_parts = 1

    @staticmethod
    def logits(params, hidden):
        return hidden


def batch_of(seed, rows=3, length=7):
    rng = np.random.default_rng(seed)
    return {
        "targets": rng.integers(0, V, (rows, length)).astype(np.int32),
        "weights": (rng.random((rows, length)) < 0.8).astype(np.float32),
        "good": rng.random((rows, length)) < 0.5,
    }


@pytest.mark.parametrize("chunk", [0, 3])
def test_the_loss_is_that_of_its_paper(chunk):
    """With logits z and p = softmax(z): -log p_t has the gradient p - e_t, and -log(1 - p_t) has p_t at t, -p_j p_t / (1 - p_t) at j."""
    batch = batch_of(0)
    logits = np.random.default_rng(1).normal(size=(3, 7, V)).astype(np.float32) * 3
    objective = Unlikelihood(bad_weight=0.7, chunk=chunk)

    def total(logits):
        loss = objective.loss_of(Plain, None, logits, batch)
        return loss.total, loss

    (found, loss), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    hit = np.eye(V)[batch["targets"]]
    p_t = (p * hit).sum(-1)
    weights, good = batch["weights"], batch["good"]
    each = np.where(good, -np.log(p_t), -0.7 * np.log(1 - p_t)) * weights
    np.testing.assert_allclose(found, each.sum(), rtol=1e-5)
    assert loss.weight == weights.sum()
    bad = 0.7 * np.where(hit > 0, p_t[..., None], -p * (p_t / (1 - p_t))[..., None])
    expected = np.where(good[..., None], p - hit, bad) * weights[..., None]
    np.testing.assert_allclose(gradient, expected, atol=2e-5)
    values = means(loss.metrics)
    liked = weights * good
    np.testing.assert_allclose(values["nll"], -(np.log(p_t) * liked).sum() / liked.sum(), rtol=1e-5)
    np.testing.assert_allclose(
        values["bad_probability"], (p_t * weights * ~good).sum() / (weights * ~good).sum(), rtol=1e-5
    )
    np.testing.assert_allclose(values["accuracy"], ((p.argmax(-1) == batch["targets"]) * liked).sum() / liked.sum())
    assert objective.nll_weight(batch) == liked.sum()


def test_a_model_that_is_sure_of_a_bad_token():
    """p rounds to 1: the loss is how far the token is ahead of the others, log 4 below 50, and its gradient that of the formula."""
    logits = jnp.asarray([[[50.0, 0, 0, 0, 0]]])
    batch = {"targets": np.int32([[0]]), "weights": np.float32([[1]]), "good": np.array([[False]])}
    value, gradient = jax.value_and_grad(lambda z: Unlikelihood().loss_of(Plain, None, z, batch).total)(logits)
    np.testing.assert_allclose(value, 50 - np.log(4), rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0], [1, -0.25, -0.25, -0.25, -0.25], rtol=1e-5)


def test_training_takes_the_good_way():
    """After the same token good texts go on with one and bad ones with another, as often: next-token prediction gives each 1/2."""
    good = np.arange(16)[:, None] % 2 * np.ones((16, 16)) > 0
    batch = {"inputs": np.full((16, 16), 3, np.int32), "targets": np.where(good, 9, 8).astype(np.int32)}
    batch |= {"weights": np.ones((16, 16), np.float32), "good": good}
    trained = train(objective=Unlikelihood(), batches=[batch] * 10, micro=2, dropout=0.0, ema=0.0, rate=3e-2)
    assert trained.losses[0] > np.log(2) and trained.evaluated < 0.2  # -log p of good ones, at the end


# What rows are made of.


def source_of(folder, records):
    for name in ("train", "validation", "test"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"jsonl:{folder}"


def rows_of(source, objective="unlikelihood", **changes):
    values = {"data": {"source": source, "length": 8, **changes}, "model": {"max_length": 64}}
    config = configs.check({**values, "objective": {"name": objective}})
    builder = config.tables.objectives[objective].builder()
    tokens = source_splits.tokenized(config.data, source, "train", ByteTokenizer(), builder.kinds)
    return filling.filled(config.data, tokens, builder, partial=True).rows


@pytest.mark.parametrize("changes", [{}, {"packing": "best_fit", "length": 16}])
def test_each_target_has_the_label_of_its_text(tmp_path, changes):
    """In windows over the stream, which begin and end within texts, and in packed rows."""
    records = [{"text": ("good" if n % 3 else "BAD") + str(n), "label": bool(n % 3)} for n in range(9)]
    made = rows_of(source_of(tmp_path, records), **changes)
    batch = made.batch(np.arange(len(made)), [(0, n) for n in range(len(made))])
    there = batch["weights"] > 0
    letters = there & (batch["targets"] >= ord("A")) & (batch["targets"] <= ord("z"))
    np.testing.assert_array_equal(batch["good"][letters], batch["targets"][letters] >= ord("a"))
    assert letters.sum() == 6 * 4 + 3 * 3 - ("packing" in changes) * 9 - (
        "packing" not in changes
    )  # a piece's first is no target
    ends = there & (batch["targets"] == ByteTokenizer().end_id)
    assert ends.sum() == 9 and batch["good"][ends].sum() == 6 and not batch["good"][~there].any()


def test_answers_too(tmp_path):
    """As `kto` reads them: what a prompt says is not learned."""
    records = [{"prompt": "q", "completion": "yes" if n % 2 else "NO", "label": n % 2} for n in range(8)]
    made = rows_of(source_of(tmp_path, records))
    batch = made.batch(np.arange(len(made)), [(0, n) for n in range(len(made))])
    learned = batch["weights"] > 0
    assert learned.sum() == 4 * 4 + 4 * 3 and batch["good"][learned].sum() == 4 * 4


def test_bad_input(tmp_path):
    records = [{"text": f"t{n}", "label": True} for n in range(8)]
    with pytest.raises(UserError, match="train.jsonl, line 5: column 'label' is not true or false"):
        rows_of(source_of(tmp_path, [*records[:4], {"text": "x", "label": "maybe"}, *records[4:]]))
    with pytest.raises(UserError, match="line 1: column 'label' is 'toxic': expected true or false"):
        rows_of(source_of(tmp_path, [{"text": "x", "label": "toxic"}] * 8))
    with pytest.raises(UserError, match="the objective learns from rated, not from classification"):
        rows_of(source_of(tmp_path, records), objective="kto")
    with pytest.raises(UserError, match="config.objective.bad_weight"):
        configs.check({"objective": {"name": "unlikelihood", "bad_weight": -1.0}})


@pytest.mark.live
def test_value_and_gradient_are_those_of_torch():
    import torch

    batch = batch_of(3)
    logits = np.random.default_rng(4).normal(size=(3, 7, V)).astype(np.float32) * 3
    values = torch.tensor(logits, requires_grad=True)
    chosen = values.log_softmax(dim=-1).gather(-1, torch.tensor(batch["targets"]).long()[..., None])[..., 0]
    good, weights = torch.tensor(batch["good"]), torch.tensor(batch["weights"])
    loss = (weights * torch.where(good, -chosen, -0.7 * torch.log1p(-chosen.exp()))).sum()
    loss.backward()
    total = lambda x: Unlikelihood(bad_weight=0.7).loss_of(Plain, None, x, batch).total  # noqa: E731
    found, gradient = jax.value_and_grad(total)(logits)
    np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, values.grad.numpy(), rtol=1e-4, atol=1e-6)
