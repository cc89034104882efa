"""ptft_jax: pre-training and fine-tuning as two stages of one experiment, in JAX and Flax.

    import ptft_jax as pt

    config = pt.recipe("pretrain/shakespeare:small")
    summary = pt.train(config, "runs/base")
    loaded = pt.load("runs/base@best")
    pt.evaluate(loaded, "stdlib:prose", "test")
    pt.generate(loaded, ["## ACT"], sampling=pt.Sampling(temperature=0.8), max_new_tokens=40)

    trainer = pt.Trainer(config, vocab_size=256)  # without data: model, partition, objective, optimizer, compiled steps
    state, metrics = trainer.program.train(trainer.init(), trainer.program.place(batch))

These names are imported when they are first used: `import ptft_jax` alone imports neither JAX nor Flax.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ptft_jax.config.files import recipe
    from ptft_jax.errors import UserError
    from ptft_jax.evaluation.samples import generate
    from ptft_jax.evaluation.standalone import evaluate
    from ptft_jax.experiments.nodes import Graph
    from ptft_jax.model.sampling import Sampling
    from ptft_jax.runs.loading import load
    from ptft_jax.training.assembly import train
    from ptft_jax.training.hooks import every
    from ptft_jax.training.trainer import Trainer

__all__ = [
    "Graph",
    "Sampling",
    "Trainer",
    "UserError",
    "__version__",
    "evaluate",
    "every",
    "generate",
    "load",
    "recipe",
    "train",
]

# Public name -> the module that defines it under the same name.
_MODULES = {
    "Graph": "ptft_jax.experiments.nodes",
    "Sampling": "ptft_jax.model.sampling",
    "Trainer": "ptft_jax.training.trainer",
    "UserError": "ptft_jax.errors",
    "evaluate": "ptft_jax.evaluation.standalone",
    "every": "ptft_jax.training.hooks",
    "generate": "ptft_jax.evaluation.samples",
    "load": "ptft_jax.runs.loading",
    "recipe": "ptft_jax.config.files",
    "train": "ptft_jax.training.assembly",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """The package as a module whose public names stay what they are. Importing a verb's module (`ptft_jax.train`,
    `ptft_jax.verbs.generate`) would otherwise put that module in the place of the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
