"""Reading another library's config.json: values with their defaults, and clear errors for what has no counterpart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ptft_jax.config.field import LARGEST, LEAST, MOST, shown
from ptft_jax.errors import UserError, nearest

# Their names of activations; the first of ours' names is what is written back.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "quick_gelu": "quick_gelu",
}


# Fields by what they must be, where they are there at all.
_SIZES = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "max_position_embeddings", "head_dim", "n_embd", "n_layer", "n_head", "n_inner", "n_positions", "n_ctx",
    "num_local_experts", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step",
    "image_size", "patch_size", "num_channels", "type_vocab_size", "sliding_window_pattern", "_sliding_window_pattern",
    "no_rope_layer_interval", "original_max_position_embeddings", "num_labels", "sliding_window", "num_register_tokens", "projection_dim", "projection_size",
}  # fmt: skip
# What of the sizes the tensors tell: at most as many of them, as the longest axis of one, or as the numbers of the largest one.
_TENSORS = {"num_hidden_layers", "n_layer", "num_local_experts", "num_experts"}
_AXES = {
    "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim", "n_embd", "n_head", "n_inner",
    "moe_intermediate_size", "patch_size", "num_channels", "num_labels",
}  # fmt: skip
_LARGEST = {"vocab_size", "type_vocab_size", "image_size"}
_FLAGS = {
    "tie_word_embeddings", "attention_bias", "mlp_bias", "qkv_bias", "use_sliding_window", "norm_topk_prob",
    "use_parallel_residual", "is_decoder", "add_cross_attention", "truncate", "use_swiglu_ffn", "vision_use_head",
}  # fmt: skip
_NUMBERS = {
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "rope_local_base_freq", "rotary_emb_base",
    "rotary_pct", "partial_rotary_factor", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
    "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor", "mscale",
    "mscale_all_dim", "mlp_ratio", "layerscale_value",
}  # fmt: skip
_KINDS: dict[str, type] = {
    "model_type": str, "hidden_act": str, "hidden_activation": str, "activation_function": str, "rope_type": str,
    "layer_types": list, "architectures": list, "no_rope_layers": list, "mlp_only_layers": list, "id2label": dict,
    "label2id": dict, "vision_config": dict, "text_config": dict, "image_mean": list, "image_std": list,
    "quantization_config": dict, "rope_parameters": dict, "rope_scaling": dict, "short_factor": list,
    "long_factor": list,
}  # fmt: skip


def check(values: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Raises UserError that names a field of a config.json which is of another type than it has there, or out of range."""
    for name, value in values.items():
        expected = "" if value is None else _expected(name, value)
        if expected:
            raise UserError(f"{where}: config.json: {prefix}{name} = {shown(value)}: expected {expected}")
        if isinstance(value, Mapping) and name.startswith(("rope_", "full_", "sliding_")):
            check(value, where, f"{prefix}{name}.")


def _expected(name: str, value: Any) -> str:
    """What is expected in place of a value, "" where nothing else is."""
    if name in _SIZES and not (_is_number(value) and value == int(value) and 0 < value <= MOST):
        return f"a whole number above 0, at most {MOST}"
    if name in _NUMBERS and not _is_number(value):
        return "a number above 0"
    if name in _FLAGS and not (isinstance(value, bool) or value in (0, 1)):
        return "true or false"
    if name == "max_window_layers" and not (isinstance(value, int) and value >= 0):
        return "a whole number of 0 or more"
    if name in _KINDS and not isinstance(value, _KINDS[name]):
        return {str: "a text", list: "a list", dict: "a table"}[_KINDS[name]]
    if name in ("layer_types", "architectures") and not all(isinstance(entry, str) for entry in value):
        return "a list of texts"
    if name in ("no_rope_layers", "mlp_only_layers") and not all(isinstance(entry, int) for entry in value):
        return "a list of whole numbers"
    if name in ("image_mean", "image_std") and not all(type(entry) in (int, float) for entry in value):
        return "a list of numbers"
    if name in ("short_factor", "long_factor") and not all(map(_is_number, value)):
        return "a list of numbers above 0"
    return ""


def _is_number(value: Any) -> bool:
    """Whether it is a number above 0 that float32 can hold."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and LEAST <= value <= LARGEST


def check_sizes(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raises UserError for a size in a config.json that weights of these shapes cannot have, before anything of such a size is
    built. What is left is small enough to be compared tensor by tensor."""
    most = {
        "there are only {} tensors": (_TENSORS, len(shapes)),
        "no tensor has an axis longer than {}": (
            _AXES,
            max((max(shape, default=1) for shape in shapes.values()), default=0),
        ),
        "no tensor has more than {} numbers": (
            _LARGEST,
            max((math.prod(shape) for shape in shapes.values()), default=0),
        ),
    }
    file = "metadata (by the names of config.json)" if where.startswith("gguf:") else "config.json"
    for words, (names, limit) in most.items():
        for name in sorted(names & set(values)):
            if values[name] is not None and values[name] > limit:
                raise UserError(
                    f"{where}: {file}: {name} = {values[name]!r}, but {words.format(limit)}: it does not describe these weights"
                )


class Fields:
    """A config.json, read by name. `where` names it in messages."""

    def __init__(self, values: Mapping[str, Any], where: str):
        # A whole number may be written as 64.0.
        whole = {name: int(value) for name, value in values.items() if name in _SIZES and isinstance(value, float)}
        self.values, self.where = {**values, **whole}, where

    def need(self, name: str) -> Any:
        """The value, which must be there. Raises UserError."""
        value = self.values.get(name)
        if value is None:
            raise UserError(f"{self.where}: config.json has no {name!r}{nearest(name, self.values)}")
        return value

    def get(self, name: str, default: Any) -> Any:
        """The value, or the default that the other library gives where it is absent or null."""
        value = self.values.get(name)
        return default if value is None else value

    def refuse(self, **only: Any) -> None:
        """Raises UserError where a field has another value than the only one that is supported here."""
        for name, value in only.items():
            if self.values.get(name) not in (None, value):
                raise UserError(
                    f"{self.where}: config.json: {name} = {self.values[name]!r} is not supported, only {value!r}"
                )

    def activation(self, *names: str, default: str) -> str:
        """Our name of the activation in the first of the fields that is there."""
        name = next((n for n in names if self.values.get(n) is not None), names[0])
        value = self.get(name, default)
        if value not in ACTIVATIONS:
            raise UserError(
                f"{self.where}: config.json: {name} = {value!r} is not supported, only {', '.join(ACTIVATIONS)}"
                f"{nearest(str(value), ACTIVATIONS)}"
            )
        return ACTIVATIONS[value]


def activation_name(ours: str) -> str:
    """Their name of our activation."""
    return "gelu_pytorch_tanh" if ours == "gelu_tanh" else ours


def sizes(c: Fields, max_length: int, *, eps: float) -> dict[str, Any]:
    """What GPT-NeoX, BERT and ViT call alike: sizes, activation, and the norm's epsilon (`eps` by default)."""
    heads, width = c.need("num_attention_heads"), c.need("hidden_size")
    return dict(
        layers=c.need("num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp_width=c.need("intermediate_size"),
        max_length=max_length,
        activation=c.activation("hidden_act", default="gelu"),
        norm_eps=c.get("layer_norm_eps", eps),
    )


def write_sizes(m: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `sizes`, but for the length."""
    return {
        "hidden_size": m["width"],
        "num_hidden_layers": m["layers"],
        "num_attention_heads": m["heads"],
        "intermediate_size": m["mlp_width"],
        "hidden_act": activation_name(m["activation"]),
        "layer_norm_eps": m["norm_eps"],
    }
