"""Where a GGUF file keeps each Hugging Face tensor, and how its rows differ there.

The names are those of the `gguf` library's tables; the changes to the values are those that llama.cpp's
convert_hf_to_gguf.py makes. Both directions, reading and writing, follow the one table here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.errors import UserError, nearest

_ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_ATTENTION = {f"self_attn.{ours}_proj": f"attn_{theirs}" for ours, theirs in zip("qkvo", ("q", "k", "v", "output"))}
_QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_PRE_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_POST_NORMS = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
_SANDWICH = {"input_layernorm": "attn_norm", "pre_feedforward_layernorm": "ffn_norm"} | _POST_NORMS
_MLP = {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
_MIXTRAL = {"block_sparse_moe.gate": "ffn_gate_inp"} | {
    f"block_sparse_moe.experts.{{expert}}.{w}": f"ffn_{part}_exps"
    for w, part in {"w1": "gate", "w2": "down", "w3": "up"}.items()
}
_QWEN_EXPERTS = {"mlp.gate": "ffn_gate_inp"} | {
    f"mlp.experts.{{expert}}.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")
}


def _modules(ends: dict[str, str], blocks: str, *tables: dict[str, str]) -> dict[str, str]:
    """Hugging Face module -> GGUF module, with {layer} and {expert} to fill in."""
    inside = {name: gguf for table in tables for name, gguf in table.items()}
    return ends | {f"{blocks}.{{layer}}.{name}": f"blk.{{layer}}.{gguf}" for name, gguf in inside.items()}


@dataclasses.dataclass(frozen=True)
class Layout:
    """One Hugging Face model type in a GGUF file.

    Attributes:
      architecture: GGUF's name, the prefix of its metadata keys.
      modules: Hugging Face module -> GGUF module; each has a `.weight` and may have a `.bias`.
      rotary: the rows of q and k are stored with rotary pairs side by side (Hugging Face: half a head apart).
      fused: the rows of the fused qkv are stored [3, heads, head_dim] (Hugging Face: [heads, 3, head_dim]).
      transposed: GGUF modules whose weight is [in, out] at Hugging Face (Conv1D).
      shifted: RMS norms are stored as 1 + weight (Gemma computes x * (1 + weight)).
    """

    architecture: str
    modules: Mapping[str, str]
    rotary: bool = False
    fused: bool = False
    transposed: frozenset[str] = frozenset()
    shifted: bool = False


def layouts() -> dict[str, Layout]:
    """By Hugging Face model type."""
    llama = _modules(_ENDS, "model.layers", _PRE_NORMS, _ATTENTION, _MLP)
    qwen3 = _modules(_ENDS, "model.layers", _PRE_NORMS, _ATTENTION, _QK_NORMS, _MLP)
    tied = {name: gguf for name, gguf in _ENDS.items() if gguf != "output"}
    sandwich = _modules(tied, "model.layers", _SANDWICH, _ATTENTION, _MLP)
    phi3 = {"self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output"}
    phi3 |= {"mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    gpt2 = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"}
    gpt2 |= {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    gpt2_ends = {"transformer.wte": "token_embd", "transformer.wpe": "position_embd", "lm_head": "output"}
    neox = {"attention.query_key_value": "attn_qkv", "attention.dense": "attn_output"}
    neox |= {"mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}
    neox_ends = {"gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output"}
    return {
        "llama": Layout("llama", llama, rotary=True),
        "mistral": Layout("llama", llama, rotary=True),
        "mixtral": Layout("llama", _modules(_ENDS, "model.layers", _PRE_NORMS, _ATTENTION, _MIXTRAL), rotary=True),
        "smollm3": Layout("smollm3", llama, rotary=True),
        "qwen2": Layout("qwen2", llama),
        "qwen3": Layout("qwen3", qwen3),
        "qwen3_moe": Layout(
            "qwen3moe", _modules(_ENDS, "model.layers", _PRE_NORMS, _ATTENTION, _QK_NORMS, _QWEN_EXPERTS)
        ),
        "gemma": Layout("gemma", _modules(tied, "model.layers", _PRE_NORMS, _ATTENTION, _MLP), shifted=True),
        "gemma2": Layout("gemma2", sandwich, shifted=True),
        "gemma3_text": Layout(
            "gemma3", _modules(_ENDS, "model.layers", _SANDWICH, _ATTENTION, _QK_NORMS, _MLP), shifted=True
        ),
        "phi3": Layout("phi3", _modules(_ENDS, "model.layers", _PRE_NORMS, phi3)),
        "olmo2": Layout("olmo2", _modules(_ENDS, "model.layers", _POST_NORMS, _ATTENTION, _QK_NORMS, _MLP)),
        "gpt2": Layout(
            "gpt2",
            _modules(gpt2_ends | {"transformer.ln_f": "output_norm"}, "transformer.h", gpt2),
            transposed=frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"}),
        ),
        "gpt_neox": Layout("gptneox", _modules(neox_ends, "gpt_neox.layers", _PRE_NORMS, neox), fused=True),
    }


def layout(model_type: str) -> Layout:
    """Raises UserError for a model type that GGUF files here do not have."""
    known = layouts()
    if model_type not in known:
        raise UserError(
            f"model_type = {model_type!r} has no GGUF form here{nearest(model_type, known)}; known: {', '.join(known)}"
        )
    return known[model_type]


@dataclasses.dataclass(frozen=True)
class Place:
    """One Hugging Face tensor inside a GGUF file.

    Attributes:
      stored: name of the GGUF tensor.
      expert: its entry on the leading axis of `stored`, for one expert of a stack.
      rows: "" (as at Hugging Face), "rotary" or "fused": see `Layout`.
      heads: of this tensor, where `rows` is not "".
      transposed: stored [out, in], [in, out] at Hugging Face.
      shifted: stored as 1 + value.
    """

    stored: str
    expert: int | None = None
    rows: str = ""
    heads: int = 1
    transposed: bool = False
    shifted: bool = False

    def order(self, count: int) -> np.ndarray | None:
        """int [count]: the stored row of each Hugging Face row; None where they are the same.

        Raises:
          UserError: `count` rows are not whole heads.
        """
        if not self.rows:
            return None
        groups = self.heads * (2 if self.rows == "rotary" else 3)
        if count % groups:
            raise UserError(f"tensor {self.stored}: {count} rows are not {self.heads} heads")
        rows = np.arange(count)
        if self.rows == "rotary":
            return rows.reshape(self.heads, -1, 2).swapaxes(1, 2).ravel()
        return rows.reshape(3, self.heads, -1).swapaxes(0, 1).ravel()


def experts(config: Mapping[str, Any]) -> int:
    """How many experts a layer has; transformers has written both names."""
    return config.get("num_local_experts") or config.get("num_experts") or 0


def places(config: Mapping[str, Any]) -> dict[str, Place]:
    """Where each tensor that a model of this Hugging Face config may have is kept, by Hugging Face name."""
    chosen = layout(config["model_type"])
    layers = config["n_layer" if config["model_type"] == "gpt2" else "num_hidden_layers"]
    heads = config["n_head" if config["model_type"] == "gpt2" else "num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    found = {}
    for theirs, module in chosen.modules.items():
        part = module.split(".")[-1]
        rows = "rotary" if chosen.rotary and part in ("attn_q", "attn_k") else ""
        rows = "fused" if chosen.fused and part == "attn_qkv" else rows
        shared = {"rows": rows, "heads": kv_heads if part == "attn_k" else heads if rows else 1}
        for layer in range(layers) if "{layer}" in theirs else (0,):
            if "{expert}" in theirs:
                stored = f"{module.format(layer=layer)}.weight"
                for expert in range(experts(config)):
                    found[f"{theirs.format(layer=layer, expert=expert)}.weight"] = Place(stored, expert)
                continue
            theirs_here, stored = theirs.format(layer=layer), module.format(layer=layer)
            shifted = chosen.shifted and part.endswith("norm")
            transposed = part in chosen.transposed
            weight = Place(f"{stored}.weight", transposed=transposed, shifted=shifted, **shared)
            found[f"{theirs_here}.weight"] = weight
            found[f"{theirs_here}.bias"] = Place(f"{stored}.bias", **shared)
    return found


def required(config: Mapping[str, Any]) -> set[str]:
    """Hugging Face names that every model of this config has: all weights but a tied head's."""
    heads = {"lm_head.weight", "embed_out.weight"} if config.get("tie_word_embeddings") else set()
    return {name for name in places(config) if name.endswith(".weight")} - heads
