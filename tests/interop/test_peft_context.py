"""Prompts, prefixes and gated prefixes in PEFT's format, without PEFT."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from ptft_jax.adapters.gated_prefix import GATE, VECTORS, GatedPrefix
from ptft_jax.adapters.prefix import KEYS, VALUES
from ptft_jax.errors import UserError
from ptft_jax.interop import peft
from ptft_jax.params.rules import flatten, unflatten
from tests.interop.peft_folders import ROOT, base_of, make, without


@pytest.mark.parametrize("layers", [1, 0])
def test_gated_prefixes_are_those_of_the_last_layers(layers, tmp_path):
    method = GatedPrefix(5, layers)
    params, names = base_of("llama", method=method)
    peft.write(tmp_path, method, unflatten(params), names, family="llama")
    config, tensors = json.loads((tmp_path / peft.CONFIG).read_text()), load_file(tmp_path / peft.WEIGHTS)
    chosen = range(2 - (layers or 2), 2)
    assert (config["adapter_len"], config["adapter_layers"]) == (5, len(chosen))
    assert {k.removeprefix(ROOT): a.shape for k, a in tensors.items()} == {
        f"model.layers.{i}.self_attn.adaption_{name}": shape
        for i in chosen
        for name, shape in (("prompt", (1, 5, 16)), ("gate", (1,)))
    }
    read = peft.read(tmp_path, names, without(params))
    assert read.tune == {"method": "gated_prefix", "gated_prefix": {"length": 5, "layers": layers}}
    for path in (VECTORS, GATE):
        expected = np.where(np.arange(2) >= chosen[0], params[path].T, 0).T
        np.testing.assert_array_equal(flatten(read.params)[path], expected)


def test_a_prefix_is_keys_then_values_of_each_layer(tmp_path):
    """[n, layer, key or value, head, size], as PEFT takes it apart."""
    params, names = base_of("llama")
    vectors = np.arange(5 * 2 * 2 * 8, dtype=np.float32).reshape(5, -1)
    config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "prefix_projection": True}
    read = peft.read(make(tmp_path / "a", config, {"prompt_embeddings": vectors}), names, without(params))
    assert read.tune == {"method": "prefix", "prefix": {"length": 5, "reparameterize": 0}}
    for layer in range(2):
        for which, path in enumerate((KEYS, VALUES)):
            first = (2 * layer + which) * 8
            np.testing.assert_array_equal(flatten(read.params)[path][layer], vectors[:, first : first + 8])


def test_what_p_tuning_made_is_read_as_a_prompt(tmp_path):
    params, names = base_of("llama")
    config = {"peft_type": "P_TUNING", "num_virtual_tokens": 5, "encoder_hidden_size": 7, "encoder_num_layers": 2}
    vectors = np.random.default_rng(0).normal(size=(5, 16))
    read = peft.read(make(tmp_path / "a", config, {"prompt_embeddings": vectors}), names, without(params))
    assert read.tune == {"method": "prompt", "prompt": {"length": 5, "init": "random"}}
    np.testing.assert_array_equal(flatten(read.params)["embed/adapter/prompt"], vectors.astype(np.float32))


@pytest.mark.parametrize(
    "changes, shape, words",
    [
        (dict(num_virtual_tokens=4), (5, 16), r"\(5, 16\), expected \(4, 16\)"),
        ({}, (5, 8), r"\(5, 8\), expected \(5, 16\)"),
        (dict(num_transformer_submodules=2), (5, 16), "num_transformer_submodules = 2, not 1"),
    ],
    ids=str,
)
def test_bad_prompts(changes, shape, words, tmp_path):
    params, names = base_of("llama")
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5, **changes}
    with pytest.raises(UserError, match=words):
        peft.read(make(tmp_path / "a", config, {"prompt_embeddings": np.ones(shape)}), names, without(params))


GATED = {"peft_type": "ADAPTION_PROMPT", "target_modules": "self_attn", "adapter_len": 5, "adapter_layers": 1}


@pytest.mark.parametrize(
    "changes, name, words",
    [
        (dict(adapter_len=0), "llama", "adapter_len = 0: expected a whole number above 0"),
        (dict(adapter_layers=None), "llama", "adapter_layers = None: expected"),
        (dict(adapter_layers=3), "llama", "adapter_layers = 3: expected 'self_attn' of up to 2 layers"),
        (
            dict(adapter_layers=2),
            "llama",
            r"(?s)missing  base_model.model.model.layers.0.self_attn.adaption_prompt \(1, 5",
        ),
        (dict(adapter_len=4), "llama", r"adaption_prompt \(1, 5, 16\), expected \(1, 4, 16\)"),
        (dict(target_modules="attn"), "llama", "target_modules = 'attn', .* expected 'self_attn'"),
        (dict(target_modules="attn"), "gpt2", "ADAPTION_PROMPT: read for models as llama and mistral alone"),
    ],
    ids=str,
)
def test_bad_gated_prefixes(changes, name, words, tmp_path):
    params, names = base_of(name)
    at = ROOT + "model.layers.1.self_attn.adaption_"
    folder = make(tmp_path / "a", {**GATED, **changes}, {at + "prompt": np.ones((1, 5, 16)), at + "gate": np.ones(1)})
    with pytest.raises(UserError, match=words):
        peft.read(folder, names, without(params))
