"""Nodes as tasks of a Ray cluster: that of $RAY_ADDRESS, else one that is started on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.experiments.executors import elsewhere
from ptft_jax.experiments.executors.base import Outcome, Task


class OnRay:
    """Implements `ptft_jax.experiments.executors.base.Executor`. All machines need the same versions and one file system."""

    here = False

    def __init__(self, slots: int = 1):
        """`slots`: tasks at a time, among which the GPUs of the cluster are shared out. Raises UserError where Ray is not installed, or no
        cluster is reached."""
        try:
            import ray
        except ImportError as e:
            raise UserError(f"--executor=ray needs the package ray: pip install 'ptft_jax[ray]' ({e})") from e
        self._ray, self.slots = ray, slots
        self._own = not ray.is_initialized()
        try:
            if self._own:
                ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise UserError(f"--executor=ray: no cluster: {e}") from e
        gpus = ray.cluster_resources().get("GPU", 0.0)
        # Ray tries again by itself where a machine is gone: how often is the experiment's to say. Each task has a fresh process.
        options = {"max_retries": 0, "max_calls": 1, "num_cpus": 1, "num_gpus": gpus // slots}
        self._remote = ray.remote(**options)(elsewhere.carry_out)
        self._names: dict[Any, str] = {}
        self._asked = elsewhere.described()

    def start(self, task: Task) -> None:
        self._names[self._remote.remote(dataclasses.asdict(task), self._asked)] = task.name

    def ended(self, timeout: float) -> tuple[str, Outcome] | None:
        ready, _ = self._ray.wait(list(self._names), timeout=timeout) if self._names else ((), ())
        for reference in ready:
            return self._names.pop(reference), self._outcome(reference)
        return None

    def _outcome(self, reference: Any) -> Outcome:
        errors = self._ray.exceptions
        try:
            found: Mapping[str, Any] = self._ray.get(reference)
        except errors.TaskCancelledError:
            return Outcome("interrupted", "it was asked to leave")
        except errors.OutOfMemoryError as e:
            return Outcome("out_of_memory", _first_line(e))
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError, errors.OwnerDiedError) as e:
            return Outcome("killed", f"Ray: {_first_line(e)}")
        except errors.RayError as e:
            return Outcome("failed", f"Ray: {_first_line(e)}")
        return Outcome(**found)

    def stop(self) -> None:
        for reference in self._names:
            self._ray.cancel(reference, force=False)

    def close(self) -> None:
        for reference in self._names:
            self._ray.cancel(reference, force=True)
        if self._own:
            self._ray.shutdown()


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
