"""Small models of the families that GGUF files hold."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import gguf as library
import ml_dtypes
import numpy as np

from ptft_jax.interop import gguf_layout

_SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False}
_COMMON = _SIZES | _HEADS | _IDS | {"rope_theta": 10000.0, "head_dim": 16}
_ROPE = {"rope_theta": 5000.0}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 |= {"original_max_position_embeddings": 32}
_GEMMA = _COMMON | _ROPE | {"head_dim": 32, "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh"}
_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}

# Hugging Face configs, by the model type or a name of their own.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _COMMON | _ROPE,
    "llama-3": _COMMON | {"model_type": "llama", "head_dim": 16, "tie_word_embeddings": True}
    | {"rope_theta": 500.0, "rope_scaling": _LLAMA3},
    "llama-bias": _COMMON | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-linear": _COMMON | {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "mistral": _COMMON | {"sliding_window": 8, "head_dim": 32},
    "mixtral": _COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "smollm3": _COMMON | {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "use_sliding_window": False},
    "qwen2": _COMMON | {"rope_theta": 1e6, "tie_word_embeddings": True},
    "qwen3": _COMMON | {"head_dim": 32},
    "qwen3_moe": _COMMON | _MOE | {"head_dim": 16},
    "gemma": _GEMMA,
    "gemma2": _GEMMA | _CAPS | {"sliding_window": 8, "query_pre_attn_scalar": 24},
    "gemma3_text": _GEMMA | {"sliding_window": 8, "query_pre_attn_scalar": 32, "num_hidden_layers": 7},
    "phi3": _COMMON | {"partial_rotary_factor": 0.5, "sliding_window": 8, "original_max_position_embeddings": 64},
    "olmo2": _COMMON,
    "gpt2": _IDS | {"vocab_size": 96, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64}
    | {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    "gpt_neox": _SIZES | _IDS | {"num_attention_heads": 4, "max_position_embeddings": 64, "rotary_pct": 0.25, "rotary_emb_base": 10000}
    | {"layer_norm_eps": 1e-5},
}  # fmt: skip


def config(family: str) -> dict[str, Any]:
    """config.json, without what transformers would fill in."""
    return {"model_type": family, **FAMILIES[family]}


def tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """float32 tensors of the shapes that Hugging Face's model of this config has, of numbers that bfloat16 can hold."""
    kind = config["model_type"]
    width = config.get("hidden_size") or config["n_embd"]
    heads = config.get("num_attention_heads") or config["n_head"]
    mlp = config.get("intermediate_size") or 4 * width
    head = config.get("head_dim") or width // heads
    q, kv = heads * head, config.get("num_key_value_heads", heads) * head
    norms = (q, kv) if kind == "olmo2" else (head, head)
    expert = config.get("moe_intermediate_size", mlp)
    vocab = config["vocab_size"]
    shapes = {
        "token_embd": (vocab, width),
        "output": (vocab, width),
        "position_embd": (64, width),
        "attn_q": (q, width),
    }
    shapes |= {"attn_k": (kv, width), "attn_v": (kv, width), "attn_output": (width, q), "attn_qkv": (q + 2 * kv, width)}
    shapes |= {"ffn_gate": (mlp, width), "ffn_up": ((1 + (kind == "phi3")) * mlp, width), "ffn_down": (width, mlp)}
    shapes |= {"ffn_gate_inp": (4, width), "ffn_gate_exps": (expert, width), "ffn_up_exps": (expert, width)}
    shapes |= {"ffn_down_exps": (width, expert), "attn_q_norm": norms[:1], "attn_k_norm": norms[1:]}
    rng = np.random.default_rng(seed)
    found = {}
    for name, place in gguf_layout.places(config).items():
        part, suffix = place.stored.split(".")[-2:]
        if suffix == "bias":
            layer_norms = kind in ("gpt2", "gpt_neox")
            linear = part not in ("token_embd", "position_embd", "output")
            own = {
                "llama": ("attn_" if config.get("attention_bias") else "-", "ffn_" if config.get("mlp_bias") else "-")
            }
            own |= {"qwen2": ("attn_q", "attn_k", "attn_v")}
            if not (layer_norms and linear) and (part.endswith("norm") or not part.startswith(own.get(kind, ("-",)))):
                continue
            shape = shapes.get(part, (width,))[:1]
        else:
            shape = shapes.get(part, (width,))
            shape = shape[::-1] if place.transposed else shape
        found[name] = rng.normal(size=shape).astype(ml_dtypes.bfloat16).astype(np.float32)
    tied = {"lm_head.weight", "embed_out.weight"} if config.get("tie_word_embeddings") else set()
    return {name: array for name, array in found.items() if name not in tied}


def raw_llama(path, kinds=(), drop=(), meta=(), extra=(), layers=1, **writer):
    """A Llama file by the library alone. `kinds`: GGUF name -> (quantized bytes, type); the rest is random float32."""
    rng = np.random.default_rng(3)
    out = library.GGUFWriter(path, "llama", **writer)
    keys = {"context_length": 64, "embedding_length": 256, "feed_forward_length": 512, "block_count": layers}
    keys |= {"attention.head_count": 4, "attention.head_count_kv": 2}
    for key, value in (keys | dict(meta)).items():
        if value is not None:
            out.add_uint32(key if "." in key and key.startswith("split") else f"llama.{key}", value)
    out.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    shapes = {"token_embd": (32, 256), "output_norm": (256,)}
    for i in range(layers):
        block = {"attn_norm": (256,), "ffn_norm": (256,), "attn_q": (256, 256), "attn_k": (128, 256)}
        block |= {"attn_v": (128, 256), "attn_output": (256, 256), "ffn_gate": (512, 256), "ffn_up": (512, 256)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in (block | {"ffn_down": (256, 512)}).items()}
    arrays = {}
    for name, shape in (shapes | dict(extra)).items():
        if f"{name}.weight" in drop:
            continue
        arrays[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        if name in dict(kinds):
            data, kind = dict(kinds)[name]
            out.add_tensor(f"{name}.weight", data, raw_dtype=kind)
        else:
            out.add_tensor(f"{name}.weight", arrays[f"{name}.weight"])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return arrays


def torch_model(family: str, folder: pathlib.Path) -> Any:
    """The transformers model, in float32, with seeded random weights (norms and biases too), saved in the folder."""
    import torch
    import transformers

    settings = transformers.AutoConfig.for_model(**config(family))
    model = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="eager").eval()
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
