"""What the benchmarks train: a model of a given shape, as a config has it, on random tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def trainer(
    shape: Mapping[str, int],
    rows: int,
    *,
    scan: bool = False,
    tune: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
    devices: int = 1,
    tuned: bool = False,
) -> Any:
    """A `Trainer` of so many devices, which share its parameters, for `shape` ("vocab", "length", "layers", "width", "heads") and batches of `rows`, at a constant rate.

    `tune`, `model` and `objective` are settings of those sections of a config; methods of `tune` need no parent.
    `tuned`: it is as if it had one, with random parameters.
    """
    import jax

    from ptft_jax import config as configs
    from ptft_jax.adapters import build
    from ptft_jax.data.pictures import settled
    from ptft_jax.parallel import mesh
    from ptft_jax.training.trainer import Trainer

    values = configs.default().to_dict()
    for name, value in (tune or {}).items():
        values["tune"][name] = {**values["tune"][name], **value} if isinstance(value, dict) else value
    adapter = build(configs.check(values, complete=False).tune)
    room = shape["length"] + (adapter.virtual_tokens if adapter else 0)
    values["model"] |= {"vocab_size": shape["vocab"], "max_length": room, "scan": scan}
    values["model"] |= {name: shape[name] for name in ("layers", "width", "heads")}
    values["model"] |= model or {}
    values["objective"] |= objective or {}
    values["data"] |= {"length": shape["length"], "batch_size": rows}
    values["optimizer"] |= {"schedule": "constant", "learning_rate": 1e-3, "warmup_steps": 0}
    settled.complete(values)
    return Trainer(values, mesh=mesh.make(fsdp=devices, devices=jax.devices()[:devices]), tuned=tuned)


def images(model: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Rows of random pixels, each with a random class, for settings of `config.model`."""
    import numpy as np

    rng, size = np.random.default_rng(0), model["image_size"]
    return {
        "inputs": rng.integers(0, 256, (rows, size, size, model["channels"])).astype(np.uint8),
        "targets": rng.integers(0, model["classes"], rows).astype(np.int32),
        "weights": np.ones(rows, np.float32),
    }


def batch(shape: Mapping[str, int], rows: int) -> dict[str, Any]:
    """Rows of random tokens, of which each is learned."""
    import numpy as np

    tokens = np.random.default_rng(0).integers(0, shape["vocab"], (rows, shape["length"] + 1)).astype(np.int32)
    weights = np.ones((rows, shape["length"]), np.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}
