"""Losses of pairs of answers: beside formulas in numpy on answers that were read alone, and where they lead to, in closed form."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ptft_jax import config as configs
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.base import Context, means
from ptft_jax.objectives.dpo import DPO, IPO
from ptft_jax.objectives.pair_losses import alpha_divergence
from ptft_jax.objectives.preference import Answers
from ptft_jax.objectives.reference_free import CPO, ORPO, RRHF, SimPO, SLiC
from ptft_jax.regularization.regularizers import Regularization
from ptft_jax.training.trainer import Trainer
from tests.helpers import SPEC, VOCAB, repeats, train

LENGTH = 40
# (ids of the prompt, of the better answer, of the worse), for each pair of each row.
ROWS = ([(3, 4, 2), (2, 3, 6)], [(1, 1, 5)])


@functools.cache
def built():
    model = Transformer(dataclasses.replace(SPEC, init_std=0.3, max_length=LENGTH, layers=1, width=16))
    return model, *(jax.jit(model.init)(jax.random.key(seed)) for seed in (0, 1))


@functools.cache
def answers():
    """Of each row, of each pair: (ids, how many are the prompt's) of both answers."""
    rng = np.random.default_rng(0)

    def pair(prompt, *sizes):
        ids = rng.integers(0, VOCAB, prompt)
        return [(np.concatenate([ids, rng.integers(0, VOCAB, size)]), prompt) for size in sizes]

    return [[pair(*sizes) for sizes in row] for row in ROWS]


def packed(rows, length=LENGTH, most=2, right=True):
    """Rows of pairs as `ptft_jax.data.builders.base.Builder.paired` says they are; padded on the right, or on the left."""
    names = {
        "inputs": np.int32,
        "targets": np.int32,
        "weights": np.float32,
        "positions": np.int32,
        "segments": np.int32,
    }
    batch = {name: np.zeros((len(rows), length), dtype) for name, dtype in names.items()}
    batch["pairs"] = np.zeros((len(rows), most), np.float32)
    for n, row in enumerate(rows):
        at = 0 if right else length - sum(len(ids) - 1 for pair in row for ids, _ in pair)
        batch["pairs"][n, : len(row)] = 1
        for segment, (ids, prompt) in enumerate(itertools.chain(*row), 1):
            size = len(ids) - 1
            here = slice(at, at + size)
            batch["inputs"][n, here], batch["targets"][n, here] = ids[:-1], ids[1:]
            batch["weights"][n, here] = np.arange(size) >= prompt - 1
            batch["positions"][n, here], batch["segments"][n, here] = np.arange(size), segment
            at += size
    return batch


@functools.cache
def reader():
    model, *_ = built()

    def read(params, ids):
        return model.logits(params, model.run(params, ids)[0])

    return jax.jit(read)


def logits_of(params, ids):
    """float64 [n - 1, V]: of the ids of an answer with its prompt, in a row of its own; what comes after them is not seen."""
    row = np.zeros((1, 12), np.int32)
    row[0, : len(ids)] = ids
    return np.asarray(reader()(params, row)[0], np.float64)[: len(ids) - 1]


def alone(params):
    """float64 [pairs, 2]: the log-probability of each answer, read in a row of its own; and by token."""
    out = []
    for pair in itertools.chain(*answers()):
        for ids, prompt in pair:
            logits = logits_of(params, ids)
            logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            out.append(logs[np.arange(len(ids) - 1), ids[1:]][prompt - 1 :])
    return [out[n : n + 2] for n in range(0, len(out), 2)]


def logistic(x):
    return 1 / (1 + np.exp(-x))


def dpo(link=lambda c, r: -np.log(logistic(c - r)), beta=0.1, shift=lambda ratio: ratio, **options):
    def loss(mine, theirs):
        ratios = [m.sum() - t.sum() for m, t in zip(mine, theirs)]
        if options.get("normalize"):
            ratios = [shift(x) / len(m) for x, m in zip(ratios, mine)]
        else:
            ratios = [shift(x) for x in ratios]
        c, r = (beta * x for x in ratios)
        if keep := options.get("keep_chosen"):
            c = c - beta * keep * max(0.0, theirs[0].sum() - mine[0].sum())
        return link(c, r)

    return loss


def cut(alpha):
    def loss(mine, theirs):
        shared = min(len(m) for m in mine)

        def total(logs):
            return logs[:shared].sum() + alpha * logs[shared:].sum()

        c, r = (0.1 * (total(m) - total(t)) for m, t in zip(mine, theirs))
        return -np.log(logistic(c - r))

    return loss


def ipo(mine, theirs):
    c, r = (np.mean(m) - np.mean(t) for m, t in zip(mine, theirs))
    return (c - r - 1 / (2 * 0.2)) ** 2


def simpo(mine, theirs):
    return -np.log(logistic(2.5 * (np.mean(mine[0]) - np.mean(mine[1])) - 0.7))


def cpo(mine, theirs):
    d = 0.3 * (mine[0].sum() - mine[1].sum())
    return -0.8 * np.log(logistic(d)) - 0.2 * np.log(logistic(-d)) - 2.0 * np.mean(mine[0])


def orpo(mine, theirs):
    p = [np.exp(np.mean(m)) for m in mine]
    odds = [x / (1 - x) for x in p]
    return -np.mean(mine[0]) - 0.4 * np.log(logistic(np.log(odds[0] / odds[1])))


def slic(mine, theirs):
    return max(0.0, 1.5 - mine[0].sum() + mine[1].sum()) - 0.1 * np.mean(mine[0])


def noisy(c, r, e=0.1):
    return -(1 - e) * np.log(logistic(c - r)) - e * np.log(logistic(r - c))


def robust(c, r, e=0.1):
    return (-(1 - e) * np.log(logistic(c - r)) + e * np.log(logistic(r - c))) / (1 - 2 * e)


def exo(c, r, e=0.1):
    p = np.exp([c, r]) / np.exp([c, r]).sum()
    return (p * np.log(p / np.array([1 - e, e]))).sum()


CASES = {
    "dpo": (DPO(), dpo()),
    "conservative": (DPO(beta=0.5, label_noise=0.1), dpo(noisy, 0.5)),
    "robust": (DPO(link="robust", label_noise=0.1), dpo(robust)),
    "hinge": (DPO(link="hinge"), dpo(lambda c, r: max(0.0, 1 - c + r))),
    "exo": (DPO(link="exo", label_noise=0.1), dpo(exo)),
    "nca": (
        DPO(link="nca"),
        dpo(lambda c, r: -np.log(logistic(c)) - 0.5 * np.log(logistic(-c)) - 0.5 * np.log(logistic(-r))),
    ),
    "apo_zero": (DPO(link="apo_zero"), dpo(lambda c, r: 1 - logistic(c) + logistic(r))),
    "apo_down": (DPO(link="apo_down"), dpo(lambda c, r: logistic(c) + 1 - logistic(c - r))),
    "per token": (DPO(normalize=True, beta=2.0), dpo(beta=2.0, normalize=True)),
    "keep_chosen": (DPO(keep_chosen=5.0), dpo(keep_chosen=5.0)),
    "forward_kl": (DPO(divergence_from="forward_kl"), dpo(shift=lambda x: 1 - np.exp(-x))),
    "jensen_shannon": (
        DPO(divergence_from="jensen_shannon"),
        dpo(shift=lambda x: np.log(2 * np.exp(x) / (1 + np.exp(x)))),
    ),
    "alpha": (DPO(divergence_from="alpha", alpha=0.3), dpo(shift=lambda x: (1 - np.exp(x) ** -0.3) / 0.3)),
    "tail": (DPO(tail_weight=0.25), cut(0.25)),
    "ipo": (IPO(beta=0.2), ipo),
    "simpo": (SimPO(beta=2.5, margin=0.7), simpo),
    "cpo": (CPO(beta=0.3, label_noise=0.2, sft=2.0), cpo),
    "orpo": (ORPO(sft=1.0, beta=0.4), orpo),
    "slic": (SLiC(margin=1.5), slic),
    "rrhf": (RRHF(), lambda mine, theirs: max(0.0, np.mean(mine[1]) - np.mean(mine[0])) - np.mean(mine[0])),
}


@functools.cache
def compiled(objective):
    model, _, reference = built()
    context = Context(reference=reference if objective.needs_reference else None)

    def total(params, batch):
        loss = objective.loss(model, params, batch, context)
        return loss.total, (loss.weight, loss.metrics)

    return jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize("name", [name for name in CASES if name != "tail"])
def test_the_loss_is_that_of_its_paper(name):
    """By formulas in numpy, of log-probabilities of tokens."""
    objective, formula = CASES[name]
    rng = np.random.default_rng(0)
    sizes = [(4, 3), (3, 6), (1, 5), (7, 7)]
    mine, theirs = ([[-rng.gamma(1.0, 1.0, n) for n in pair] for pair in sizes] for _ in range(2))
    sums, reference = (
        jnp.asarray([[[a.sum() for a in pair] for pair in pairs]], jnp.float32) for pairs in (mine, theirs)
    )
    reference = reference if objective.needs_reference else jnp.zeros_like(sums)
    answers = Answers(sums, sums, reference, jnp.asarray([sizes], jnp.float32), None)
    loss = objective.pair_loss(answers) + objective.sft * -sums[..., 0] / answers.lengths[..., 0]
    np.testing.assert_allclose(loss[0], [formula(m, t) for m, t in zip(mine, theirs)], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", repeats(["dpo", "orpo", "tail"], "dpo", "tail"))
def test_of_a_model_and_rows_of_several_pairs(name):
    """Packed, padded, and by formulas of log-probabilities of answers that were read alone."""
    objective, formula = CASES[name]
    _, params, reference = built()
    mine, theirs = alone(params), alone(reference)
    expected = [formula(m, t) for m, t in zip(mine, theirs)]
    (total, (weight, metrics)), gradient = compiled(objective)(params, packed(answers()))
    assert weight == 3
    # float32 sums of logarithms of size 100.
    np.testing.assert_allclose(total, sum(expected), rtol=1e-4, atol=1e-4)
    found = means(metrics)
    np.testing.assert_allclose(found["nll"], -np.concatenate([m[0] for m in mine]).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["rejected_log_prob"], np.mean([m[1].sum() for m in mine]), rtol=1e-4)
    assert (found["chosen_tokens"], found["rejected_tokens"]) == (np.mean([4, 3, 1]), pytest.approx(np.mean([2, 6, 5])))
    assert set(found) == set(objective.metrics)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", repeats(["dpo", "ipo", "simpo", "orpo", "tail"], "tail"))
def test_the_loss_does_not_depend_on_how_pairs_are_packed(name):
    """Sums of the losses and gradients of rows of one pair are those of rows of several, whatever is packed beside them and however
    much they are padded; rows without a pair count for nothing."""
    objective, _ = CASES[name]
    _, params, _ = built()
    (total, (weight, _)), gradient = compiled(objective)(params, packed(answers()))
    each = [[pair] for pair in itertools.chain(*answers())]
    (apart, (count, _)), other = compiled(objective)(params, packed([*each, []], length=24, most=1))
    assert weight == count == 3
    np.testing.assert_allclose(total, apart, rtol=1e-5)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradient))
    jax.tree.map(lambda g, h: np.testing.assert_allclose(g, h, atol=1e-5 * largest), gradient, other)


@pytest.mark.parametrize("name", repeats(["dpo", "ipo"], "dpo"))
def test_the_side_of_padding_shifts_nothing(name):
    """What stands before an answer that is padded on the left is no part of it: neither of its log-probability nor of its positions."""
    objective, _ = CASES[name]
    _, params, _ = built()
    right, left = (compiled(objective)(params, packed(answers(), right=side)) for side in (True, False))
    (total, (_, metrics)), gradient = right
    (other, (_, same)), slopes = left
    np.testing.assert_allclose(total, other, rtol=1e-5)
    for metric, value in means(metrics).items():
        np.testing.assert_allclose(value, means(same)[metric], rtol=1e-5, atol=1e-6, err_msg=metric)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradient))
    jax.tree.map(lambda g, h: np.testing.assert_allclose(g, h, atol=1e-5 * largest), gradient, slopes)


def test_chunks_change_nothing():
    _, params, _ = built()
    batch = packed(answers())
    for objective in (CASES["tail"][0],):
        (total, (_, metrics)), _ = compiled(objective)(params, batch)
        (again, (_, chunked)), _ = compiled(dataclasses.replace(objective, chunk=7))(params, batch)
        np.testing.assert_allclose(total, again, rtol=1e-5)
        np.testing.assert_allclose(*(jax.tree.leaves(m) for m in (metrics, chunked)), rtol=1e-4, atol=1e-5)


def test_as_the_reference_all_pairs_are_ties():
    """ln 2, no margin, half of them right, and no divergence: where a run starts."""
    _, _, reference = built()
    found = means(compiled(DPO())(reference, packed(answers()))[0][1][1])
    assert found["loss"] == pytest.approx(np.log(2), rel=1e-6)
    for name, value in dict(margin=0, accuracy=0.5, kl=0, chosen_shift=0, rejected_shift=0).items():
        assert found[name] == pytest.approx(value, abs=1e-6)


def test_the_kl_is_that_of_whole_distributions():
    _, params, reference = built()
    found = means(compiled(DPO())(params, packed(answers()))[0][1][1])
    per_pair = []
    for pair in itertools.chain(*answers()):
        sums, count = 0.0, 0
        for ids, prompt in pair:
            logs = [logits_of(weights, ids)[prompt - 1 :] for weights in (params, reference)]
            p, q = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in logs)
            sums, count = sums + (p * np.log(p / q)).sum(), count + len(p)
        per_pair.append(sums / count)
    assert found["kl"] == pytest.approx(np.mean(per_pair), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_far_below_the_reference_rewards_go_on_as_a_line(alpha):
    """Values and slopes meet, and neither overflows; above, both are those of the formula to rounding."""
    ratios = jnp.asarray([-400.0, -80.0, -15.001, -14.999, -5.0, 0.0, 3.0])
    value, slope = (
        np.asarray(x, np.float64) for x in jax.vmap(jax.value_and_grad(lambda r: alpha_divergence(r, alpha)))(ratios)
    )
    exact = np.asarray(ratios, np.float64)
    near = exact > -15
    np.testing.assert_allclose(value[near], (1 - np.exp(-alpha * exact[near])) / alpha, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slope[near], np.exp(-alpha * exact[near]), rtol=1e-5)
    np.testing.assert_allclose(slope[~near], np.exp(15 * alpha), rtol=1e-5)
    np.testing.assert_allclose(value[2], value[3], rtol=1e-2)
    assert np.isfinite(value).all() and (np.diff(value) > 0).all()


# Where it leads: policies over a few answers of one token each, as tables.


class Table:
    """A model of one parameter for each answer to each prompt."""

    context_parts = 1

    def run(self, params, inputs):
        values = getattr(inputs, "values", inputs)
        return (jax.nn.one_hot(values, params.shape[0]),)

    def logits(self, params, hidden):
        return hidden @ params


REWARD = np.array([[1.0, -0.5, 0.3, 0.0], [0.2, 0.9, -1.0, 0.4]])  # of 4 answers to 2 prompts
REFERENCE = np.log([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])


def judged(flipped=0.0, copies=1000):
    """Pairs of all answers, each as often as Bradley and Terry's model of the rewards prefers the one to the other: where labels
    are `flipped` with a probability, as often the other way round."""
    rows, weights = [], []
    for prompt, (a, b) in itertools.product(range(2), itertools.permutations(range(4), 2)):
        share = logistic(REWARD[prompt, a] - REWARD[prompt, b])
        rows.append([[(np.array([prompt, a]), 1), (np.array([prompt, b]), 1)]])
        weights.append(share * (1 - flipped) + (1 - share) * flipped)
    batch = packed(rows, length=2, most=1)
    return batch | {"pairs": np.float32(weights)[:, None]}


def learned(objective, batch):
    """The policy [2, 4] of least loss, by a method of second order."""
    reference = jnp.asarray(REFERENCE, jnp.float32)
    model, context = Table(), Context(reference=reference if objective.needs_reference else None)

    def loss(params):
        found = objective.loss(model, params, batch, context)
        return found.total / found.weight

    solver = optax.lbfgs()
    step = optax.value_and_grad_from_state(loss)

    @jax.jit
    def update(params, state):
        value, gradient = step(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(params, updates), state

    params, state = reference, solver.init(reference)
    for _ in range(60):
        params, state = update(params, state)
    return np.asarray(jax.nn.softmax(params, axis=-1), np.float64)


def optimum(beta):
    """The policy that has the most reward less beta times its divergence from the reference (Rafailov et al. 2023, equation 4)."""
    weights = np.exp(REFERENCE + REWARD / beta)
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("beta", repeats([0.5, 2.0], 0.5))
def test_dpo_finds_the_reward_that_judged(beta):
    found = learned(DPO(beta=beta), judged())
    np.testing.assert_allclose(found, optimum(beta), atol=2e-3)
    reward = beta * (np.log(found) - REFERENCE)
    np.testing.assert_allclose(reward - reward[:, :1], REWARD - REWARD[:, :1], atol=1e-2)


@pytest.mark.heavy
def test_labels_that_are_wrong_now_and_then():
    """A fifth of the labels are flipped. The robust loss finds what the right ones say; the plain one holds rewards for smaller than
    they are; the conservative one, smaller still (the label noise that it is told of is a floor of what it believes)."""
    batch = judged(flipped=0.2)
    found = learned(DPO(beta=1.0, link="robust", label_noise=0.2), batch)
    np.testing.assert_allclose(found, optimum(1.0), atol=2e-3)
    spread = [np.ptp(np.log(learned(o, batch)) - REFERENCE) for o in (DPO(beta=1.0), DPO(beta=1.0, label_noise=0.2))]
    assert spread[1] < spread[0] < np.ptp(REWARD[1]) - 0.3


def pair_batches(rows=8, steps=2):
    """Batches of one or two pairs in each row of 16."""
    rng = np.random.default_rng(0)

    def pair():
        prompt = rng.integers(0, VOCAB, 2)
        return [(np.concatenate([prompt, rng.integers(0, VOCAB, n)]), 2) for n in (3, 2)]

    return [packed([[pair() for _ in range(1 + n % 2)] for n in range(rows)], length=16) for _ in range(steps)]


PROGRAMS = {"parts": dict(micro=4), "fsdp": dict(devices=4, fsdp=4, micro=2), "pmap": dict(devices=4, kind="pmap")}


@pytest.mark.heavy
@pytest.mark.parametrize("program", repeats(PROGRAMS, "pmap"))
def test_the_same_under_every_program(program):
    """The reference's part too: the step compares with where it started."""
    options = dict(objective=DPO(), batches=pair_batches(), steps=2, layers=1, dropout=0.0)
    options["regularization"] = Regularization(compared=True)
    plain, other = train(**options), train(**options, **PROGRAMS[program])
    np.testing.assert_allclose(plain.losses, other.losses, rtol=2e-5)
    np.testing.assert_allclose(plain.grad_norms, other.grad_norms, rtol=1e-4)
    assert plain.losses[0] == pytest.approx(np.log(2), rel=1e-6) and plain.losses[1] != plain.losses[0]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_a_reference_costs(method):
    """Of an adapter no more than the adapter's own parameters; of full updates those of the start; computed before, nothing."""

    def held(objective, **changes):
        config = configs.default()
        config.model.update(layers=2, width=512, heads=8)
        config.tune.method, config.objective.name = method, objective
        config.objective.preference.update(changes)
        made = Trainer(config, vocab_size=VOCAB, tuned=True)
        sizes = {
            name: sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(getattr(made.state_like, name)))
            for name in PARTS
        }
        return sum(sizes.values()), sizes["trainable"]

    plain, trained = held("causal_lm")
    assert held("dpo") == (plain + trained, trained)
    assert (plain + trained < 1.1 * plain) == (method == "lora")
    assert held("dpo", precompute=True) == held("simpo") == (plain, trained)


PARTS = ("trainable", "frozen", "optimizer", "anchor", "ema", "fisher")
