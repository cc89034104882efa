"""The whole config tree, declared once: default, meaning, what is valid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from ptft_jax.errors import UserError, nearest
from ptft_jax.model.spec import BIASES, LAYER_KINDS, hashable


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting: its default (which fixes its type), its meaning, and what else is valid."""

    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    valid: Callable[[Any], bool] | None = None
    expected: str = ""

    def check(self, path: str, value: Any) -> Any:
        """The value in the declared type. Raises UserError that names `path`."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is tuple and isinstance(value, (list, tuple)):
            value = hashable(value)  # JSON has lists
        if type(value) is not kind:
            raise UserError(f"config.{path} = {value!r}: expected {kind.__name__}, got {type(value).__name__}")
        if self.choices and value not in self.choices:
            raise UserError(
                f"config.{path} = {value!r}: expected one of {', '.join(self.choices)}{nearest(value, self.choices)}"
            )
        if (kind is float and math.isnan(value)) or (self.valid and not self.valid(value)):
            raise UserError(f"config.{path} = {value!r}: expected {self.expected or 'a number'} ({self.meaning})")
        return value


def _positive(default, meaning):
    return Field(default, meaning, valid=lambda v: v > 0, expected="a value above 0")


def _natural(default, meaning):
    return Field(default, meaning, valid=lambda v: v >= 0, expected="a value of 0 or more")


def _share(default, meaning):
    return Field(default, meaning, valid=lambda v: 0 <= v < 1, expected="a value from 0 to below 1")


def _part(default, meaning):
    return Field(default, meaning, valid=lambda v: 0 < v < 1, expected="a value between 0 and 1")


def _whole_share(default, meaning):
    return Field(default, meaning, valid=lambda v: 0 <= v <= 1, expected="a value from 0 to 1")


def _one_of(default, meaning, *choices):
    return Field(default, meaning, choices=choices)


TREE: dict[str, Any] = {
    "seed": _natural(0, "parameters, order of the data and dropout follow from it"),
    "init": {
        # `from` is a Python keyword, so attributes and flags spell it from_; `init.from` is accepted everywhere.
        "from_": Field(
            "",
            "start from a run, WORKDIR[@STEP|@best]; or from weights, hf:FOLDER, hf:NAME, gguf:FILE; '' = random parameters",
        ),
        "adapter": Field("", "a folder in PEFT's format: start with this adapter on the parent, and train it on"),
        "ignore": Field((), "patterns of the parent's tensors that may be left out"),
        "fresh": Field((), "patterns of parameters that are made anew, not taken from the parent (a new head)"),
        "weights": _one_of("auto", "of a parent that kept an average: its average (auto) or not", "auto", "raw", "ema"),
    },
    "model": {
        "layers": _positive(4, "number of blocks"),
        "width": _positive(128, "size of the residual stream"),
        "heads": _positive(4, "query heads"),
        "kv_heads": _natural(0, "key/value heads; 0 = as many as heads"),
        "head_dim": _natural(0, "size of a head; 0 = width / heads"),
        "mlp_width": _natural(0, "hidden size of the MLP; 0 = 4 * width, or 8/3 * width when gated"),
        "max_length": _positive(128, "longest sequence, in tokens"),
        "activation": _one_of("gelu_tanh", "of the MLP", "gelu", "gelu_tanh", "silu", "relu"),
        "gated": Field(False, "gated MLP (SwiGLU with silu)"),
        "parallel": Field(False, "attention and MLP side by side (GPT-NeoX), not one after the other"),
        "norm": _one_of("layer", "normalisation; rms_plus_one scales by 1 + weight", "layer", "rms", "rms_plus_one"),
        "norm_eps": _positive(1e-5, "added to the variance"),
        "norm_placement": _one_of(
            "pre",
            "before a sublayer, after adding it, on its output, or before it and on its output",
            "pre",
            "post",
            "output",
            "both",
        ),
        "query_key_norm": _one_of(
            "none", "norm of queries and keys: none, each head, all heads at once", "none", "head", "all"
        ),
        "biases": Field(BIASES, f"which layers have biases: of {', '.join(BIASES)}"),
        "causal": Field(True, "tokens see only what came before them"),
        "positions": _one_of("learned", "how positions are told", "learned", "rotary"),
        "position_offset": _natural(0, "added to learned positions (RoBERTa: 2)"),
        "rope_theta": _positive(10_000.0, "base wavelength of rotary positions"),
        "rope_fraction": Field(
            1.0, "share of a head that rotates", valid=lambda v: 0 < v <= 1, expected="above 0, at most 1"
        ),
        "rope_scaling": Field((), "((name, value), ...): stretched rotary positions, see ptft_jax.model.rotary"),
        "rope_local_theta": _natural(0.0, "base wavelength in sliding layers, unstretched; 0 = as elsewhere"),
        "window": _natural(0, "keys that a query of a sliding layer sees; 0 = no such layers"),
        "layer_kinds": Field((), f"of {', '.join(LAYER_KINDS)}, repeated over the layers; () = all alike"),
        "attention_scale": _natural(0.0, "factor on scores; 0 = 1 / sqrt(head size)"),
        "attention_cap": _natural(0.0, "soft cap on scores; 0 = none"),
        "logit_cap": _natural(0.0, "soft cap on logits; 0 = none"),
        "embedding_scale": Field(False, "multiply token vectors by sqrt(width)"),
        "embedding_norm": Field(False, "normalise what goes into the first block"),
        "token_types": _natural(0, "types of tokens that have a vector (BERT: 2)"),
        "experts": _natural(0, "experts in place of each MLP; 0 = a plain MLP"),
        "experts_per_token": _positive(2, "experts that a token is sent to"),
        "normalize_experts": Field(True, "weights of a token's experts sum to 1"),
        "vocab_size": _natural(0, "rows of the token embedding; 0 = the tokenizer's"),
        "head": _one_of("lm", "what is scored: the next token, masked tokens, classes", "lm", "masked_lm", "classes"),
        "tied": Field(True, "the output head is the token embedding"),
        "classes": _positive(2, "of head=classes"),
        "class_hidden": Field(False, "a dense tanh layer before the classes"),
        "image_size": _natural(0, "height and width of images, in pixels; 0 = a model of text"),
        "patch_size": _positive(16, "height and width of an image's patches, in pixels"),
        "channels": _positive(3, "of an image"),
        "distillation": _one_of(
            "none", "of images: no second token, one, or one with a head (DeiT)", "none", "token", "head"
        ),
        "dropout": _share(0.0, "rate after embedding, attention and MLP"),
        "init_std": _positive(0.02, "standard deviation of initial weights"),
        "dtype": _one_of("float32", "what is computed in", "float32", "bfloat16"),
        "param_dtype": _one_of("float32", "what parameters are kept in", "float32", "bfloat16"),
        "scan": Field(True, "compile one block and scan it (fast to compile) or unroll all (often faster on a CPU)"),
        "remat": _one_of(
            "none", "recompute in the backward pass: all, or all but matrix products", "none", "dots", "full"
        ),
        "attention": _one_of("xla", "implementation; cudnn needs a GPU and bfloat16", "xla", "cudnn"),
    },
    "tokenizer": {
        "kind": _one_of("auto", "auto = the parent's, or bytes without one", "auto", "byte", "bpe", "file"),
        "vocab_size": Field(
            1024,
            "of a trained bpe, with its 256 bytes and 1 special token",
            valid=lambda v: v > 257,
            expected="more than 257",
        ),
        "path": Field("", "for kind=file: a tokenizer.json, tokenizer.model or .tiktoken file, or a folder with one"),
        "add": Field((), "new special tokens; they need embeddings that train"),
        "new_rows": _one_of("mean", "embeddings of new tokens: the mean of the others, or random", "mean", "normal"),
    },
    "data": {
        "source": Field(
            "",
            "KIND:NAME[?OPTION=VALUE&...], see docs/data.md: what is trained on, validated and tested; of a mixture, which "
            "source is validated and tested, '' = the first",
        ),
        "mixture": Field(
            (),
            "((source, weight), ...): what is trained on instead; 'parent' = the parent's data; a weight is a number, or "
            "((step, weight), ...) with straight lines between",
        ),
        "temperature": _natural(
            0.0, "of a mixture: weights are multiplied by rows ** (1 / temperature); 0 = weights as they are"
        ),
        "max_epochs": _natural(0.0, "of a mixture: a source read so often gives way to the others; 0 = no limit"),
        "template": Field("", "chat template by name; '' = the tokenizer's own"),
        "train_on": Field(
            "assistant", "what is learned of conversations and answers: assistant, last, all, or roles joined by commas"
        ),
        "packing": _one_of(
            "auto",
            "how examples fill rows: one after the other and cut anywhere (concat, for plain text), whole (first_fit, "
            "best_fit), or one a row (none); auto = concat for plain text, else best_fit",
            "auto",
            "concat",
            "none",
            "first_fit",
            "best_fit",
        ),
        "overlong": _one_of(
            "raise", "examples longer than a row, where they are not cut anyway", "raise", "drop", "truncate", "split"
        ),
        "untrainable": _one_of("raise", "examples with nothing to learn", "raise", "drop"),
        "broken": _one_of("raise", "records that cannot be read", "raise", "skip"),
        "workers": _natural(0, "processes that tokenise; 0 = by the size of the data and the machine"),
        "length": _positive(128, "tokens a row"),
        "batch_size": _positive(16, "rows a step, over all devices"),
        "train_tokens": _natural(0, "use only the first so many training tokens; 0 = all"),
        "held_out": Field(
            0.1,
            "share of the records kept for validation, and as much for test, where the source names no split",
            valid=lambda v: 0 < v <= 0.4,
            expected="a share above 0, at most 0.4",
        ),
        "prefetch": _natural(2, "batches prepared ahead"),
    },
    "objective": {
        "name": _one_of(
            "causal_lm",
            "what is learned: the next token; the same after a prefix that is read in both directions; masked tokens; "
            "spans cut out of a text; a text's class",
            "causal_lm",
            "prefix_lm",
            "masked_lm",
            "span_corruption",
            "classification",
        ),
        "z_loss": _natural(0.0, "weight of log(Z)^2"),
        "label_smoothing": _share(0.0, "share of the target spread over the vocabulary"),
        "chunk": _natural(0, "positions whose logits are held at once; 0 = all"),
        "mask_rate": _part(0.15, "of masked_lm: share of the tokens that are chosen and learned"),
        "mask_token_share": _whole_share(0.8, "of masked_lm: the chosen tokens that become the mask token"),
        "random_token_share": _whole_share(0.1, "of masked_lm: the chosen tokens that become random ones"),
        "whole_word": Field(False, "of masked_lm: all tokens of a word are chosen together"),
        "noise_density": _part(0.15, "of span_corruption: share of the tokens that are cut out"),
        "mean_span": Field(
            3.0, "of span_corruption: mean tokens a span", valid=lambda v: v >= 1, expected="a value of 1 or more"
        ),
    },
    "tune": {
        "method": _one_of(
            "full",
            "what is added to the model: nothing, low-rank updates, rescaling vectors, vectors before the tokens",
            "full",
            "lora",
            "ia3",
            "prompt",
        ),
        "train": Field(
            "all",
            "of method=full, what trains: all, head, last:K, no_embeddings, biases, norms, attention (ptft_jax.params.recipes)",
        ),
        "layer_decay": Field(
            1.0,
            "factor of the learning rate from each block to the one below it, and to the embeddings; 1 = all alike",
            valid=lambda v: 0 < v <= 1,
            expected="above 0, at most 1",
        ),
        "l2_sp": _natural(0.0, "weight of half the squared distance to where the run started, in the loss (L2-SP)"),
        "start_decay": _natural(0.0, "decoupled decay to where the run started, times the rate"),
        "rates": Field(
            (), "((pattern, rate), ...): learning-rate multipliers by path rule, 0 freezes; () = the method's own"
        ),
        "lora": {
            "rank": _positive(8, "rank of each update"),
            "alpha": _positive(16.0, "scale = alpha / rank"),
            "rank_stabilized": Field(False, "scale = alpha / sqrt(rank) (rsLoRA)"),
            "dora": Field(False, "also learn each output's length, apart from its direction (DoRA)"),
            "dropout": _share(0.0, "rate on the adapter's input"),
            "targets": Field(
                ("blocks/(attention|mlp)/(query|key|value|out|gate|up|down)",),
                "patterns of the adapted linear layers' paths",
            ),
        },
        "ia3": {
            "targets": Field(
                ("blocks/(attention/(key|value)|mlp/down)",), "patterns of the linear layers' paths that get a vector"
            ),
            "feedforward": Field(("blocks/mlp/down",), "those of the targets whose input is scaled, not the output"),
        },
        "prompt": {
            "length": _positive(20, "learned vectors before the tokens of every row"),
            "init": _one_of(
                "vocabulary", "what they start from: random tokens' vectors or noise", "vocabulary", "random"
            ),
        },
    },
    "optimizer": {
        "name": _one_of("adamw", "update rule", "adamw", "adafactor", "lion", "muon", "sgd"),
        "learning_rate": _positive(1e-3, "peak rate"),
        "schedule": _one_of("cosine", "shape after warm-up", "cosine", "linear", "wsd", "constant", "rsqrt"),
        "warmup_steps": _natural(0, "steps of linear rise"),
        "end_ratio": Field(
            0.1, "last rate / peak rate, of cosine, linear and wsd", valid=lambda v: 0 <= v <= 1, expected="0 to 1"
        ),
        "decay_fraction": Field(
            0.2, "share of steps in which wsd goes down", valid=lambda v: 0 < v <= 1, expected="above 0, at most 1"
        ),
        "b1": _share(0.9, "first-moment decay of adamw, lion, muon's Adam"),
        "b2": _share(0.95, "second-moment decay of adamw, lion, muon's Adam"),
        "eps": _positive(1e-8, "of adamw"),
        "momentum": _share(0.95, "of sgd and muon"),
        "weight_decay": _natural(0.1, "decoupled decay, times the rate"),
        "decay_rules": Field(
            (("(.*/)?(bias|scale|magnitude)", 0.0), (".*", 1.0)), "((pattern, multiplier), ...) of weight_decay"
        ),
        "clip_norm": _natural(1.0, "largest global norm of the trainable gradient; 0 = no clipping"),
    },
    "training": {
        "steps": _natural(1000, "optimizer updates; 0 only evaluates and saves the start"),
        "micro_batches": _positive(1, "parts a batch is run in, one after the other"),
        "ema_decay": _share(0.0, "decay of an average of the trainable parameters, used to evaluate; 0 = none"),
    },
    "eval": {
        "every": _natural(200, "steps between evaluations; 0 = only at start and end"),
        "batch_size": _natural(0, "rows; 0 = data.batch_size"),
        "tokens": _natural(0, "use only the first so many tokens of each set; 0 = all"),
        "source": Field("", "data to measure forgetting on; '' = what the parent was trained on, where that is known"),
        "parent_data": Field(True, "also evaluate on what the parent was trained on (forgetting)"),
        "mixture": Field(True, "also evaluate on every source of data.mixture"),
        "test": Field(True, "evaluate the selected checkpoint on the test split at the end"),
    },
    "select": {
        "metric": Field("validation/nll", "what the best checkpoint and early stopping look at"),
        "mode": _one_of("min", "smaller or larger is better", "min", "max"),
        "patience": _natural(0, "stop after so many evaluations without a gain; 0 = never"),
        "min_delta": _natural(0.0, "the least that counts as a gain"),
    },
    "samples": {
        "every": _natural(0, "steps between samples; 0 = at start and end only"),
        "prompts": Field((), "texts to continue; () = no samples"),
        "max_new_tokens": _positive(64, "tokens a sample"),
        "temperature": _natural(0.8, "0 = greedy"),
        "top_p": Field(
            0.95, "keep the likeliest tokens up to this mass", valid=lambda v: 0 < v <= 1, expected="above 0, at most 1"
        ),
    },
    "checkpoint": {
        "every": _natural(0, "steps between saves besides those of new best values; 0 = none besides"),
        "keep_latest": _positive(1, "latest checkpoints kept"),
        "keep_best": _positive(1, "best checkpoints kept"),
    },
    "parallel": {
        "replica": _natural(0, "devices that copy the parameters; 0 = all / fsdp"),
        "fsdp": _positive(1, "devices that split the parameters"),
        "rules": Field(((".*", "fsdp"),), "((pattern, tactic), ...): fsdp, replicate, or a tuple of mesh axes"),
        "compile": _one_of("jit", "one program over the mesh, or the same step per device", "jit", "pmap"),
    },
    "log": {
        "every": _positive(10, "steps between logged training metrics"),
        "tensorboard": Field(True, "also write TensorBoard event files"),
    },
}

# Settings that say how a run is carried out, not what it computes: a run may be continued with others.
HOW = ("parallel.", "training.micro_batches", "data.prefetch", "data.workers", "log.", "checkpoint.")
