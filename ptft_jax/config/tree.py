"""The whole config tree, declared once: default, meaning, what is valid."""

from __future__ import annotations

from typing import Any

from ptft_jax.config.field import (
    MANY,
    Field,
    fields_of,
    mass,
    natural,
    number,
    one_of,
    pairs,
    part,
    patterns,
    positive,
    rules,
    seed,
    share,
    span,
    temperature,
    texts,
)
from ptft_jax.config.objectives import OBJECTIVES
from ptft_jax.config.tune import TUNE
from ptft_jax.model.spec import ModelSpec


def _tactic(value: Any) -> str:
    named = isinstance(value, tuple) and all(name is None or isinstance(name, str) for name in value)
    return "" if named or isinstance(value, str) else "expected 'fsdp', 'replicate' or a tuple of None and mesh axes"


TREE: dict[str, Any] = {
    "plugins": texts(
        (),
        "modules outside of the package with tables of objectives and methods that this config may name, see docs/plugins.md",
    ),
    "seed": seed(0, "parameters, order of the data and dropout follow from it"),
    "init": {
        # `from` is a Python keyword, so attributes and flags spell it from_; `init.from` is accepted everywhere.
        "from_": Field(
            "",
            "start from a run, WORKDIR[@STEP|@best][#ADAPTER]; or from weights, hf:FOLDER, hf:NAME, gguf:FILE; '' = random parameters",
        ),
        "adapter": Field("", "a folder in PEFT's format: start with this adapter on the parent, and train it on"),
        "ignore": patterns((), "patterns of the parent's tensors that may be left out"),
        "fresh": patterns((), "patterns of parameters that are re-initialized, not taken from the parent (a new head)"),
        "merge_into": one_of(
            "",
            "of a parent that was trained on a quantized base, which kernels its adapter is added to: those it was trained "
            "on, or the base's own",
            "",
            "dequantized",
            "original",
        ),
        "optimizer": Field(
            False,
            "go on from the run in init.from where it was: its step, optimizer and average, under a schedule, length, rate, data or "
            "evaluation plan that may differ",
        ),
        "weights": one_of("auto", "of a parent that kept an average: its average (auto) or not", "auto", "raw", "ema"),
    },
    "model": fields_of(ModelSpec),
    "tokenizer": {
        "kind": one_of("auto", "auto = the parent's, or bytes without one", "auto", "byte", "bpe", "file"),
        "vocab_size": Field(
            1024,
            "of a trained bpe, with its 256 bytes and 1 special token",
            valid=lambda v: v > 257,
            expected="more than 257",
        ),
        "path": Field("", "for kind=file: a tokenizer.json, tokenizer.model or .tiktoken file, or a folder with one"),
        "add": texts((), "new special tokens; they need embeddings that train"),
        "new_rows": one_of("mean", "embeddings of new tokens: the mean of the others, or random", "mean", "normal"),
    },
    "data": {
        "source": Field(
            "",
            "KIND:NAME[?OPTION=VALUE&...], see docs/data.md: what is trained on, validated and tested; of a mixture, which "
            "source is validated and tested, '' = the first",
        ),
        "mixture": pairs(
            (),
            "((source, weight), ...): what is trained on instead; 'parent' = the parent's data; a weight is a number, or "
            "((step, weight), ...) with straight lines between; a step below 1 is a share of training.steps",
        ),
        "temperature": temperature(
            0.0, "of a mixture: weights are multiplied by rows ** (1 / temperature); 0 = weights as they are"
        ),
        "max_epochs": natural(
            0.0,
            "upper limit on the epochs of a source; of a mixture, the others take its place after that; does not set the run's length "
            "(training.epochs, training.steps); 0 = no limit",
        ),
        "template": Field("", "chat template by name; '' = the tokenizer's own"),
        "train_on": Field(
            "assistant",
            "which tokens of conversations and answers have loss: assistant, last, all, or roles joined by commas",
        ),
        "packing": one_of(
            "auto",
            "how examples fill rows: one after the other and cut anywhere (concat, for plain text), whole (first_fit, "
            "best_fit), or one a row (none); auto = concat for plain text, else best_fit",
            "auto",
            "concat",
            "none",
            "first_fit",
            "best_fit",
        ),
        "overlong": one_of(
            "raise", "examples longer than a row, where they are not cut anyway", "raise", "drop", "truncate", "split"
        ),
        "untrainable": one_of("raise", "examples with nothing to learn", "raise", "drop"),
        "broken": one_of("raise", "records that cannot be read", "raise", "skip"),
        "leaks": one_of(
            "say",
            "records that are trained on whose text, or id, stands in validation or test data of the run's sources",
            "say",
            "raise",
            "drop",
        ),
        "workers": natural(0, "processes that tokenize; 0 = by the size of the data and the machine"),
        "length": positive(128, "tokens per row"),
        "batch_size": positive(16, "rows per step, over all devices"),
        "train_tokens": natural(0, "use only the first so many training tokens; 0 = all", most=MANY),
        "held_out": Field(
            0.1,
            "share of the different records kept for validation, in expectation, and as much for test, where the source "
            "names no split; each falls to its side by what it says, see docs/data.md",
            valid=lambda v: 0 < v <= 0.4,
            expected="a share above 0, at most 0.4",
        ),
        "prefetch": natural(2, "batches prepared ahead"),
    },
    "objective": {
        "name": one_of(
            "causal_lm",
            "what is predicted: the next token; the same after a prefix that is read in both directions; masked tokens; "
            "spans cut out of a text; a text's class",
            *OBJECTIVES,
        ),
        "z_loss": natural(0.0, "weight of log(Z)^2"),
        "label_smoothing": share(0.0, "share of the target spread over the vocabulary"),
        "balance": natural(
            0.01,
            "of a mixture of experts whose router trains: weight of the load-balancing term, summed over layers; 0 = none",
        ),
        "router_z_loss": natural(
            0.0, "of such a mixture: weight of the mean log(Z)^2 of the router, summed over layers"
        ),
        "chunk": natural(0, "positions whose logits are held at once; 0 = all"),
        **{name: field for spec in OBJECTIVES.values() for name, field in spec.fields.items()},
    },
    "tune": TUNE,
    "optimizer": {
        "name": one_of("adamw", "update rule", "adamw", "adafactor", "lion", "muon", "sgd"),
        "learning_rate": natural(
            0.0, "peak rate; 0 = 1e-3 for pre-training, the method's own (docs/methods.md) for tuning"
        ),
        "schedule": one_of(
            "cosine",
            "shape after warm-up; slanted_triangular has its own",
            "cosine",
            "linear",
            "wsd",
            "constant",
            "rsqrt",
            "slanted_triangular",
        ),
        "warmup_steps": span(0, "steps of linear rise"),
        "end_ratio": Field(
            0.1,
            "last rate / peak rate, of cosine, linear and wsd: by default they end at a tenth of the peak, not at 0",
            valid=lambda v: 0 <= v <= 1,
            expected="0 to 1",
        ),
        "decay_fraction": mass(0.2, "share of steps in which wsd goes down"),
        "cut_frac": part(0.1, "of slanted_triangular: share of the steps in which the rate rises"),
        "ratio": Field(
            32.0,
            "of slanted_triangular: the peak rate over the first and last one",
            valid=lambda v: v >= 1,
            expected="a value of 1 or more",
        ),
        "b1": share(0.9, "first-moment decay of adamw, lion, muon's Adam"),
        "b2": share(0.95, "second-moment decay of adamw, lion, muon's Adam; other libraries' default is often 0.999"),
        "eps": positive(1e-8, "of adamw"),
        "momentum": share(0.95, "of sgd and muon"),
        "weight_decay": natural(0.1, "decoupled decay, times the rate"),
        "decay_rules": rules(
            (("(.*/)?(bias|scale|magnitude)", 0.0), (".*", 1.0)), "((pattern, multiplier), ...) of weight_decay", number
        ),
        "clip_norm": natural(1.0, "largest global norm of the trainable gradient; 0 = no clipping"),
    },
    "training": {
        "steps": natural(1000, "optimizer updates; 0 only evaluates and saves the start"),
        "epochs": natural(
            0.0,
            "passes over the training data, which set training.steps: rows are counted after packing, of a mixture those of all its "
            "sources; 0 = training.steps says",
        ),
        "micro_batches": positive(1, "gradient accumulation: rows at once = data.batch_size / this"),
        "ema_decay": share(
            0.0, "decay of an average of the trainable parameters, debiased, that is evaluated and kept; 0 = none"
        ),
        "state_dtype": one_of(
            "float32",
            "what trains, its moments, average and start are kept in; bfloat16 is rounded stochastically, a step at a time",
            "float32",
            "bfloat16",
        ),
    },
    "eval": {
        "every": span(200, "steps between evaluations; 0 = only at start and end"),
        "batch_size": natural(0, "rows; 0 = data.batch_size"),
        "tokens": natural(0, "use only the first so many tokens of each set; 0 = all", most=MANY),
        "source": Field("", "data to measure forgetting on; '' = what the parent was trained on, where that is known"),
        "parent_data": Field(True, "also evaluate on what the parent was trained on (forgetting)"),
        "mixture": Field(True, "also evaluate on every source of data.mixture"),
        "test": Field(True, "evaluate the selected checkpoint on the test split at the end"),
    },
    "select": {
        "metric": Field("validation/nll", "what the best checkpoint and early stopping look at"),
        "mode": one_of(
            "auto", "whether smaller or larger values are better; auto = as the metric has it", "auto", "min", "max"
        ),
        "patience": natural(0, "stop after so many evaluations in a row without a gain; 0 = never"),
        "min_delta": natural(
            0.0, "a gain is a value that is better by more than this than the last one that was a gain"
        ),
        "source_budget": natural(
            0.0,
            "nats per token that source/nll may rise above its value before fine-tuning: what lies above is never the best; "
            "0 = no limit",
        ),
        "stop_over_budget": Field(False, "stop at the first evaluation above source_budget"),
    },
    "samples": {
        "every": span(0, "steps between samples; 0 = at start and end only"),
        "prompts": texts((), "texts to continue; () = no samples", raw=True),
        "max_new_tokens": positive(64, "tokens a sample"),
        "temperature": temperature(0.8, "0 = greedy"),
        "top_p": mass(0.95, "keep the likeliest tokens up to this mass"),
    },
    "checkpoint": {
        "every": span(0, "steps between saves besides those of new best values; 0 = none besides"),
        "keep_latest": positive(1, "latest checkpoints kept"),
        "keep_best": positive(1, "best checkpoints kept"),
    },
    "parallel": {
        "replica": natural(0, "devices that copy the parameters; 0 = all / fsdp"),
        "fsdp": positive(1, "devices that split the parameters"),
        "rules": rules(
            ((".*", "fsdp"),), "((pattern, tactic), ...): fsdp, replicate, or a tuple of mesh axes", _tactic
        ),
        "compile": one_of("jit", "one program over the mesh, or the same step per device", "jit", "pmap"),
    },
    "log": {
        "every": span(10, "steps between logged training metrics", least=1),
        "tensorboard": Field(True, "also write TensorBoard event files"),
        "trackers": texts(
            (), "services that are told, too: wandb, mlflow, aim (each is an extra of the package), or those of plugins"
        ),
    },
}

# Settings that say how a run is carried out, not what it computes: a run may be continued with others.
HOW = ("parallel.", "training.micro_batches", "data.prefetch", "data.workers", "log.", "checkpoint.")
