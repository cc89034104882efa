"""Families of transformers as settings of the one model."""

from __future__ import annotations

from typing import Any

from ptft_jax.errors import UserError, nearest

_LLAMA = dict(norm="rms", norm_eps=1e-5, activation="silu", gated=True, positions="rotary", biases=(), tied=False)
_QWEN = {**_LLAMA, "norm_eps": 1e-6, "rope_theta": 1e6}
_GEMMA = {
    **_LLAMA,
    "norm": "rms_plus_one",
    "norm_eps": 1e-6,
    "activation": "gelu_tanh",
    "tied": True,
    "embedding_scale": True,
}
_GEMMA2 = {**_GEMMA, "norm_placement": "both", "layer_kinds": ("sliding", "full"), "window": 4096}
_BERT = dict(
    norm_eps=1e-12, activation="gelu", causal=False, norm_placement="post", embedding_norm=True, token_types=2, head="masked_lm"
)  # fmt: skip
_VIT = dict(norm_eps=1e-12, activation="gelu", causal=False, head="classes")
_CLIP = {
    **_VIT, "norm_eps": 1e-5, "activation": "quick_gelu", "head": "vector", "embedding_norm": True, "patch_bias": False, "vector_width": 512,
    "image_size": 224, "patch_size": 32, "max_length": 50,
}  # fmt: skip
_SIGLIP = {
    **_VIT, "norm_eps": 1e-6, "activation": "gelu_tanh", "head": "vector", "class_token": False, "pooling": "attention",
    "image_size": 224, "patch_size": 16, "max_length": 196,
}  # fmt: skip
_DINOV2 = {**_VIT, "norm_eps": 1e-6, "layer_scale": 1.0, "pooling": "both", "image_size": 518, "patch_size": 14, "max_length": 1370}  # fmt: skip

# Each value names fields of `config.model`, as the family's first published models have them; sizes are the caller's.
FAMILIES: dict[str, dict[str, Any]] = {
    # Radford et al. 2019
    "gpt2": dict(norm="layer", norm_eps=1e-5, activation="gelu_tanh", gated=False, positions="learned", tied=True),
    # Black et al. 2022; Biderman et al. 2023 (Pythia)
    "gpt_neox": dict(
        norm_eps=1e-5, activation="gelu", positions="rotary", rope_fraction=0.25, parallel=True, tied=False
    ),
    # Touvron et al. 2023; SmolLM2 is one with tied embeddings
    "llama": _LLAMA,
    # Bakouch et al. 2025
    "smollm3": {
        **_LLAMA, "norm_eps": 1e-6, "rope_theta": 2e6, "tied": True, "layer_kinds": ("full", "full", "full", "nope")
    },
    # Jiang et al. 2023, 2024
    "mistral": {**_LLAMA, "window": 4096},
    "mixtral": {**_LLAMA, "rope_theta": 1e6, "experts": 8, "experts_per_token": 2},
    # Yang et al. 2024, 2025
    "qwen2": {**_QWEN, "biases": ("qkv",)},
    "qwen3": {**_QWEN, "query_key_norm": "head"},
    "qwen3_moe": {**_QWEN, "query_key_norm": "head", "experts": 128, "experts_per_token": 8},
    # Gemma Team 2024, 2024, 2025
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA2, "attention_cap": 50.0, "logit_cap": 30.0},
    "gemma3_text": {
        **_GEMMA2, "window": 512, "layer_kinds": (*["sliding"] * 5, "full"), "query_key_norm": "head", "rope_theta": 1e6,
        "rope_local_theta": 1e4,
    },
    # Abdin et al. 2024
    "phi3": {**_LLAMA, "window": 2047},
    # OLMo Team 2024
    "olmo2": {**_LLAMA, "norm_eps": 1e-6, "rope_theta": 5e5, "norm_placement": "output", "query_key_norm": "all"},
    # Devlin et al. 2018; Liu et al. 2019
    "bert": _BERT,
    "roberta": {**_BERT, "norm_eps": 1e-5, "position_offset": 2, "token_types": 1},
    # Dosovitskiy et al. 2020; Touvron et al. 2020
    "vit": {**_VIT, "image_size": 224, "patch_size": 16, "max_length": 197},
    "deit": {**_VIT, "image_size": 224, "patch_size": 16, "max_length": 198, "distillation": "head"},
    # He et al. 2021, with its decoder
    "vit_mae": {
        **_VIT, "positions": "sine", "head": "pixels", "decoder_layers": 8, "decoder_width": 512, "decoder_heads": 16,
        "image_size": 224, "patch_size": 16, "max_length": 197,
    },
    # Oquab et al. 2023; Darcet et al. 2023
    "dinov2": _DINOV2,
    "dinov2_with_registers": {**_DINOV2, "max_length": 1374, "registers": 4},
    # Radford et al. 2021 and Zhai et al. 2023, and their towers for images alone
    "clip_vision_model": _CLIP,
    "siglip_vision_model": _SIGLIP,
    "clip": {**_CLIP, "text_layers": 12, "text_width": 512, "text_heads": 8, "text_length": 77},
    "siglip": {
        **_SIGLIP, "text_layers": 12, "text_width": 768, "text_heads": 12, "text_length": 64, "text_causal": False, "pair_bias": True,
    },
}  # fmt: skip


def family(name: str) -> dict[str, Any]:
    """The settings of a family, for `config.model.update(...)`. Raises UserError for an unknown one."""
    if name not in FAMILIES:
        raise UserError(f"no model family {name!r}: expected one of {', '.join(FAMILIES)}{nearest(name, FAMILIES)}")
    return dict(FAMILIES[name])


def images(name: str, size: int, patch: int) -> dict[str, Any]:
    """As `family`, of images that are `size` pixels high and wide, in patches of `patch`."""
    found = family(name)
    before = found["max_length"] - (found["image_size"] // found["patch_size"]) ** 2
    return found | {"image_size": size, "patch_size": patch, "max_length": (size // patch) ** 2 + before}
