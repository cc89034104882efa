"""InfoNCE beside its formula, of vectors that are made of each text alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.contrastive import Contrastive, pooled
from ptft_jax.training.trainer import Trainer
from tests.helpers import LENGTH, LLAMA, SPEC, VOCAB, tiny_config, train

ROWS = (
    (3, 4),
    (5, 4),
    (2, 9),
    (4, 4),
    (1, 1),
    (3, 2),
)  # tokens of a question and of its passage; the last is no row of the data


def batch_of(rng, times=1):
    """`times`: so many rows more, for devices to divide."""
    if times > 1:
        parts = [batch_of(rng) for _ in range(times * 2)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    batch = {
        "inputs": np.zeros((len(ROWS), LENGTH), np.int32),
        "segments": np.zeros((len(ROWS), LENGTH), np.int32),
        "question": np.zeros((len(ROWS), LENGTH), bool),
        "weights": np.asarray([1, 1, 1, 1, 1, 0], np.float32),
    }
    for n, (q, p) in enumerate(ROWS):
        batch["inputs"][n, : q + p] = rng.integers(0, VOCAB, q + p)
        batch["segments"][n, : q + p], batch["question"][n, :q] = 1, True
    batch["inputs"][3, 4:8] = batch["inputs"][0, 3:7]  # the passage of row 0 once more
    return batch


@pytest.mark.parametrize(("micro", "compiled"), [(2, "jit"), (1, "pmap")])
def test_a_batch_is_not_run_in_parts(micro, compiled, text_file):
    """Else the negatives would be those of a part (huggingface/sentence-transformers issues 2916 and 3149)."""
    config = tiny_config(
        text_file, objective__name="contrastive", training__micro_batches=micro, parallel__compile=compiled
    )
    with pytest.raises(
        UserError, match="objective.name = 'contrastive' compares each row with all others of its batch"
    ):
        Trainer(config, vocab_size=300)


@pytest.mark.heavy
def test_the_batch_is_the_same_on_several_devices():
    batches = [batch_of(np.random.default_rng(n), 3) for n in range(2)]
    one, four = (
        train(devices=n, objective=Contrastive(), batches=batches, dropout=0.0, steps=2, layers=1) for n in (1, 4)
    )
    np.testing.assert_allclose(one.losses, four.losses, rtol=1e-4)
    np.testing.assert_allclose(one.grad_norms, four.grad_norms, rtol=1e-3)


@pytest.mark.live
def test_it_is_torchs_cross_entropy():
    import torch

    rng = np.random.default_rng(2)
    model, batch = Transformer(dataclasses.replace(SPEC, layers=1)), batch_of(rng)
    batch["weights"][-1], batch["inputs"][3] = 1, rng.integers(0, VOCAB, LENGTH)
    params, objective = jax.jit(model.init)(jax.random.key(0)), Contrastive()
    hidden = objective.hidden(model, params, batch)
    passage = (batch["segments"] > 0) & ~batch["question"]
    vectors = [torch.tensor(np.asarray(pooled(hidden, jnp.asarray(x), "mean"))) for x in (batch["question"], passage)]
    scores = torch.nn.functional.cosine_similarity(vectors[0][:, None], vectors[1][None], dim=-1) / 0.05
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)), reduction="sum")
    np.testing.assert_allclose(objective.loss(model, params, batch).total, float(expected), rtol=1e-4)


@pytest.mark.parametrize(
    ("pooling", "causal"), [("mean", True), pytest.param("last", False, marks=pytest.mark.slow), ("last", True)]
)
def test_it_is_the_formula(pooling, causal):
    model = Transformer(dataclasses.replace(SPEC, **LLAMA, causal=causal))
    batch, params = batch_of(np.random.default_rng(0)), jax.jit(model.init)(jax.random.key(0))
    objective = Contrastive(pooling=pooling, similarity_temperature=0.5)

    def vector(ids):
        states = np.asarray(model.hidden(params, jnp.asarray(ids)[None]), np.float64)[0]
        found = states.mean(0) if pooling == "mean" else states[-1]
        return found / np.linalg.norm(found)

    queries = [vector(batch["inputs"][n, :q]) for n, (q, _) in enumerate(ROWS)]
    passages = [vector(batch["inputs"][n, q : q + p]) for n, (q, p) in enumerate(ROWS)]
    expected, right = 0.0, 0
    for n in range(5):
        others = [m for m in range(5) if m == n or {n, m} != {0, 3}]  # the same passage is no negative
        scores = np.asarray([queries[n] @ passages[m] / 0.5 for m in others])
        expected += np.log(np.exp(scores).sum()) - queries[n] @ passages[n] / 0.5
        right += others[int(scores.argmax())] == n
    loss = jax.jit(lambda params: objective.loss(model, params, batch))(params)
    np.testing.assert_allclose(loss.total, expected, rtol=2e-5)
    assert float(loss.weight) == 5 and float(loss.metrics["accuracy"][0]) == right
    grads = jax.jit(jax.grad(lambda params: objective.loss(model, params, batch).total))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
