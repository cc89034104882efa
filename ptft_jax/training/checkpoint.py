"""Checkpoints through Orbax: asynchronous, atomic, verified by checksums of our own.

A step's folder is an Orbax composite: `params` (whole parameters, or only what trains where the rest is another run's,
see `base` in the meta), `training` (optimizer, rng, the parameters of step 0 where they are needed), `ema` (when there is an average), `fisher` (when
parameters have an importance) and `meta` (JSON: step, data
position, the loop's own state, metrics, checksums).

Orbax makes a save all-or-nothing, but does not notice a flipped byte, and does not fall back to an older step. The
checksums and `restorable` do.
"""

from __future__ import annotations

import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.parallel import processes
from ptft_jax.params import fingerprint
from ptft_jax.params.rules import flatten, path_of, unflatten
from ptft_jax.training.state import TrainState

FOLDER = "checkpoints"
DAMAGED = "checkpoints-damaged"
_OPTIONAL = ("ema", "fisher")  # items of their own: other runs read them


class Damaged(Exception):
    """A checkpoint whose files are missing, unreadable, or hold other values than were saved."""


def _named_leaves(tree: Any) -> dict[str, Any]:
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _training(state: TrainState) -> dict[str, Any]:
    """What of a state is needed only to continue the run itself."""
    anchor = {"anchor": state.anchor} if state.anchor else {}
    return {"optimizer": state.optimizer, "rng": state.rng, **anchor}


class Checkpoints:
    """The checkpoints of one run, for writing and resuming."""

    def __init__(self, workdir: pathlib.Path, *, keep_latest: int, keep_best: int, mode: str):
        self.folder = pathlib.Path(workdir).absolute() / FOLDER
        self._worst = math.inf if mode == "min" else -math.inf
        best = checkpoint_managers.BestN(get_metric_fn=lambda m: m["selected"], reverse=mode == "min", n=keep_best)
        policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(keep_latest), best])
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, cleanup_tmp_directories=True, create=True
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self.folder, options=self._options)

    def save(self, state: TrainState, params: Mapping[str, Any], meta: dict[str, Any], selected: float | None) -> None:
        """Starts saving the state as step `state.step`; returns when the arrays may be overwritten.

        Args:
          params: the stored leaves to save (all, or only the trainable ones).
          meta: JSON-able; checksums are added to it.
          selected: value of the metric that ranks checkpoints, None where it was not measured at this step.

        Raises:
          UserError: an earlier save failed (disk full, ...).
        """
        step = int(state.step)
        items = {"params": dict(params), "training": _training(state)}
        items |= {name: getattr(state, name) for name in _OPTIONAL if getattr(state, name)}
        sums = {name: fingerprint.checksums(_named_leaves(tree)) for name, tree in items.items()}
        meta = {**meta, "step": step, "checksums": sums, "fingerprint": fingerprint.fingerprint(sums["params"])}
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        args["meta"] = ocp.args.JsonSave(meta)
        metrics = {"selected": self._worst if selected is None else float(selected)}
        if step in self._manager.all_steps():
            return  # the same step of the same run: bit for bit what is there
        try:
            self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics)
        except (OSError, ValueError, RuntimeError) as e:
            raise _save_failed(self.folder, e) from e

    def wait(self) -> None:
        """Blocks until everything is on disk. Raises UserError where it is not."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as e:
            raise _save_failed(self.folder, e) from e

    def close(self) -> None:
        """Waits and releases threads."""
        self.wait()
        self._manager.close()

    def steps(self) -> list[int]:
        """Saved steps, oldest first."""
        return steps_of(self.folder.parent)

    def resume(
        self, like: TrainState, params_like: Mapping[str, Any]
    ) -> tuple[dict, Any, dict, dict, list[str]] | None:
        """The newest restorable step: (params, training, {"ema", "fisher"}, meta, messages), or None without any.

        Damaged newer steps are moved aside, never deleted, and named in the messages.

        Args:
          like: the state's form as ShapeDtypeStructs with shardings; likewise `params_like` for the saved leaves.

        Raises:
          UserError: there are checkpoints, but none can be restored.
        """
        steps, messages = processes.shared(self.steps()), []
        for step in reversed(steps):
            try:
                meta = read_meta(self.folder.parent, step)
                params = read(self.folder.parent, step, "params", params_like, meta)
                training = read(self.folder.parent, step, "training", _training(like), meta)
                form = {name: getattr(like, name) for name in _OPTIONAL}
                others = {k: read(self.folder.parent, step, k, v, meta) if v else {} for k, v in form.items()}
            except Damaged as e:
                messages.append(f"checkpoint {step} is damaged and was moved to {DAMAGED}/: {e}")
                self._set_aside(step)
                continue
            return params, training, others, meta, messages
        if steps:
            raise UserError(f"{self.folder}: no checkpoint can be restored:{listed(messages)}")
        return None

    def _set_aside(self, step: int) -> None:
        self._manager.close()
        if processes.main():
            target = self.folder.parent / DAMAGED / str(step)
            while target.exists():
                target = target.with_name(target.name + "+")
            target.parent.mkdir(exist_ok=True)
            shutil.move(self.folder / str(step), target)
        processes.gather(None)  # none opens it before it is as it will be
        self._manager = self._open()


def _save_failed(folder: pathlib.Path, error: Exception) -> UserError:
    space = shutil.disk_usage(folder if folder.exists() else folder.parent)
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(
        f"{folder}: saving failed ({space.free / 2**20:.0f} MiB free on that disk): {reason[:300]}\n"
        "Earlier checkpoints are untouched; free some space and run the same command again to continue"
    )


def steps_of(workdir: pathlib.Path) -> list[int]:
    """Completed steps on disk, oldest first. Half-written ones have another name and do not count."""
    folder = pathlib.Path(workdir) / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())


def resolve(reference: str, field: str = "config.init.from") -> tuple[pathlib.Path, int]:
    """WORKDIR, WORKDIR@STEP, WORKDIR@latest or WORKDIR@best to (workdir, step). No suffix means latest.

    Raises:
      UserError: no such folder, no run or no checkpoint in it, or no such step (with those there are).
    """
    name, which = reference, ""
    if "@" in reference and not pathlib.Path(reference).expanduser().is_dir():
        name, _, which = reference.rpartition("@")
    workdir = pathlib.Path(name).expanduser()
    if workdir.suffix == ".gguf" and workdir.is_file():
        raise UserError(f"{field} = {reference!r}: a GGUF file is named as gguf:{name}")
    if workdir.is_dir() and any(workdir.glob("*.safetensors*")):
        raise UserError(f"{field} = {reference!r}: a folder of weights, not a run, is named as hf:{name}")
    if not workdir.is_dir():
        parent = workdir.parent
        beside = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        raise UserError(f"{field} = {reference!r}: no such folder {workdir}{nearest(workdir.name, beside)}")
    if not (workdir / "config.json").is_file():
        runs = [str(p.parent.relative_to(workdir)) for p in sorted(workdir.glob("*/config.json"))]
        inside = f"; runs in it:{listed(runs)}" if runs else ""
        raise UserError(f"{field} = {reference!r}: {workdir} is not the workdir of a run (no config.json){inside}")
    steps = steps_of(workdir)
    if not steps:
        raise UserError(f"{field} = {reference!r}: {workdir} has no finished checkpoint")
    if which in ("", "latest"):
        return workdir, steps[-1]
    if which == "best":
        return workdir, best_step(workdir)
    if which.isdigit() and int(which) in steps:
        return workdir, int(which)
    known = ", ".join(map(str, steps))
    raise UserError(f"{field} = {reference!r}: expected @latest, @best or @STEP with STEP one of {known}")


def best_step(workdir: pathlib.Path) -> int:
    """The saved step with the best value of the run's selection metric; the latest where none was measured."""
    ranked = []
    for step in steps_of(workdir):
        try:
            meta = read_meta(workdir, step)
        except Damaged:
            continue
        if meta.get("selected") is not None:
            sign = 1 if meta["select_mode"] == "min" else -1
            ranked.append((sign * meta["selected"], step))
    return min(ranked)[1] if ranked else steps_of(workdir)[-1]


def _item(workdir: pathlib.Path, step: int, name: str) -> pathlib.Path:
    return pathlib.Path(workdir).absolute() / FOLDER / str(step) / name


def read_meta(workdir: pathlib.Path, step: int) -> dict[str, Any]:
    """The meta of a step. Raises Damaged."""
    folder = _item(workdir, step, "meta")
    try:
        return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder)
    except Exception as e:  # whatever a broken file makes the library raise
        raise Damaged(f"{folder}: {_short(e)}") from e


def shapes(workdir: pathlib.Path, step: int, name: str = "params") -> dict[str, Any]:
    """The saved tree of an item as ShapeDtypeStructs, without reading its arrays. Raises Damaged."""
    folder = _item(workdir, step, name)
    try:
        tree = ocp.StandardCheckpointer().metadata(folder).item_metadata.tree
        return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), tree)
    except Exception as e:
        raise Damaged(f"{folder}: {_short(e)}") from e


def read(workdir: pathlib.Path, step: int, name: str, like: Any, meta: Mapping[str, Any]) -> Any:
    """Restores an item into the form, dtypes and shardings of `like` and verifies its checksums.

    Raises:
      UserError: the saved tree has other leaves or shapes than `like`.
      Damaged: files missing or broken, or values that are not those that were saved.
    """
    folder = _item(workdir, step, name)
    saved = meta["checksums"].get(name)
    if saved is None:
        raise Damaged(f"{folder}: the meta of step {step} does not list it")
    if name != "training":  # the optimizer's tree is no plain dict; Orbax itself refuses another one
        differences = compare(shapes(workdir, step, name), like)
        if differences:
            raise UserError(f"{folder} does not fit this model:{listed(differences, 20)}")
    tree, problem, cause = None, "", None
    try:
        tree = ocp.StandardCheckpointer().restore(folder, like)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree)):
            problem = "some leaves were not restored"
    except Exception as e:
        problem, cause = _short(e), e
    problem = next(filter(None, processes.gather(problem)), "")  # each process reads its own parts of the arrays
    if problem:
        raise Damaged(f"{folder}: {problem}") from cause
    found = fingerprint.checksums(_named_leaves(tree))
    wrong = [path for path in found if found[path] != saved.get(path)]
    if wrong:
        raise Damaged(f"{folder}: values changed on disk:{listed(wrong)}")
    return tree


def read_leaf(workdir: pathlib.Path, step: int, name: str, path: str, leaf: Any, meta: Mapping[str, Any]) -> np.ndarray:
    """One leaf of an item on the host, the others left unread, verified by its checksum.

    Args:
      path: of the stored leaf; `leaf`: its entry in `shapes`.

    Raises:
      Damaged: as `read`.
    """
    folder = _item(workdir, step, name)
    like = unflatten({path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)})
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    try:
        with ocp.PyTreeCheckpointer() as reader:
            args = ocp.args.PyTreeRestore(item=like, restore_args=kinds, partial_restore=True)
            array = flatten(reader.restore(folder, args=args))[path]
    except Exception as e:
        raise Damaged(f"{folder}: {path}: {_short(e)}") from e
    if fingerprint.checksums({path: array})[path] != meta["checksums"].get(name, {}).get(path):
        raise Damaged(f"{folder}: values changed on disk:{listed([path])}")
    return array


def compare(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Every way in which two trees of shaped leaves differ, a line each: missing, extra, another shape."""
    have, want = flatten(found), flatten(expected)
    lines = [f"missing {path} {tuple(want[path].shape)}" for path in want if path not in have]
    lines += [f"extra {path} {tuple(have[path].shape)}" for path in have if path not in want]
    lines += [
        f"{path}: shape {tuple(have[path].shape)}, expected {tuple(want[path].shape)}"
        for path in want
        if path in have and tuple(have[path].shape) != tuple(want[path].shape)
    ]
    return lines


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
