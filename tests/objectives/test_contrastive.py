"""InfoNCE beside its formula, of vectors that are made of each text alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.contrastive import Contrastive
from tests.helpers import LENGTH, LLAMA, SPEC, VOCAB

ROWS = (
    (3, 4),
    (5, 4),
    (2, 9),
    (4, 4),
    (1, 1),
    (3, 2),
)  # tokens of a question and of its passage; the last is no row of the data


def batch_of(rng):
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


@pytest.mark.parametrize(("pooling", "causal"), [("mean", True), ("last", True), ("mean", False)])
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
