"""Where a model of images looks, beside the softmax taken by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from ptft_jax.adapters.gated_prefix import GatedPrefix
from ptft_jax.adapters.prefix import Prefix
from ptft_jax.evaluation.attention_maps import maps
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer

SPEC = ModelSpec(
    vocab_size=0, max_length=6, layers=2, width=16, heads=2, causal=False, head="classes", classes=3, image_size=8, patch_size=4,
    channels=1, registers=1, init_std=0.5,
)  # fmt: skip
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
FIRST = 2  # the class token and the register


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def normed(x, norm):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + SPEC.norm_eps)
    return x * norm["scale"] + norm["bias"]


def by_heads(x, layer):
    x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer.get("bias", 0.0))
    return x.reshape(*x.shape[:-1], 2, 8)


def layers_by_hand(model, params, before=()):
    """The mean over heads [B, T, T] of each layer, from the stream that it reads; `before`: learned keys [n, width] of each."""
    streams, found = np.asarray(model.streams(params, IMAGES), np.float64), []
    for n in range(2):
        block = jax.tree.map(lambda a, n=n: np.asarray(a[n], np.float64), params["blocks"])
        x = normed(streams[n], block["attention_norm"])
        q, k = by_heads(x, block["attention"]["query"]), by_heads(x, block["attention"]["key"])
        if len(before):
            k = np.concatenate([np.tile(before[n].reshape(1, -1, 2, 8), (2, 1, 1, 1)), k], axis=1)
        found.append(softmax(np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(8)).mean(1)[..., -6:])
    return found


def rolled(read, layers):
    for weights in layers[::-1]:
        both = (weights + np.eye(6)) / 2
        read = np.einsum("bt,bts->bs", read, both / both.sum(-1, keepdims=True))
    return read


def check(model, params, read, last, layers):
    attention, rollout = jax.jit(lambda params: maps(model, params, Inputs(IMAGES)))(params)
    for found, expected in ((attention, last), (rollout, rolled(read, layers))):
        np.testing.assert_allclose(found, expected[:, FIRST:].reshape(2, 2, 2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pooling", ["token", "both", "mean", "attention"])
def test_it_is_the_softmax_of_the_last_layer(pooling):
    model = Transformer(dataclasses.replace(SPEC, pooling=pooling, scan=pooling != "mean"))
    params = model.init(jax.random.key(0))
    layers = layers_by_hand(model, params)
    read = np.tile(np.eye(6)[0] if pooling != "mean" else (np.arange(6) >= FIRST) / 4, (2, 1))
    last = np.einsum("bt,bts->bs", read, layers[-1])
    if pooling == "attention":
        pool = jax.tree.map(lambda a: np.asarray(a, np.float64), params["head"]["pool"]["attention"])
        q = by_heads(pool["probe"], pool["query"])
        k = by_heads(np.asarray(model.hidden(params, IMAGES), np.float64), pool["key"])
        read = last = softmax(np.einsum("nh,bsnh->bns", q, k) / np.sqrt(8)).mean(1)
    check(model, params, read, last, layers)


@pytest.mark.parametrize("gated", [False, True])
def test_learned_keys_take_their_part(gated):
    """Of a prefix in the same softmax; of a gated one in a softmax of its own."""
    method = GatedPrefix(length=3, layers=0) if gated else Prefix(length=3, reparameterize=0)
    model = Transformer(SPEC, method)
    params = model.init(jax.random.key(0))
    keys = [] if gated else np.asarray(params["blocks"]["attention"]["prefix"]["keys"], np.float64)
    layers = layers_by_hand(model, params, keys)
    assert (layers[0].sum(-1).mean() < 0.99) != gated
    check(model, params, np.tile(np.eye(6)[0], (2, 1)), layers[-1][:, 0], layers)
