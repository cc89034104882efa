"""Weights & Biases. Where it sends things, and as whom, is said by its own variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.reporting.trackers.base import FAILED, Launch


class Wandb:
    """One run at W&B, with files below WORKDIR/wandb. WANDB_RUN_ID, as sweeps set it, wins over the run's own id."""

    def start(self, launch: Launch) -> str:
        import wandb

        self._wandb, self._last = wandb, -1
        self._run = wandb.init(
            id=os.environ.get("WANDB_RUN_ID") or launch.tracked_as or launch.run_id,
            resume="allow",
            name=os.environ.get("WANDB_NAME") or launch.workdir.name,
            dir=str(launch.workdir),
            config=dict(launch.config),
            # Neither another run of this process nor what it prints is any of its business.
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        return self._run.id

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        self._log(step, {f"{kind}/{name}": value for name, value in values.items()})

    def texts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = self._wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])
        self._log(step, {"selected samples" if rows[0].get("selected") else "samples": table})

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if step < self._last:  # of the best step, at the end; a step that is over takes nothing more
            self._run.summary.update(values)
            return
        self._last = step
        self._run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        self._run.finish(exit_code=int(status == FAILED))
