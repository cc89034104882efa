"""Terms that keep a run near its start: closed forms, authors' formulas, and the same under every program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.base import PLAIN, Rows
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.params import recipes
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten
from ptft_jax.regularization.anchored import Mixout, distance, pulled
from ptft_jax.regularization.divergence import Distill, Smooth
from ptft_jax.regularization.fisher import Fisher
from ptft_jax.regularization.regularizers import Regularization
from tests.helpers import EVERYTHING, OBJECTIVE, SPEC, optimizer_config, random_batch, train

SGD = optimizer_config(name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=0.0)


def test_the_pull_is_the_gradient_of_the_distance():
    rng = np.random.default_rng(0)
    make = lambda: {name: jnp.asarray(rng.normal(size=size), jnp.float32) for name, size in (("a", (3, 2)), ("b", 4))}  # noqa: E731
    now, start, importance, grads = make(), make(), jax.tree.map(jnp.abs, make()), make()
    for weights in (None, importance):
        slope = jax.grad(lambda now, w=weights: 0.7 * distance(now, start, w))(now)
        found = pulled(grads, 0.7, now, start, weights)
        jax.tree.map(lambda f, g, s: np.testing.assert_allclose(f, g + s, atol=1e-6), found, grads, slope)
    d = {k: np.float64(now[k]) - np.float64(start[k]) for k in now}
    expected = sum((np.float64(importance[k]) * d[k] ** 2).sum() for k in d) / 2
    np.testing.assert_allclose(distance(now, start, importance), expected, rtol=1e-6)


@pytest.mark.heavy
def test_ewc_with_all_importances_alike_is_l2_sp():
    one = train(regularization=Regularization(l2_sp=3.0), optimizer=SGD, rate=0.1)
    other = train(regularization=Regularization(ewc=1.5), fisher=2.0, optimizer=SGD, rate=0.1)
    np.testing.assert_allclose(one.losses, other.losses, atol=1e-6)
    assert one.terms[0]["l2_sp"] == 0.0 < one.terms[1]["l2_sp"]
    np.testing.assert_allclose([t["ewc"] for t in other.terms], [2 * t["l2_sp"] for t in one.terms], rtol=1e-4)


def mixout(partition, rate=0.3):
    return Regularization(mixout=Mixout(rate, frozenset(f.path for f in partition.leaves if f.path.endswith("kernel"))))


def test_mixout_is_its_authors_formula():
    """Lee et al. 2020: with mask M of rate p, target u and weight w, (M u + (1 - M) w - p u) / (1 - p)."""
    rng = np.random.default_rng(0)
    w, u = (rng.normal(size=(40, 50)).astype(np.float32) for _ in range(2))
    mixed = Mixout(0.3, frozenset({"k"}))({"k": w, "b": w}, {"k": u, "b": u}, jax.random.key(0))
    np.testing.assert_array_equal(mixed["b"], w)
    got = np.asarray(mixed["k"])
    mask = got == u
    assert mask.mean() == pytest.approx(0.3, abs=4 * (0.21 / 2000) ** 0.5)  # four standard deviations
    np.testing.assert_allclose(got, (mask * u + (1 - mask) * w - 0.3 * u) / 0.7, atol=1e-6)
    # The mean over draws is the parameter itself, and gradients reach only what was kept.
    draw = jax.vmap(lambda k: Mixout(0.3, frozenset({"k"}))({"k": w}, {"k": u}, k)["k"])
    mean = draw(jax.random.split(jax.random.key(1), 2000)).mean(axis=0)
    np.testing.assert_allclose(mean, w, atol=5 * 3 * (0.3 / 0.7 / 2000) ** 0.5)
    slope = jax.grad(lambda w: Mixout(0.3, frozenset({"k"}))({"k": w}, {"k": u}, jax.random.key(0))["k"].sum())(w)
    np.testing.assert_allclose(slope, (1 - mask) / 0.7, rtol=1e-6)


SETTINGS = {
    "pulls": dict(regularization=Regularization(l2_sp=0.3, start_decay=0.1, ewc=0.5), fisher=2.0),
    "predictions": dict(
        regularization=lambda p: dataclasses.replace(
            mixout(p), distill=Distill(0.5, 2.0), smooth=Smooth(1.0, 1e-2, steps=1, step=1e-2, radius=2e-2, bregman=0.5)
        )
    ),
}


HEAVY = pytest.mark.heavy


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name, other",
    [
        # Each term under one program, each program with one term; the others are slow.
        pytest.param("pulls", dict(devices=8, fsdp=4, micro=2), marks=pytest.mark.slow),
        pytest.param("pulls", dict(devices=4, kind="pmap"), marks=pytest.mark.slow),
        pytest.param("predictions", dict(devices=8, fsdp=4, micro=2), marks=HEAVY),
        pytest.param("predictions", dict(devices=4, kind="pmap"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_same_under_every_program(name, other):
    # An epsilon that rounding is small beside: Adam would make full steps of the gradients of keys' biases, which are 0.
    setting = dict(SETTINGS[name], rates=recipes.rules("last:2"), optimizer=optimizer_config(eps=1e-4))
    one, got = train(**setting), train(**setting, **other)
    # Sums in another order, over three steps (as tests/parallel/test_invariance.py).
    np.testing.assert_allclose(got.losses, one.losses, atol=5e-6, rtol=0)
    np.testing.assert_allclose(got.grad_norms, one.grad_norms, rtol=1e-4)
    for mine, theirs in zip(one.terms, got.terms):
        assert mine.keys() == theirs.keys() and mine
        for term in mine:
            np.testing.assert_allclose(theirs[term], mine[term], rtol=1e-3, atol=1e-7, err_msg=term)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one.state.anchor), one.start.trainable)


# The importance of parameters.

LINEAR = Transformer(dataclasses.replace(SPEC, layers=1, tied=False, vocab_size=8))


def fisher_problem(rates, rows=8):
    params = jax.tree.map(lambda p: 4 * p, jax.jit(LINEAR.init)(jax.random.key(0)))
    partition = Partition.of(params, rates)
    batch = {k: v % 8 if k != "weights" else v for k, v in random_batch(0, rows=rows).items()}
    return partition, *partition.split(params), batch


def test_the_information_of_a_softmax_regression_in_closed_form():
    """Of scores h W: E[(dlog p(y) / dW_iv)^2] = h_i^2 p_v (1 - p_v), averaged over the predicted tokens."""
    partition, trainable, frozen, batch = fisher_problem(recipes.rules("head"))
    fisher = Fisher(LINEAR, CausalLM(z_loss=1.0, label_smoothing=0.5), partition, "sampled", together=4)
    draws = 400
    found = fisher.estimate(trainable, frozen, [batch] * draws, jax.random.key(1))["head"]["kernel"]
    params = partition.merge(trainable, frozen)
    h = np.float64(LINEAR.hidden(params, batch["inputs"])).reshape(-1, SPEC.width)
    p = np.float64(jax.nn.softmax(LINEAR(params, batch["inputs"]))).reshape(-1, 8)
    w = batch["weights"].reshape(-1, 1)
    expected = (w * h**2).T @ (p * (1 - p)) / w.sum()
    # A row's squared sum of 16 scores spreads by about sqrt(2) of its mean; 8 rows and 400 draws of them are averaged.
    spread = expected * (2 / (8 * draws)) ** 0.5
    off = (np.asarray(found) - expected) / spread
    assert np.abs(off).max() < 6 and 0.5 < np.std(off) < 2


def enumerated(partition, trainable, frozen, batch):
    """The Fisher information of a predicted token by its definition: the gradient of every token's log probability at every
    position, squared, by its probability."""

    def log_probability(trainable, tokens, position, token):
        logits = LINEAR(partition.merge(trainable, frozen), tokens[None])[0, position]
        return jax.nn.log_softmax(logits)[token]

    @jax.jit
    def of_row(tokens, weights):
        p = jax.nn.softmax(LINEAR(partition.merge(trainable, frozen), tokens[None])[0])

        def add(sums, place):
            position, token = place // 8, place % 8
            slope = jax.grad(log_probability)(trainable, tokens, position, token)
            return jax.tree.map(lambda s, g: s + weights[position] * p[position, token] * g**2, sums, slope), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, trainable), jnp.arange(8 * len(tokens)))[0]

    rows = [of_row(*row) for row in zip(batch["inputs"], batch["weights"])]
    return jax.tree.map(lambda *leaves: sum(leaves) / batch["weights"].sum(), *rows)


@pytest.mark.slow
def test_more_draws_come_nearer_to_the_information():
    """By enumeration of all tokens: without bias, and with an error that falls as the root of their number."""
    partition, trainable, frozen, batch = fisher_problem(EVERYTHING, rows=16)
    expected = flatten(enumerated(partition, trainable, frozen, batch))
    errors = {}
    for draws in (1, 64):
        fisher = Fisher(LINEAR, CausalLM(z_loss=1.0), partition, "sampled", 4, draws)
        found = flatten(fisher.estimate(trainable, frozen, [batch], jax.random.key(1)))
        # Not keys' biases, which change no attention.
        apart = {
            p: np.linalg.norm(found[p] - a) / np.linalg.norm(a) for p, a in expected.items() if "key/bias" not in p
        }
        errors[draws] = np.mean(list(apart.values()))
    assert errors[64] < 0.08 and errors[1] / errors[64] == pytest.approx(8, rel=0.35)


@pytest.mark.heavy
def test_the_empirical_information_by_gradients_of_each_row():
    partition, trainable, frozen, batch = fisher_problem(recipes.rules("last:1"))
    objective = CausalLM()

    def nll(trainable, row):
        params = partition.merge(trainable, frozen)
        return objective.loss(LINEAR, params, {k: v[None] for k, v in row.items()}).total

    grads = jax.jit(jax.vmap(jax.grad(nll), in_axes=(None, 0)))(trainable, batch)
    expected = jax.tree.map(lambda g: jnp.sum(g**2, axis=0) / batch["weights"].sum(), grads)
    scale = max(float(a.max()) for a in jax.tree.leaves(expected))
    for together in (1, 8):
        found = Fisher(LINEAR, OBJECTIVE, partition, "data", together).estimate(
            trainable, frozen, [batch], jax.random.key(0)
        )
        for path, array in flatten(found).items():
            # Squares of float32 sums; those of keys' biases, which change no attention, are rounding alone.
            np.testing.assert_allclose(array, flatten(expected)[path], rtol=1e-3, atol=1e-9 * scale, err_msg=path)


def test_rows_that_fill_up_a_batch_carry_no_information():
    partition, trainable, frozen, batch = fisher_problem(recipes.rules("head"))
    padded = {k: np.concatenate([v, np.zeros_like(v)]) for k, v in batch.items()}
    fisher = Fisher(LINEAR, CausalLM(), partition, "sampled", 2)
    one, other = (fisher.estimate(trainable, frozen, [b], jax.random.key(0)) for b in (batch, padded))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9), one, other)


@dataclasses.dataclass(frozen=True)
class Tripled(Rows):
    """An objective without the settings of the package's own, whose loss is not its cross-entropy."""

    metrics = ("loss", "nll", "accuracy")

    def loss_of(self, model, params, hidden_BTD, batch, context=PLAIN):
        loss = CausalLM().loss_of(model, params, hidden_BTD, batch, context)
        return loss._replace(total=3 * loss.total)


def test_the_information_is_of_the_cross_entropy_whatever_the_loss_is():
    partition, trainable, frozen, batch = fisher_problem(recipes.rules("head"))
    one, other = (
        Fisher(LINEAR, objective, partition, "data", 4).estimate(trainable, frozen, [batch], jax.random.key(0))
        for objective in (Tripled(), CausalLM(z_loss=0.3, label_smoothing=0.1))
    )
    assert max(float(a.max()) for a in jax.tree.leaves(one)) > 0
    jax.tree.map(np.testing.assert_array_equal, one, other)
