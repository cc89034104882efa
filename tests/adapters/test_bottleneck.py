"""Bottleneck adapters: where they read and write, their start, every kind of block, and torch beside them."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from ptft_jax.adapters.bottleneck import Adapter, Bottleneck
from ptft_jax.errors import UserError
from ptft_jax.model.layers import PerRow, dropout
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.adapters.common import built, check_programs, check_start, moved
from tests.helpers import LLAMA, SPEC, random_batch

MOE = dict(LLAMA, experts=4, experts_per_token=2)
FAMILIES = {
    "houlsby": dict(norm_placement="post", causal=False),
    "pfeiffer": dict(LLAMA, norm_placement="both", scan=False),
    "parallel": dict(parallel=True, positions="rotary"),
}


def method(form, **changes):
    return dataclasses.replace(Bottleneck(form, 6, "relu", 0.0, 0.0), **changes)


@pytest.mark.parametrize("form", FAMILIES)
def test_a_new_adapter_changes_nothing(form):
    check_start(method(form), **FAMILIES[form])


@pytest.mark.heavy
def test_experts_have_one_adapter():
    model, params, plain = built(method("houlsby"), **MOE, layers=1)
    leaves = {p for p in flatten(params) if "adapter" in p}
    assert leaves == {
        f"blocks/{s}/adapter/{d}/{k}" for s in ("attention", "mlp") for d in ("down", "up") for k in ("kernel", "bias")
    }
    base = unflatten({p: a for p, a in flatten(params).items() if p not in leaves})
    tokens = random_batch(0, rows=2)["inputs"]
    assert np.abs(jax.jit(model)(params, tokens) - jax.jit(plain)(base, tokens)).max() > 1e-2


def test_images():
    spec = dict(
        image_size=8, patch_size=4, channels=1, max_length=5, causal=False, head="classes", classes=3, tied=False
    )
    model, params, _ = built(method("pfeiffer"), **spec)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    run = jax.jit(model)
    assert np.abs(run(params, images) - run(moved(params, seed=2), images)).max() > 1e-3


@pytest.mark.heavy
def test_dropout_acts_on_the_hidden_layer():
    """Off without keys; with them, what the equation gives with the same mask."""
    spec = dataclasses.replace(SPEC, layers=1, parallel=True)
    adapter = method("parallel", dropout=0.5, scale=2.0)
    model = Transformer(spec, adapter)
    params = moved(jax.jit(model.init)(jax.random.key(0)))
    module = jax.tree.map(lambda a: a[0], params["blocks"])["mlp"]["adapter"]
    x = jax.random.normal(jax.random.key(1), (2, 5, 32))
    y = jax.random.normal(jax.random.key(2), (2, 5, 32))
    keys = jax.random.split(jax.random.key(3), 2)
    made = Adapter(spec, adapter, 7, jax.random.key(4))
    nnx.update(made, module)
    hidden = np.maximum(x @ module["down"]["kernel"] + module["down"]["bias"], 0)
    for given in (None, PerRow(keys, None)):
        dropped = dropout(hidden, 0.5, given, 7)
        expected = y + 2.0 * (dropped @ module["up"]["kernel"] + module["up"]["bias"])
        np.testing.assert_allclose(made(None, x, y, x + y, given), expected, atol=1e-5)
    assert (np.asarray(dropout(hidden, 0.5, PerRow(keys, None), 7)) != np.asarray(hidden)).any()


def test_impossible_adapters():
    with pytest.raises(UserError, match="tune.bottleneck.size: 32 is no bottleneck of a model of width 32"):
        method("houlsby", size=32).check(Transformer(SPEC).shapes())
    with pytest.raises(UserError, match="config.tune.bottleneck: .* cannot be merged"):
        method("houlsby").merge({})


@pytest.mark.slow
@pytest.mark.parametrize("form", FAMILIES)
def test_every_way_of_running_it_is_the_same(form):
    family = {name: value for name, value in FAMILIES[form].items() if name != "scan"}  # which the programs differ in
    check_programs(method(form, dropout=0.1), **family)


# Beside torch: the papers' equations put into transformers' models by hand.


def torch_adapter(params, layer, sublayer, factor):
    import torch

    leaves = {
        k: torch.from_numpy(np.array(a[layer])) for k, a in flatten(params["blocks"][sublayer]["adapter"]).items()
    }

    def added(x):
        h = torch.relu(x @ leaves["down/kernel"] + leaves["down/bias"])
        return factor * (h @ leaves["up/kernel"] + leaves["up/bias"])

    return added


@pytest.mark.live
@pytest.mark.parametrize("form", FAMILIES)
@pytest.mark.parametrize("name", ["llama2", "bert", "gemma2", "pythia", "mixtral"])
def test_logits_beside_torch(form, name, tmp_path):
    torch = pytest.importorskip("torch")
    from tests.parity.compare import load
    from tests.parity.families import CASES, build

    theirs = build(next(case for case in CASES if case.name == name)).eval()
    theirs.save_pretrained(tmp_path)
    plain, base, _, _ = load(tmp_path)
    adapter = method(form, scale=0.0 if form != "houlsby" else 0.5)
    model = Transformer(plain.spec, adapter)
    params = moved(model.init(jax.random.key(0), base))
    tokens = np.random.default_rng(0).integers(3, 97, (2, 24))
    factor = {"houlsby": 0.5, "pfeiffer": 1.0, "parallel": 4.0}[form]
    stack = {"bert": "bert.encoder.layer", "pythia": "gpt_neox.layers"}.get(name, "model.layers")
    for number, layer in enumerate(theirs.get_submodule(stack)):
        adapt_torch(layer, name, form, lambda s, n=number: torch_adapter(params, n, s, factor))
    with torch.no_grad():
        expected = theirs(input_ids=torch.from_numpy(tokens)).logits.numpy()
    got = np.asarray(jax.jit(model)(params, tokens))
    scale = np.abs(expected).max()
    assert np.abs(np.asarray(jax.jit(plain)(base, tokens)) - expected).max() > 1e-2 * scale, "the adapter does nothing"
    assert np.abs(got - expected).max() <= 1e-4 * scale


def adapt_torch(layer, name, form, adapter):
    """Hooks on one layer of transformers, so that it computes what the paper of the form says."""

    def first(out):
        return out[0] if isinstance(out, tuple) else out

    def again(out, y):
        return (y, *out[1:]) if isinstance(out, tuple) else y

    if name == "bert":
        outputs = {"attention": layer.attention.output, "mlp": layer.output}
        read = {"mlp": layer.intermediate}
        for sublayer in ("attention", "mlp") if form == "houlsby" else ("mlp",):
            seen = {}
            if form == "parallel":
                read["mlp"].register_forward_pre_hook(lambda m, args, seen=seen: seen.update(x=args[0]))

            added = adapter(sublayer)

            def forward(h, x, *, out=outputs[sublayer], added=added, seen=seen):
                y = out.dense(h)
                of = {"houlsby": y, "pfeiffer": out.LayerNorm(y + x), "parallel": seen.get("x")}[form]
                return out.LayerNorm(y + added(of) + x)

            outputs[sublayer].forward = lambda hidden_states, input_tensor, f=forward: f(hidden_states, input_tensor)
        return
    attention = layer.attention if name == "pythia" else layer.self_attn
    mlp, seen = layer.mlp, {}
    if form == "houlsby":
        added = adapter("attention")
        attention.register_forward_hook(lambda m, args, out: again(out, first(out) + added(first(out))))
    added_mlp = adapter("mlp")
    if form == "pfeiffer":
        # What the residual stream is before the MLP's output is added to it.
        if name == "pythia":
            layer.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
            attention.register_forward_hook(lambda m, args, out: seen.update(x=seen["x"] + first(out)))
        else:
            before = layer.pre_feedforward_layernorm if name == "gemma2" else layer.post_attention_layernorm
            before.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))

    def hook(module, args, out):
        y = first(out)
        if form == "pfeiffer":
            of = seen["x"] + (layer.post_feedforward_layernorm(y) if name == "gemma2" else y)
        else:
            of = y if form == "houlsby" else args[0]
        return again(out, y + added_mlp(of))

    mlp.register_forward_hook(hook)
