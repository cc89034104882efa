"""The whole config tree, declared once: default, meaning, what is valid.

`default()` gives the tree as an ml_collections ConfigDict, which config files change and flags override.
`check(config)` validates it and returns a `Section`, which remembers what was read, so that a setting that nothing
reads is an error and not a silent no-op.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ptft_jax.errors import UserError, nearest


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
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
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


def _one_of(default, meaning, *choices):
    return Field(default, meaning, choices=choices)


TREE: dict[str, Any] = {
    "seed": _natural(0, "parameters, order of the data and dropout follow from it"),
    "init": {
        # `from` is a Python keyword, so attributes and flags spell it from_; `init.from` is accepted everywhere.
        "from_": Field("", "start from another run: WORKDIR, WORKDIR@STEP, WORKDIR@best; '' = random parameters"),
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
        "norm": _one_of("layer", "normalisation", "layer", "rms"),
        "norm_eps": _positive(1e-5, "added to the variance"),
        "bias": Field(True, "biases in linear layers and layer norms"),
        "positions": _one_of("learned", "how positions are told", "learned", "rotary"),
        "rope_theta": _positive(10_000.0, "base wavelength of rotary positions"),
        "tied": Field(True, "the output head is the token embedding"),
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
        "path": Field(
            "",
            "for kind=file: the folder of a model or run, or a vocabulary file (tokenizer.json, *.model, *.tiktoken)",
        ),
    },
    "data": {
        "source": Field("shakespeare:general", "shakespeare:SET, stdlib:code|prose, text:PATH, tfds:NAME"),
        "length": _positive(128, "tokens a row"),
        "batch_size": _positive(16, "rows a step, over all devices"),
        "train_tokens": _natural(0, "use only the first so many training tokens; 0 = all"),
        "held_out": Field(
            0.1,
            "share of the text kept for validation, and as much for test, where the source names no split",
            valid=lambda v: 0 < v <= 0.4,
            expected="a share above 0, at most 0.4",
        ),
        "tfds_dir": Field("", "TFDS data directory; '' = TFDS' own default"),
        "tfds_feature": Field("", "the feature that holds the text; '' = the only text feature"),
        "prefetch": _natural(2, "batches prepared ahead"),
    },
    "objective": {
        "name": _one_of("causal_lm", "what is minimised", "causal_lm"),
        "z_loss": _natural(0.0, "weight of log(Z)^2"),
        "label_smoothing": _share(0.0, "share of the target spread over the vocabulary"),
        "chunk": _natural(0, "positions whose logits are held at once; 0 = all"),
    },
    "tune": {
        "method": _one_of("full", "what is added to the model: nothing, or low-rank updates", "full", "lora"),
        "rates": Field(
            (), "((pattern, rate), ...): learning-rate multipliers by path rule, 0 freezes; () = the method's own"
        ),
        "lora": {
            "rank": _positive(8, "rank of each update"),
            "alpha": _positive(16.0, "scale = alpha / rank"),
            "rank_stabilized": Field(False, "scale = alpha / sqrt(rank) (rsLoRA)"),
            "dropout": _share(0.0, "rate on the adapter's input"),
            "targets": Field(("blocks/attention/.*", "blocks/mlp/.*"), "patterns of the adapted linear layers' paths"),
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
            (("(.*/)?(bias|scale)", 0.0), (".*", 1.0)), "((pattern, multiplier), ...) of weight_decay"
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
        "parent_data": Field(True, "also evaluate on what the parent was trained on (forgetting)"),
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


def default() -> ConfigDict:
    """A new tree with every default: locked, and typed by ml_collections."""

    def build(tree):
        return {k: v.default if isinstance(v, Field) else build(v) for k, v in tree.items()}

    return ConfigDict(build(TREE)).lock()


def choose(table: Mapping[str, Any], name: str, what: str) -> Any:
    """table[name], for the argument of a config file. Raises UserError with the valid names."""
    if name not in table:
        raise UserError(f"no {what} {name!r}: expected one of {', '.join(table)}{nearest(name, table)}")
    return table[name]


def fields(tree: Mapping[str, Any] = TREE, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every (dotted path, Field) of the tree."""
    for key, value in tree.items():
        if isinstance(value, Field):
            yield prefix + key, value
        else:
            yield from fields(value, f"{prefix}{key}.")


class Section:
    """A validated part of the config, read by attribute or key. The tree as a whole knows what was read."""

    def __init__(self, values: Mapping[str, Any], path: str = "", read: set[str] | None = None):
        self._values, self._path, self._read = values, path, set() if read is None else read

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            value = self._values[name]
        except KeyError:
            raise AttributeError(f"config.{self._path}{name} is not declared in ptft_jax.config") from None
        path = self._path + name
        if isinstance(value, Mapping):
            return Section(value, path + ".", self._read)
        self._read.add(path)
        return value

    __getitem__ = __getattr__

    def read_all(self) -> dict[str, Any]:
        """Every value of this section as a plain dict."""
        return {name: getattr(self, name) for name in self._values}

    def refuse_unread(self) -> None:
        """Raises UserError for a setting that was changed from its default but that nothing has read."""
        for path, field in fields():
            value = get(self._values, path)
            if value != field.default and path not in self._read:
                raise UserError(
                    f"config.{path.rstrip('_')} = {value!r} is set, but nothing in this run reads it ({field.meaning}); "
                    f"leave it at {field.default!r} or change what makes it matter"
                )

    def as_dict(self) -> dict[str, Any]:
        """The resolved values as plain nested dicts."""
        return json.loads(json.dumps(self._values))


def get(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of nested dicts."""
    for key in path.split("."):
        tree = tree[key]
    return tree


def check(config: Mapping[str, Any]) -> Section:
    """Validates a config (ConfigDict or nested dict).

    Raises:
      UserError: an undeclared field (with the nearest declared one), a wrong type, a value out of range, or fields
        that contradict each other.
    """
    values = _checked(config.to_dict() if isinstance(config, ConfigDict) else config, TREE, "")
    _check_together(values)
    return Section(values)


def _checked(given: Mapping[str, Any], tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    given = {("from_" if key == "from" else key): value for key, value in given.items()}
    for key in given:
        if key not in tree:
            paths = [path for path, _ in fields()]
            near = nearest(prefix + key, paths) or nearest(key, [p.rsplit(".")[-1] for p in paths])
            raise UserError(f"config.{prefix}{key} is not a setting{near}")
    out = {}
    for key, declared in tree.items():
        if isinstance(declared, Field):
            out[key] = declared.check(prefix + key, given.get(key, declared.default))
        else:
            part = given.get(key, {})
            if not isinstance(part, Mapping):
                raise UserError(f"config.{prefix}{key} = {part!r}: expected a section with {', '.join(declared)}")
            out[key] = _checked(part, declared, f"{prefix}{key}.")
    return out


def _check_together(c: dict[str, Any]) -> None:
    """Contradictions between fields, each message naming both."""
    m, d, t = c["model"], c["data"], c["training"]
    rows = [
        (m["head_dim"] or m["width"] % m["heads"] == 0, "model.width", m["width"], "a multiple of model.heads", m["heads"]),
        (m["heads"] % (m["kv_heads"] or 1) == 0, "model.heads", m["heads"], "a multiple of model.kv_heads", m["kv_heads"]),
        (d["length"] <= m["max_length"], "data.length", d["length"], "at most model.max_length", m["max_length"]),
        (d["batch_size"] % t["micro_batches"] == 0, "data.batch_size", d["batch_size"], "a multiple of training.micro_batches", t["micro_batches"]),
        (c["optimizer"]["warmup_steps"] <= max(t["steps"], 1), "optimizer.warmup_steps", c["optimizer"]["warmup_steps"], "at most training.steps", t["steps"]),
        (m["attention"] != "cudnn" or m["dtype"] == "bfloat16", "model.attention", "cudnn", "model.dtype=bfloat16, not", m["dtype"]),
        (c["parallel"]["compile"] == "jit" or c["parallel"]["fsdp"] == 1, "parallel.compile", "pmap", "parallel.fsdp=1 (pmap copies the state), not", c["parallel"]["fsdp"]),
    ]  # fmt: skip
    head = m["head_dim"] or m["width"] // m["heads"]
    rows.append(
        (m["positions"] != "rotary" or head % 2 == 0, "model.positions", "rotary", "an even head size, not", head)
    )
    for good, path, value, expected, other in rows:
        if not good:
            raise UserError(f"config.{path} = {value!r}: expected {expected} {other!r}")
    for path in ("tune.rates", "optimizer.decay_rules", "parallel.rules"):
        for rule in get(c, path):
            if not (isinstance(rule, (tuple, list)) and len(rule) == 2 and isinstance(rule[0], str)):
                raise UserError(f"config.{path}: {rule!r} is not a pair (pattern, value)")
    for path in ("tune.lora.targets", "samples.prompts"):
        for text in get(c, path):
            if not isinstance(text, str):
                raise UserError(f"config.{path}: {text!r} is not a text")
