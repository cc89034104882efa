"""Small bases of several families, and folders in PEFT's format made without PEFT."""

import json

import numpy as np
from safetensors.numpy import save_file

from ptft_jax.adapters.base import is_added
from ptft_jax.interop import families, peft
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten

SIZES = dict(layers=2, width=16, heads=4, vocab_size=32, max_length=16)
ROTARY = dict(norm="rms", biases=(), positions="rotary", gated=True, activation="silu", kv_heads=2)
MODELS = {
    "gpt2": {},
    "gpt_neox": dict(positions="rotary", parallel=True, tied=False),
    "llama": dict(ROTARY, tied=False),
    "phi3": dict(ROTARY, tied=False),
    "mixtral": dict(ROTARY, tied=False, experts=2),
}
ROOT = "base_model.model."


def base_of(name, dtype=np.float32, method=None):
    """(parameters with random numbers, name map) of a small model of a family, with the method's leaves."""
    fields = families.canonical({**SIZES, **MODELS[name]})
    shapes = flatten(Transformer(ModelSpec(**fields), method).shapes())
    rng = np.random.default_rng(0)
    params = {
        p: rng.normal(size=a.shape).astype(a.dtype if a.dtype != np.float32 else dtype) for p, a in shapes.items()
    }
    return params, families.FAMILIES[name].tensors(fields)


def without(params):
    return unflatten({p: a for p, a in params.items() if not is_added(p)})


def make(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / peft.CONFIG).write_text(json.dumps(config))
    kept = {k: v if np.asarray(v).dtype == np.float16 else np.asarray(v, np.float32) for k, v in tensors.items()}
    save_file({k: np.ascontiguousarray(v) for k, v in kept.items()}, folder / peft.WEIGHTS)
    return folder


LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"]}
