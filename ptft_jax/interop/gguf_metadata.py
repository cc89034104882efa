"""A Hugging Face config to GGUF metadata: the other direction of gguf_config."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.interop import config_reader, gguf_config, gguf_layout

# GGUF has no key for the activation: its readers take the family's own. Of the others it is silu.
_ACTIVATIONS = {"gpt2": "gelu_new", "gpt_neox": "gelu"} | dict.fromkeys(("gemma", "gemma2", "gemma3_text"), "gelu_new")
# Families whose heads need not be hidden_size / heads wide when the config does not say.
_OWN_HEAD_DIM = {"gemma", "gemma2", "gemma3_text", "qwen3", "qwen3_moe"}


def to_metadata(c: config_reader.Fields) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The model keys of a GGUF file, without the architecture's prefix, and the tensors that hold rotary scaling.

    Raises:
      UserError: a field that is missing, or a value that GGUF has no key for and that its readers would take to be another.
    """
    model_type = c.need("model_type")
    arch = gguf_layout.layout(model_type).architecture
    _check_activation(c, model_type)
    if arch == "gpt2":
        meta = {
            "context_length": c.need("n_positions"),
            "embedding_length": c.need("n_embd"),
            "feed_forward_length": c.get("n_inner", 4 * c.need("n_embd")),
            "block_count": c.need("n_layer"),
            "attention.head_count": c.need("n_head"),
            "attention.layer_norm_epsilon": float(c.need("layer_norm_epsilon")),
        }
        return meta, {}
    hidden, heads = c.need("hidden_size"), c.need("num_attention_heads")
    head_dim = c.need("head_dim") if model_type in _OWN_HEAD_DIM else c.get("head_dim", hidden // heads)
    rope = _rope(c)
    meta = {
        "context_length": c.need("max_position_embeddings"),
        "embedding_length": hidden,
        "feed_forward_length": c.need("intermediate_size"),
        "block_count": c.need("num_hidden_layers"),
        "attention.head_count": heads,
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if arch == "gptneox":
        return meta | {
            "rope.dimension_count": int((rope.get("partial_rotary_factor") or c.need("rotary_pct")) * head_dim),
            "attention.layer_norm_epsilon": float(c.need("layer_norm_eps")),
            "use_parallel_residual": bool(c.get("use_parallel_residual", True)),
        }, {}
    meta |= {
        "attention.head_count_kv": c.need("num_key_value_heads"),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(c.need("rms_norm_eps")),
    }
    scaling, tensors = _scaling(c, rope, head_dim)
    own = _FAMILIES[arch](c, head_dim) if arch in _FAMILIES else {}
    return meta | scaling | own, tensors


def _check_activation(c: config_reader.Fields, model_type: str) -> None:
    own = _ACTIVATIONS.get(model_type, "silu")
    found = c.activation("hidden_activation", "activation_function", "hidden_act", default=own)
    if found != config_reader.ACTIVATIONS[own]:
        raise UserError(f"{c.where}: a GGUF file of a {model_type} can only mean the activation {own}, not {found}")


def _rope(c: config_reader.Fields) -> dict[str, Any]:
    """rope_theta and the scaling's fields, from `rope_parameters` or from the older `rope_theta`, `rope_scaling`."""
    found = dict(c.get("rope_parameters", None) or c.get("rope_scaling", {}))
    found = found.get("full_attention", found)  # Gemma 3: one for each kind of layer
    # Where a field is absent each family of transformers has a default of its own: better said than guessed.
    base = found.get("rope_theta") or c.need("rotary_emb_base" if c.need("model_type") == "gpt_neox" else "rope_theta")
    return {**found, "rope_theta": base, "rope_type": found.get("rope_type") or found.get("type") or "default"}


def _scaling(
    c: config_reader.Fields, rope: dict[str, Any], head_dim: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    kind = rope["rope_type"]
    if kind == "default":
        return {}, {}
    original = rope.get("original_max_position_embeddings") or c.get("original_max_position_embeddings", None)
    length = {} if original is None else {"rope.scaling.original_context_length": int(original)}
    # GGUF readers apply a factor key whatever the type, so only the types that mean it have one.
    factor = {"rope.scaling.type": kind, "rope.scaling.factor": float(rope.get("factor", 1.0))}
    if kind == "llama3":
        return length, {"rope_freqs.weight": gguf_config.llama3_factors(rope, float(rope["rope_theta"]), head_dim)}
    if kind == "longrope" and c.need("model_type") == "phi3":
        names = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
        return length, {name: np.asarray(rope[key], np.float32) for name, key in names.items()}
    if kind == "linear":
        return factor, {}
    if kind == "yarn":
        named = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow", "attention_factor": "yarn_attn_factor"}
        extra = {f"rope.scaling.{key}": float(rope[name]) for name, key in named.items() if rope.get(name) is not None}
        return factor | length | extra, {}
    raise UserError(f"{c.where}: rope scaling {kind!r} of a {c.need('model_type')} has no GGUF form")


def _llama(c: config_reader.Fields, head_dim: int) -> dict[str, Any]:
    meta = {"attention.sliding_window": c.need("sliding_window")} if c.get("sliding_window", 0) else {}
    if c.need("model_type") == "mistral" and "sliding_window" not in c.values:
        raise UserError(f"{c.where}: config.json has no 'sliding_window'; write null for none")
    if c.need("model_type") == "mixtral":
        experts = {"expert_count": gguf_layout.experts(c.values), "expert_used_count": c.need("num_experts_per_tok")}
        return meta | experts
    return meta


def _smollm3(c: config_reader.Fields, head_dim: int) -> dict[str, Any]:
    period = gguf_config.SMOLLM3_PERIOD
    rotary = [int((i + 1) % period != 0) for i in range(c.need("num_hidden_layers"))]
    c.refuse(use_sliding_window=False, no_rope_layers=rotary)
    if c.get("no_rope_layers", None) is None:
        c.refuse(no_rope_layer_interval=period)
    return {}


def _qwen(c: config_reader.Fields, head_dim: int) -> dict[str, Any]:
    c.refuse(use_sliding_window=False)
    if c.need("model_type") != "qwen3_moe":
        return {}
    c.refuse(norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[])
    c.need("norm_topk_prob")  # Hugging Face's default is False
    return {
        "expert_count": gguf_layout.experts(c.values),
        "expert_used_count": c.need("num_experts_per_tok"),
        "expert_feed_forward_length": c.need("moe_intermediate_size"),
    }


def _gemma(c: config_reader.Fields, head_dim: int) -> dict[str, Any]:
    model_type, layers = c.need("model_type"), c.need("num_hidden_layers")
    if model_type != "gemma3_text":
        c.refuse(tie_word_embeddings=True)
    if model_type == "gemma":
        return {}
    meta: dict[str, Any] = {"attention.sliding_window": c.need("sliding_window")}
    if (
        c.need("query_pre_attn_scalar") != head_dim
        or layers == gguf_config.GEMMA_27B_LAYERS[gguf_layout.layout(model_type).architecture]
    ):
        meta["attention.scale"] = float(c.need("query_pre_attn_scalar")) ** -0.5
    kinds = c.get("layer_types", None)
    if model_type == "gemma2":
        periods = [2]
        for key in gguf_config.GEMMA2_SOFT_CAPS:
            if c.get(key, None) is None:
                raise UserError(f"{c.where}: {key} = None: a GGUF file of a gemma2 always has a cap")
            meta[key] = float(c.need(key))
    else:
        if c.get("attn_logit_softcapping", None) is not None:
            raise UserError(f"{c.where}: attn_logit_softcapping: a GGUF file of a gemma3_text has none")
        if c.get("final_logit_softcapping", None) is not None:
            meta["final_logit_softcapping"] = float(c.need("final_logit_softcapping"))
        local = c.get("rope_parameters", {}).get("sliding_attention", {}).get("rope_theta")
        meta["rope.freq_base_swa"] = float(local or c.get("rope_local_base_freq", gguf_config.GEMMA3_LOCAL_BASE))
        standard = c.get("sliding_window_pattern", gguf_config.GEMMA3_PERIOD)
        periods = [standard] if kinds is None else [standard, *range(1, layers + 2)]
    for period in periods:
        if kinds is None or list(kinds) == gguf_config.layer_types(layers, period):
            return meta | ({"attention.sliding_window_pattern": period} if model_type != "gemma2" else {})
    every = "second layer" if model_type == "gemma2" else "so many layers"
    raise UserError(f"{c.where}: layer_types: a GGUF file of a {model_type} has full attention every {every}")


def _phi3(c: config_reader.Fields, head_dim: int) -> dict[str, Any]:
    fraction = c.get("rope_parameters", {}).get("partial_rotary_factor") or c.get("partial_rotary_factor", 1.0)
    length = c.get("original_max_position_embeddings", c.need("max_position_embeddings"))
    return {
        "rope.dimension_count": int(fraction * head_dim),
        "rope.scaling.original_context_length": length,
        "attention.sliding_window": c.get("sliding_window", 0),
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
