"""A Hugging Face config to GGUF metadata: the other direction of gguf_config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.interop import gguf_config, gguf_layout

_ACTIVATIONS = {
    "gelu_pytorch_tanh": ("gemma", "gemma2", "gemma3_text"),
    "gelu_new": ("gpt2",),
    "gelu": ("gpt_neox",),
}


def to_metadata(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The model keys of a GGUF file, without the architecture's prefix, and the tensors that hold rotary scaling.

    Raises:
      UserError: a value that GGUF has no key for and that its readers would take to be another.
    """
    model_type = config["model_type"]
    arch = gguf_layout.layout(model_type).architecture
    activation = next((name for name, families in _ACTIVATIONS.items() if model_type in families), "silu")
    key = {"gpt2": "activation_function"}.get(model_type, "hidden_act")
    if model_type.startswith("gemma") and config.get("hidden_activation"):
        key = "hidden_activation"
    _only(config, key, activation)
    if arch == "gpt2":
        meta = {
            "context_length": config["n_positions"],
            "embedding_length": config["n_embd"],
            "feed_forward_length": config.get("n_inner") or 4 * config["n_embd"],
            "block_count": config["n_layer"],
            "attention.head_count": config["n_head"],
            "attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),
        }
        return meta, {}
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    rope = _rope(config)
    meta = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": hidden,
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "attention.head_count": heads,
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if arch == "gptneox":
        fraction = rope.get("partial_rotary_factor", config.get("rotary_pct", 1.0))
        return meta | {
            "rope.dimension_count": int(fraction * head_dim),
            "attention.layer_norm_epsilon": float(config["layer_norm_eps"]),
            "use_parallel_residual": bool(config.get("use_parallel_residual", True)),
        }, {}
    meta |= {
        "attention.head_count_kv": config.get("num_key_value_heads") or heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
    }
    scaling, tensors = _scaling(config, rope, head_dim)
    return meta | scaling | _FAMILIES.get(arch, lambda *_: {})(config, head_dim), tensors


def _only(config: Mapping[str, Any], key: str, value: Any) -> None:
    """GGUF readers take `value` for granted."""
    found = config.get(key)
    if found is not None and found != value:
        raise UserError(f"config.{key} = {found!r}: a GGUF file of a {config['model_type']} can only mean {value!r}")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """rope_theta and the scaling's fields, from `rope_parameters` or from the older `rope_theta`, `rope_scaling`."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found = found.get("full_attention", found)  # Gemma 3: one for each kind of layer
    base = config.get("rope_theta", config.get("rotary_emb_base"))
    base = found.get("rope_theta") or base or 10000.0
    return {**found, "rope_theta": base, "rope_type": found.get("rope_type") or found.get("type") or "default"}


def _scaling(
    config: Mapping[str, Any], rope: Mapping[str, Any], head_dim: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    kind = rope["rope_type"]
    if kind == "default":
        return {}, {}
    # GGUF readers apply a factor key whatever the type, so only the types that mean it have one.
    original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    length = {} if original is None else {"rope.scaling.original_context_length": int(original)}
    if kind == "llama3":
        factors = gguf_config.llama3_factors(rope, float(rope["rope_theta"]), head_dim)
        return length, {"rope_freqs.weight": factors}
    if kind == "longrope" and config["model_type"] == "phi3":
        names = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
        return length, {name: np.asarray(rope[key], np.float32) for name, key in names.items()}
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}, {}
    if kind == "yarn":
        named = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow", "attention_factor": "yarn_attn_factor"}
        extra = {f"rope.scaling.{key}": float(rope[name]) for name, key in named.items() if rope.get(name) is not None}
        return {"rope.scaling.type": "yarn", "rope.scaling.factor": float(rope["factor"])} | length | extra, {}
    raise UserError(f"rope scaling {kind!r} of a {config['model_type']} has no GGUF form")


def _llama(config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    meta = {"attention.sliding_window": config["sliding_window"]} if config.get("sliding_window") else {}
    if config["model_type"] == "mixtral":
        meta |= {"expert_count": gguf_layout.experts(config), "expert_used_count": config["num_experts_per_tok"]}
    return meta


def _smollm3(config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    if config.get("use_sliding_window"):
        raise UserError("config.use_sliding_window = True: a GGUF file of a smollm3 cannot say so")
    standard = [int((i + 1) % gguf_config.SMOLLM3_PERIOD != 0) for i in range(config["num_hidden_layers"])]
    _only(config, "no_rope_layers", standard)
    return {}


def _qwen(config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    if config.get("use_sliding_window"):
        raise UserError(f"config.use_sliding_window = True: a GGUF file of a {config['model_type']} cannot say so")
    if config["model_type"] != "qwen3_moe":
        return {}
    _only(config, "norm_topk_prob", True)
    _only(config, "decoder_sparse_step", 1)
    _only(config, "mlp_only_layers", [])
    return {
        "expert_count": gguf_layout.experts(config),
        "expert_used_count": config["num_experts_per_tok"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
    }


def _gemma(config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    model_type, layers = config["model_type"], config["num_hidden_layers"]
    if model_type == "gemma":
        return {}
    meta: dict[str, Any] = {"attention.sliding_window": config["sliding_window"]}
    if config["query_pre_attn_scalar"] != head_dim:
        meta["attention.scale"] = float(config["query_pre_attn_scalar"]) ** -0.5
    kinds = config.get("layer_types")
    if model_type == "gemma2":
        periods = [2]
        for key in gguf_config.GEMMA2_SOFT_CAPS:
            if config.get(key) is None:
                raise UserError(f"config.{key} = None: a GGUF file of a gemma2 always has a cap")
            meta[key] = float(config[key])
    else:
        _only(config, "attn_logit_softcapping", None)
        if config.get("attn_logit_softcapping") is not None:
            raise UserError("config.attn_logit_softcapping: a GGUF file of a gemma3_text has none")
        if config.get("final_logit_softcapping") is not None:
            meta["final_logit_softcapping"] = float(config["final_logit_softcapping"])
        local = (config.get("rope_parameters") or {}).get("sliding_attention", {}).get("rope_theta")
        local = local or config.get("rope_local_base_freq") or gguf_config.GEMMA3_LOCAL_BASE
        meta["rope.freq_base_swa"] = float(local)
        standard = config.get("sliding_window_pattern") or gguf_config.GEMMA3_PERIOD
        periods = [standard] if kinds is None else [standard, *range(1, layers + 2)]
    for period in periods:
        pattern = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers)]
        if kinds is None or list(kinds) == pattern:
            return meta | ({"attention.sliding_window_pattern": period} if model_type != "gemma2" else {})
    raise UserError(
        f"config.layer_types: a GGUF file of a {model_type} has a full-attention layer every so many layers"
    )


def _phi3(config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    fraction = (config.get("rope_parameters") or {}).get("partial_rotary_factor")
    fraction = fraction or config.get("partial_rotary_factor") or 1.0
    length = config.get("original_max_position_embeddings") or config["max_position_embeddings"]
    return {
        "rope.dimension_count": int(fraction * head_dim),
        "rope.scaling.original_context_length": length,
        "attention.sliding_window": config.get("sliding_window") or 0,
    }


_FAMILIES = {
    "llama": _llama,
    "smollm3": _smollm3,
    "qwen2": _qwen,
    "qwen3": _qwen,
    "qwen3moe": _qwen,
    "gemma": _gemma,
    "gemma2": _gemma,
    "gemma3": _gemma,
    "phi3": _phi3,
}
