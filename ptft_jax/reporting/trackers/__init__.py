"""Where a run's numbers and texts go besides its own files: services that track experiments, chosen by `config.log.trackers`.

A tracker is a class with the methods of `ptft_jax.reporting.trackers.base.Tracker` in a module of this package, and one line of
TRACKERS. Its package is an extra of the same name: `pip install "ptft_jax[wandb]"`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

from ptft_jax.errors import UserError, few, nearest
from ptft_jax.reporting.trackers.base import Tracker


class Entry(NamedTuple):
    """A tracker: its title, the packages that it needs, and where its class is, as MODULE:NAME."""

    title: str
    packages: tuple[str, ...]
    where: str


TRACKERS = {
    "wandb": Entry("Weights & Biases", ("wandb",), "ptft_jax.reporting.trackers.wandb:Wandb"),
    "mlflow": Entry("MLflow", ("mlflow", "sqlalchemy", "alembic"), "ptft_jax.reporting.trackers.mlflow:Mlflow"),
    "aim": Entry("Aim", ("aim",), "ptft_jax.reporting.trackers.aim:Aim"),
}


def check(names: Sequence[str]) -> None:
    """Raises UserError for a tracker that is not known, is named twice, or whose package is not installed."""
    for number, name in enumerate(names):
        if name not in TRACKERS:
            raise UserError(
                f"config.log.trackers: no tracker {name!r}: expected of {', '.join(TRACKERS)}{nearest(name, TRACKERS)}"
            )
        if name in names[:number]:
            raise UserError(f"config.log.trackers: {name!r} is named twice")
        missing = [package for package in TRACKERS[name].packages if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(
                f'config.log.trackers: {name!r} needs {few(missing)}, not installed here: pip install "ptft_jax[{name}]"'
            )


def build(name: str) -> Tracker:
    """A tracker of TRACKERS that has not started."""
    module, _, attribute = TRACKERS[name].where.partition(":")
    return getattr(importlib.import_module(module), attribute)()
