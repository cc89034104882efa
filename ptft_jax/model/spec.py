"""What a transformer is made of: the static, hashable description that everything compiled depends on."""

from __future__ import annotations

import dataclasses
from typing import Any

from ptft_jax.config.declare import Options, declared, required
from ptft_jax.config.field import Field, hashable, mass, natural, number, one_of, pairs, positive, share, texts

# The letters that end tensor names, used in the whole package:
#   B batch rows   T query positions   S key positions   D width        N query heads   K key/value heads
#   G query heads per key/value head (N = K * G)         H head size    F hidden size of the MLP
#   V vocabulary   L layers            R low rank        E experts

BIASES = ("qkv", "out", "mlp", "norm")
LAYER_KINDS = ("full", "sliding", "nope")
# Every kind of `rope_scaling`, with what it needs beside "kind". `original` is the length that was trained on.
SCALINGS = {
    "linear": ("factor",),
    "dynamic": ("factor", "original"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original"),
    "yarn": ("factor", "original", "beta_fast", "beta_slow", "attention_factor", "truncate"),
    "longrope": ("short_factor", "long_factor", "original", "attention_factor"),
}


def _colors(value: tuple[Any, ...]) -> str:
    return next(filter(None, map(number, value)), "") or ("" if value else "expected a number, or one for each channel")


class ModelSpec(Options):
    """One transformer. Sizes left at 0 are derived, see `resolved`.

    Meanings, defaults and checks are those of `config.model`, which is read off this class. The defaults of what a caller has to
    give are for configs alone.
    """

    vocab_size: int = required(natural(0, "rows of the token embedding; 0 = the tokenizer's"))
    max_length: int = required(positive(128, "longest sequence, in tokens"))
    layers: int = required(positive(4, "number of blocks", most=100_000))
    width: int = required(positive(128, "size of the residual stream"))
    heads: int = required(positive(4, "query heads"))
    kv_heads: int = declared(natural(0, "key/value heads; 0 = as many as heads"))
    head_dim: int = declared(natural(0, "size of a head; 0 = width / heads"))
    mlp_width: int = declared(natural(0, "hidden size of the MLP; 0 = 4 * width, or 8/3 * width when gated"))
    activation: str = declared(one_of("gelu_tanh", "of the MLP", "gelu", "gelu_tanh", "quick_gelu", "silu", "relu"))
    gated: bool = declared(Field(False, "gated MLP (SwiGLU with silu)"))
    parallel: bool = declared(Field(False, "attention and MLP side by side (GPT-NeoX), not one after the other"))
    norm: str = declared(
        one_of("layer", "normalization; rms_plus_one scales by 1 + weight", "layer", "rms", "rms_plus_one")
    )
    norm_eps: float = declared(positive(1e-5, "added to the variance"))
    norm_placement: str = declared(
        one_of(
            "pre",
            "before a sublayer, after adding it, on its output, or before it and on its output",
            "pre",
            "post",
            "output",
            "both",
        )
    )
    layer_scale: float = declared(
        natural(0.0, "learned factors on what each sublayer adds, which start at this; 0 = none (Touvron et al. 2021)")
    )
    query_key_norm: str = declared(
        one_of("none", "norm of queries and keys: none, each head, all heads at once", "none", "head", "all")
    )
    biases: tuple[str, ...] = declared(texts(BIASES, f"which layers have biases: of {', '.join(BIASES)}", of=BIASES))
    causal: bool = declared(Field(True, "tokens see only what came before them"))
    positions: str = declared(
        one_of(
            "learned",
            "how positions are told; sine: fixed waves in two dimensions, of images",
            "learned",
            "rotary",
            "sine",
        )
    )
    position_offset: int = declared(natural(0, "added to learned positions (RoBERTa: 2)"))
    rope_theta: float = declared(positive(10_000.0, "base wavelength of rotary positions"))
    rope_fraction: float = declared(mass(1.0, "share of a head that rotates"))
    rope_scaling: tuple[tuple[str, Any], ...] = declared(
        pairs((), "((name, value), ...): stretched rotary positions, see ptft_jax.model.rotary")
    )
    rope_local_theta: float = declared(natural(0.0, "base wavelength in sliding layers, unstretched; 0 = as elsewhere"))
    window: int = declared(natural(0, "keys that a query of a sliding layer sees; 0 = no such layers"))
    layer_kinds: tuple[str, ...] = declared(
        texts((), f"of {', '.join(LAYER_KINDS)}, repeated over the layers; () = all alike", of=LAYER_KINDS)
    )
    attention_scale: float = declared(natural(0.0, "factor on scores; 0 = 1 / sqrt(head size)"))
    attention_cap: float = declared(natural(0.0, "soft cap on scores; 0 = none"))
    logit_cap: float = declared(natural(0.0, "soft cap on logits; 0 = none"))
    embedding_scale: bool = declared(Field(False, "multiply token vectors by sqrt(width)"))
    embedding_norm: bool = declared(Field(False, "normalize what goes into the first block"))
    token_types: int = declared(natural(0, "types of tokens that have a vector (BERT: 2)"))
    experts: int = declared(natural(0, "experts in place of each MLP; 0 = a plain MLP"))
    experts_per_token: int = declared(positive(2, "experts that a token is sent to"))
    normalize_experts: bool = declared(Field(True, "weights of a token's experts sum to 1"))
    router_bias: bool = declared(
        Field(
            False,
            "experts have biases, added to the router's probabilities where they are chosen, which each step moves towards an even use",
        )
    )
    head: str = declared(
        one_of(
            "lm",
            "what is scored: the next token, masked tokens, classes; or pixels of hidden patches are predicted, by a decoder; or an image "
            "becomes one vector",
            *("lm", "masked_lm", "classes", "pixels", "vector"),
        )
    )
    tied: bool = declared(Field(True, "the output head is the token embedding"))
    classes: int = declared(positive(2, "of head=classes"))
    class_hidden: bool = declared(Field(False, "a dense tanh layer before the classes"))
    image_size: int = declared(natural(0, "height and width of images, in pixels; 0 = a model of text"))
    patch_size: int = declared(positive(16, "height and width of an image's patches, in pixels"))
    channels: int = declared(positive(3, "of an image"))
    class_token: bool = declared(Field(True, "of images: a learned token before the patches"))
    registers: int = declared(natural(0, "of images: learned tokens without a place behind the class token (DINOv2)"))
    patch_bias: bool = declared(Field(True, "of images: what patches are multiplied by has a bias"))
    distillation: str = declared(
        one_of("none", "of images: no second token, one, or one with a head (DeiT)", "none", "token", "head")
    )
    pixel_mean: tuple[float, ...] = declared(
        Field((0.5,), "of images, taken off pixels from 0 to 1: a number, or one per channel", form=_colors)
    )
    pixel_std: tuple[float, ...] = declared(
        Field((0.5,), "of images, what pixels are divided by after that: a number, or one per channel", form=_colors)
    )
    pooling: str = declared(
        one_of(
            "token",
            "of images with head=classes or vector: what the head reads, the class token, the mean of the patches, one behind the other, or what "
            "a learned query attends to (attention)",
            *("token", "mean", "both", "attention"),
        )
    )
    vector_width: int = declared(natural(0, "of head=vector: numbers of the vector, by a projection; 0 = what is read"))
    text_layers: int = declared(
        natural(
            0, "of head=vector: blocks of a tower for texts, whose vectors are compared with those of images; 0 = none"
        )
    )
    text_width: int = declared(positive(64, "of the tower for texts: size of its residual stream"))
    text_heads: int = declared(positive(4, "of the tower for texts: attention heads"))
    text_mlp_width: int = declared(natural(0, "of the tower for texts: hidden size of its MLPs; 0 = as of mlp_width"))
    text_length: int = declared(positive(32, "of the tower for texts: longest text, in tokens, with its ends"))
    text_causal: bool = declared(
        Field(
            True,
            "of the tower for texts: tokens see only what came before them, and the end of the text is its vector (CLIP); else all see all, "
            "padding too, and the last position is (SigLIP)",
        )
    )
    pair_bias: bool = declared(
        Field(
            False,
            "of images and texts: scores have a learned bias, and begin at 10 * cosine - 10, not cosine / 0.07 (SigLIP)",
        )
    )
    decoder_layers: int = declared(positive(2, "of head=pixels: blocks of the decoder", most=1000))
    decoder_width: int = declared(positive(64, "of head=pixels: width of the decoder"))
    decoder_heads: int = declared(positive(4, "of head=pixels: attention heads of the decoder"))
    tower: tuple[tuple[str, Any], ...] = declared(
        pairs(
            (),
            "((name, value), ...): of a model of text that reads an image among its tokens, settings of config.model of the ViT that does, as "
            "ptft combine --method=tower has them; () = none",
        )
    )
    tower_skip: int = declared(
        natural(0, "of such a tower: last blocks that are left out, and with them its final norm (LLaVA: 1)")
    )
    projector: str = declared(
        one_of(
            "mlp",
            "what makes vectors as tokens have of what the tower gives: one matrix, or two with a GELU between",
            "mlp",
            "linear",
        )
    )
    projector_merge: int = declared(
        positive(1, "so many patches, high and wide, become one vector: this number squared times fewer positions")
    )
    dropout: float = declared(share(0.0, "rate after embedding, attention and MLP"))
    init_std: float = declared(positive(0.02, "standard deviation of initial weights"))
    mup_base_width: int = declared(
        natural(0, "width at which muP is the standard parametrization, from which rates carry over; 0 = no muP")
    )
    mup_base_head_dim: int = declared(
        natural(0, "of muP: size of a head at that width; 0 = as it is here, wider models have more heads")
    )
    dtype: str = declared(one_of("float32", "what is computed in", "float32", "bfloat16"))
    param_dtype: str = declared(
        one_of(
            "float32", "what frozen parameters are kept in; what trains: training.state_dtype", "float32", "bfloat16"
        )
    )
    scan: bool = declared(
        Field(True, "compile one block and scan it (fast to compile) or unroll all (often faster on a CPU)")
    )
    remat: str = declared(
        one_of(
            "none",
            "recompute in the backward pass: all, or all but matrix products, which are kept on the device (dots) or its host (offload)",
            *("none", "dots", "full", "offload"),
        )
    )
    remat_layers: int = declared(natural(0, "first layers that remat is of; 0 = all"))
    attention: str = declared(
        one_of(
            "auto",
            "implementation; auto: cuDNN's flash attention on a GPU in bfloat16 where it needs no mask and no cap, JAX's kernel on a TPU for rows of 512 tokens and more, XLA elsewhere; cudnn: always",
            "auto",
            "xla",
            "cudnn",
        )
    )

    @property
    def resolved(self) -> ModelSpec:
        """The same model with every derived size filled in."""
        return dataclasses.replace(
            self,
            kv_heads=self.kv_heads or self.heads,
            head_dim=self.head_dim or self.width // self.heads,
            mlp_width=self.mlp_width or self._mlp_width(self.width),
            text_mlp_width=self.text_mlp_width or (self._mlp_width(self.text_width) if self.text_layers else 0),
        )

    def beside(self, layers: int, width: int, heads: int, mlp_width: int, **changes: Any) -> ModelSpec:
        """A transformer of other sizes beside this one, with what each of its heads has of its own, alike but for `changes`."""
        own = dict(kv_heads=heads, head_dim=width // heads, attention_scale=0.0, mup_base_width=0)
        return dataclasses.replace(
            self, layers=layers, width=width, heads=heads, mlp_width=mlp_width, **{**own, **changes}
        )

    def _mlp_width(self, width: int) -> int:
        return _gated_width(width) if self.gated else 4 * width

    @property
    def width_ratio(self) -> float:
        """Times the base width of muP (Yang et al. 2022, "Tensor Programs V", table 8); 1 without muP."""
        return self.width / self.mup_base_width if self.mup_base_width else 1.0

    @property
    def hidden_std(self) -> float:
        """Of the initial weights of what maps a width to a width: variances go with 1 / width in muP."""
        return self.init_std / self.width_ratio**0.5

    @property
    def output_std(self) -> float:
        """Of what maps a width to a fixed size (scores of tokens, classes, experts). In table 8 such weights are as at the base width, and
        their product is divided by the ratio; weights and rate divided by it are the same under Adam."""
        return self.init_std / self.width_ratio

    @property
    def score_scale(self) -> float:
        """The factor on attention's scores: in muP 1 / head size, not its root, and equal to that at the base's size."""
        head = self.resolved.head_dim
        ratio = head / self.mup_base_head_dim if self.mup_base_width and self.mup_base_head_dim else 1.0
        return (self.attention_scale or head**-0.5) / ratio**0.5

    @property
    def reads_last(self) -> bool:
        """Whether the head reads the last token of a text, the only one that has seen all of it in a causal model."""
        return self.head == "classes" and self.causal and not self.image_size

    @property
    def before_patches(self) -> int:
        """Tokens of an image that stand before those of its patches: a class token, a distillation token, registers."""
        return self.class_token + (self.distillation != "none") + self.registers

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each layer attends to; `layer_kinds` repeats over the layers."""
        cycle = self.layer_kinds or ("sliding" if self.window else "full",)
        return tuple(cycle[i % len(cycle)] for i in range(self.layers))

    def flops_per_token(self, length: int) -> float:
        """Matrix-multiply FLOPs of one forward pass, per token, at sequence length `length`.

        Counted from the shapes (2 per multiply-add; a causal query sees half of the keys on average), because a
        compiler's own count takes a scanned layer once. Training costs three times as much. Of experts, those that a
        token is sent to count; the head of a classifier, one position a row, does not.
        """
        spec = self.resolved
        heads = spec.heads * spec.head_dim
        projections = spec.width * (2 * heads + 2 * spec.kv_heads * spec.head_dim)
        mlp = spec.width * spec.mlp_width * (3 if spec.gated else 2)
        if spec.experts:
            mlp = mlp * spec.experts_per_token + spec.width * spec.experts
        # Scores and mixing: each `heads` times the mean number of keys that a query sees.
        seen = {kind: min(length, spec.window) if kind == "sliding" else length for kind in set(spec.kinds)}
        attention = sum(
            heads * (_mean_keys(length, seen[kind]) if spec.causal else seen[kind]) * 2 for kind in spec.kinds
        )
        head = spec.width * (spec.vocab_size if spec.head in ("lm", "masked_lm") else 0)
        if spec.head == "masked_lm":
            head += spec.width**2
        return 2.0 * (spec.layers * (projections + mlp) + attention + head)


# What makes a model the model it is: a child has these from its parent. The rest is how it is run.
RUNNING = ("dropout", "init_std", "dtype", "param_dtype", "scan", "remat", "remat_layers", "attention")
STRUCTURE = tuple(f.name for f in dataclasses.fields(ModelSpec) if f.name not in ("vocab_size", *RUNNING))

# What a child may have otherwise than its parent, where `init.fresh` re-initializes it.
HEAD = (
    "head", "tied", "classes", "class_hidden", "pooling", "vector_width", "decoder_layers", "decoder_width", "decoder_heads",
    "text_layers", "text_width", "text_heads", "text_mlp_width", "text_length", "text_causal", "pair_bias",
)  # fmt: skip

# What a child of a model of images may have otherwise with `init.resize`.
SIZES = ("image_size", "patch_size", "max_length")

# Pattern of the leaves of a value head (`ptft_jax.model.heads.value`), which is there while a run trains, and in no model that is made of it.
VALUES = "value_head/.*"

IMAGE = -1  # in the place of a token: a vector of the row's image

# Settings that mean something only where another one says so.
_ROTARY = ("rope_theta", "rope_fraction", "rope_scaling", "rope_local_theta")
_MUP = ("mup_base_head_dim",)
_CLASSES = ("classes", "class_hidden")
_IMAGES = (
    "patch_size", "channels", "class_token", "registers", "patch_bias", "distillation", "pixel_mean", "pixel_std",
)  # fmt: skip
_DECODER = ("decoder_layers", "decoder_width", "decoder_heads")
_TEXTS = ("text_width", "text_heads", "text_mlp_width", "text_length", "text_causal", "pair_bias")
_TOWER = ("tower_skip", "projector", "projector_merge")
_EXPERTS, _TOKENS = (
    ("experts_per_token", "normalize_experts", "router_bias"),
    ("position_offset", "embedding_scale", "token_types", "tied"),
)


def wordless(model: Any) -> bool:
    """Whether a model (its fields, or `config.model`) reads images and no text, so that its run needs no tokenizer."""
    return bool(model["image_size"]) and not (model["head"] == "vector" and model["text_layers"])


def from_config(model: ModelSpec, vocab_size: int) -> ModelSpec:
    """The spec that `config.model` describes, reading only the settings that matter in it."""
    idle = {"vocab_size"}
    idle |= set() if model.positions == "rotary" else set(_ROTARY)
    idle |= set() if model.mup_base_width else set(_MUP)
    idle |= set() if model.head == "classes" else set(_CLASSES)
    idle |= set() if model.image_size else set(_IMAGES)
    idle |= set() if model.image_size and model.head in ("classes", "vector") else {"pooling"}
    idle |= set() if model.head == "vector" else {"vector_width", "text_layers"}
    idle |= set() if model.head == "vector" and model.text_layers else set(_TEXTS)
    idle |= set() if model.head == "pixels" else set(_DECODER)
    idle |= set() if model.tower else set(_TOWER)
    idle |= set() if model.experts else set(_EXPERTS)
    idle |= set(_TOKENS) if model.image_size else set()
    idle |= {"remat_layers"} if model.remat == "none" else set()
    names = [f.name for f in dataclasses.fields(ModelSpec) if f.name not in idle]
    return ModelSpec(vocab_size=vocab_size, **{name: hashable(model[name]) for name in names})


def contradictions(m: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """What is wrong with the values of `config.model` taken together: (field, value, what is expected)."""
    heads, head = m["heads"], m["head_dim"] or m["width"] // m["heads"]
    kinds, scaling = tuple(m["layer_kinds"]), dict(m["rope_scaling"]) if _pairs(m["rope_scaling"]) else None
    images = bool(m["image_size"])
    rows = [
        (m["head_dim"] or m["width"] % heads == 0, "width", f"a multiple of model.heads {heads!r}"),
        (heads % (m["kv_heads"] or 1) == 0, "heads", f"a multiple of model.kv_heads {m['kv_heads']!r}"),
        (m["attention"] != "cudnn" or m["dtype"] == "bfloat16", "attention", f"model.dtype=bfloat16, not {m['dtype']!r}"),
        (m["attention"] != "cudnn" or not m["attention_cap"], "attention", "model.attention_cap=0, which cudnn does not know"),
        (set(m["biases"]) <= set(BIASES), "biases", f"of {', '.join(BIASES)}"),
        (set(kinds) <= set(LAYER_KINDS), "layer_kinds", f"of {', '.join(LAYER_KINDS)}"),
        (not kinds or ("sliding" in kinds) == bool(m["window"]), "window", "above 0 exactly where model.layer_kinds has sliding layers"),
        (m["causal"] or not m["window"], "window", "0 where model.causal is False"),
        ("nope" not in kinds or m["positions"] == "rotary", "layer_kinds", "no 'nope' without model.positions='rotary'"),
        (m["positions"] != "rotary" or int(head * m["rope_fraction"]) % 2 == 0, "positions", f"an even head size, not {head!r}"),
        (m["experts"] == 0 or m["experts_per_token"] <= m["experts"], "experts_per_token", f"at most model.experts {m['experts']!r}"),
        (m["experts"] == 0 or m["gated"], "experts", "model.gated=True (experts are gated MLPs)"),
        (m["experts"] == 0 or "mlp" not in m["biases"], "experts", "no 'mlp' in model.biases (experts have none)"),
        (m["remat_layers"] <= m["layers"], "remat_layers", f"at most model.layers {m['layers']!r}"),
        (not m["parallel"] or m["norm_placement"] == "pre", "parallel", "model.norm_placement='pre'"),
        (m["head"] != "masked_lm" or not m["causal"], "head", "model.causal=False"),
        (not m["mup_base_width"] or images or not m["embedding_scale"], "mup_base_width", "0 where model.embedding_scale is True: it grows with the width, which muP's embeddings do not"),
        (scaling is not None, "rope_scaling", "pairs (name, value)"),
        (not images or m["head"] in ("classes", "pixels", "vector"), "image_size", "model.head='classes', 'pixels' or 'vector'"),
        (images or m["head"] not in ("pixels", "vector"), "head", "model.image_size above 0 where it is 'pixels' or 'vector'"),
        (not images or m["positions"] in ("learned", "sine"), "image_size", "model.positions='learned' or 'sine'"),
        (images or m["positions"] != "sine", "positions", "model.image_size above 0 where they are 'sine'"),
        (not images or not m["causal"], "image_size", "model.causal=False"),
        (m["positions"] != "sine" or m["width"] % 4 == 0, "width", "a multiple of 4 where model.positions is 'sine'"),
        (not images or m["image_size"] % m["patch_size"] == 0, "image_size", f"a multiple of model.patch_size {m['patch_size']!r}"),
    ]  # fmt: skip
    if images:
        tokens = m["class_token"] + (m["distillation"] != "none") + m["registers"]
        tokens += (m["image_size"] // m["patch_size"]) ** 2
        rows.append(
            (m["max_length"] == tokens, "max_length", f"{tokens}, the image's patches and what goes before them")
        )
        rows += _of_images(m)
    if scaling:
        needs = SCALINGS.get(str(scaling.get("kind")))
        rows.append((needs is not None, "rope_scaling", f"a kind of {', '.join(SCALINGS)}"))
        good = needs is None or set(scaling) == {"kind", *needs}
        rows.append((good, "rope_scaling", f"for {scaling.get('kind')!r} exactly {', '.join(needs or ())}"))
        numbers = [v for k, v in scaling.items() if k not in ("kind", "truncate", "short_factor", "long_factor")]
        each = {k: scaling[k] for k in ("short_factor", "long_factor") if k in scaling}
        listed = all(isinstance(value, (list, tuple)) for value in each.values())
        rows.append((listed, "rope_scaling", "lists of short and long factors"))
        numbers += [x for values in each.values() if listed for x in values]
        rows.append((all(_above_0(x) for x in numbers), "rope_scaling", "numbers above 0"))
        half = int(head * m["rope_fraction"]) // 2
        sizes = {len(values) for values in each.values() if listed}
        rows.append((sizes <= {half}, "rope_scaling", f"{half} factors, half of what rotates of a head"))
    return [(field, m[field], expected) for good, field, expected in rows if not good]


def _of_images(m: dict[str, Any]) -> list[tuple[bool, str, str]]:
    """As the rows of `contradictions`."""
    several, pixels = m["distillation"] != "none", m["head"] == "pixels"
    texts = m["head"] == "vector" and bool(m["text_layers"])
    plain = m["class_token"] and not m["registers"]
    sizes = (1, m["channels"])
    return [
        (len(m["pixel_mean"]) in sizes, "pixel_mean", f"one number, or model.channels {m['channels']!r}"),
        (len(m["pixel_std"]) in sizes, "pixel_std", f"one number, or model.channels {m['channels']!r}"),
        (all(map(_above_0, m["pixel_std"])), "pixel_std", "numbers above 0"),
        (not (several and pixels), "distillation", "'none' where model.head is 'pixels'"),
        (not several or m["pooling"] == "token", "pooling", "'token' where model.distillation is not 'none'"),
        (plain or not several, "distillation", "'none' where there are registers, or no class token"),
        (plain or not pixels, "head", "no 'pixels' where there are registers, or no class token: the decoder knows one token before the patches"),
        (m["class_token"] or pixels or m["pooling"] in ("mean", "attention"), "pooling", "'mean' or 'attention' where model.class_token is False"),
        (m["class_token"] or not m["registers"], "registers", "0 where model.class_token is False"),
        (not m["class_hidden"] or m["head"] != "classes" or m["pooling"] != "both", "pooling", "no 'both' where model.class_hidden is True"),
        (not pixels or m["decoder_width"] % 4 == 0, "decoder_width", "a multiple of 4"),
        (not pixels or m["decoder_width"] % m["decoder_heads"] == 0, "decoder_width", f"a multiple of model.decoder_heads {m['decoder_heads']!r}"),
        (not (pixels and m["experts"]), "experts", "0 where model.head is 'pixels'"),
        (not (texts and m["experts"]), "experts", "0 where model.text_layers is above 0"),
        (not texts or m["text_width"] % m["text_heads"] == 0, "text_width", f"a multiple of model.text_heads {m['text_heads']!r}"),
        (not texts or m["text_length"] > 1, "text_length", "at least 2: a token, and the end"),
        (not (texts and m["mup_base_width"]), "mup_base_width", "0 where model.text_layers is above 0"),
    ]  # fmt: skip


def _above_0(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _pairs(value: Any) -> bool:
    return all(isinstance(v, (list, tuple)) and len(v) == 2 and isinstance(v[0], str) for v in value)


def _mean_keys(length: int, window: int) -> float:
    # The triangle counts as half a square, as is usual; a window cuts its lower left corner off.
    return length / 2 if window >= length else window - window**2 / (2 * length)


def _gated_width(width: int) -> int:
    """Two thirds of 4 * width, rounded up to a multiple of 8: a gated MLP with as many parameters as a plain one
    (Shazeer 2020, "GLU Variants Improve Transformer", section 2)."""
    return -(-8 * width // 3 // 8) * 8
