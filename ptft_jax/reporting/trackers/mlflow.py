"""MLflow. Where it keeps things is said by its own variables: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME; by default in the workdir."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.reporting.trackers.base import FAILED, FINISHED, STOPPED, Launch, flat

_STATUS = {FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}
_EXPERIMENT = "ptft_jax"
_MOST_PARAMS, _LONGEST = 100, 6000  # that MLflow takes at once, and of one


class Mlflow:
    """One run of MLflow's, of an experiment; without MLFLOW_TRACKING_URI in WORKDIR/mlflow/mlflow.db."""

    def start(self, launch: Launch) -> str:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        folder = launch.workdir / "mlflow"
        uri, files = os.environ.get("MLFLOW_TRACKING_URI", ""), None
        if not uri:
            folder.mkdir(exist_ok=True)
            uri, files = f"sqlite:///{(folder / 'mlflow.db').absolute()}", (folder / "artifacts").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        if launch.tracked_as:
            self._id = launch.tracked_as
            self._client.update_run(self._id, status="RUNNING")
            return self._id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifact_location=files)
        run = self._client.create_run(experiment, run_name=launch.workdir.name, tags={"ptft_jax.run_id": launch.run_id})
        self._id = run.info.run_id
        params = [Param(_name(name), str(value)[:_LONGEST]) for name, value in flat(launch.config).items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + _MOST_PARAMS])
        return self._id

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1e3)
        metrics = [Metric(_name(f"{kind}/{name}"), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def texts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        name = "selected" if rows[0].get("selected") else f"step_{step}"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._client.log_text(self._id, lines, f"samples/{name}.jsonl")

    def close(self, status: str) -> None:
        self._client.set_terminated(self._id, _STATUS[status])


def _name(name: str) -> str:
    """The name with what MLflow does not allow replaced."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]
