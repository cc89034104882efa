"""Objectives of data on answers of the model's own: beside what they are made of, and where they lead to, in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.base import Context
from ptft_jax.objectives.distill import Distill
from ptft_jax.objectives.dpo import DPO
from ptft_jax.objectives.own_answers import GKD, SPARE, ExpertIteration, OnlineDPO
from ptft_jax.training.answer_facts import add_up
from tests.helpers import LENGTH, SPEC, VOCAB, random_batch
from tests.training.test_best_answers import answers, kept, paired

MODEL = Transformer(dataclasses.replace(SPEC, layers=1, width=16, heads=2))


def built(**settings):
    return objectives.build(configs.check({"objective": settings}, complete=False).objective)


class Bigram:
    """A model that predicts a token by a row of its table, that of the token before."""

    context_parts = 1

    def logits(self, params, hidden):
        return hidden @ params

    def run(self, params, inputs):
        return jax.nn.one_hot(inputs.values, len(params)), None


TABLES = [np.random.default_rng(seed).normal(size=(VOCAB, VOCAB)).astype(np.float32) for seed in range(2)]


def log_prob(logits_of, ids, before):
    """Of what follows so many tokens, alone in its row, in float64."""
    logits = np.asarray(logits_of(np.array(ids[:-1])), np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(logs[at - 1, ids[at]] for at in range(before, len(ids)))


def written(rewards):
    """Two answers to each prompt, of unequal lengths."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, VOCAB, n).tolist() for n in (2, 4, 3, 1)]
    return answers(rewards, ids=ids, before=3)


def test_online_dpo_is_the_loss_of_dpo_on_the_sampled_ids():
    """By log-probabilities of answers that are alone; of two prompts, of which one has answers that are as good as each other."""
    objective = built(name="online_dpo", preference={"beta": 0.3})
    assert objective == OnlineDPO(inner=DPO(beta=0.3))
    rows, choosing = written([0.0, 1.0, 0.5, 0.5]), paired(2, 2, length=LENGTH)
    add_up(rows, 4, choosing._buffer)
    choosing._reward(rows, None)
    batch = choosing._batch(0, rows, None)
    params = [jax.jit(MODEL.init)(jax.random.key(seed)) for seed in range(2)]
    loss = jax.jit(lambda p, q: objective.loss(MODEL, p, batch, Context(reference=q)))(*params)
    run = jax.jit(MODEL)

    def of(p, row):
        padded = lambda ids: run(p, np.pad(ids, (0, 8 - len(ids)))[None])[0, : len(ids)]  # noqa: E731
        return log_prob(padded, row["ids"], 3)

    (worse, better), beta = [of(params[0], row) - of(params[1], row) for row in rows[:2]], 0.3
    expected = np.log1p(np.exp(-beta * (better - worse)))
    np.testing.assert_allclose([loss.total, loss.weight, objective.weight(batch)], [expected, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["chosen_log_prob"][0], of(params[0], rows[1]), rtol=1e-5)
    assert [float(x / n) for x, n in (loss.metrics["ties"], loss.metrics["reward"])] == [0.5, 0.5]


def test_expert_iteration_is_the_cross_entropy_of_what_is_kept():
    objective = built(name="expert_iteration", chunk=5)
    rows, choosing = written([0.0, 1.0, 0.0, 1.0]), kept(2, 4, length=LENGTH)
    add_up(rows, 4, choosing._buffer)
    choosing._reward(rows, None)
    batch = choosing._batch(0, rows, None)
    loss = jax.jit(lambda p: objective.loss(Bigram(), p, batch))(TABLES[0])
    expected = -sum(log_prob(lambda ids: TABLES[0][ids], rows[n]["ids"], 3) for n in (1, 3))
    np.testing.assert_allclose([loss.total, loss.weight, objective.weight(batch)], [expected, 5, 5], rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["kept"][0] / loss.metrics["kept"][1], 0.5)


def batches(name):
    """An objective with a batch of answers, and one that teaches nothing, where there are such."""
    if name != "gkd":
        choosing = kept(2, 4, length=LENGTH) if name == "expert_iteration" else paired(2, 2, length=LENGTH)
        made = []
        for rewards in ([0.0, 1.0, 1.0, 0.0], [0.0] * 4):
            rows = written(rewards)
            add_up(rows, 4, choosing._buffer)
            choosing._reward(rows, None)
            made.append(choosing._batch(0, rows, None))
        return built(name=name), made
    objective = built(name=name, distill={"teacher": "a run", "top": 8})
    batch = {**random_batch(0, rows=4), SPARE: np.zeros(4, np.float32), "ended": np.ones(4, np.float32)}
    batch |= {name: np.ones(4, np.float32) for name in ("written", "mismatch")}
    return objective, [batch | jax.jit(lambda b: objective.reference_of(Bigram(), TABLES[1], b))(batch)]


@pytest.mark.parametrize(
    "name", ["online_dpo", *(pytest.param(n, marks=pytest.mark.heavy) for n in ("expert_iteration", "gkd"))]
)
def test_losses_do_not_depend_on_how_a_batch_is_cut_and_nothing_is_no_nan(name):
    """A batch without an answer to learn has no gradient, and no mean over nothing."""
    objective, made = batches(name)

    def loss_of(p, rows):
        loss = objective.loss(Bigram(), p, rows, Context(reference=TABLES[1]))
        return loss.total, loss

    gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    for batch in made:
        whole, half = gradient(TABLES[0], batch), len(batch["inputs"]) // 2
        cut = [{k: v[here] for k, v in batch.items()} for here in (slice(0, half), slice(half, None))]
        sums = jax.tree.map(lambda *x: sum(x), *[gradient(TABLES[0], part) for part in cut])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), sums, whole)
        ((_, loss), grads), learned = whole, float(objective.weight(batch) - np.sum(batch[SPARE]))
        largest = float(jnp.abs(grads).max())
        assert loss.weight > 0 and np.isfinite(largest)
        assert (largest > 0) == (learned > 0) == (not batch[SPARE].any())
        if not learned:
            assert loss.total == 0 and loss.metrics["loss"] == (0, 0) and loss.metrics["reward"][1] > 0


def test_evaluations_are_of_right_answers():
    batch = random_batch(0, rows=4)
    for settings in (
        {"name": "online_dpo"},
        {"name": "gkd", "distill": {"teacher": "a run"}},
        {"name": "expert_iteration"},
    ):
        found = built(**settings).loss(Bigram(), TABLES[0], batch)
        expected = built(name="causal_lm").loss(Bigram(), TABLES[0], batch)
        np.testing.assert_allclose([found.total, found.weight], [expected.total, expected.weight], rtol=1e-6)


class Bandit:
    """A model that predicts one token by its parameters, whatever comes before."""

    context_parts = 1

    def logits(self, params, hidden):
        return jnp.broadcast_to(params, (*hidden.shape[:-1], *params.shape))

    def run(self, params, inputs):
        return jnp.zeros((*inputs.values.shape, 1)), None


def descended(objective, batch, start, rate, reference=None, steps=400):
    """Where the gradient of the mean loss leads to."""

    def mean(logits):
        hidden = jnp.zeros((*batch["inputs"].shape, 1))
        loss = objective.loss_of(Bandit(), logits, hidden, batch, Context(reference=reference))
        return loss.total / loss.weight

    step = lambda _, x: x - rate * jax.grad(mean)(x)  # noqa: E731
    return jax.nn.softmax(jax.jit(lambda x: jax.lax.fori_loop(0, steps, step, x))(start))


def test_expert_iteration_of_a_bandit_ends_at_the_rewarded_arms():
    """Answers as often as a policy p = (3, 2, 1) / 6 writes them: the optimum is p restricted to those with a reward, renormalized."""
    rows = answers([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], ids=[[0]] * 3 + [[1]] * 2 + [[2]])
    choosing = kept(6, 6)
    add_up(rows, 4, choosing._buffer)
    choosing._reward(rows, None)
    end = descended(
        ExpertIteration.of(configs.check({}, complete=False).objective),
        choosing._batch(0, rows, None),
        jnp.zeros(3),
        3.0,
    )
    np.testing.assert_allclose(end, [0, 2 / 3, 1 / 3], atol=2e-3)


def test_online_dpo_of_a_bandit_with_known_preferences_ends_where_they_say():
    """Labels that are wrong with a known chance e: pi(a) / pi(b) = ref(a) / ref(b) ((1 - e) / e)^(1 / beta)."""
    rows, choosing = answers([1.0, 0.0], ids=[[0], [1]], prompt=0), paired(2, 1)
    add_up(rows, 4, choosing._buffer)
    choosing._reward(rows, None)
    reference, beta, noise = jnp.array([0.0, 1.0]), 0.5, 0.2
    objective = built(name="online_dpo", preference={"beta": beta, "label_noise": noise})
    end = descended(objective, choosing._batch(0, rows, None), reference, 4.0, reference)
    np.testing.assert_allclose(end[0] / end[1], np.exp(-1.0) * ((1 - noise) / noise) ** (1 / beta), rtol=1e-4)


@pytest.mark.parametrize("divergence", ["forward_kl", pytest.param("reverse_kl", marks=pytest.mark.heavy)])
def test_a_pupil_that_is_corrected_on_its_own_answers_ends_as_its_teacher(divergence):
    teacher = jnp.array([0.2, 1.5, -1.0, 0.4])
    objective = GKD(inner=Distill(divergence_from=divergence, data_weight=0.0, precomputed=False))
    ids = np.array([[0, 3], [2, 2]], np.int32)  # what it wrote, and never what the teacher would have written
    batch = {"inputs": ids, "targets": ids, "weights": np.array([[1, 1], [1, 0]], np.float32)}
    batch |= {name: np.ones(2, np.float32) for name in ("written", "ended", "mismatch")} | {
        SPARE: np.zeros(2, np.float32)
    }
    batch |= objective.reference_of(Bandit(), teacher, batch)
    np.testing.assert_allclose(descended(objective, batch, jnp.zeros(4), 1.0), jax.nn.softmax(teacher), atol=1e-3)


def test_settings_that_contradict_each_other():
    for settings, message in (
        ({"name": "gkd"}, "config.objective.distill.teacher = '': a model that is asked about its own answers"),
        ({"name": "online_dpo", "preference": {"precompute": True}}, "config.objective.preference.precompute = True: of answers"),
        ({"name": "online_dpo", "policy": {"samples": 1}}, "config.objective.policy.samples = 1: online_dpo compares"),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            built(**settings)
        assert str(caught.value).startswith(message)
