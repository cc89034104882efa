"""The services that `config.log.trackers` can name: what is to know of each before it is loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.config.located import located
from ptft_jax.errors import UserError, few, nearest

_HERE = "ptft_jax.reporting.trackers"


@dataclasses.dataclass(frozen=True)
class TrackerSpec:
    """A service that tracks runs.

    Attributes:
      tracker: the class of `ptft_jax.reporting.trackers.base.Tracker`, or its place, "package.module:name". It is made without
        arguments.
      packages: what has to be installed; an extra of the tracker's name has them.
    """

    tracker: Any
    packages: tuple[str, ...] = ()

    def build(self) -> Any:
        """A tracker that has not started."""
        return located(self.tracker)()


TRACKERS: dict[str, TrackerSpec] = {
    "wandb": TrackerSpec(f"{_HERE}.wandb:Wandb", ("wandb",)),
    "mlflow": TrackerSpec(f"{_HERE}.mlflow:Mlflow", ("mlflow", "sqlalchemy", "alembic")),
    "aim": TrackerSpec(f"{_HERE}.aim:Aim", ("aim",)),
}


def chosen(names: Sequence[str], known: Mapping[str, TrackerSpec]) -> dict[str, TrackerSpec]:
    """Those of `known` that `config.log.trackers` names. Raises UserError for one that is not known, is named twice, or whose
    package is not installed."""
    found: dict[str, TrackerSpec] = {}
    for name in names:
        if name not in known:
            raise UserError(
                f"config.log.trackers: no tracker {name!r}: expected of {', '.join(known)}{nearest(name, known)}"
            )
        if name in found:
            raise UserError(f"config.log.trackers: {name!r} is named twice")
        missing = [package for package in known[name].packages if importlib.util.find_spec(package) is None]
        if missing:
            extra = f"'ptft_jax[{name}]'" if name in TRACKERS else " ".join(missing)
            raise UserError(
                f"config.log.trackers: {name!r} needs {few(missing)}, not installed here: pip install {extra}"
            )
        found[name] = known[name]
    return found
