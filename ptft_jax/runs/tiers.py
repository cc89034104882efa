"""Checkpoints on a machine's own disk, more often than in the workdir: what a run goes on from where the machine is still there."""

from __future__ import annotations

import hashlib
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.runs.checkpoint import Damaged
from ptft_jax.runs.saving import Checkpoints, Resumed, read_state
from ptft_jax.runs.state import TrainState
from ptft_jax.runs.workdir import Workdir


class Local:
    """The newest checkpoint of one run in a folder of its own below `root`, by its workdir and its identity: neither a copy of the workdir
    nor another run in its place finds it."""

    def __init__(self, root: pathlib.Path, workdir: pathlib.Path, mode: str):
        """`workdir`: of a run that has an identity already; `mode` as of `Checkpoints`."""
        place = workdir.absolute()
        of = hashlib.sha256(f"{place}\n{Workdir(workdir).run_id}".encode()).hexdigest()[:16]
        self.folder = root / f"{place.name}-{of}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._checkpoints = Checkpoints(self.folder, keep_latest=1, keep_best=1, mode=mode)

    def newer(self, than: int, like: TrainState, params_like: Mapping[str, Any]) -> tuple[Resumed | None, str]:
        """What it has of a step after `than`, as `Checkpoints.resume` gives it; and what is to be said of one that is damaged, which is set
        aside."""
        said = ""
        for step in reversed(self._checkpoints.steps()):
            if step <= than:
                break
            try:
                return read_state(self.folder, step, like, params_like), said
            except Damaged as e:
                said = f"checkpoint {step} in {self.folder} is damaged, and is not gone on from: {e}"
                self._checkpoints.set_aside(step)
        return None, said

    def save(self, state: TrainState, params: Mapping[str, Any], meta: dict[str, Any]) -> None:
        """As `Checkpoints.save`, of a step at which nothing was measured."""
        self._checkpoints.save(state, params, meta, None)

    def close(self, finished: bool, failed: type | None = None) -> None:
        """Waits for what is being saved; of a run that has ended nothing is left. `failed`: as of an `__exit__`."""
        self._checkpoints.__exit__(failed)
        if finished:
            shutil.rmtree(self.folder, ignore_errors=True)


class Tiers:
    """The checkpoints of a run in its workdir, and those in a folder of its machine where it has one. A context: what is being saved there
    when it is left is waited for.

    Attributes:
      local: those of the machine; None until `open`, and without a folder.
      finished: whether the run has ended, so that nothing is left there.
    """

    def __init__(self, root: pathlib.Path | None, workdir: pathlib.Path, mode: str, checkpoints: Checkpoints):
        self._root, self._workdir, self._mode, self._checkpoints = root, workdir, mode, checkpoints
        self.local: Local | None = None
        self.finished = False

    def __enter__(self) -> Tiers:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.local is not None:
            self.local.close(self.finished, kind)

    def open(self) -> None:
        """Opens the folder of the machine, once the run has an identity. Raises UserError where it cannot be written."""
        if self._root is not None and self.local is None:
            try:
                self.local = Local(self._root, self._workdir, self._mode)
            except OSError as e:
                raise UserError(
                    f"config.checkpoint.local = {str(self._root)!r}: cannot be written: {e.strerror or e}"
                ) from e

    def resume(self, like: TrainState, params_like: Mapping[str, Any]) -> Resumed | None:
        """The newest checkpoint of both, as `Checkpoints.resume` has it. Raises UserError as that does."""
        said, steps = "", self._checkpoints.steps() if self._root is not None else []
        if steps:
            self.open()
            assert self.local is not None
            newer, said = self.local.newer(steps[-1], like, params_like)
            if newer is not None:
                return newer._replace(
                    messages=[*newer.messages, f"what was saved in {self.local.folder} is newer than in the workdir"]
                )
        resumed = self._checkpoints.resume(like, params_like)
        return resumed._replace(messages=[said, *resumed.messages]) if resumed is not None and said else resumed
