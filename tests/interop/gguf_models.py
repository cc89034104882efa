"""Small models of the families that GGUF files hold, as transformers makes them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

_SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_COMMON = _SIZES | _HEADS | _IDS
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 |= {"original_max_position_embeddings": 32, "rope_theta": 500.0}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _COMMON | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "llama-3": _COMMON
    | {"model_type": "llama", "head_dim": 16, "rope_parameters": _LLAMA3, "tie_word_embeddings": True},
    "llama-bias": _COMMON | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": _COMMON | {"sliding_window": 8, "head_dim": 32},
    "mixtral": _COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "smollm3": _COMMON | {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
    "qwen2": _COMMON | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": True},
    "qwen3": _COMMON | {"head_dim": 32},
    "qwen3_moe": _COMMON
    | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16, "norm_topk_prob": True},
    "gemma": _COMMON | {"head_dim": 32},
    "gemma2": _COMMON | {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 24},
    "gemma3_text": _COMMON | {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32, "num_hidden_layers": 7},
    "phi3": _COMMON | {"partial_rotary_factor": 0.5, "sliding_window": 8, "original_max_position_embeddings": 64},
    "olmo2": _COMMON,
    "gpt2": _IDS | {"vocab_size": 96, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gpt_neox": _SIZES | _IDS | {"num_attention_heads": 4, "max_position_embeddings": 64, "rotary_pct": 0.25},
}


def torch_model(family: str, folder: pathlib.Path) -> Any:
    """The transformers model with seeded random weights (norms and biases too), saved in the folder."""
    import torch
    import transformers

    settings = dict(FAMILIES[family])
    config = transformers.AutoConfig.for_model(settings.pop("model_type", family), **settings)
    config.torch_dtype = "float32"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gain = 1.0 if name.endswith("norm.weight") and "gemma" not in family else 0.0
            parameter.copy_(noise * 0.1 + gain)
    model.save_pretrained(folder)
    return model


def saved(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and the tensors of a folder."""
    from safetensors.numpy import load_file

    tensors: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return json.loads((folder / "config.json").read_text()), tensors
