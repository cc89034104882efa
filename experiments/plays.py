"""Small models of the bytes of Shakespeare's plays, which several experiments train."""

from __future__ import annotations

from typing import Any

GENERAL, SPECIAL = "shakespeare:general", "shakespeare:histories"
LENGTH, ROWS = 64, 16
TOKENS = LENGTH * ROWS  # per step
LAYERS, HEAD, WIDTH = 2, 16, 32


def config_of(width: int, steps: int, rate: float, *, seed: int = 0, mup: bool = False) -> Any:
    """Pre-training on all plays but the histories; `mup`: by muP, with `WIDTH` as the base width."""
    from ptft_jax import config as configs

    config = configs.default()
    config.seed = seed
    config.model.update(layers=LAYERS, width=width, heads=max(width // HEAD, 1), max_length=LENGTH, scan=False)
    config.model.mup_base_width = WIDTH if mup else 0
    config.tokenizer.kind = "byte"
    config.data.update(source=GENERAL, length=LENGTH, batch_size=ROWS)
    config.optimizer.update(learning_rate=rate, warmup_steps=steps // 10)
    config.training.steps = steps
    config.eval.update(every=steps, tokens=30_000, test=False)
    return config


def parameters(width: int) -> int:
    """Of the blocks' kernels."""
    return 12 * LAYERS * width**2


def base(seed: int, demo: bool) -> Any:
    """Pre-training of what experiments fine-tune; without `demo` a step or two, only to see it run."""
    config = config_of(64 if demo else 16, 800 if demo else 2, 1e-2, seed=seed)
    return config if demo else shrunk(config)


def tuning(rate: float, seed: int, demo: bool, *, steps: int = 200, tokens: int = 40_000) -> Any:
    """Full fine-tuning on so many tokens of the histories."""
    from ptft_jax import config as configs

    config = configs.default()
    config.seed = seed
    config.tune.method = "full"
    config.model.scan = False
    config.data.update(source=SPECIAL, length=LENGTH, batch_size=ROWS, train_tokens=tokens)
    config.optimizer.update(learning_rate=rate, warmup_steps=steps // 10)
    config.training.steps = steps
    config.eval.update(every=steps, tokens=30_000, test=False)
    return config if demo else shrunk(config)


def shrunk(config: Any) -> Any:
    """A run of two steps, only to see it run; those of all seeds are one."""
    config.seed = 0
    config.training.steps, config.optimizer.warmup_steps = 2, 0
    config.data.train_tokens = min(config.data.train_tokens, 4000)
    config.eval.update(every=0, tokens=200)
    return config
