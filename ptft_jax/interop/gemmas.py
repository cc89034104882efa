"""Gemma 1 to 3 (text) as Hugging Face writes them: configs in both directions, and name maps."""

from __future__ import annotations

from collections.abc import Mapping

from ptft_jax.errors import UserError
from ptft_jax.interop import rope
from ptft_jax.interop.config_reader import activation_name
from ptft_jax.interop.llamas import Llama, shortest_cycle


class Gemma(Llama):
    """Scaled embeddings, norms that scale by 1 + weight (Gemma Team 2024)."""

    model_type, architecture = "gemma", "GemmaForCausalLM"
    tied, activation, head_dim, norm, kv_heads = True, "gelu_pytorch_tanh", 256, "rms_plus_one", 16

    def read(self, c):
        c.refuse(use_bidirectional_attention=False)
        return super().read(c)

    def own(self, c, model):
        biases = ("qkv", "out") if c.get("attention_bias", False) else ()
        # The first Gemma's files say "gelu", and mean its tanh form, which their authors used.
        activation = "gelu_tanh" if model["activation"] == "gelu" else model["activation"]
        return {"biases": biases, "embedding_scale": True, "activation": activation}

    def write_own(self, m):
        act = activation_name(m["activation"])
        return {"attention_bias": "out" in m["biases"], "hidden_activation": act}


class Gemma2(Gemma):
    """Norms on both sides, soft caps, a window in every second layer (Gemma Team 2024, "Gemma 2")."""

    model_type, architecture = "gemma2", "Gemma2ForCausalLM"
    caps, kv_heads, layered = (50.0, 30.0), 4, True

    def kinds(self, c, layers):
        if c.get("layer_types", None) is not None:
            return super().kinds(c, layers)
        return shortest_cycle(["full" if i % 2 else "sliding" for i in range(layers)])

    def window(self, c):
        return c.get("sliding_window", 4096)

    def own(self, c, model):
        scale = c.get("query_pre_attn_scalar", 256) ** -0.5
        caps = (
            c.values.get("attn_logit_softcapping", self.caps[0]),
            c.values.get("final_logit_softcapping", self.caps[1]),
        )
        return {
            **super().own(c, model),
            "activation": model["activation"],
            "norm_placement": "both",
            "attention_scale": scale,
            "attention_cap": caps[0] or 0.0,
            "logit_cap": caps[1] or 0.0,
        }

    def write_own(self, m):
        scalar = (m["attention_scale"] or m["head_dim"] ** -0.5) ** -2
        return {
            **super().write_own(m),
            "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar,
            "attn_logit_softcapping": m["attention_cap"] or None,
            "final_logit_softcapping": m["logit_cap"] or None,
            "sliding_window": m["window"] or 4096,
            "layer_types": self.types(m),
        }

    def norms(self, m):
        return [
            ("attention_norm", "input_layernorm"),
            ("attention_post_norm", "post_attention_layernorm"),
            ("mlp_norm", "pre_feedforward_layernorm"),
            ("mlp_post_norm", "post_feedforward_layernorm"),
        ]


class Gemma3(Gemma2):
    """Norms on queries and keys, another base wavelength in sliding layers (Gemma Team 2025, "Gemma 3")."""

    model_type, architecture = "gemma3_text", "Gemma3ForCausalLM"
    theta, caps = 1e6, (None, None)

    @property
    def architectures(self):
        return {**super().architectures, "classes": "Gemma3TextForSequenceClassification"}

    def kinds(self, c, layers):
        if c.get("layer_types", None) is not None:
            return super().kinds(c, layers)
        every = c.get("sliding_window_pattern", c.get("_sliding_window_pattern", 6))
        return shortest_cycle(["sliding" if (i + 1) % every else "full" for i in range(layers)])

    def own(self, c, model):
        whole = rope.read(c, theta=self.theta, max_length=model["max_length"], layer_type="full_attention")
        table = c.get("rope_parameters", {})
        local = table.get("sliding_attention") if isinstance(table, Mapping) else None
        if local and local.get("rope_type", "default") != "default":
            raise UserError(
                f"{c.where}: config.json: rope_parameters.sliding_attention: only the default type is supported"
            )
        theta = (local or {}).get("rope_theta") or c.get("rope_local_base_freq", 10_000.0)
        local_theta = float(theta) if "sliding" in self.kinds(c, model["layers"]) else 0.0
        return {**super().own(c, model), **whole, "query_key_norm": "head", "rope_local_theta": local_theta}

    def write_own(self, m):
        local = m["rope_local_theta"] or 10_000.0
        whole = rope.write(m)
        return {
            **super().write_own(m),
            "rope_local_base_freq": local,
            "rope_parameters": {
                "full_attention": whole["rope_parameters"],
                "sliding_attention": {"rope_type": "default", "rope_theta": local},
            },
        }
