"""GGUF metadata to a Hugging Face config and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ptft_jax.config.field import LARGEST
from ptft_jax.errors import UserError, nearest
from ptft_jax.interop import gguf_tokenizer

# GGUF architecture -> (Hugging Face model type, model class). The llama architecture also holds Mistral and Mixtral.
ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "smollm3": ("smollm3", "SmolLM3ForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "qwen3moe": ("qwen3_moe", "Qwen3MoeForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
    "olmo2": ("olmo2", "Olmo2ForCausalLM"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "gptneox": ("gpt_neox", "GPTNeoXForCausalLM"),
}

# Every Gemma 2 has these; files made before GGUF had keys for them leave them out.
GEMMA2_SOFT_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
# Gemma 3: every sixth layer attends to everything, with a rotary base of its own.
GEMMA3_PERIOD, GEMMA3_LOCAL_BASE = 6, 10000.0
# SmolLM3 has no rotary positions in every fourth layer; GGUF has no key for it.
SMOLLM3_PERIOD = 4
# The largest Gemmas scale queries by hidden size / heads, the others by head size; GGUF readers know them by depth.
GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}


# Keys that end so are measures; other numbers are sizes.
_MEASURES = ("epsilon", "freq_base", "freq_base_swa", "factor", "scale", "softcapping", "beta_fast", "beta_slow")


class Metadata:
    """The keys of one file. `get` is None where a key is absent; `need` raises UserError."""

    def __init__(self, path: str, read: Callable[[str], Any], architecture: str):
        self.path, self.read, self.architecture = path, read, architecture

    def get(self, key: str, default: Any = None) -> Any:
        """A model key such as "block_count"; one that is given for each layer must be the same for all."""
        value = self.read(f"{self.architecture}.{key}")
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise UserError(f"{self.path}: {self.architecture}.{key} differs between layers: {value}")
            value = value[0]
        if isinstance(value, str) != (key == "rope.scaling.type") and value is not None:
            raise UserError(f"{self.path}: {self.architecture}.{key} = {value!r} is of the wrong type")
        if value is None:
            return default
        if isinstance(value, float) and not abs(value) <= LARGEST:  # a NaN is not, either
            raise UserError(f"{self.path}: {self.architecture}.{key} = {value!r}: expected a finite number")
        if isinstance(value, float) and not key.endswith(_MEASURES):
            if value != int(value):
                raise UserError(f"{self.path}: {self.architecture}.{key} = {value!r}: expected a whole number")
            return int(value)
        return float(str(np.float32(value))) if isinstance(value, float) else value  # 1e-05, not 9.999999747378752e-06

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise UserError(f"{self.path}: no metadata key {self.architecture}.{key}")
        if value <= 0:
            raise UserError(f"{self.path}: {self.architecture}.{key} = {value}")
        return value


def to_config(
    meta: Metadata, stored: Collection[str], vocab_size: int, torch_dtype: str, vector: Callable[[str], np.ndarray]
) -> dict[str, Any]:
    """The config.json that Hugging Face would have written.

    Args:
      meta: the file's metadata.
      stored: names of its tensors.
      vocab_size: rows of its token embedding.
      torch_dtype: for the config's field of that name.
      vector: reads a one-dimensional tensor by its GGUF name.

    Raises:
      UserError: an unknown architecture, a missing key, or a value that Hugging Face's config cannot say.
    """
    arch = meta.architecture
    if arch not in ARCHITECTURES:
        raise UserError(
            f"{meta.path}: architecture {arch!r} is not supported{nearest(arch, ARCHITECTURES)}; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    model_type, model_class = ARCHITECTURES[arch]
    if meta.need("block_count") > len(stored):
        raise UserError(f"{meta.path}: {arch}.block_count = {meta.need('block_count')}, of {len(stored)} tensors")
    stops = gguf_tokenizer.stop_ids(meta.read)
    config = {
        "architectures": [model_class],
        "model_type": model_type,
        "vocab_size": vocab_size,
        "tie_word_embeddings": "output.weight" not in stored,
        "bos_token_id": meta.read("tokenizer.ggml.bos_token_id"),
        "eos_token_id": stops[0] if len(stops) == 1 else stops or None,
        "pad_token_id": meta.read("tokenizer.ggml.padding_token_id"),
        "torch_dtype": torch_dtype,
    }
    if arch == "gpt2":
        return config | _gpt2(meta)
    hidden, heads = meta.need("embedding_length"), meta.need("attention.head_count")
    head_dim = meta.get("attention.key_length", hidden // heads)
    config |= {
        "hidden_size": hidden,
        "num_hidden_layers": meta.need("block_count"),
        "num_attention_heads": heads,
        "intermediate_size": meta.need("feed_forward_length"),
        "max_position_embeddings": meta.need("context_length"),
    }
    if arch == "gptneox":
        return config | {
            "layer_norm_eps": meta.need("attention.layer_norm_epsilon"),
            "rotary_pct": meta.get("rope.dimension_count", head_dim) / head_dim,
            "rotary_emb_base": meta.get("rope.freq_base", 10000.0),
            "use_parallel_residual": meta.get("use_parallel_residual", True),
            "hidden_act": "gelu",
            "attention_bias": True,
        }
    if meta.get("attention.value_length", head_dim) != head_dim:
        raise UserError(f"{meta.path}: keys of {head_dim} and values of another size are not supported")
    if arch != "phi3" and meta.get("rope.dimension_count", head_dim) != head_dim:
        raise UserError(
            f"{meta.path}: {arch}.rope.dimension_count: rotary positions in a part of a head are not supported"
        )
    config |= {
        "num_key_value_heads": meta.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": meta.need("attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.get("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(meta, stored, vector),
        "hidden_act": "silu",
        "attention_bias": arch != "qwen2" and "blk.0.attn_q.bias" in stored,
    }
    return config | _FAMILIES.get(arch, lambda *_: {})(meta, stored, config)


def _gpt2(meta: Metadata) -> dict[str, Any]:
    return {
        "n_embd": meta.need("embedding_length"),
        "n_layer": meta.need("block_count"),
        "n_head": meta.need("attention.head_count"),
        "n_positions": meta.need("context_length"),
        "n_inner": meta.need("feed_forward_length"),
        "layer_norm_epsilon": meta.need("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }


def _llama(meta: Metadata, stored: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"mlp_bias": "blk.0.ffn_up.bias" in stored}
    window = meta.get("attention.sliding_window")
    if window:
        found = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window}
    if meta.get("expert_count"):
        found = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "sliding_window": window}
        found |= {"num_local_experts": meta.need("expert_count"), "num_experts_per_tok": meta.need("expert_used_count")}
    return found


def _smollm3(meta: Metadata, stored: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    layers = config["num_hidden_layers"]
    rotary = [int((i + 1) % SMOLLM3_PERIOD != 0) for i in range(layers)]
    return {"no_rope_layers": rotary, "no_rope_layer_interval": SMOLLM3_PERIOD, "use_sliding_window": False}


def _qwen3moe(meta: Metadata, stored: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": meta.need("expert_count"),
        "num_experts_per_tok": meta.need("expert_used_count"),
        "moe_intermediate_size": meta.need("expert_feed_forward_length"),
        # GGUF's readers always rescale the chosen experts' weights to a sum of one for this architecture.
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gemma(meta: Metadata, stored: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    arch, layers = meta.architecture, config["num_hidden_layers"]
    found: dict[str, Any] = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
    if arch == "gemma":
        return found
    scalar = config["head_dim"]
    if layers == GEMMA_27B_LAYERS[arch]:
        scalar = config["hidden_size"] // config["num_attention_heads"]
    if meta.get("attention.scale"):
        scalar = meta.get("attention.scale") ** -2
        scalar = round(scalar) if abs(scalar - round(scalar)) < 1e-3 else scalar
    caps = {key: meta.get(key, GEMMA2_SOFT_CAPS[key] if arch == "gemma2" else None) for key in GEMMA2_SOFT_CAPS}
    period = 2 if arch == "gemma2" else meta.get("attention.sliding_window_pattern", GEMMA3_PERIOD)
    found |= caps | {
        "query_pre_attn_scalar": scalar,
        "sliding_window": meta.need("attention.sliding_window"),
        "layer_types": layer_types(layers, period),
    }
    if arch == "gemma3":
        found["rope_local_base_freq"] = meta.get("rope.freq_base_swa", GEMMA3_LOCAL_BASE)
    return found


def layer_types(layers: int, period: int) -> list[str]:
    """Hugging Face's `layer_types` of a model with full attention in every `period`-th layer."""
    return ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers)]


def _phi3(meta: Metadata, stored: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    return {
        "partial_rotary_factor": meta.get("rope.dimension_count", config["head_dim"]) / config["head_dim"],
        "original_max_position_embeddings": meta.get(
            "rope.scaling.original_context_length", config["max_position_embeddings"]
        ),
        "sliding_window": meta.get("attention.sliding_window") or None,
    }


_FAMILIES = {
    "llama": _llama,
    "smollm3": _smollm3,
    "qwen3moe": _qwen3moe,
    "gemma": _gemma,
    "gemma2": _gemma,
    "gemma3": _gemma,
    "phi3": _phi3,
}


def _rope_scaling(
    meta: Metadata, stored: Collection[str], vector: Callable[[str], np.ndarray]
) -> dict[str, Any] | None:
    original = meta.get("rope.scaling.original_context_length")
    if "rope_freqs.weight" in stored:
        head_dim = meta.get("attention.key_length") or meta.need("embedding_length") // meta.need(
            "attention.head_count"
        )
        try:
            return llama3_scaling(vector("rope_freqs.weight"), meta.get("rope.freq_base", 10000.0), head_dim, original)
        except ValueError as e:
            raise UserError(f"{meta.path}: tensor rope_freqs.weight: {e}") from e
    if "rope_factors_long.weight" in stored:
        scaling = {
            f"{kind}_factor": [float(str(x)) for x in vector(f"rope_factors_{kind}.weight")]
            for kind in ("long", "short")
        }
        return {"rope_type": "longrope", "type": "longrope"} | scaling
    kind = meta.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "type": kind, "factor": meta.need("rope.scaling.factor")}
    if kind == "linear":
        return scaling
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = original or meta.need("rope.scaling.original_context_length")
        named = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow", "attention_factor": "yarn_attn_factor"}
        values = {name: meta.get(f"rope.scaling.{key}") for name, key in named.items()}
        return scaling | {name: value for name, value in values.items() if value is not None}
    raise UserError(f"{meta.path}: rope.scaling.type = {kind!r} is not supported; known: none, linear, yarn")


def llama3_factors(scaling: Mapping[str, Any], theta: float, head_dim: int) -> np.ndarray:
    """float32 [head_dim / 2]: what Llama 3.1 divides each rotary frequency by (transformers' "llama3" rule).

    Wavelengths above original length / low_freq_factor are stretched by `factor`, those below original length /
    high_freq_factor are kept, and those between are interpolated linearly in 1 / wavelength.
    """
    turns = _turns(theta, head_dim) * scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - kept) / scaling["factor"] + kept)).astype(np.float32)


def llama3_scaling(factors: np.ndarray, theta: float, head_dim: int, original: int | None) -> dict[str, Any]:
    """The `rope_scaling` whose `llama3_factors` these are.

    GGUF stores the factors, not the rule. Scaling the original length and both factors by one number changes nothing,
    so low_freq_factor = 1 (as published) is no loss; the other two follow from the line that `kept` is on.

    Raises:
      ValueError: no such rule gives these factors.
    """
    factors = np.asarray(factors, np.float32)
    if factors.shape != (head_dim // 2,):
        raise ValueError(f"shape {factors.shape}, expected ({head_dim // 2},)")
    factor = float(str(factors.max()))
    base = {"rope_type": "llama3", "type": "llama3", "factor": factor, "low_freq_factor": 1.0}
    candidates = [
        base | {"high_freq_factor": 4.0, "original_max_position_embeddings": n} for n in (original, 8192) if n
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = (1.0 / factors.astype(np.float64) - 1.0 / factor) / (1.0 - 1.0 / factor)
    between = (kept > 1e-4) & (kept < 1 - 1e-4)
    if between.sum() >= 2:
        slope, offset = np.polyfit(_turns(theta, head_dim)[between], kept[between], 1)
        high = 1.0 - 1.0 / offset
        candidates.append(
            base | {"high_freq_factor": round(high, 4), "original_max_position_embeddings": round(slope * (high - 1.0))}
        )
    for scaling in candidates:
        if scaling["high_freq_factor"] > 1 and np.allclose(
            llama3_factors(scaling, theta, head_dim), factors, rtol=1e-3
        ):
            return scaling
    raise ValueError("these factors follow no Llama 3 rule of rotary scaling")


def _turns(theta: float, head_dim: int) -> np.ndarray:
    """float64 [head_dim / 2]: 1 / wavelength, in turns a position."""
    return theta ** -(np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
