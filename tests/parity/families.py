"""Small random models of every family, by transformers: what the live comparisons are made with.

Sizes are chosen so that every mechanism acts: windows shorter than the sequences, several kinds of layers, positions
beyond the lengths that stretched rotary positions were "trained" on, grouped heads, heads wider than width / heads.
"""

import dataclasses
from typing import Any

SIZES = dict(
    vocab_size=97, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=48, max_position_embeddings=64,
)  # fmt: skip
PLAIN = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}  # without grouped heads
IMAGES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=24, patch_size=8
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model to build: classes of transformers by name, and the config's fields."""

    name: str
    config: str
    model: str
    fields: dict[str, Any]
    kind: str = "decoder"  # or "encoder", "classifier", "image"


def _rope(kind: str, theta: float = 10_000.0, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


_LLAMA3 = _rope(
    "llama3", 500_000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
_YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=16)
_LONG = _rope(
    "longrope", short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.0, 2.0, 4.0, 8.0],
    original_max_position_embeddings=16, partial_rotary_factor=1.0,
)  # fmt: skip
_PARTIAL = _rope("default", partial_rotary_factor=0.5)

CASES = (
    Case("gpt2", "GPT2Config", "GPT2LMHeadModel", dict(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=64)),
    Case(
        "gpt2-untied", "GPT2Config", "GPT2LMHeadModel",
        dict(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=40, tie_word_embeddings=False),
    ),
    Case("pythia", "GPTNeoXConfig", "GPTNeoXForCausalLM", {**PLAIN, **_rope("default", partial_rotary_factor=0.5)}),
    Case(
        "gpt-neox-serial", "GPTNeoXConfig", "GPTNeoXForCausalLM",
        {**PLAIN, **_rope("default", partial_rotary_factor=0.25), "use_parallel_residual": False, "attention_bias": False},
    ),
    Case("llama2", "LlamaConfig", "LlamaForCausalLM", SIZES),
    Case("llama3", "LlamaConfig", "LlamaForCausalLM", {**SIZES, **_LLAMA3}),
    Case("llama-biases", "LlamaConfig", "LlamaForCausalLM", {**SIZES, "attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    Case("llama-linear", "LlamaConfig", "LlamaForCausalLM", {**SIZES, **_rope("linear", factor=4.0)}),
    Case("llama-dynamic", "LlamaConfig", "LlamaForCausalLM", {**SIZES, "max_position_embeddings": 16, **_rope("dynamic", factor=4.0)}),
    Case("llama-yarn", "LlamaConfig", "LlamaForCausalLM", {**SIZES, **_YARN}),
    Case("smollm2", "LlamaConfig", "LlamaForCausalLM", {**SIZES, "tie_word_embeddings": True, "num_attention_heads": 4, "num_key_value_heads": 1}),
    Case("smollm3", "SmolLM3Config", "SmolLM3ForCausalLM", {**SIZES, "num_hidden_layers": 5, "pad_token_id": 0}),
    Case("mistral", "MistralConfig", "MistralForCausalLM", {**SIZES, "sliding_window": 8, "head_dim": 16}),
    Case("mistral-full", "MistralConfig", "MistralForCausalLM", {**SIZES, "sliding_window": None}),
    Case("mixtral", "MixtralConfig", "MixtralForCausalLM", {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}),
    Case("qwen2", "Qwen2Config", "Qwen2ForCausalLM", SIZES),
    Case(
        "qwen2.5-window", "Qwen2Config", "Qwen2ForCausalLM",
        {**SIZES, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2, "tie_word_embeddings": True},
    ),
    Case("qwen3", "Qwen3Config", "Qwen3ForCausalLM", {**SIZES, "head_dim": 16}),
    Case(
        "qwen3-moe", "Qwen3MoeConfig", "Qwen3MoeForCausalLM",
        {**SIZES, "head_dim": 16, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "norm_topk_prob": True},
    ),
    Case(
        "qwen3-moe-unnormalized", "Qwen3MoeConfig", "Qwen3MoeForCausalLM",
        {**SIZES, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": False},
    ),
    Case("gemma", "GemmaConfig", "GemmaForCausalLM", {**SIZES, "head_dim": 16}),
    Case(
        "gemma2", "Gemma2Config", "Gemma2ForCausalLM",
        {**SIZES, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    Case(
        "gemma3", "Gemma3TextConfig", "Gemma3ForCausalLM",
        {
            **SIZES, "num_hidden_layers": 7, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 24,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    Case("phi3", "Phi3Config", "Phi3ForCausalLM", {**SIZES, "pad_token_id": 0, "sliding_window": 8}),
    Case("phi4-mini", "Phi3Config", "Phi3ForCausalLM", {**SIZES, "pad_token_id": 0, **_PARTIAL, "tie_word_embeddings": True}),
    Case("phi3-long", "Phi3Config", "Phi3ForCausalLM", {**SIZES, "pad_token_id": 0, "original_max_position_embeddings": 16, **_LONG}),
    Case("olmo2", "Olmo2Config", "Olmo2ForCausalLM", {**SIZES, "num_key_value_heads": 4}),
    Case("bert", "BertConfig", "BertForMaskedLM", PLAIN, "encoder"),
    Case("bert-untied", "BertConfig", "BertForMaskedLM", {**PLAIN, "tie_word_embeddings": False}, "encoder"),
    Case("bert-classes", "BertConfig", "BertForSequenceClassification", {**PLAIN, "num_labels": 5}, "classifier"),
    Case("roberta", "RobertaConfig", "RobertaForMaskedLM", {**PLAIN, "max_position_embeddings": 66}, "encoder"),
    Case("roberta-classes", "RobertaConfig", "RobertaForSequenceClassification", {**PLAIN, "max_position_embeddings": 66, "num_labels": 3}, "classifier"),
    Case("vit", "ViTConfig", "ViTForImageClassification", {**IMAGES, "num_labels": 7}, "image"),
    Case("vit-no-qkv-bias", "ViTConfig", "ViTForImageClassification", {**IMAGES, "qkv_bias": False}, "image"),
    Case("deit", "DeiTConfig", "DeiTForImageClassification", {**IMAGES, "num_labels": 7}, "image"),
    Case("deit-teacher", "DeiTConfig", "DeiTForImageClassificationWithTeacher", {**IMAGES, "num_labels": 7}, "image"),
    Case("dinov2", "Dinov2Config", "Dinov2ForImageClassification", {**IMAGES, "num_labels": 7}, "image"),
    Case("dinov2-bare", "Dinov2Config", "Dinov2Model", {**IMAGES, "use_mask_token": False}, "image"),
    Case("dinov2-registers", "Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification", {**IMAGES, "use_swiglu_ffn": True, "mlp_ratio": 3}, "image"),
    Case("clip-vision", "CLIPVisionConfig", "CLIPVisionModelWithProjection", {**IMAGES, "projection_dim": 24}, "image"),
    Case("clip-vision-bare", "CLIPVisionConfig", "CLIPVisionModel", IMAGES, "image"),
    Case("siglip-vision", "SiglipVisionConfig", "SiglipVisionModel", IMAGES, "image"),
)  # fmt: skip


def build(case: Case):
    """The torch model of a case: every parameter random, norms and biases too, so that a mix-up of any two shows."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, case.config)(**case.fields)
    config._attn_implementation = "eager"
    model = getattr(transformers, case.model)(config).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.ndim == 1 else 0.15
            parameter.add_(torch.randn(parameter.shape) * spread)
    model.tie_weights()
    if case.name == "bert-untied":  # the one of its two biases that its forward pass does not use
        model.cls.predictions.bias.data = model.cls.predictions.decoder.bias.data.clone()
    return model
