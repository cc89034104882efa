"""Learning with a value head: advantages by hand, the loss by a formula in numpy, exact gradients by enumeration, and where it leads to."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.objectives.policy import FACTS
from ptft_jax.objectives.ppo import PPO, explained, gae
from ptft_jax.params.partition import Partition
from ptft_jax.regularization.regularizers import _mixout
from ptft_jax.training.trainer import Trainer
from tests.objectives.policy_batch import LENGTHS, MASK, batch, given, logs
from tests.objectives.test_policy import ANSWERS, HIDDEN, REWARDS, TARGETS, WEIGHTS, log_probs, tables
from tests.objectives.test_policy import value as expected_reward


def test_advantages_by_hand():
    """Rewards 0, 0, 1 and values 0.5, 0.4, 0.8, of which each error is r + gamma v' - v."""
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.4, 0.8])
    # gamma 1: errors -0.1, 0.4, 0.2; lambda 0.5: 0.2, 0.4 + 0.1, -0.1 + 0.25.
    np.testing.assert_allclose(gae(rewards, values, 1.0, 0.5), [0.15, 0.5, 0.2])
    # gamma 0.5: errors -0.3, 0, 0.2; gamma lambda 0.25: 0.2, 0.05, -0.2875.
    np.testing.assert_allclose(gae(rewards, values, 0.5, 0.5), [-0.2875, 0.05, 0.2])
    np.testing.assert_allclose(gae(rewards, values, 0.9, 0.0), [0.9 * 0.4 - 0.5, 0.9 * 0.8 - 0.4, 1 - 0.8])
    spread = np.random.default_rng(0).normal(size=6)
    to_come = [sum(0.9**k * r for k, r in enumerate(spread[t:])) for t in range(6)]
    np.testing.assert_allclose(gae(spread, 0.3 * spread, 0.9, 1.0), to_come - 0.3 * spread)


def test_whitened_over_the_tokens_of_answers_with_a_reward():
    rewards, values = (
        [np.array([0.0, 1.0]), np.array([2.0]), np.array([5.0, 5.0])],
        [np.zeros(2), np.ones(1), np.ones(2)],
    )
    advantages, returns = PPO(gae_lambda=1.0).estimated(rewards, values, [True, True, False])
    assert [r.tolist() for r in returns] == [[1, 1], [2], [1, 1]]
    np.testing.assert_allclose(np.concatenate(advantages), np.zeros(5), atol=1e-9)  # all are 1 before that
    advantages, _ = PPO(gae_lambda=0.0).estimated(rewards, values, [True, True, False])
    np.testing.assert_allclose(np.concatenate(advantages), np.array([-2, 1, 1, 0, 0]) / 3 / np.sqrt(1 / 3), rtol=1e-6)
    assert explained(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0])) == pytest.approx(1 - 2 / (2 / 3))
    assert explained(np.ones(3), np.zeros(3)) is None


ADVANTAGES = np.random.default_rng(3).normal(size=MASK.shape).astype(np.float32) * MASK
OLD, RETURNS = logs(5), logs(6)
MODEL = types.SimpleNamespace(values=lambda params, hidden: params)
FORMULAS = {
    "clipped": dict(average="token", clip_low=0.1, clip_high=0.2, value_clip=0.15, value_weight=0.5),
    "by answer": dict(value_weight=2.0),
}


def rows(**changes):
    """Answers with what a model learns values from."""
    told = {"explained": np.array([0.5, 0.5, 0.5, 0.5], np.float32), "varied": np.ones(4, np.float32)}
    return batch(advantages=ADVANTAGES, values=OLD, returns=RETURNS, **told, **changes)


def by_numpy(objective, mine, values, old, counts):
    """The loss in float64, answer by answer and token by token, and that of the values alone."""
    total = of_values = weight = 0.0
    for n, length in enumerate(LENGTHS):
        here = slice(0, length)
        ratio, a = np.exp((mine - old)[n, here].astype(float)), ADVANTAGES[n, here].astype(float)
        low, high = 1 - objective.clip_low, 1 + objective.clip_high
        clipped = np.clip(ratio, low, high) if objective.clip_low else ratio
        policy = -np.minimum(ratio * a, clipped * a)
        v, v_old, aim = (x[n, here].astype(float) for x in (values, OLD, RETURNS))
        near = v_old + np.clip(v - v_old, -objective.value_clip, objective.value_clip) if objective.value_clip else v
        error = 0.5 * np.maximum((v - aim) ** 2, (near - aim) ** 2)
        share = counts[n] * (1 if objective.average == "token" else 1 / length)
        total += share * (policy + objective.value_weight * error).sum()
        of_values += share * error.sum()
        weight += counts[n] * (length if objective.average == "token" else 1)
    return total, weight, of_values


@pytest.mark.parametrize("name", FORMULAS)
def test_the_loss_is_that_of_the_formula_and_adds_up(name):
    """However a batch is cut; answers that are dropped count for nothing."""
    objective, counts = given(PPO, **FORMULAS[name]), np.array([1, 0, 1, 1], np.float32)
    whole = rows(counts=counts)
    values = logs(7, near=OLD)

    @jax.jit
    def loss_of(values, hidden, rows):
        return objective.loss_of(MODEL, values, hidden, rows)

    found = loss_of(values, logs(0), whole)
    total, weight, of_values = by_numpy(objective, logs(0), values, whole["sampled"], counts)
    np.testing.assert_allclose([found.total, found.weight], [total, weight], rtol=1e-5)
    np.testing.assert_allclose(found.metrics["value_loss"], [of_values, weight], rtol=1e-5)
    assert (float(found.metrics["value_clipped"][0]) > 0) == bool(objective.value_clip)
    parts = []
    for here in (slice(0, 2), slice(2, 4)):
        parts.append(loss_of(values[here], logs(0)[here], {key: value[here] for key, value in whole.items()}))
    np.testing.assert_allclose(sum(p.total for p in parts), found.total, rtol=1e-5)
    for key, sums in found.metrics.items():
        np.testing.assert_allclose(np.sum([p.metrics[key] for p in parts], axis=0), sums, rtol=1e-5, err_msg=key)
    assert found.metrics["explained_variance"] == (2.0, 4.0)


def told(objective, rewards, values, weights):
    """What a batch has of answers, whose tokens get `rewards` [n, T] and have `values` [n, T], after one rollout of all of them."""
    lengths = np.asarray(weights).sum(axis=1).astype(int)
    parts = [[np.asarray(a[n, :length], float) for n, length in enumerate(lengths)] for a in (rewards, values)]
    found = objective.estimated(*parts, [True] * len(lengths))
    padded = [np.stack([np.pad(a, (0, values.shape[1] - len(a))) for a in part]) for part in found]
    return dict(zip(("advantages", "returns"), map(jnp.asarray, padded))) | {"values": jnp.asarray(values)}


def answered(weights, sampled, **more):
    count = len(weights)
    facts = {name: jnp.zeros(count) for name in (*FACTS, "explained", "varied")}
    return {"weights": weights, "sampled": sampled, "counts": jnp.ones(count), **facts, **more}


def test_the_gradient_is_unbiased():
    """With gamma = lambda = 1 the mean over all answers is the gradient of the expected reward, whatever the values are: they are
    baselines. Of one answer it is another."""
    objective, (table, _) = PPO(gae_lambda=1.0, whiten=False, average="constant", limit=1, value_weight=0.0), tables(2)
    written = log_probs(table)
    ends = np.array([len(ids) - 1 for ids in ANSWERS])
    rewards = np.zeros(WEIGHTS.shape)
    rewards[np.arange(len(ends)), ends] = REWARDS
    by_state = np.random.default_rng(1).normal(size=3)  # a value is one of what was written before
    values = np.asarray(HIDDEN @ by_state)
    given_rows = answered(WEIGHTS, written, targets=TARGETS, **told(objective, rewards, values, WEIGHTS))

    class Table:
        context_parts = 1

        def logits(self, params, hidden):
            return hidden @ params

        def values(self, params, hidden):
            return hidden @ by_state

    def one(table, n):
        row = {name: array[n][None] for name, array in given_rows.items()}
        return objective.loss_of(Table(), table, HIDDEN[n][None], row).total

    gradients = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, 0)))(table, jnp.arange(len(ANSWERS)))
    mean = jnp.tensordot(jnp.exp(written.sum(axis=1)), gradients, axes=1)
    true = jax.jit(jax.grad(expected_reward))(table)
    np.testing.assert_allclose(mean, -true, atol=2e-6)
    assert np.abs(gradients[0] + true).max() > 0.05 < np.abs(true).max()


def test_held_near_the_reference_a_bandit_ends_at_the_known_optimum():
    """softmax(log q + reward / beta), of answers of one token; the value ends at what that is worth, beta log sum(q exp(reward / beta))."""
    beta, rewards = 0.5, np.array([1.0, 0.2, -0.3, 0.6])
    behind = np.asarray(jax.nn.log_softmax(jnp.asarray([0.1, 1.0, 0.0, -1.0])), float)
    objective = given(PPO, kl=beta, kl_estimator="k1", whiten=False, average="token", value_weight=1.0)
    one = jnp.ones((4, 1))
    model = types.SimpleNamespace(values=lambda params, hidden: params["value"] + 0 * hidden)

    def loss(params, found):
        mine = jax.nn.log_softmax(params["logits"])
        batch = answered(one, jax.lax.stop_gradient(mine)[:, None], kl=jnp.zeros(4), **found)

        def arm(n):
            row = {name: array[n][None] for name, array in batch.items()}
            return objective.loss_of(model, params, mine[n][None, None], row).total

        return jnp.sum(jax.lax.stop_gradient(jnp.exp(mine)) * jax.vmap(arm)(jnp.arange(4)))

    step = jax.jit(lambda params, found: jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params, found)))
    params = {"logits": jnp.zeros(4), "value": jnp.zeros(())}
    for _ in range(300):
        mine = np.asarray(jax.nn.log_softmax(params["logits"]), float)
        of_tokens = (rewards - beta * (mine - behind))[:, None]
        params = step(params, told(objective, of_tokens, np.full((4, 1), float(params["value"])), one))
    best = jax.nn.softmax(behind + rewards / beta)
    np.testing.assert_allclose(jax.nn.softmax(params["logits"]), best, atol=1e-4)
    np.testing.assert_allclose(params["value"], beta * jax.nn.logsumexp(behind + rewards / beta), atol=1e-4)
    assert np.abs(best - 0.25).max() > 0.1


def test_the_value_head_trains_whatever_else_does():
    """At its own rate; what says all rates has to say that, too. It starts at 0, and the model is the one without it."""

    def rates(**tune):
        policy = {"from_random": True, "verifiers": ("exact",), "value_rate": 3.0}
        model = {"layers": 2, "width": 8, "heads": 2, "vocab_size": 11}
        config = configs.check({"model": model, "objective": {"name": "ppo", "policy": policy}, "tune": tune})
        trainer = Trainer(config)
        return trainer, {leaf.path: leaf.rates for leaf in trainer.partition.leaves}

    trainer, found = rates()
    assert found.pop("value_head/kernel") == found.pop("value_head/bias") == (3.0,) and set(found.values()) == {
        (1.0,),
        (1.0, 1.0),
    }
    params, plain = trainer.maker.init(jax.random.key(0)), trainer.plain_maker.init(jax.random.key(0))
    assert not np.any(params.pop("value_head")["kernel"])
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, plain))
    for tune in ({"method": "lora"}, {"train": "last:1"}, {"phases": ((0, "norms"), (2, "all"))}):
        assert rates(**tune)[1]["value_head/kernel"] == (3.0,)
    assert rates(rates=(("value_head/.*", 0.5), (".*", 1.0)))[1]["value_head/kernel"] == (0.5,)
    with pytest.raises(UserError, match=r"config.tune.rates: the value head .* is frozen:\n.*value_head/bias"):
        rates(rates=(("blocks/.*", 1.0), (".*", 0.0)))
    # A value head alone is no model that learns: phases of what tune.train freezes.
    with pytest.raises(UserError, match=r"tune.phases.*trains nothing of what the run trains but the value head"):
        rates(train="norms", phases=((0, "norms"), (2, "attention")))
    with pytest.raises(UserError, match="everything but the value head is frozen"):
        rates(rates=(("value_head/.*", 1.0), (".*", 0.0)))


def test_the_parents_values_are_none():
    """Mixout puts the parent's parameters into their place, and a parent has no value head."""
    shapes = {name: {"kernel": np.zeros((2, 1), np.float32)} for name in ("value_head", "dense")}
    partition = Partition.of(shapes, [(".*", 1.0)])
    section = configs.check({"tune": {"mixout": {"rate": 0.5}}}, complete=False).tune.mixout
    assert _mixout(section, partition, ()).paths == {"dense/kernel"}


def test_settings_are_those_that_act():
    def built(**policy):
        config = configs.check({"objective": {"name": "ppo", "policy": policy}})
        return config.tables.objectives["ppo"].build(config.objective)

    assert built().value_clip == 0 and built(updates=2).value_clip == 0.2 and built(samples=1).ratio == "token"
    with pytest.raises(UserError, match=r"policy.ratio = 'product': each token has an advantage of its own with ppo"):
        built(ratio="product")
