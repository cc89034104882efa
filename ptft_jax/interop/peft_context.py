"""What rows attend to beside themselves (prompts, prefixes, gated prefixes) in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.adapters.base import Method
from ptft_jax.adapters.gated_prefix import GATE, VECTORS, GatedPrefix
from ptft_jax.adapters.prefix import KEYS, VALUES, Prefix
from ptft_jax.adapters.prompt import PROMPT, Prompt
from ptft_jax.errors import UserError, listed
from ptft_jax.interop.names import Tensor
from ptft_jax.interop.peft_modules import ROOT

_KEY = "prompt_embeddings"
# The families that PEFT has gated prefixes for; of GPT-2 it adds them behind the output projection, which is another method.
_GATED = ("llama", "mistral")


def read_prompt(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], base, names, where: str):
    """(tune, flat leaves) of a prompt, also of one that a network made: PEFT saves what it made."""
    table = base.get("embed/tokens/embedding")
    if table is None:
        raise UserError(f"{where}: the base has no token embedding to place a prompt before")
    vectors = _vectors(config, tensors, table.shape[1], where)
    start = "vocabulary" if config.get("prompt_tuning_init", "RANDOM") != "RANDOM" else "random"
    tune = {"method": "prompt", "prompt": {"length": vectors.shape[0], "init": start}}
    return tune, {PROMPT: vectors.astype(table.dtype)}


def read_prefix(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], base, names, where: str):
    """(tune, flat leaves) of keys and values, also of those that a network made."""
    kernel = base["blocks/attention/key/kernel"]
    layers, width = kernel.shape[0], kernel.shape[-1]
    vectors = _vectors(config, tensors, layers * 2 * width, where)
    both = vectors.reshape(len(vectors), layers, 2, width).transpose(2, 1, 0, 3).astype(kernel.dtype)
    tune = {"method": "prefix", "prefix": {"length": len(vectors), "reparameterize": 0}}
    return tune, {KEYS: both[0], VALUES: both[1]}


def read_gated(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], base, names, where: str):
    """(tune, flat leaves) of gated prefixes of the last layers; the layers below have zeros."""
    kernel, template = base["blocks/attention/query/kernel"], _attention(names)
    depth, width = kernel.shape[:2]
    length, count, at = config.get("adapter_len"), config.get("adapter_layers"), template.rpartition(".")[2]
    if at != "self_attn":
        raise UserError(f"{where}: ADAPTION_PROMPT: read for models as {' and '.join(_GATED)} alone")
    for key, value in (("adapter_len", length), ("adapter_layers", count)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{where}: {key} = {value!r}: expected a whole number above 0")
    chosen = config.get("target_modules")
    if chosen not in (None, at) or count > depth:
        raise UserError(
            f"{where}: target_modules = {chosen!r}, adapter_layers = {count}: expected {at!r} of up to {depth} layers"
        )
    prompts, gates = np.zeros((depth, length, width), kernel.dtype), np.zeros((depth,), kernel.dtype)
    expected = {}
    for layer in range(depth - count, depth):
        name = ROOT + template.format(layer=layer)
        expected |= {f"{name}.adaption_prompt": (1, length, width), f"{name}.adaption_gate": (1,)}
    _check(tensors, expected, where)
    for layer in range(depth - count, depth):
        name = ROOT + template.format(layer=layer)
        prompts[layer], gates[layer] = tensors[f"{name}.adaption_prompt"][0], tensors[f"{name}.adaption_gate"][0]
    tune = {"method": "gated_prefix", "gated_prefix": {"length": length, "layers": count if count < depth else 0}}
    return tune, {VECTORS: prompts, GATE: gates}


READERS = {
    "PROMPT_TUNING": read_prompt,
    "P_TUNING": read_prompt,
    "PREFIX_TUNING": read_prefix,
    "ADAPTION_PROMPT": read_gated,
}


def write(adapter: Method, flat: Mapping[str, Any], names: Sequence[Tensor], family: str):
    """(config, tensors) of a prompt, a prefix or a gated prefix; see `ptft_jax.interop.peft.write`."""
    if isinstance(adapter, Prompt):
        vectors = np.asarray(flat[PROMPT])
        start = "RANDOM" if adapter.init == "random" else "SAMPLE_VOCAB"
        config = {"peft_type": "PROMPT_TUNING", "token_dim": vectors.shape[1], "prompt_tuning_init": start}
        return {**config, "num_virtual_tokens": len(vectors), "num_transformer_submodules": 1}, {_KEY: vectors}
    if isinstance(adapter, Prefix):
        both = np.stack([np.asarray(flat[KEYS]), np.asarray(flat[VALUES])])
        vectors = both.transpose(2, 1, 0, 3).reshape(both.shape[2], -1)
        # How many layers, heads and numbers there are, PEFT takes from the base where they are not given.
        config = {"peft_type": "PREFIX_TUNING", "prefix_projection": False, "num_transformer_submodules": 1}
        return {**config, "num_virtual_tokens": len(vectors)}, {_KEY: vectors}
    assert isinstance(adapter, GatedPrefix)
    if family not in _GATED:
        raise UserError(f"config.{adapter.field}: PEFT has gated prefixes for {', '.join(_GATED)}, not for {family}")
    prompts, gates, template = np.asarray(flat[VECTORS]), np.asarray(flat[GATE]), _attention(names)
    depth, length, _ = prompts.shape
    count, tensors = adapter.layers or depth, {}
    for layer in range(depth - count, depth):
        name = ROOT + template.format(layer=layer)
        tensors |= {f"{name}.adaption_prompt": prompts[layer][None], f"{name}.adaption_gate": gates[layer][None]}
    config = {"peft_type": "ADAPTION_PROMPT", "target_modules": template.rpartition(".")[2]}
    return {**config, "adapter_len": length, "adapter_layers": count}, tensors


METHODS = (Prompt, Prefix, GatedPrefix)


def _attention(names: Sequence[Tensor]) -> str:
    """Their name of the attention of a layer, {layer} to be filled in."""
    kernel = next(t for t in names if t.ours == "blocks/attention/query/kernel")
    return kernel.theirs.removesuffix(".weight").rpartition(".")[0]


def _vectors(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], width: int, where: str) -> np.ndarray:
    """[n, width], all that a prompt's or a prefix's file holds."""
    count = config.get("num_virtual_tokens")
    if (config.get("num_transformer_submodules") or 1) != 1:
        raise UserError(f"{where}: num_transformer_submodules = {config['num_transformer_submodules']}, not 1")
    _check(tensors, {_KEY: (count, width)}, where)
    return tensors[_KEY]


def _check(tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple], where: str) -> None:
    """Raises UserError with every tensor that is missing, extra, or of another shape."""
    problems = [f"missing  {key} {shape}" for key, shape in expected.items() if key not in tensors]
    problems += [f"extra    {key} {array.shape}" for key, array in tensors.items() if key not in expected]
    problems += [
        f"shape    {key} {tensors[key].shape}, expected {shape}"
        for key, shape in expected.items()
        if key in tensors and tensors[key].shape != shape
    ]
    if problems:
        raise UserError(f"{where}: the tensors do not fit the config or the model:{listed(problems, 40)}")
