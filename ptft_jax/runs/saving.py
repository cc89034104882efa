"""Writing a run's checkpoints: asynchronously, all or nothing, seen on disk before they count; keeping some; resuming."""

from __future__ import annotations

import errno
import glob
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypedDict

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import type_handlers

from ptft_jax.data import cache, jsons
from ptft_jax.errors import UserError, listed
from ptft_jax.parallel import processes
from ptft_jax.params import fingerprint
from ptft_jax.runs import manifest, pins, retention
from ptft_jax.runs.checkpoint import (
    Damaged,
    check_files,
    compare,
    forms,
    named_leaves,
    read,
    read_meta,
    records,
    shapes,
    together,
)
from ptft_jax.runs.files import read_json
from ptft_jax.runs.state import TrainState
from ptft_jax.runs.workdir import Workdir

_ARRAYS = ("params", "training", "ema", "fisher")
_OPTIONAL = ("ema", "fisher")  # items of their own: other runs read them
_WRITING, _REMOVING = ".orbax-checkpoint-tmp", ".removing"  # in the names of folders that are no checkpoints (any more)


class Resumed(NamedTuple):
    """What a run continues from: the stored leaves, `TrainState`'s fields by name in `training` and `others`, the meta, and
    what to say to people."""

    params: dict[str, Any]
    training: dict[str, Any]
    others: dict[str, Any]
    meta: dict[str, Any]
    messages: list[str]


def _training(state: TrainState) -> dict[str, Any]:
    """What of a state is needed only to continue the run itself."""
    anchor = {"anchor": state.anchor} if state.anchor else {}
    return {"optimizer": state.optimizer, "rng": state.rng, **anchor}


class _Literal(type(epath.Path())):  # type: ignore[misc]  # which class that is depends on the platform
    """A path whose folders are no patterns: `glob` of the class above looks for them as if they were."""

    def glob(self, pattern: str) -> Any:
        return map(self._new, glob.glob(os.path.join(glob.escape(os.fspath(self)), pattern)))


def _arrays(alone: bool) -> Any:
    """What writes arrays: of all processes into one folder, or (`alone`) of each into one of its own what its devices hold."""
    handler = _own_parts() if alone else ocp.StandardCheckpointHandler()
    merge = handler.finalize
    # It joins the files of all processes, which it finds by a pattern: none for "lr[0.1]", and what it wrote is unreadable.
    handler.finalize = lambda directory: merge(_Literal(directory))
    return handler


# Every process writes all that is to be written, into a folder of its own.
_EACH = ocp.options.MultiprocessingOptions(primary_host=None)


def _own_parts() -> ocp.PyTreeCheckpointHandler:
    parts = type_handlers.ArrayHandler(primary_host=None, replica_id=None, use_replica_parallel=False)
    registry = type_handlers.create_type_handler_registry((jax.Array, parts))
    return ocp.PyTreeCheckpointHandler(multiprocessing_options=_EACH, type_handler_registry=registry)


class _Rule(TypedDict):
    """Which checkpoints stay, see `ptft_jax.runs.retention.kept`."""

    mode: str
    latest: int
    best: int


class Checkpoints:
    """The checkpoints of one run, for writing and resuming. There is one at a time for a workdir, its owner's.

    A context: leaving it waits for what is being saved and releases threads.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep_latest: int,
        keep_best: int,
        mode: str,
        settled: Callable[[], None] = lambda: None,
        alone: bool = False,
    ):
        """
        Args:
          settled: is called when a save is complete and what is not kept is removed, perhaps in a thread; it raises UserError.
          alone: of several processes each has a folder of its own, for what its devices hold.
        """
        self._settled, self._alone = settled, alone
        self._writes = alone or processes.main()
        self.workdir = pathlib.Path(workdir).absolute()
        self._here = Workdir(self.workdir)
        self.folder = self._here.checkpoints
        self._rule: _Rule = {"mode": mode, "latest": keep_latest, "best": keep_best}
        self._expected: dict[str, int] = {}  # leaves by item, of what is being saved
        self._finishing: threading.Thread | None = None
        self._failure: Exception | None = None
        handlers = {name: _arrays(alone) for name in _ARRAYS}
        among = {"multiprocessing_options": _EACH} if alone else {}
        # What tells that a folder is there is told by any process of all: each would write before its own is.
        options = ocp.AsyncOptions(
            post_finalization_callback=self._check_written, create_directories_asynchronously=not alone
        )
        self._writer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(async_options=options, **among),
                meta=ocp.JsonCheckpointHandler(**among),
                **handlers,
            ),
            async_options=options,
            **among,
        )
        if self._writes:
            if self.folder.exists() and not self.folder.is_dir():
                raise UserError(f"{self.folder}: is a file, and checkpoints are to be saved in a folder of this name")
            for left in self.folder.iterdir() if self.folder.is_dir() else ():
                if _WRITING in left.name or left.name.endswith(_REMOVING):
                    shutil.rmtree(left, ignore_errors=True)
            self._saved = {record.step: record for record in records(self.workdir)}
            self._settle(seen=False)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        try:
            self.close()
        except UserError:  # the first error is the one that is told
            self._writer.close()

    def save(self, state: TrainState, params: Mapping[str, Any], meta: dict[str, Any], selected: float | None) -> None:
        """Starts saving the state as step `state.step`; returns when the arrays may be overwritten.

        Where that step is there already, it holds the same state, and only what is new in `meta` is added.

        Args:
          params: the stored leaves to save (all, or only the trainable ones).
          meta: JSON-able; checksums are added to it.
          selected: value of the metric that ranks checkpoints, None where it was not measured at this step.

        Raises:
          UserError: this save or an earlier one failed (disk full, ...).
        """
        self.wait()
        step = int(state.step)
        meta = {**meta, "selected": selected, "select_mode": self._rule["mode"]}
        record = retention.Saved(step, selected, meta.get("best", [None, -1])[1])
        if step in processes.shared(self.steps()):
            self._amend(record, meta)
            return
        items = {"params": dict(params), "training": _training(state)}
        items |= {name: getattr(state, name) for name in _OPTIONAL if getattr(state, name)}
        leaves = {name: named_leaves(tree) for name, tree in items.items()}
        self._expected = {name: len(found) for name, found in leaves.items()}
        sums = {name: fingerprint.checksums(found) for name, found in leaves.items()}
        meta = {
            **meta,
            "step": step,
            "checksums": sums,
            "shapes": {name: forms(tree) for name, tree in items.items()},
            "fingerprint": fingerprint.fingerprint(sums["params"]),
        }
        if self._writes:
            self.folder.mkdir(parents=True, exist_ok=True)
        form = ocp.args.PyTreeSave if self._alone else ocp.args.StandardSave
        args = {name: form(tree) for name, tree in items.items()}
        try:
            self._writer.save(self.folder / str(step), args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args))
        except (OSError, ValueError, RuntimeError) as e:
            raise _save_failed(self.folder, e) from e
        self._finishing = threading.Thread(target=self._finish, args=(record,), name="finish_save")
        self._finishing.start()

    def _check_written(self) -> None:
        """Called when all is written and before it counts: sees that it is there, and records which files it is. Raises OSError."""
        [folder] = self.folder.glob(f"*{_WRITING}*")
        for name, expected in self._expected.items():
            found = len(named_leaves(ocp.StandardCheckpointHandler().metadata(folder / name)))
            if found != expected:
                raise OSError(f"{folder / name}: {found} of {expected} arrays were written")
        manifest.write(folder, (*self._expected, "meta"))

    def _finish(self, record: retention.Saved) -> None:
        try:
            self._writer.wait_until_finished()
            if self._writes:
                self._saved[record.step] = record
                self._settle()
                self._settled()
        except Exception as e:  # told by `wait`
            self._failure = e

    def _newest_is_whole(self) -> bool:
        try:
            return not manifest.damage(self._here.checkpoint(max(self._saved)).path, contents=True)
        except OSError:
            return False

    def _settle(self, seen: bool = True) -> None:
        """Removes what the rule does not keep, and notes how far the run has come: in this order, as there may be no space until
        something is removed. `seen`: the newest was found to be whole."""
        if not self._saved:
            return
        self._remove(seen)
        text = json.dumps({"step": max(self._saved)}) + "\n"
        cache.write_atomic(self._here.progress, lambda path: path.write_text(text, encoding="utf-8"))

    def _remove(self, seen: bool) -> None:
        stay = retention.kept(list(self._saved.values()), pinned=pins.steps(self.workdir), **self._rule)
        doomed = sorted(set(self._saved) - stay)
        if doomed and not seen and not self._newest_is_whole():
            return  # those before it may be needed
        for step in doomed:
            # First another name: no reader finds half of a checkpoint under this one.
            folder = self._here.checkpoint(step).path
            aside = folder.with_name(folder.name + _REMOVING)
            folder.rename(aside)
            if step in pins.steps(self.workdir):  # by somebody who saw it before that
                aside.rename(folder)
                continue
            del self._saved[step]
            shutil.rmtree(aside)

    def discard(self, steps: Iterable[int]) -> None:
        """Removes steps for good. All processes have to call it."""
        self.wait()
        if self._writes:
            for step in steps:
                folder = self._here.checkpoint(step).path
                shutil.rmtree(folder.rename(folder.with_name(folder.name + _REMOVING)))
                self._saved.pop(step, None)
        processes.gather(None)  # none looks before it is as it will be

    def _amend(self, record: retention.Saved, meta: Mapping[str, Any]) -> None:
        if not self._writes:
            return
        measured = record.selected is not None or bool(meta.get("metrics"))
        done = not meta.get("pending")  # and perhaps was not when the step was saved
        if not measured and not (done and read_meta(self.workdir, record.step).get("pending")):
            return
        path = self._here.checkpoint(record.step).amended
        cache.write_atomic(
            path, lambda temporary: temporary.write_text(json.dumps(jsons.with_checksum(meta)), encoding="utf-8")
        )
        self._saved[record.step] = record
        self._settle()
        self._settled()

    def wait(self) -> None:
        """Blocks until everything is on disk. Raises UserError where it is not."""
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        failure, self._failure = self._failure, None
        if isinstance(failure, UserError):
            raise failure
        if failure is not None:
            raise _save_failed(self.folder, failure) from failure

    def close(self) -> None:
        """Waits and releases threads."""
        self.wait()
        self._writer.close()

    def steps(self) -> list[int]:
        """Saved steps, oldest first."""
        return self._here.steps()

    def resume(self, like: TrainState, params_like: Mapping[str, Any]) -> Resumed | None:
        """The newest step that can be restored, or None where none was ever saved.

        Damaged newer steps are moved aside, never deleted, and named in the messages. Where several processes share the run,
        all take the same step.

        Args:
          like: the state's form as ShapeDtypeStructs with shardings; likewise `params_like` for the saved leaves.

        Raises:
          UserError: there were checkpoints, and none can be restored; or one that is not damaged cannot be read, be it for
            its form or for lack of memory. Then nothing was changed.
        """
        steps = processes.shared(self.steps())
        messages: list[str] = []
        for step in reversed(steps):
            try:
                return read_state(self.workdir, step, like, params_like)._replace(messages=messages)
            except Damaged as e:
                messages.append(f"checkpoint {step} is damaged and was moved to {self._here.damaged.name}/: {e}")
                self.set_aside(step)
        if messages:
            raise UserError(f"{self.folder}: no checkpoint can be restored:{listed(messages)}")
        self._refuse_lost()
        return None

    def _refuse_lost(self) -> None:
        path = self._here.progress
        last = processes.shared(read_json(path).get("step", "unknown") if path.is_file() else None)
        if last is None:
            return
        aside = self._here.damaged
        where = f"; damaged ones are in {aside}" if aside.is_dir() else ""
        raise UserError(
            f"{self.workdir}: the run had checkpoints, the last of step {last}, and {self.folder} has none{where}.\n"
            f"Put them back, or choose another --workdir; without {path} the run begins again at step 0"
        )

    def set_aside(self, step: int) -> None:
        """Moves a damaged step to where damaged ones are kept."""
        self.wait()
        if self._writes:
            target = self._here.damaged / str(step)
            while target.exists():
                target = target.with_name(target.name + "+")
            target.parent.mkdir(exist_ok=True)
            shutil.move(self.folder / str(step), target)
            self._saved.pop(step, None)
        processes.gather(None)  # none looks before it is as it will be


def read_state(
    workdir: pathlib.Path, step: int, like: TrainState, params_like: Mapping[str, Any], alone: bool = False
) -> Resumed:
    """All of a saved state, as `Checkpoints.resume` has it; `alone` as of `Checkpoints`.

    Raises:
      Damaged: proven by its files or the checksums of its arrays.
      UserError: it has another form than `like`, or cannot be read though it is not damaged.
    """
    folder = Workdir(workdir).checkpoint(step).path
    meta = together(lambda: read_meta(workdir, step))
    trees = {"params": dict(params_like), "training": _training(like)}
    trees |= {name: getattr(like, name) for name in _OPTIONAL if getattr(like, name)}

    def checked() -> None:
        check_files(workdir, step, contents=False)
        if lacking := [name for name in trees if name not in meta["checksums"]]:
            raise UserError(f"{folder}: was saved without {lacking[0]!r}, which this run needs. {_OTHER_FORM}")
        if unread := [name for name in meta["checksums"] if name not in trees]:
            raise UserError(f"{folder}: was saved with {unread[0]!r}, which this run has not. {_OTHER_FORM}")
        for name, tree in trees.items():
            if differences := compare(shapes(workdir, step, name), tree, dtypes=True):
                raise UserError(
                    f"{folder / name}: was saved in another form than this run has:{listed(differences, 20)}\n{_OTHER_FORM}"
                )

    together(checked)
    found = {name: read(workdir, step, name, tree, meta, alone) for name, tree in trees.items()}
    return Resumed(found["params"], found["training"], {n: found.get(n, {}) for n in _OPTIONAL}, meta, [])


_OTHER_FORM = (
    "It is not damaged, and nothing was changed. Go on with the settings and the version of ptft_jax that it was made with (config.json, "
    "environment.json), or start another run from its parameters alone, by init.from"
)


def _save_failed(folder: pathlib.Path, error: Exception) -> UserError:
    space = shutil.disk_usage(folder if folder.exists() else folder.parent)
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    full = any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    remedy = "free some space" if full else "see to what the message names"
    return UserError(
        f"{folder}: saving failed ({space.free / 2**20:.0f} MiB free on that disk): {reason[:300]}\n"
        f"Earlier checkpoints are untouched; {remedy} and run the same command again to continue"
    )
