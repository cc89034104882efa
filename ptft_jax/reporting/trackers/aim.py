"""Aim. Its repository is the folder $AIM_REPO; by default it is in the workdir."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.reporting.trackers.base import Launch


class Aim:
    """One run of Aim's; without AIM_REPO in WORKDIR/aim, which `aim up --repo WORKDIR/aim` shows."""

    def start(self, launch: Launch) -> str:
        import aim

        repository = os.environ.get("AIM_REPO", "")
        if not repository:
            folder = launch.workdir / "aim"
            folder.mkdir(exist_ok=True)
            repository = str(folder)
        self._text = aim.Text
        self._run = aim.Run(
            run_hash=launch.tracked_as or None,
            repo=repository,
            experiment=os.environ.get("AIM_EXPERIMENT") or "ptft_jax",
            system_tracking_interval=None,
            log_system_params=False,
            capture_terminal_logs=False,
        )
        self._run.name = launch.workdir.name
        self._run["config"] = dict(launch.config)
        self._run["run_id"] = launch.run_id
        return self._run.hash

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._run.track(value, name=f"{kind}/{name}", step=step)

    def texts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        name = "selected samples" if rows[0].get("selected") else "samples"
        self._run.track([self._text(f"{row['prompt']}{row['text']}") for row in rows], name=name, step=step)

    def close(self, status: str) -> None:
        self._run["status"] = status
        self._run.close()
