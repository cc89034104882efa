"""Policy gradients: beside formulas in numpy, exact by enumeration, and where they lead to, in closed form."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.model.sampling import Sampling, filtered, support_bits
from ptft_jax.objectives.base import Context
from ptft_jax.objectives.policy import FACTS, GRPO, RLOO, Reinforce
from ptft_jax.training.answer_rows import AnswerRows
from tests.objectives.policy_batch import ADVANTAGES, LENGTHS, LIMIT, MASK, PRODUCT, VARIANTS, batch, given, logs


def by_numpy(objective, mine, old, behind, counts):
    """The loss in float64, answer by answer and token by token."""
    total, weight = 0.0, 0.0
    for n, length in enumerate(LENGTHS):
        moved = (mine - old)[n, :length].astype(np.float64)
        gap = (behind - mine)[n, :length].astype(np.float64)
        whole = {"token": moved, "sequence": np.full(length, moved.mean()), "product": np.full(length, moved.sum())}[
            objective.ratio
        ]
        ratio, a = np.exp(whole), float(ADVANTAGES[n])
        low = 1 - objective.clip_low if objective.clip_low else 0
        high = 1 + objective.clip_high if objective.clip_high else np.inf
        losses = [-min(r * a, min(max(r, low), high) * a) for r in ratio]
        if objective.kl:
            estimates = gap**2 / 2 if objective.kl_estimator == "k2" else np.exp(gap) - 1 - gap
            losses = losses + objective.kl * estimates
        total += counts[n] * np.sum(losses) / {"sequence": length, "token": 1, "constant": LIMIT}[objective.average]
        weight += counts[n] * (length if objective.average == "token" else 1)
    return total, weight


MORE = {
    "product": PRODUCT,
    "k2": given(kl=0.3, kl_estimator="k2", average="constant"),
    **{name: objective for name, (_, objective) in VARIANTS.items()},
}


def repeated(values, *kept):
    """Parameters of a test: those that are not `kept` repeat it."""
    return [v if v in kept else pytest.param(v, marks=pytest.mark.heavy) for v in values]


@pytest.mark.parametrize("name", repeated(MORE, "product", "k3"))
def test_losses_are_those_of_formulas_and_add_up(name):
    """However a batch is cut; answers that are dropped count for nothing."""
    objective = MORE[name]
    counts = np.array([1, 0, 1, 1], np.float32)
    whole = batch(counts=counts)

    @jax.jit
    def loss_of(params, hidden, rows):
        return objective.loss_of(None, params, hidden, rows, Context(reference=params))

    found = loss_of(logs(2), logs(0), whole)
    total, weight = by_numpy(objective, logs(0), whole["sampled"], logs(2), counts)
    np.testing.assert_allclose([found.total, found.weight], [total, weight], rtol=1e-5)
    assert float(objective.weight(whole)) == found.weight
    parts = []
    for here in (slice(0, 2), slice(2, 4)):
        part = {key: value[here] for key, value in whole.items()}
        parts.append(loss_of(logs(2)[here], logs(0)[here], part))
    np.testing.assert_allclose(sum(p.total for p in parts), found.total, rtol=1e-5)
    for key, sums in found.metrics.items():
        np.testing.assert_allclose(np.sum([p.metrics[key] for p in parts], axis=0), sums, rtol=1e-5, err_msg=key)


# A policy over answers of one or two tokens, of which the last ends them: a table of logits by place and token before.
WORDS, END = 3, 2
ANSWERS = [(END,), *((a, b) for a in range(END) for b in range(WORDS))]
REWARDS = jnp.asarray([0.3, 1.0, -0.5, 0.0, 2.0, 0.1, -1.0])
PAIRS = np.array(list(itertools.product(range(len(ANSWERS)), repeat=2)))


class Table:
    """A model whose hidden states say which rows of its table a token is predicted by."""

    context_parts = 1

    def logits(self, params, hidden):
        return hidden @ params


def answer_rows():
    """Of every answer: hidden states [n, 2, 3], targets, weights."""
    hidden, targets, weights = np.zeros((7, 2, 3), np.float32), np.zeros((7, 2), np.int32), np.zeros((7, 2), np.float32)
    for n, ids in enumerate(ANSWERS):
        for place, token in enumerate(ids):
            hidden[n, place, 0 if place == 0 else 1 + ids[0]] = 1
            targets[n, place], weights[n, place] = token, 1
    return hidden, targets, weights


HIDDEN, TARGETS, WEIGHTS = map(jnp.asarray, answer_rows())


def log_probs(table):
    """[answers, 2]: of their tokens."""
    logs = jax.nn.log_softmax(HIDDEN @ table, axis=-1)
    return jnp.take_along_axis(logs, TARGETS[..., None], axis=-1)[..., 0] * WEIGHTS


def expected(objective, table, old):
    """The loss in expectation over all pairs of answers that the table `old` writes to one prompt, as a function whose gradient by the
    table is that of the expectation."""
    written = jax.lax.stop_gradient(log_probs(old))

    def one(pair):
        rows = {
            "inputs": TARGETS[pair], "targets": TARGETS[pair], "weights": WEIGHTS[pair], "sampled": written[pair],
            "advantages": objective.advantages(REWARDS[pair][None])[0], "counts": jnp.ones(2),
            **{name: jnp.zeros(2) for name in FACTS},
        }  # fmt: skip
        loss = objective.loss_of(Table(), table, HIDDEN[pair], rows)
        return jnp.exp(written[pair].sum()) * loss.total / loss.weight

    return jax.vmap(one)(jnp.asarray(PAIRS)).sum()


def value(table):
    """The expected reward."""
    return jnp.sum(jnp.exp(log_probs(table).sum(axis=1)) * REWARDS)


def tables(count):
    return [jnp.asarray(np.random.default_rng(seed).normal(size=(3, WORDS)), jnp.float32) for seed in range(count)]


UNBIASED = {
    # objective, by what the gradient of the expected reward is multiplied
    "rloo": (RLOO(ratio="product"), 1.0),
    "reinforce": (Reinforce(ratio="product"), 1.0),
    "grpo": (
        GRPO(scale="none", average="constant", limit=2),
        (1 - 1 / 2) / 2,
    ),  # its baseline has the answer's own reward
}


@pytest.mark.parametrize("name", repeated(UNBIASED, "grpo"))
def test_gradients_are_unbiased(name):
    """The mean over all that could be sampled is the gradient of the expected reward, of an older model's answers too where whole
    answers are weighed."""
    objective, factor = UNBIASED[name]
    table, old = tables(2)
    true = jax.jit(jax.grad(value))(table)
    gradient = jax.jit(jax.grad(lambda mine, theirs: expected(objective, mine, theirs)))
    np.testing.assert_allclose(gradient(table, table), -factor * true, atol=2e-6)
    assert np.abs(true).max() > 0.05
    if objective.ratio == "product":
        np.testing.assert_allclose(gradient(table, old), -true, atol=1e-5)


@pytest.mark.parametrize("estimator", repeated(["k1", "k2"], "k1"))
def test_held_near_the_reference_a_bandit_ends_at_the_known_optimum(estimator):
    """softmax(log q + reward / beta), of answers of one token."""
    beta, rewards, behind = (
        0.5,
        jnp.asarray([1.0, 0.2, -0.3, 0.6]),
        jax.nn.log_softmax(jnp.asarray([0.1, 1.0, 0.0, -1.0])),
    )
    objective = dataclasses.replace(given(RLOO, ratio="product"), kl=beta, kl_estimator=estimator)
    arms = jnp.asarray(list(itertools.product(range(4), repeat=2)))

    def loss(logits):
        mine = jax.nn.log_softmax(logits)
        written = jax.lax.stop_gradient(mine)

        def one(pair):
            held = beta * (written - behind)[pair] if estimator == "k1" else 0.0
            rows = {
                "weights": jnp.ones((2, 1)), "sampled": written[pair][:, None], "counts": jnp.ones(2), "kl": jnp.zeros(2),
                "advantages": objective.advantages((rewards[pair] - held)[None])[0], **{name: jnp.zeros(2) for name in FACTS},
            }  # fmt: skip
            context = Context(reference=behind[pair][:, None])
            found = objective.loss_of(None, None, mine[pair][:, None], rows, context)
            return jnp.exp(written[pair].sum()) * found.total / found.weight

        return jax.vmap(one)(arms).sum()

    start = jnp.zeros(4)
    end = jax.jit(lambda x: jax.lax.fori_loop(0, 400, lambda _, x: x - 2.0 * jax.grad(loss)(x), x))(start)
    best = jax.nn.softmax(behind + rewards / beta)
    np.testing.assert_allclose(jax.nn.softmax(end), best, atol=1e-4)
    assert np.abs(best - jax.nn.softmax(start)).max() > 0.1


TRUNCATED = {"top_p": Sampling(temperature=0.7, top_p=0.8), "top_k": Sampling(temperature=0.7, top_k=3), "min_p": Sampling(temperature=0.7, min_p=0.2)}  # fmt: skip


@pytest.mark.parametrize(("chunk", "sampling"), [(0, "top_p"), *((2, name) for name in TRUNCATED)])
def test_probabilities_are_of_what_could_be_sampled(chunk, sampling):
    """At a temperature, of the tokens that top-p, top-k and min-p leave: the ratio to the sampler's is 1, and no gradient is of the others."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 5, 11)) * 2, jnp.float32)
    sampling = TRUNCATED[sampling]
    drawn = jax.nn.log_softmax(filtered(logits.reshape(15, 11), sampling))
    targets = np.asarray(jax.random.categorical(jax.random.key(0), drawn)).reshape(3, 5)
    weights = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 0], [1, 1, 1, 0, 0]], np.float32)
    support = np.asarray(support_bits(logits.reshape(15, 11), sampling)).reshape(3, 5, 2)
    # Bit v % 8 of byte v // 8 is of token v.
    there = np.array([[[bits[v // 8] >> (v % 8) & 1 for v in range(11)] for bits in row] for row in support], bool)
    np.testing.assert_array_equal(there.reshape(15, 11), np.isfinite(drawn))
    sampled = np.take_along_axis(np.asarray(drawn).reshape(3, 5, 11), targets[..., None], axis=-1)[..., 0] * weights
    rows = {
        "targets": targets, "weights": weights, "sampled": sampled, "advantages": np.array([1.0, -2.0, 0.5], np.float32),
        "counts": np.ones(3, np.float32), "support": np.where(weights[..., None] > 0, support, 0).astype(np.uint8),
        **{name: np.zeros(3, np.float32) for name in FACTS},
    }  # fmt: skip

    class Plain:
        context_parts = 1

        def logits(self, params, hidden):
            return hidden

    objective = GRPO(temperature=0.7, chunk=chunk)

    def total(values):
        found = objective.loss_of(Plain(), None, values, rows)
        return found.total, found.metrics

    gradient, metrics = jax.jit(jax.grad(total, has_aux=True))(logits)
    assert metrics["ratio"][0] / metrics["ratio"][1] == pytest.approx(1.0, abs=1e-6)
    assert metrics["mismatch"][0] < 1e-5 and np.isfinite(gradient).all()
    assert np.abs(np.where(there & (weights[..., None] > 0), gradient, 0)).max() > 0.01
    assert not np.where(there & (weights[..., None] > 0), 0, gradient).any()
    entropy = (
        -np.where(np.isfinite(drawn), np.exp(drawn) * np.where(np.isfinite(drawn), drawn, 0), 0).sum(-1).reshape(3, 5)
    )
    np.testing.assert_allclose(metrics["entropy"][0], (entropy * weights).sum(), rtol=1e-5)
    # Without what says that, the probabilities are others.
    bare = {name: v for name, v in rows.items() if name != "support"}
    bare_loss = jax.jit(lambda values: GRPO(temperature=0.7).loss_of(Plain(), None, values, bare).metrics)
    assert bare_loss(logits)["mismatch"][0] > 0.5


def test_advantages():
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_allclose(RLOO().advantages(rewards), [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [0] * 4], atol=1e-12)
    np.testing.assert_allclose(Reinforce().advantages(rewards)[0], [1 - 5 / 7, -6 / 7, -6 / 7, 1 - 5 / 7])
    np.testing.assert_allclose(GRPO(scale="none").advantages(rewards), [[0.5, -0.5, -0.5, 0.5], [0] * 4])
    np.testing.assert_allclose(GRPO().advantages(rewards)[0, 0], 0.5 / (np.sqrt(1 / 3) + 1e-4))
    np.testing.assert_allclose(GRPO(scale="batch").advantages(rewards)[0, 0], 0.5 / (np.std(rewards, ddof=1) + 1e-4))
    # What holds near the reference is taken off, by its weight: where rewards are alike, too.
    held = np.array([[0.0, 0.0, 0.0, 0.0], [0.04, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(GRPO().advantages(rewards, held)[1], [-0.03, 0.01, 0.01, 0.01])
    np.testing.assert_allclose(RLOO().advantages(rewards, held), RLOO().advantages(rewards - held))


def test_settings_are_those_that_act():
    def built(name, **policy):
        config = configs.check({"objective": {"name": name, "policy": policy}})
        return config.tables.objectives[name].build(config.objective)

    assert built("grpo").ratio == "token" and built("rloo").ratio == built("reinforce").ratio == "product"
    read = configs.check({"objective": {"name": "rloo", "policy": {"average": "constant"}}})
    assert read.tables.objectives["rloo"].build(read.objective).average == "sequence"
    assert built("rloo", ratio="token", average="constant").average == "constant"
    assert built("grpo").clip_low == 0 and built("grpo", updates=2, clip_low=0.1).clip_low == 0.1
    assert not built("grpo").needs_reference and built("grpo", kl=0.1).compares
    assert (
        built("rloo", kl=0.1, kl_estimator="k1").needs_reference
        and not built("rloo", kl=0.1, kl_estimator="k1").compares
    )
    with pytest.raises(
        UserError, match=r"config.objective.policy.samples = 1: grpo compares the answers to a prompt: expected 2"
    ):
        built("grpo", samples=1)
    assert built("reinforce", samples=1).advantages(np.array([[1.0], [0.0]])).tolist() == [[1.0], [-1.0]]


def test_in_evaluation_it_is_the_cross_entropy_of_right_answers():
    from ptft_jax.objectives.causal_lm import CausalLM

    rng = np.random.default_rng(0)

    class Plain:
        context_parts = 1

        def logits(self, params, hidden):
            return hidden

    hidden = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
    rows = {"targets": rng.integers(0, 5, (2, 4)), "weights": MASK[:2, :4]}
    mine, plain = (
        jax.jit(lambda values, o=o: o.loss_of(Plain(), None, values, rows))(hidden)
        for o in (GRPO(temperature=0.5, kl=1.0), CausalLM())
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(a == b), mine, plain))


def test_what_a_tool_says_carries_no_gradient():
    """Of answers of two sampled tokens, between which a tool says the one after the first: the mean over all 25 of them is the gradient of
    the expected reward of a model that draws those two and is given the third."""
    words, prompt = 5, 2
    table, old = (jnp.asarray(np.random.default_rng(seed).normal(size=(words, words)), jnp.float32) for seed in (0, 1))
    rewards = np.random.default_rng(2).normal(size=(words, words))
    drawn = [(x, y) for x in range(words) for y in range(words)]

    def log_prob(table, ids, place):  # of a token by the sum of the table's rows of all before it
        return jax.nn.log_softmax(table[jnp.asarray(ids[:place])].sum(axis=0))[ids[place]]

    def ids_of(x, y):
        return [prompt, x, (x + 1) % words, y]

    def pair(table, x, y):
        return [log_prob(table, ids_of(x, y), place) for place in (1, 3)]

    def value(table):
        return sum(jnp.exp(sum(pair(table, x, y))) * rewards[x, y] for x, y in drawn)

    rows = [
        {"ids": ids_of(x, y), "prompt_tokens": 1, "given": [[2, 3]], "log_probs": [float(p) for p in pair(old, x, y)]}
        for x, y in drawn
    ]
    shares = np.exp([sum(row["log_probs"]) for row in rows])
    facts = {name: jnp.zeros(len(rows)) for name in FACTS}

    def loss(table, rows, **changes):
        batch = (
            AnswerRows(5).tokens(rows)
            | facts
            | {"advantages": rewards.reshape(-1) * shares, "counts": jnp.ones(len(rows))}
        )
        hidden = jnp.cumsum(jax.nn.one_hot(batch["inputs"], words), axis=1)
        found = Reinforce(ratio="product", **changes).loss_of(Table(), table, hidden, batch)
        return found.total

    np.testing.assert_allclose(jax.grad(loss)(table, rows), -jax.grad(value)(table), atol=1e-5)
    chunked = jax.grad(lambda table: loss(table, rows, chunk=2))(table)
    np.testing.assert_allclose(chunked, -jax.grad(value)(table), atol=1e-5)
    learned = [row | {"given": [], "log_probs": [*row["log_probs"][:1], 0.0, row["log_probs"][1]]} for row in rows]
    assert np.abs(jax.grad(loss)(table, learned) + jax.grad(value)(table)).max() > 0.03
