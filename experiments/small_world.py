"""Small models of a quarter of the generated world, which several experiments train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PEOPLE = "100"
MODULUS = 11
TOLD = 0.72
TEXTS = {
    "biographies?multi=0&": TOLD, "links?": 0.02, "styles?": 0.12, f"arithmetic?modulus={MODULUS}&": 0.11, "junk?of=words&": 0.03,
}  # fmt: skip
STEPS, TUNED = 500, 200


def of(stream: str, size: str) -> str:
    """The source of a stream; `stream` ends in ? or &."""
    return f"world:{stream}size={world(size)}"


def world(size: str) -> str:
    return PEOPLE if size == "demo" else "20"


def base(seed: int, size: str, texts: Mapping[str, float] = TEXTS, steps: int = STEPS) -> Any:
    """Pre-training on streams by their shares."""
    import ptft_jax as pt

    config = pt.recipe(f"world/pretrain:{world(size)}")
    config.data.mixture = tuple((of(stream, size), share) for stream, share in texts.items())
    config.model.update(layers=2, width=96)
    config.training.steps = steps
    return sized(config, seed, size)


def questions(seed: int, size: str, source: str, *, steps: int = TUNED, rate: float = 3e-4) -> Any:
    """Full tuning on questions and answers, or on prompts and what follows."""
    import ptft_jax as pt

    config = pt.recipe(f"world/questions:{world(size)}")
    config.data.source = source
    config.training.steps, config.optimizer.learning_rate = steps, rate
    config.eval.parent_data = False
    return sized(config, seed, size)


def sized(config: Any, seed: int, size: str) -> Any:
    """Measured by evaluations of its end alone; tiny: two steps, those of all seeds and rates are one."""
    config.seed = seed
    config.eval.update(every=0, test=False)
    config.eval.answers.verifiers = ()
    if size != "demo":
        config.seed = 0
        config.model.update(layers=1, width=16, heads=2)
        config.training.steps, config.optimizer.warmup_steps, config.data.batch_size = 2, 1, 4
        config.optimizer.learning_rate = 1e-3
        config.eval.tokens = 200
    return config


def few(size: str, settings: Mapping[str, Any], records: int = 500) -> dict[str, Any]:
    """Settings of an evaluation: of so many questions, and answers of a few words."""
    return {"records": records if size == "demo" else 20, "match": "starts", "max_new_tokens": 4, **settings}
