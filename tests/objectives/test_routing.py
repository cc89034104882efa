"""The load-balancing term of a mixture of experts: its definition, the same under every program, and what it is for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.model.layers import PerRow
from ptft_jax.model.moe import MoE, Routing
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.objectives.routing import Balance
from ptft_jax.runs.files import read_rows
from tests.helpers import LLAMA, SPEC, optimizer_config, quiet_train, random_batch, tiny_config, train
from tests.objectives.rows import packed, pieces

E, K = 6, 2
MIXTURE = {**LLAMA, "experts": E, "experts_per_token": K, "mlp_width": 24, "layers": 2}
BALANCE = Balance(0.3, 0.02)


def by_hand(scores, counted, each=K):
    """The term's parts of one layer, from the router's scores [N, E] of tokens of which some count, in float64."""
    scores = np.float64(scores)[np.asarray(counted, bool)]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :each]
    f = np.bincount(best.ravel(), minlength=scores.shape[1]) / best.size
    log_z = np.log(np.exp(scores).sum(axis=1))
    return {
        "balance": scores.shape[1] * np.sum(f * shares.mean(axis=0)),
        "router_z": np.mean(log_z**2),
        "router_entropy": -np.mean(np.sum(shares * np.log(shares), axis=1)),
        "expert_most": scores.shape[1] * f.max(),
        "expert_least": scores.shape[1] * f.min(),
    }


def routed(scores, counted):
    """What a layer says of such scores: its router is the identity on them."""
    from flax import nnx

    spec = dataclasses.replace(SPEC, **{**MIXTURE, "width": E, "heads": 1}).resolved
    layer = MoE(spec, nnx.Rngs(params=jax.random.key(0)))
    layer.router.kernel[...] = jnp.eye(E)
    _, found = layer.routed(scores, PerRow(None, None, counted))
    return jax.tree.map(lambda a: a[None], found)


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_the_definition(spread):
    rng = np.random.default_rng(0)
    scores = (spread * rng.normal(size=(3, 8, E)) + rng.normal(size=E)).astype(np.float32)
    counted = rng.random((3, 8)) < 0.7
    expected = by_hand(scores.reshape(-1, E), counted.reshape(-1))
    sums = routed(jnp.asarray(scores), jnp.asarray(counted))
    assert sums.tokens[0] == counted.sum() and sums.sent.sum() == K * counted.sum()
    found = {name: float(value) / weight for name, (value, weight) in BALANCE.metrics(sums).items()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    term = BALANCE.term(sums, BALANCE.loads(sums, jnp.float32(40.0)))
    assert float(term) == pytest.approx(40 * (0.3 * expected["balance"] + 0.02 * expected["router_z"]), rel=1e-5)


def test_even_and_collapsed():
    scores = jnp.zeros((1, 12, E)).at[0, jnp.arange(12), jnp.arange(12) % E].add(5.0)
    scores = scores.at[0, jnp.arange(12), (jnp.arange(12) + 1) % E].add(4.0)
    even = BALANCE.metrics(routed(scores, jnp.ones((1, 12), bool)))
    assert [float(even[n][0]) for n in ("balance", "expert_most", "expert_least")] == pytest.approx([1, 1, 1], rel=1e-5)
    one = jnp.zeros((1, 12, E)).at[..., :K].add(50.0)
    collapsed = BALANCE.metrics(routed(one, jnp.ones((1, 12), bool)))
    got = [float(collapsed[n][0]) for n in ("balance", "expert_most", "expert_least")]
    assert got == pytest.approx([E / K, E / K, 0], abs=1e-5)


@pytest.mark.heavy
def test_its_gradient_takes_the_loads_as_they_are():
    """d/ds of E * sum f P with f a constant, by the softmax' own derivative."""
    rng = np.random.default_rng(1)
    scores = jnp.asarray(rng.normal(size=(2, 5, E)), jnp.float32)
    counted = jnp.asarray(rng.random((2, 5)) < 0.8)

    def term(scores):
        sums = routed(scores, counted)
        return Balance(1.0, 0.0).term(sums, Balance(1.0, 0.0).loads(sums, jnp.float32(1.0)))

    flat = np.float64(scores).reshape(-1, E)
    shares = np.exp(flat) / np.exp(flat).sum(axis=1, keepdims=True)
    best = np.argsort(-flat, axis=1)[:, :K]
    where = np.asarray(counted).reshape(-1)
    f = np.bincount(best[where].ravel(), minlength=E) / best[where].size
    expected = E / where.sum() * shares * (f - (shares * f).sum(axis=1, keepdims=True)) * where[:, None]
    np.testing.assert_allclose(jax.grad(term)(scores).reshape(-1, E), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.live
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_that_of_transformers(masked):
    """Value and gradient. Theirs adds up the choices of a token, where ours takes their mean; of one layer."""
    import torch
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    rng = np.random.default_rng(2)
    scores, mask = rng.normal(size=(3, 8, E)).astype(np.float32), np.ones((3, 8), np.int64)
    if masked:
        mask[0, 5:], mask[2, 2:] = 0, 0
    given = torch.tensor(scores.reshape(-1, E), requires_grad=True)
    theirs = load_balancing_loss_func((given,), E, K, torch.tensor(mask) if masked else None)
    theirs.backward()

    def term(scores):
        sums = routed(scores, jnp.asarray(mask > 0))
        return Balance(1.0, 0.0).term(sums, Balance(1.0, 0.0).loads(sums, jnp.float32(1.0)))

    value, slope = jax.value_and_grad(term)(jnp.asarray(scores))
    assert float(value) == pytest.approx(float(theirs.detach()) / K, rel=1e-5)
    assert float(BALANCE.metrics(routed(jnp.asarray(scores), jnp.asarray(mask > 0)))["balance"][0]) == float(value)
    np.testing.assert_allclose(slope.reshape(-1, E), given.grad.numpy() / K, rtol=1e-4, atol=1e-8)


def test_biases_choose_experts_and_weigh_nothing():
    """Of scores by hand: the best of probabilities plus biases, with the weights that their probabilities have among themselves."""
    from flax import nnx

    spec = dataclasses.replace(SPEC, **{**MIXTURE, "width": E, "heads": 1, "router_bias": True}).resolved
    layer = MoE(spec, nnx.Rngs(params=jax.random.key(0)))
    layer.router.kernel[...] = jnp.eye(E)
    bias = np.float32([0.0, -1.0, 0.0, 0.0, 1.0, 0.0])
    layer.router_bias[...] = jnp.asarray(bias)
    scores = np.random.default_rng(0).normal(size=(1, 5, E)).astype(np.float32)
    found, sums = layer.routed(jnp.asarray(scores), PerRow(None, None, jnp.ones((1, 5), bool)))
    expected, sent = np.zeros((5, E)), np.zeros(E)
    kernels = {name: np.float64(getattr(layer.experts, name).kernel[...]) for name in ("gate", "up", "down")}
    for t, x in enumerate(np.float64(scores[0])):
        shares = np.exp(x) / np.exp(x).sum()
        best = np.argsort(-(shares + bias))[:K]
        sent[best] += 1
        for e in best:
            gate = x @ kernels["gate"][e]
            h = gate / (1 + np.exp(-gate)) * (x @ kernels["up"][e])
            expected[t] += shares[e] / shares[best].sum() * (h @ kernels["down"][e])
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(sums.sent, sent)
    assert sent[4] == 5 and sent[1] == 0, "the biases decide"


def test_biases_go_towards_an_even_use():
    """Of leaves that are cut by layers, too; one that has as much as the mean stays."""
    sent = jnp.asarray([[4.0, 0, 2, 2], [2, 2, 2, 2], [8, 0, 0, 0]])
    sums = Routing(jnp.full(3, 4.0), sent, sent, jnp.zeros(3), jnp.zeros(3))
    whole = Balance(0.0, 0.0, 0.1).moved(
        {"blocks/mlp/router_bias": jnp.zeros((3, 4)), "blocks/mlp/router/kernel": sent}, sums
    )
    expected = np.float32([[-0.1, 0.1, 0, 0], [0, 0, 0, 0], [-0.1, 0.1, 0.1, 0.1]])
    np.testing.assert_allclose(whole.pop("blocks/mlp/router_bias"), expected)
    assert not whole
    cut = Balance(0.0, 0.0, 0.1).moved({"blocks[1:3]/mlp/router_bias": jnp.ones((2, 4))}, sums)
    np.testing.assert_allclose(cut["blocks[1:3]/mlp/router_bias"], 1 + expected[1:])


@pytest.mark.heavy
def test_a_step_moves_biases_by_the_whole_batch():
    """In parts, over devices and in the per-device form alike; whatever the optimizer, which has no say in it."""
    options = {"balance": Balance(0.0, 0.0, 0.01), "steps": 2, "optimizer": optimizer_config(weight_decay=0.5)}
    moved = []
    for how in ({}, {"micro": 2, "kind": "pmap", "devices": 2}):
        got = train(**options, **how, **{**MIXTURE, "router_bias": True})
        moved.append(np.asarray(got.state.trainable["blocks"]["mlp"]["router_bias"]))
    np.testing.assert_array_equal(moved[0], moved[1])
    assert moved[0].any() and np.isin(np.round(moved[0] * 100), (-2, -1, 0, 1, 2)).all()


@pytest.fixture(scope="module")
def reference():
    return train(balance=BALANCE, steps=2, optimizer=optimizer_config(eps=1e-4), **MIXTURE)


HEAVY = pytest.mark.heavy


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(dict(micro=4), marks=pytest.mark.slow),  # with fsdp below
        pytest.param(dict(devices=8, fsdp=4, micro=2), marks=pytest.mark.slow),
        pytest.param(dict(devices=4, kind="pmap", micro=2), marks=HEAVY),
        pytest.param(dict(devices=4, kind="pmap"), marks=pytest.mark.slow),
        pytest.param(dict(scan=False, remat="full"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_same_under_every_program(reference, setting):
    got = train(balance=BALANCE, steps=2, optimizer=optimizer_config(eps=1e-4), **MIXTURE, **setting)
    np.testing.assert_allclose(got.losses, reference.losses, atol=5e-6, rtol=0)
    np.testing.assert_allclose(got.grad_norms, reference.grad_norms, rtol=1e-4)
    for mine, theirs in zip(reference.terms, got.terms):
        assert mine.keys() == theirs.keys() >= {"balance", "router_z", "expert_most"}
        for name, value in mine.items():
            assert theirs[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.heavy
def test_the_term_reaches_the_router(reference):
    """Its gradient is in the norm: without the term another one; and only the router's statistics where it weighs nothing."""
    without = train(balance=Balance(0.0, 0.0), steps=1, optimizer=optimizer_config(eps=1e-4), **MIXTURE)
    plain = train(steps=1, optimizer=optimizer_config(eps=1e-4), **MIXTURE)
    assert without.grad_norms[0] == plain.grad_norms[0] and without.losses[0] == plain.losses[0] == reference.losses[0]
    assert abs(without.grad_norms[0] - reference.grad_norms[0]) > 1e-4
    assert without.terms[0]["balance"] == pytest.approx(reference.terms[0]["balance"], rel=1e-6)
    assert not plain.terms[0]


@pytest.mark.heavy
def test_the_same_however_texts_are_packed_and_padded():
    built = pieces("causal_lm", (12, 9, 14, 7))
    alone = [packed([piece], 40) for piece in built]
    pairs = [packed(built[:2], 40), packed(built[2:], 24)]
    pairs = [{k: np.pad(v, ((0, 0), (0, 40 - v.shape[1]))) for k, v in row.items()} for row in pairs]
    options = dict(balance=BALANCE, dropout=0.0, steps=1, max_length=40, objective=CausalLM(), **MIXTURE)
    found = [
        train(batches=[{k: np.concatenate([row[k] for row in rows]) for k in rows[0]}], **options)
        for rows in (alone, pairs)
    ]
    assert found[0].losses[0] == pytest.approx(found[1].losses[0], rel=1e-5)
    assert found[0].grad_norms[0] == pytest.approx(found[1].grad_norms[0], rel=1e-4)
    for name, value in found[0].terms[0].items():
        assert found[1].terms[0][name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.heavy
def test_learned_vectors_are_no_tokens():
    from ptft_jax.adapters.prompt import Prompt

    spec = dataclasses.replace(SPEC, **MIXTURE)
    model = Transformer(spec, Prompt(3, "random", ""))
    params = jax.jit(model.init)(jax.random.key(0))
    tokens = random_batch(0, rows=2, length=9)["inputs"]
    _, sums = model.run(params, tokens, routing=True)
    assert isinstance(sums, Routing) and np.all(np.asarray(sums.tokens) == 18)
    assert Transformer(SPEC).run(Transformer(SPEC).init(jax.random.key(0)), tokens, routing=True)[1] is None


@pytest.mark.slow
def test_experts_stay_in_use():
    """From a router that sends all tokens to one expert, with one expert a token: with the published weight (Switch: 0.01) loads
    come near to even and stay so, from every start; without, the loss alone evens some of them out and leaves others uneven."""
    rng = np.random.default_rng(0)
    after = rng.permutation(64)

    def batch(seed):
        draw = np.random.default_rng(seed)
        x = draw.integers(0, 64, (16, 17))
        for t in range(16):
            x[:, t + 1] = np.where(draw.random(16) < 0.8, after[x[:, t]], x[:, t + 1])
        x = x.astype(np.int32)
        return {"inputs": x[:, :-1], "targets": x[:, 1:], "weights": np.ones((16, 16), np.float32)}

    options = {**MIXTURE, "experts": 8, "experts_per_token": 1, "normalize_experts": False, "layers": 1}
    model, steps = Transformer(dataclasses.replace(SPEC, **options)), 160
    most = {0.0: [], 0.01: []}
    for seed in range(3):
        base = jax.tree_util.tree_map_with_path(
            lambda keys, a: a * 0 if "router" in str(keys) else a, jax.jit(model.init)(jax.random.key(seed))
        )
        for weight, found in most.items():
            got = train(
                batches=[batch(i % 20) for i in range(steps)], balance=Balance(weight, 0.0), base=base, dropout=0.0,
                objective=CausalLM(), rate=1e-2, total=steps, ema=0.0, **options,
            )  # fmt: skip
            assert got.terms[0]["expert_most"] == 8.0
            found.append(np.mean([terms["expert_most"] for terms in got.terms[-60:]]))
    assert max(most[0.01]) < 1.75 < np.mean(most[0.0]), most
    assert np.mean(most[0.0]) - np.mean(most[0.01]) > 0.25, most


# Runs.

FIELDS = dict(
    model__experts=4, model__gated=True, model__biases=(), training__steps=2, eval__every=0, eval__test=False,
    eval__tokens=256,
)  # fmt: skip


@pytest.fixture(scope="module")
def scratch(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    quiet_train(tiny_config(text_file, **FIELDS), folder / "base")
    return folder


STATISTICS = {"balance", "expert_most", "expert_least", "router_entropy", "router_z"}


@pytest.mark.heavy
def test_a_run_says_how_its_experts_are_used(scratch):
    rows = read_rows(scratch / "base/metrics.jsonl")
    logged = [row for row in rows if row["kind"] == "train"]
    assert all(row.keys() >= STATISTICS and row["balance"] >= 0.99 for row in logged) and len(logged) == 2
    assert not any(name.endswith("balance") for row in rows if row["kind"] == "eval" for name in row)


@pytest.mark.heavy
def test_a_frozen_router_is_not_balanced(scratch, text_file):
    child = dict(init__from_=str(scratch / "base"), tune__method="lora", training__steps=1, optimizer__warmup_steps=0)
    quiet_train(tiny_config(text_file, **FIELDS | child), scratch / "lora")
    logged = [row for row in read_rows(scratch / "lora/metrics.jsonl") if row["kind"] == "train"]
    assert logged and not any(STATISTICS & row.keys() for row in logged)
    with pytest.raises(UserError, match=r"config.objective.balance = 0.5 is set, but nothing in this run reads it"):
        quiet_train(tiny_config(text_file, **FIELDS | child, objective__balance=0.5), scratch / "idle")


def test_one_expert_whose_weight_is_always_one_is_refused(text_file, tmp_path):
    config = tiny_config(text_file, **FIELDS, model__experts_per_token=1)
    with pytest.raises(
        UserError, match="normalize_experts = True: with model.experts_per_token = 1 .* teaches the router"
    ):
        quiet_train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
