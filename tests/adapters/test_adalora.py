"""Singular triplets under a budget: the penalty, importance, the schedule, what is pruned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ptft_jax.adapters.adalora import AdaLora
from ptft_jax.adapters.rank_budget import LEFT, RIGHT, SINGULAR, Allocation, Schedule, orthogonal
from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.optim import optimizers
from ptft_jax.params import recipes
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten
from tests.adapters.common import check_merge, check_programs, check_start, check_training, only
from tests.helpers import LLAMA, SPEC, optimizer_config

TARGETS = ("blocks/attention/(query|value)", "blocks/mlp/.*")
ADALORA = AdaLora(4, 2, 8.0, 0.1, 0.0, 0.3, 1, 0.85, 0.8, 0.1, TARGETS)


def triplets(seed=0, layers=("blocks/a", "head"), rank=3):
    """Parameters of two adapted layers, one of them a stack of two, and a leaf of another method."""
    keys = iter(jax.random.split(jax.random.key(seed), 20))
    flat = {"blocks/b/adapter/scale": jax.random.normal(next(keys), (2, 5))}
    for layer in layers:
        stack = (2,) if layer.startswith("blocks/") else ()
        for name, shape in ((LEFT, (6, rank)), (SINGULAR, (rank,)), (RIGHT, (rank, 5))):
            flat[f"{layer}/{name}"] = jax.random.normal(next(keys), stack + shape)
    return flat


LAYERS = ("blocks/a", "head")


@pytest.mark.heavy
def test_the_penalty_is_that_of_equation_4():
    def stack(a):
        return a if a.ndim == 3 else a[None]

    def loss(flat):
        total = 0.0
        for layer in LAYERS:
            for p, q in zip(stack(flat[f"{layer}/{LEFT}"]), stack(flat[f"{layer}/{RIGHT}"])):
                one = jnp.eye(3)
                total += jnp.sum((p.T @ p - one) ** 2) + jnp.sum((q @ q.T - one) ** 2)
        return 0.7 * total

    params, gradients = triplets(0), triplets(1)
    chain = orthogonal(LAYERS, 0.7)
    got, _ = chain.update(unflatten(gradients), chain.init(unflatten(params)), unflatten(params))
    for path, more in jax.grad(loss)(params).items():
        np.testing.assert_allclose(flatten(got)[path], gradients[path] + more, rtol=1e-4, atol=1e-4, err_msg=path)


def test_importance_is_sensitivity_times_uncertainty():
    """Three updates, by the letter of equations 7 to 10."""
    allocation = Allocation(LAYERS, Schedule(10, 20, 1), 0.5, 0.85, 0.7, 0.0)
    state, sensitivity, uncertainty = allocation.init(unflatten(triplets())), {}, {}
    for step in range(3):
        params, gradients = triplets(2 * step), triplets(2 * step + 1)
        updates = triplets(50)
        out, state = allocation.update(unflatten(updates), state, unflatten(params), gradients=unflatten(gradients))
        for path, update in updates.items():  # nothing is pruned yet
            np.testing.assert_array_equal(flatten(out)[path], update)
        for path in params:
            now = np.abs(np.asarray(params[path]) * np.asarray(gradients[path]))
            sensitivity[path] = 0.85 * sensitivity.get(path, 0) + 0.15 * now
            uncertainty[path] = 0.7 * uncertainty.get(path, 0) + 0.3 * np.abs(now - sensitivity[path])
    entries = {p: flatten(state.sensitivity)[p] * a for p, a in flatten(state.uncertainty).items()}
    scores = allocation.scores(entries)
    assert scores.keys() == {f"{layer}/{SINGULAR}" for layer in LAYERS} and "blocks/b/adapter/scale" not in entries
    for layer in LAYERS:
        s = {name: sensitivity[f"{layer}/{name}"] * uncertainty[f"{layer}/{name}"] for name in (LEFT, SINGULAR, RIGHT)}
        expected = s[SINGULAR] + s[LEFT].mean(-2) + s[RIGHT].mean(-1)
        np.testing.assert_allclose(scores[f"{layer}/{SINGULAR}"], expected, rtol=1e-5)


def test_the_best_of_all_layers_stay_and_the_rest_is_zero():
    allocation = Allocation(LAYERS, Schedule(0, 1, 1), 5 / 9, 0.85, 0.85, 0.0)
    params, updates = triplets(0), triplets(3)
    state = allocation.init(unflatten(params))
    out, state = allocation.update(unflatten(updates), state, unflatten(params), gradients=unflatten(triplets(1)))
    entries = {p: flatten(state.sensitivity)[p] * a for p, a in flatten(state.uncertainty).items()}
    scores = np.concatenate([np.ravel(a) for a in allocation.scores(entries).values()])
    kept = np.concatenate([np.ravel(a) for a in flatten(state.kept).values()])
    assert kept.sum() == 5 and scores[kept].min() > scores[~kept].max()
    after = flatten(optax.apply_updates(unflatten(params), out))
    values = np.concatenate([np.ravel(after[path]) for path in flatten(state.kept)])
    assert np.array_equal(values == 0, ~kept)
    for path in updates:
        if not path.endswith(SINGULAR):
            np.testing.assert_array_equal(flatten(out)[path], updates[path])
    # From here on what was pruned stays so, whatever its gradient says.
    for seed in range(4, 7):
        again, state = allocation.update(unflatten(triplets(seed)), state, unflatten(after), gradients=unflatten(triplets(seed)))  # fmt: skip
        after = flatten(optax.apply_updates(unflatten(after), again))
        values = np.concatenate([np.ravel(after[path]) for path in flatten(state.kept)])
        assert np.array_equal(values == 0, ~kept)


def test_the_budget_falls_by_a_cubic_curve():
    schedule = Schedule(10, 60, 5)
    steps = np.arange(1, 101)
    budget = np.asarray(jax.vmap(lambda t: schedule.budget(t, 120, 80))(steps))
    assert (budget[:10] == 120).all() and (budget[59:] == 80).all() and (np.diff(budget) <= 0).all()
    assert budget[34] == 80 + 40 // 8  # half way: an eighth is left
    assert [int(t) for t in steps if schedule.prunes(t)] == list(range(15, 61, 5))
    assert [int(t) for t in steps if Schedule(3, 12, 5).prunes(t)] == [5, 10, 12]


@pytest.mark.heavy
def test_a_run_ends_with_the_ranks_it_was_given():
    """Over the layers that train: the others have no share in the budget."""
    got = check_training(ADALORA, rates=(("blocks[0]/.*/adapter/.*", 0.0), *only(ADALORA)), steps=6)
    singular = {p: np.asarray(a) for p, a in flatten(got.state.trainable).items() if p.endswith(SINGULAR)}
    assert singular and all(path.startswith("blocks[1:3]/") for path in singular)
    assert sum((a != 0).sum() for a in singular.values()) == sum(a.size for a in singular.values()) / 2
    ranks = [int(n) for a in singular.values() for n in (a != 0).sum(-1)]
    assert len(set(ranks)) > 1, "the budget is shared out evenly"


def test_merged_equals_unmerged():
    check_merge(ADALORA, **LLAMA)


def test_a_new_adapter_changes_nothing():
    check_start(ADALORA)


@pytest.mark.slow
def test_every_way_of_running_it_is_the_same():
    check_programs(ADALORA)


def partition(rates=None):
    return Partition.of(Transformer(SPEC, ADALORA).shapes(), rates or only(ADALORA))


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(rank=33), "tune.adalora.rank: 33 is above the size"),
        (dict(target_rank=5), "target_rank: 5 is above tune.adalora.rank, 4"),
        (dict(targets=("blocks/attention/qurey",)), "tune.adalora.targets: .*did you mean 'blocks/attention/query'"),
    ],
    ids=str,
)
def test_impossible_adapters(changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(ADALORA, **changes).check(Transformer(SPEC).shapes())


@pytest.mark.parametrize("first, last", [(0.5, 0.5), (100.0, 0.0), (10.0, 90.0)])
def test_a_schedule_that_does_not_fit(first, last):
    method = dataclasses.replace(ADALORA, t_init=first, t_final=last)
    with pytest.raises(UserError, match=r"t_init = .* leave none of training.steps = 100 in which to prune"):
        method.updates(partition(), 100)
    assert not method.updates(partition(), 0).finished


def test_parts_of_triplets_do_not_train_alone():
    rates = ((".*/adapter/left", 0.0), *only(ADALORA))
    with pytest.raises(UserError, match="left, singular and right of a layer train together"):
        ADALORA.updates(partition(rates), 100)


def test_layers_that_open_late_cannot_be_ranked():
    phases = [(name, recipes.rules(name)) for name in ("last:1", "all")]
    parts = Partition.of(Transformer(SPEC, ADALORA).shapes(), only(ADALORA), phases=phases)
    with pytest.raises(UserError, match=r"tune.phases: .* train in every phase:\n  blocks\[0:2\]/"):
        ADALORA.updates(parts, 100)


def test_no_pruning_where_the_rank_is_to_stay():
    updates = dataclasses.replace(ADALORA, target_rank=4).updates(partition(), 100)
    assert len(updates.gradients) == 1 and not updates.finished


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_lets_the_gradients_through(name):
    parts = partition()
    trainable, _ = jax.eval_shape(parts.split, Transformer(SPEC, ADALORA).shapes())
    own = ADALORA.updates(parts, 10)._asdict()
    chain = optimizers.build(optimizer_config(name=name), lambda step: 1e-3, parts, **own)
    state = jax.eval_shape(chain.init, trainable)
    updates, after = jax.eval_shape(chain.update, trainable, state, trainable)
    assert jax.tree.map(lambda a: a.shape, (updates, after)) == jax.tree.map(lambda a: a.shape, (trainable, state))
