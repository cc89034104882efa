"""Scores of a model that computes in bfloat16 are float32 products of its rounded operands: differences of scores decide losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.model.layers import ACTIVATIONS
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.params.rules import flatten, unflatten

SPEC = ModelSpec(
    vocab_size=48,
    max_length=8,
    layers=1,
    width=32,
    heads=2,
    kv_heads=2,
    mlp_width=32,
    dtype="bfloat16",
    tied=False,
    init_std=0.5,
)
HEADS = {
    "untied": {},
    "tied": {"tied": True},
    "masked": {"head": "masked_lm", "causal": False},
    "masked, tied": {"head": "masked_lm", "causal": False, "tied": True},
    "classes": {"head": "classes", "classes": 5, "causal": False},
}


def rounded(x):
    """As numpy computes with it: float64 of the bfloat16 number."""
    return np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), np.float64)


def made(adapter=None, **changes):
    model = Transformer(dataclasses.replace(SPEC, **changes), adapter)
    flat = flatten(model.init(jax.random.key(0)))
    keys = dict(zip(flat, jax.random.split(jax.random.key(3), len(flat))))
    moved = {p: a + 0.3 * jax.random.normal(keys[p], a.shape) if "adapter" in p else a for p, a in flat.items()}
    hidden = 4 * jax.random.normal(jax.random.key(1), (2, 8, 32), jnp.bfloat16)
    return model, moved, hidden


def dense(flat, name):
    return rounded(flat[f"{name}/kernel"]), rounded(flat[f"{name}/bias"]) if f"{name}/bias" in flat else 0.0


@pytest.mark.parametrize("name", HEADS)
def test_heads(name):
    model, flat, hidden = made(**HEADS[name])
    found = np.asarray(model.logits(unflatten(flat), hidden))
    x = rounded(hidden)
    if "classes" in name:
        x = x[:, 0]
        if "head/hidden/kernel" in flat:
            kernel, bias = dense(flat, "head/hidden")
            x = rounded(np.tanh(rounded(rounded(x @ kernel) + bias)))
        kernel, bias = flat["head/classes/kernel"], flat["head/classes/bias"]
    elif "masked" in name:  # what is before its scores is an activation like any other, in bfloat16
        head = model._trunk(unflatten(flat)).head
        x = rounded(head.norm(ACTIVATIONS[head.activation](head.dense(hidden))))
        kernel = flat["embed/tokens/embedding"].T if HEADS[name].get("tied") else flat["head/scores/kernel"]
        bias = flat["head/bias"]
    else:
        kernel, bias = flat["embed/tokens/embedding"].T if HEADS[name].get("tied") else flat["head/kernel"], 0.0
    expected = x @ rounded(kernel) + np.asarray(bias, np.float64)
    assert found.dtype == np.float32 and np.abs(expected).max() > 8
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-5)


RECENT = [
    pytest.param(method, marks=pytest.mark.slow) for method in ("shira", "miss", "gralora", "hira", "bd_lora", "osf")
]


@pytest.mark.parametrize("method", ["lora", "dora", "vera", "adalora", "ia3", "oft", *RECENT])
def test_an_adapted_head(method):
    """Its scores are those of its parts, each rounded as an activation is, and none of them as a whole."""
    tune = configs.default().tune
    tune.method = "lora" if method == "dora" else method
    section = tune[tune.method]
    section.targets = ("head",)
    if method == "dora":
        section.dora = True
    if method == "ia3":
        section.feedforward = ()
    if method == "vera":
        section.rank = 16
    adapter = adapters.build(configs.check({"tune": tune.to_dict()}).tune)
    model, flat, hidden = made(adapter)
    found = np.asarray(model.logits(unflatten(flat), hidden), np.float64)
    assert np.abs(found).max() > 8 and np.mean(rounded(found) == found) < 0.05, (
        "a score that was rounded is its own rounding"
    )
    x, kernel = rounded(hidden), rounded(flat["head/kernel"])
    if method == "lora":
        a, b = (rounded(flat[f"head/adapter/lora_{factor}"]) for factor in "ab")
        expected = x @ kernel + rounded(x @ a) @ b * adapter.scale
    elif method == "ia3":
        expected = x @ kernel * np.asarray(flat["head/adapter/scale"], np.float64)
    else:
        return
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chunk", [0, 3])
def test_losses_and_gradients(chunk, tied):
    """The mean loss per token, whole and by blocks of positions, next to numpy's in float64; and the gradient of the hidden
    states, whose products are of bfloat16 numbers."""
    model, flat, hidden = made(tied=tied)
    targets = jax.random.randint(jax.random.key(2), (2, 8), 0, 48)
    batch = {"targets": targets, "weights": jnp.ones((2, 8)), "inputs": targets}
    objective, params = CausalLM(chunk=chunk), unflatten(flat)
    total, slope = jax.value_and_grad(lambda x: objective.loss_of(model, params, x, batch).total)(hidden)
    kernel = rounded(flat["embed/tokens/embedding"].T if tied else flat["head/kernel"])
    scores = rounded(hidden) @ kernel
    chance = np.exp(scores - scores.max(-1, keepdims=True))
    chance /= chance.sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(chance, np.asarray(targets)[..., None], -1)).sum()
    assert float(total) == pytest.approx(expected, rel=1e-6)
    chance -= np.eye(48)[np.asarray(targets)]
    np.testing.assert_allclose(np.asarray(slope, np.float64), chance @ kernel.T, atol=0.05)


def operands(jaxpr, size):
    """The dtypes of what each product of matrices is of, of those with an axis of this size, at whatever depth."""
    for equation in jaxpr.eqns:
        shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "dot_general" and any(size in shape for shape in shapes):
            yield tuple(str(variable.aval.dtype) for variable in equation.invars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                yield from operands(inner, size)


@pytest.mark.parametrize("changes", [{"tied": True}, {"tied": False}, {"tied": True, "adapted": True}], ids=str)
def test_no_product_of_a_head_is_of_float32(changes):
    """Forward or back: accelerators multiply matrices of bfloat16 several times as fast."""
    adapter = None
    if changes.pop("adapted", False):
        tune = configs.default().tune
        tune.method, tune.lora.targets = "lora", ("embed/tokens",)
        adapter = adapters.build(configs.check({"tune": tune.to_dict()}).tune)
    model, flat, _ = made(adapter, **changes)
    tokens = jnp.ones((2, 8), jnp.int32)
    batch = {"inputs": tokens, "targets": tokens, "weights": jnp.ones((2, 8))}
    step = jax.make_jaxpr(jax.grad(lambda params: CausalLM().loss(model, params, batch).total))(unflatten(flat))
    found = list(operands(step.jaxpr, 48))
    assert len(found) >= 3 and set(found) == {("bfloat16", "bfloat16")}, found


def test_generation_scores_are_those_of_the_whole_row():
    model, flat, _ = made()
    from ptft_jax.model.inputs import Inputs

    tokens, params = jnp.asarray([[3, 1, 4, 1]]), unflatten(flat)
    seen = jnp.tril(jnp.ones((4, 4), bool))[None]
    inputs = Inputs(tokens, positions=jnp.arange(4)[None])
    scores, _ = model.decode(params, inputs, seen, model.empty_cache(1, 4), 0)
    last = rounded(model.hidden(params, tokens)[:, -1]) @ rounded(flat["head/kernel"])
    np.testing.assert_allclose(scores, last, rtol=2e-6, atol=2e-5)
