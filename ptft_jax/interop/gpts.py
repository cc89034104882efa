"""GPT-2 and GPT-NeoX as Hugging Face writes them: configs in both directions, and name maps."""

from __future__ import annotations

from typing import Any

from ptft_jax.interop import heads, rope
from ptft_jax.interop.config_reader import Fields, activation_name, sizes, write_sizes
from ptft_jax.interop.names import Model, Part, Tensor, linear, norm


class GPT2(heads.Causal):
    """Learned positions, fused queries, keys and values, weights kept [in, out] (Radford et al. 2019)."""

    model_type, architecture, prefix = "gpt2", "GPT2LMHeadModel", "transformer."

    def read(self, c: Fields) -> dict[str, Any]:
        c.refuse(scale_attn_by_inverse_layer_idx=False, scale_attn_weights=True, add_cross_attention=False)
        width, heads = c.need("n_embd"), c.need("n_head")
        return dict(
            vocab_size=c.need("vocab_size"),
            layers=c.need("n_layer"),
            width=width,
            heads=heads,
            kv_heads=heads,
            head_dim=width // heads,
            mlp_width=c.get("n_inner", 4 * width),
            max_length=c.get("n_positions", c.get("n_ctx", 1024)),
            activation=c.activation("activation_function", default="gelu_new"),
            norm_eps=c.get("layer_norm_epsilon", 1e-5),
            tied=c.get("tie_word_embeddings", True),
            **self.read_head(c),
        )

    def write(self, m: Model) -> dict[str, Any]:
        return {
            "vocab_size": m["vocab_size"],
            "n_embd": m["width"],
            "n_layer": m["layers"],
            "n_head": m["heads"],
            "n_inner": m["mlp_width"],
            "n_positions": m["max_length"],
            "n_ctx": m["max_length"],
            "activation_function": activation_name(m["activation"]),
            "layer_norm_epsilon": m["norm_eps"],
            "tie_word_embeddings": m["tied"],
            **heads.write(m),
        }

    def ties(self, m: Model) -> dict[str, str]:
        return self.head_ties(m, "lm_head.weight", "transformer.wte.weight")

    def tensors(self, m: Model) -> list[Tensor]:
        layer, width = "transformer.h.{layer}.", m["width"]
        found = [
            Tensor("embed/tokens/embedding", "transformer.wte.weight"),
            Tensor("embed/positions/embedding", "transformer.wpe.weight"),
            *norm("final_norm", "transformer.ln_f", True),
            *norm("blocks/attention_norm", layer + "ln_1", True),
            *norm("blocks/mlp_norm", layer + "ln_2", True),
        ]
        for i, ours in enumerate(("query", "key", "value")):
            found += linear(f"blocks/attention/{ours}", layer + "attn.c_attn", True, Part(i * width, width), "same")
        found += linear("blocks/attention/out", layer + "attn.c_proj", True, layout="same")
        found += linear("blocks/mlp/up", layer + "mlp.c_fc", True, layout="same")
        found += linear("blocks/mlp/down", layer + "mlp.c_proj", True, layout="same")
        return [*found, *self.head(m, "lm_head.weight")]


class GPTNeoX(heads.Causal):
    """Rotary in part of each head, attention and MLP side by side (Black et al. 2022; Pythia)."""

    model_type, architecture, prefix = "gpt_neox", "GPTNeoXForCausalLM", "gpt_neox."

    def read(self, c: Fields) -> dict[str, Any]:
        max_length = c.need("max_position_embeddings")
        return dict(
            vocab_size=c.need("vocab_size"),
            **sizes(c, max_length, eps=1e-5),
            parallel=c.get("use_parallel_residual", True),
            biases=("qkv", "out", "mlp", "norm") if c.get("attention_bias", True) else ("mlp", "norm"),
            positions="rotary",
            tied=c.get("tie_word_embeddings", False),
            **self.read_head(c),
            **rope.read(c, theta=10_000.0, max_length=max_length, fraction=0.25),
        )

    def write(self, m: Model) -> dict[str, Any]:
        written = rope.write(m)
        written["rope_parameters"]["partial_rotary_factor"] = m["rope_fraction"]
        return {
            "vocab_size": m["vocab_size"],
            **write_sizes(m),
            "max_position_embeddings": m["max_length"],
            "use_parallel_residual": m["parallel"],
            "attention_bias": "qkv" in m["biases"],
            "tie_word_embeddings": m["tied"],
            **heads.write(m),
            "rotary_pct": m["rope_fraction"],
            "rotary_emb_base": m["rope_theta"],
            **written,
        }

    def ties(self, m: Model) -> dict[str, str]:
        return self.head_ties(m, "embed_out.weight", "gpt_neox.embed_in.weight")

    def tensors(self, m: Model) -> list[Tensor]:
        layer, size, bias = "gpt_neox.layers.{layer}.", m["head_dim"], "qkv" in m["biases"]
        found = [
            Tensor("embed/tokens/embedding", "gpt_neox.embed_in.weight"),
            *norm("final_norm", "gpt_neox.final_layer_norm", True),
            *norm("blocks/attention_norm", layer + "input_layernorm", True),
            *norm("blocks/mlp_norm", layer + "post_attention_layernorm", True),
        ]
        for i, ours in enumerate(("query", "key", "value")):
            part = Part(i * size, size, 3 * size, m["heads"])
            found += linear(f"blocks/attention/{ours}", layer + "attention.query_key_value", bias, part)
        found += linear("blocks/attention/out", layer + "attention.dense", bias)
        found += linear("blocks/mlp/up", layer + "mlp.dense_h_to_4h", True)
        found += linear("blocks/mlp/down", layer + "mlp.dense_4h_to_h", True)
        return [*found, *self.head(m, "embed_out.weight")]
