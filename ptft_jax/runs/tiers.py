"""Checkpoints on a machine's own disk, more often than in the workdir: what a run goes on from where the machines are still there."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax

from ptft_jax.data import cache
from ptft_jax.errors import UserError
from ptft_jax.parallel import processes
from ptft_jax.runs.checkpoint import Damaged, named_leaves, read_meta, together
from ptft_jax.runs.saving import Checkpoints, Resumed, read_state
from ptft_jax.runs.state import TrainState
from ptft_jax.runs.workdir import Workdir

_LAYOUT = "layout"  # in the meta


class Local:
    """The newest checkpoint of one run in a folder of its own below `root`, by its workdir and its identity: neither a copy of the workdir
    nor another run in its place finds it. Of several processes each has a folder, with what its devices hold: as many processes and the
    same layout are needed to go on from it. All have to call whatever is called."""

    def __init__(self, root: pathlib.Path, workdir: pathlib.Path, mode: str):
        """`workdir`: of a run that has an identity already; `mode` as of `Checkpoints`."""
        place, self._count = workdir.absolute(), jax.process_count()
        run_id = processes.shared(Workdir(workdir).run_id if processes.main() else "")
        of = hashlib.sha256(f"{place}\n{run_id}".encode()).hexdigest()[:16]
        self.folder = self._shared = root / f"{place.name}-{of}"
        if self._count > 1:  # they may be on one machine
            self.folder = self._shared / f"process-{jax.process_index()}-of-{self._count}"
        self._drop_partial()
        self._checkpoints = together(lambda: self._opened(root, mode))

    def _opened(self, root: pathlib.Path, mode: str) -> Checkpoints:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Of several processes one may have finished a step that another has not.
            latest = 1 if self._count == 1 else 2
            return Checkpoints(self.folder, keep_latest=latest, keep_best=1, mode=mode, alone=self._count > 1)
        except OSError as e:
            raise UserError(f"config.checkpoint.local = {str(root)!r}: cannot be written: {e.strerror or e}") from e

    def _drop_partial(self) -> None:
        """Removes the steps that some processes have and others have not: machines were lost, or ended while they saved."""
        here = Workdir(self.folder)
        everywhere = set.intersection(*map(set, processes.gather(here.steps())))
        for step in set(here.steps()) - everywhere:
            shutil.rmtree(here.checkpoint(step).path, ignore_errors=True)
        processes.gather(None)

    def newer(self, than: int, like: TrainState, params_like: Mapping[str, Any]) -> tuple[Resumed | None, str]:
        """What it has of a step after `than`, as `Checkpoints.resume` gives it; and what is to be said of one that cannot be gone on from:
        one that is damaged is set aside. What the run does not go on from in this form is removed: it will come to these steps again."""
        layout = self._layout(params_like)
        found = self._newest(than, like, params_like, layout)
        self._drop_other_forms(layout)
        return found

    def _newest(
        self, than: int, like: TrainState, params_like: Mapping[str, Any], layout: str
    ) -> tuple[Resumed | None, str]:
        said = ""
        for step in reversed(processes.shared(self._checkpoints.steps())):
            if step <= than:
                break
            try:
                meta = together(lambda step=step: read_meta(self.folder, step))  # type: ignore[misc]
                if meta.get(_LAYOUT, "") != layout:
                    said = f"checkpoint {step} in {self.folder} is of another mesh, and is not gone on from"
                    continue
                return read_state(self.folder, step, like, params_like, alone=self._count > 1), said
            except Damaged as e:
                said = f"checkpoint {step} in {self.folder} is damaged, and is not gone on from: {e}"
                self._checkpoints.set_aside(step)
        return None, said

    def _drop_other_forms(self, layout: str) -> None:
        """Removes what another mesh or another number of processes has left."""
        others = []
        for step in processes.shared(self._checkpoints.steps()):
            with contextlib.suppress(Damaged):  # is seen when it is read
                if together(lambda step=step: read_meta(self.folder, step)).get(_LAYOUT, "") != layout:  # type: ignore[misc]
                    others.append(step)
        self._checkpoints.discard(others)
        if self._count == 1:
            left = self._shared.glob("process-*")
        else:
            left = (path for path in self._shared.iterdir() if not path.name.endswith(f"-of-{self._count}"))
        for path in left:
            shutil.rmtree(path, ignore_errors=True)

    def save(self, state: TrainState, params: Mapping[str, Any], meta: dict[str, Any]) -> None:
        """As `Checkpoints.save`, of a step at which nothing was measured."""
        self._checkpoints.save(state, params, {**meta, _LAYOUT: self._layout(params)}, None)

    def _layout(self, params: Mapping[str, Any]) -> str:
        """What tells which part of each array is where; "" of one process, which has all of them."""
        if self._count == 1:
            return ""
        leaves = {path: leaf.sharding for path, leaf in named_leaves(params).items()}
        devices = {
            f"{device.id} {device.process_index}" for sharding in leaves.values() for device in sharding.device_set
        }
        return cache.digest(*sorted(devices), *(f"{path} {sharding}" for path, sharding in sorted(leaves.items())))

    def close(self, finished: bool, failed: type | None = None) -> None:
        """Waits for what is being saved; of a run that has ended nothing is left. `failed`: as of an `__exit__`."""
        self._checkpoints.__exit__(failed)
        if finished:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # of others there
                self._shared.rmdir()


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
            self.local = Local(self._root, self._workdir, self._mode)

    def resume(self, like: TrainState, params_like: Mapping[str, Any]) -> Resumed | None:
        """The newest checkpoint of both, as `Checkpoints.resume` has it. Raises UserError as that does."""
        said, steps = "", processes.shared(self._checkpoints.steps()) if self._root is not None else []
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
