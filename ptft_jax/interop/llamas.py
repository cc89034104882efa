"""Llama and its relatives as Hugging Face writes them: configs in both directions, and name maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.interop import heads, rope
from ptft_jax.interop.config_reader import Fields, activation_name
from ptft_jax.interop.names import Model, Part, Tensor, linear, norm

_KIND = {"full_attention": "full", "sliding_attention": "sliding"}
_TYPE = {kind: name for name, kind in _KIND.items()}


def shortest_cycle(kinds: Sequence[str]) -> tuple[str, ...]:
    """The fewest kinds that, repeated, give every layer's; () where all are "full"."""
    for size in range(1, len(kinds) + 1):
        if all(kind == kinds[i % size] for i, kind in enumerate(kinds)):
            return () if tuple(kinds[:size]) == ("full",) else tuple(kinds[:size])
    return ()


class Llama(heads.Causal):
    """Pre-norm RMS, rotary, gated: the common core. Relatives override what is different in them."""

    model_type, architecture = "llama", "LlamaForCausalLM"
    eps, theta, tied, activation, head_dim, norm = 1e-6, 10_000.0, False, "silu", 0, "rms"
    prefix = "model."
    # What the library's config class has where the file is silent; 0 = as many as heads.
    kv_heads = 0
    # Whether heads may rotate in part, and whether layers may be of several types: elsewhere these fields mean nothing.
    partial = layered = False

    def read(self, c: Fields) -> dict[str, Any]:
        """`config.model`'s structural fields."""
        heads, width, layers = c.need("num_attention_heads"), c.need("hidden_size"), c.need("num_hidden_layers")
        max_length = c.need("max_position_embeddings")
        model = dict(
            vocab_size=c.need("vocab_size"),
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=c.values.get("num_key_value_heads", self.kv_heads) or heads,
            head_dim=c.get("head_dim", self.head_dim or width // heads),
            mlp_width=c.need("intermediate_size"),
            max_length=max_length,
            activation=c.activation("hidden_activation", "hidden_act", default=self.activation),
            gated=True,
            norm=self.norm,
            norm_eps=c.get("rms_norm_eps", self.eps),
            biases=(),
            positions="rotary",
            tied=c.get("tie_word_embeddings", self.tied),
            **self.read_head(c),
            **rope.read(c, theta=self.theta, max_length=max_length),
        )
        if not self.partial and model["rope_fraction"] != 1.0:
            raise UserError(f"{c.where}: config.json: partial_rotary_factor is not supported for {self.model_type}")
        kinds = self.kinds(c, layers)
        if kinds:
            model |= {"window": self.window(c) if "sliding" in kinds else 0, "layer_kinds": kinds}
        return model | self.own(c, model)

    def own(self, c: Fields, model: Model) -> dict[str, Any]:
        """What a relative has beside the common core."""
        biases = (["qkv", "out"] if c.get("attention_bias", False) else []) + (
            ["mlp"] if c.get("mlp_bias", False) else []
        )
        return {"biases": tuple(biases)}

    def window(self, c: Fields) -> int:
        return c.need("sliding_window")

    def kinds(self, c: Fields, layers: int) -> tuple[str, ...]:
        """The cycle of layer kinds."""
        given = c.get("layer_types", None)
        if given is None:
            return ()
        unknown = sorted(set(given) - set(_KIND))
        if unknown or len(given) != layers:
            what = f"{unknown[0]!r} is not supported" if unknown else f"{len(given)} entries for {layers} layers"
            raise UserError(f"{c.where}: config.json: layer_types: {what}")
        cycle = shortest_cycle([_KIND[name] for name in given])
        if cycle and not self.layered:
            raise UserError(
                f"{c.where}: config.json: layer_types other than full_attention are not supported for {self.model_type}"
            )
        return cycle

    def write(self, m: Model) -> dict[str, Any]:
        """config.json's fields; reading them back gives `m` where the family can express it."""
        return {
            "vocab_size": m["vocab_size"],
            "hidden_size": m["width"],
            "intermediate_size": m["mlp_width"],
            "num_hidden_layers": m["layers"],
            "num_attention_heads": m["heads"],
            "num_key_value_heads": m["kv_heads"],
            "head_dim": m["head_dim"],
            "max_position_embeddings": m["max_length"],
            "hidden_act": activation_name(m["activation"]),
            "rms_norm_eps": m["norm_eps"],
            "tie_word_embeddings": m["tied"],
            **heads.write(m),
            **rope.write(m),
            **self.write_own(m),
        }

    def write_own(self, m: Model) -> dict[str, Any]:
        return {"attention_bias": "out" in m["biases"], "mlp_bias": "mlp" in m["biases"]}

    def types(self, m: Model) -> list[str]:
        """`layer_types` for config.json."""
        cycle = m["layer_kinds"] or ("sliding" if m["window"] else "full",)
        return [_TYPE.get(cycle[i % len(cycle)], "full_attention") for i in range(m["layers"])]

    def tensors(self, m: Model) -> list[Tensor]:
        """The name map of a model of this family."""
        layer, qkv, out = "model.layers.{layer}.", "qkv" in m["biases"], "out" in m["biases"]
        found = [
            Tensor("embed/tokens/embedding", "model.embed_tokens.weight"),
            Tensor("final_norm/scale", "model.norm.weight"),
        ]
        found += self.attention(m, layer + "self_attn.", qkv)
        found += linear("blocks/attention/out", layer + "self_attn.o_proj", out)
        if m["query_key_norm"] != "none":
            found += norm("blocks/attention/query_norm", layer + "self_attn.q_norm", False)
            found += norm("blocks/attention/key_norm", layer + "self_attn.k_norm", False)
        for ours, theirs in self.norms(m):
            found += norm(f"blocks/{ours}", layer + theirs, False)
        found += self.mlp(m, layer)
        return [*found, *self.head(m, "lm_head.weight")]

    def ties(self, m: Model) -> dict[str, str]:
        """Names under which files may hold a copy of a tensor, and that tensor's."""
        return self.head_ties(m, "lm_head.weight", "model.embed_tokens.weight")

    def attention(self, m: Model, at: str, bias: bool) -> list[Tensor]:
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
        return [t for ours, theirs in names.items() for t in linear(f"blocks/attention/{ours}", at + theirs, bias)]

    def norms(self, m: Model) -> list[tuple[str, str]]:
        return [("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm")]

    def mlp(self, m: Model, layer: str) -> list[Tensor]:
        names, bias = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}, "mlp" in m["biases"]
        return [t for ours, theirs in names.items() for t in linear(f"blocks/mlp/{ours}", f"{layer}mlp.{theirs}", bias)]


class Mistral(Llama):
    """One window for all layers (Jiang et al. 2023)."""

    model_type, architecture = "mistral", "MistralForCausalLM"
    kv_heads = 8

    def own(self, c, model):
        # Where the field is absent altogether, the library's default applies; null means no window.
        window = c.values.get("sliding_window", 4096) or 0
        return {"window": window, "layer_kinds": ("sliding",) if window else ()}

    def write_own(self, m):
        return {"sliding_window": m["window"] or None}


class Mixtral(Mistral):
    """Mistral with experts (Jiang et al. 2024)."""

    model_type, architecture = "mixtral", "MixtralForCausalLM"
    eps, theta = 1e-5, 1e6

    def own(self, c, model):
        window = c.get("sliding_window", 0)
        return {
            "window": window,
            "layer_kinds": ("sliding",) if window else (),
            "experts": c.get("num_local_experts", 8),
            "experts_per_token": c.get("num_experts_per_tok", 2),
            "normalize_experts": True,
        }

    def write_own(self, m):
        experts = {"num_local_experts": m["experts"], "num_experts_per_tok": m["experts_per_token"]}
        return {**super().write_own(m), **experts}

    def mlp(self, m, layer):
        names = {"gate": "w1", "down": "w2", "up": "w3"}
        at = layer + "block_sparse_moe."
        experts = [
            Tensor(f"blocks/mlp/experts/{ours}/kernel", f"{at}experts.{{expert}}.{theirs}.weight", "transposed")
            for ours, theirs in names.items()
        ]
        return [Tensor("blocks/mlp/router/kernel", at + "gate.weight", "transposed"), *experts]


class Qwen2(Llama):
    """Biases on queries, keys and values; a window from some layer on."""

    model_type, architecture = "qwen2", "Qwen2ForCausalLM"
    biases = ("qkv",)
    kv_heads, layered = 32, True

    def own(self, c, model):
        return {"biases": self.biases}

    def kinds(self, c, layers):
        if not (c.get("use_sliding_window", False) and self.window(c)):
            return ()
        if c.get("layer_types", None) is not None:
            return super().kinds(c, layers)
        first = c.get("max_window_layers", 28)
        return shortest_cycle(["sliding" if i >= first else "full" for i in range(layers)])

    def window(self, c):
        return c.values.get("sliding_window", 4096) or 0

    def write_own(self, m):
        sliding = bool(m["window"])
        return {"use_sliding_window": sliding, "sliding_window": m["window"] or None, "layer_types": self.types(m)}


class Qwen3(Qwen2):
    """Norms on each head's queries and keys."""

    model_type, architecture = "qwen3", "Qwen3ForCausalLM"
    head_dim = 128

    def own(self, c, model):
        return {"biases": ("qkv", "out") if c.get("attention_bias", False) else (), "query_key_norm": "head"}

    def write_own(self, m):
        return {**super().write_own(m), "attention_bias": "out" in m["biases"]}


class Qwen3Moe(Qwen3):
    """Qwen 3 with experts in every layer."""

    model_type, architecture = "qwen3_moe", "Qwen3MoeForCausalLM"
    head_dim, kv_heads = 0, 4

    def kinds(self, c, layers):
        return ("sliding",) if c.get("use_sliding_window", False) and self.window(c) else ()

    def own(self, c, model):
        if c.get("mlp_only_layers", []) or c.get("decoder_sparse_step", 1) != 1:
            raise UserError(f"{c.where}: config.json: layers with and without experts in one model are not supported")
        experts = c.get("num_experts", c.get("num_local_experts", 128))
        return {
            **super().own(c, model),
            "mlp_width": c.get("moe_intermediate_size", 768),
            "experts": experts,
            "experts_per_token": c.get("num_experts_per_tok", 8),
            "normalize_experts": c.get("norm_topk_prob", False),
        }

    def write_own(self, m):
        own = {k: v for k, v in super().write_own(m).items() if k != "layer_types"}
        return own | {
            "moe_intermediate_size": m["mlp_width"],
            "num_experts": m["experts"],
            "num_local_experts": m["experts"],
            "num_experts_per_tok": m["experts_per_token"],
            "norm_topk_prob": m["normalize_experts"],
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }

    def mlp(self, m, layer):
        experts = [
            Tensor(
                f"blocks/mlp/experts/{name}/kernel", f"{layer}mlp.experts.{{expert}}.{name}_proj.weight", "transposed"
            )
            for name in ("gate", "up", "down")
        ]
        return [Tensor("blocks/mlp/router/kernel", layer + "mlp.gate.weight", "transposed"), *experts]


class SmolLM3(Llama):
    """Some layers without positions (Yang et al. 2025, "RoPE to NoRoPE")."""

    model_type, architecture = "smollm3", "SmolLM3ForCausalLM"
    theta, tied, kv_heads, layered = 2e6, True, 4, True

    def kinds(self, c, layers):
        if c.get("use_sliding_window", False) and c.get("sliding_window", 0):
            raise UserError(f"{c.where}: config.json: use_sliding_window is not supported for smollm3")
        every = c.get("no_rope_layer_interval", 4)
        rotates = c.get("no_rope_layers", None) or [int((i + 1) % every != 0) for i in range(layers)]
        if len(rotates) != layers:
            raise UserError(f"{c.where}: config.json: no_rope_layers has {len(rotates)} entries for {layers} layers")
        return shortest_cycle(["full" if r else "nope" for r in rotates])

    def write_own(self, m):
        cycle = m["layer_kinds"] or ("full",)
        rotates = [int(cycle[i % len(cycle)] != "nope") for i in range(m["layers"])]
        return {
            **super().write_own(m),
            "no_rope_layers": rotates,
            "use_sliding_window": False,
            "layer_types": self.types(m),
        }


class Olmo2(Llama):
    """Norms on the output of each sublayer, and on all queries and keys at once (OLMo Team 2024, "2 OLMo 2 Furious")."""

    model_type, architecture = "olmo2", "Olmo2ForCausalLM"
    eps = 1e-5

    def own(self, c, model):
        biases = ("qkv", "out") if c.get("attention_bias", False) else ()
        return {"biases": biases, "query_key_norm": "all", "norm_placement": "output"}

    def write_own(self, m):
        return {"attention_bias": "out" in m["biases"]}

    def norms(self, m):
        return [("attention_post_norm", "post_attention_layernorm"), ("mlp_post_norm", "post_feedforward_layernorm")]


class Phi3(Mistral):
    """Fused projections, longrope, heads that rotate in part (Abdin et al. 2024; also Phi-4)."""

    model_type, architecture = "phi3", "Phi3ForCausalLM"
    eps, kv_heads, partial = 1e-5, 0, True

    def own(self, c, model):
        window = c.get("sliding_window", 0)
        return {"window": window, "layer_kinds": ("sliding",) if window else ()}

    def write_own(self, m):
        scaling = dict(m["rope_scaling"])
        own = {
            "sliding_window": m["window"] or None,
            "original_max_position_embeddings": scaling.get("original", m["max_length"]),
        }
        return own | {"pad_token_id": None}

    def attention(self, m, at, bias):
        query, keys = m["heads"] * m["head_dim"], m["kv_heads"] * m["head_dim"]
        parts = {"query": Part(0, query), "key": Part(query, keys), "value": Part(query + keys, keys)}
        return [
            t for ours, part in parts.items() for t in linear(f"blocks/attention/{ours}", at + "qkv_proj", bias, part)
        ]

    def mlp(self, m, layer):
        size = m["mlp_width"]
        return [
            *linear("blocks/mlp/gate", layer + "mlp.gate_up_proj", False, Part(0, size)),
            *linear("blocks/mlp/up", layer + "mlp.gate_up_proj", False, Part(size, size)),
            *linear("blocks/mlp/down", layer + "mlp.down_proj", False),
        ]
