"""Checkpoints of runs, by name and by what is in them: finding a step, reading it, and telling damage from other failures.

A step's folder is an Orbax composite: `params` (whole parameters, or only what trains where the rest is another run's,
see `base` in the meta), `training` (optimizer, rng, the parameters of step 0 where they are needed), `ema` (when there is an
average), `fisher` (when parameters have an importance) and `meta` (JSON: step, data position, the loop's own state, metrics,
checksums of arrays). Beside them lie a record of all files (`ptft_jax.runs.manifest`) and what was found out about the step
after it was saved (`ptft_jax.runs.workdir.Checkpoint.amended`).

Orbax makes a save all-or-nothing, but does not notice a flipped byte, and says nothing of why a read failed. The checksums of
arrays and the record of files do.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data import jsons
from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.parallel import processes
from ptft_jax.params import fingerprint
from ptft_jax.params.rules import flatten, path_of, unflatten
from ptft_jax.runs import bucket, manifest, places, retention
from ptft_jax.runs.lineage import step_parted
from ptft_jax.runs.workdir import Checkpoint, Workdir

T = TypeVar("T")
_LOOKS = 5  # for the best of a run that goes on, and saves and removes steps meanwhile


class Damaged(Exception):
    """A checkpoint that is proven to be damaged: files that are missing or cut, or that hold other values than were saved."""


class Gone(UserError):
    """A checkpoint that was there, and that its run has removed meanwhile."""


def resolve(reference: str, field: str = "config.init.from", bare: str = "best") -> tuple[pathlib.Path, int]:
    """WORKDIR, WORKDIR@best, WORKDIR@last (also @latest) or WORKDIR@STEP to (workdir, step). The best is the one that the run
    selected, and the last of a run that selected none.

    Args:
      bare: what a reference without "@" means, "best" or "last".

    Of a run in a bucket the folder is one of this machine, with that checkpoint in it.

    Raises:
      UserError: no such folder, no run or no checkpoint in it, or no such step (with those there are).
    """
    name, which = step_parted(reference)
    workdir = places.run(name, f"{field} = {reference!r}")
    step = _chosen(workdir, name, which, reference, field, bare)
    bucket.complete(workdir, step)
    return workdir, step


def _chosen(workdir: pathlib.Path, name: str, which: str, reference: str, field: str, bare: str) -> int:
    """The step that a reference, of these parts, means."""
    if workdir.suffix == ".gguf" and workdir.is_file():
        raise UserError(f"{field} = {reference!r}: a GGUF file is named as gguf:{name}")
    if workdir.is_dir() and any(workdir.glob("*.safetensors*")):
        raise UserError(f"{field} = {reference!r}: a folder of weights, not a run, is named as hf:{name}")
    if not workdir.is_dir():
        parent = workdir.parent
        beside = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        raise UserError(f"{field} = {reference!r}: no such folder {workdir}{nearest(workdir.name, beside)}")
    if not Workdir(workdir).is_run:
        runs = [str(p.relative_to(workdir)) for p in sorted(workdir.iterdir()) if Workdir(p).is_run]
        inside = f"; runs in it:{listed(runs)}" if runs else ""
        raise UserError(f"{field} = {reference!r}: {workdir} is not the workdir of a run (no config.json){inside}")
    steps = Workdir(workdir).steps()
    if not steps:
        raise UserError(f"{field} = {reference!r}: {workdir} has no finished checkpoint")
    if which.isdigit() and int(which) in steps:
        return int(which)
    if (which or bare) in ("last", "latest"):
        return steps[-1]
    if (which or bare) == "best":
        return best_step(workdir)
    known = ", ".join(map(str, steps))
    raise UserError(f"{field} = {reference!r}: expected @best, @last or @STEP with STEP one of {known}")


def named_as(reference: str, bare: str = "best") -> str:
    """As what a reference that `resolve` takes names its checkpoint: "best", "last", or "step", by its number."""
    name, which = step_parted(reference)
    if which.isdigit():
        return "step"
    folder = bucket.folder_of(name, reference) if bucket.is_url(name) else pathlib.Path(name).expanduser()
    best = (which or bare) == "best" and best_steps(folder)
    return "best" if best else "last"


def records(workdir: pathlib.Path) -> list[retention.Saved]:
    """What ranks the checkpoints of a run, oldest first. One whose meta cannot be read has no value."""
    found = []
    for step in Workdir(workdir).steps():
        try:
            meta = read_meta(workdir, step)
        except (Damaged, UserError):
            meta = {}
        found.append(retention.Saved(step, meta.get("selected"), meta.get("best", [None, -1])[1]))
    return found


def best_steps(workdir: pathlib.Path) -> list[int]:
    """The saved steps that have a value of the run's selection metric, best first: what the newest records as its best, then
    by their values."""
    saved = records(workdir)
    mode, recorded = "min", -1
    for record in reversed(saved):  # the newest that can be read
        with contextlib.suppress(Damaged, UserError):
            mode, recorded = read_meta(workdir, record.step).get("select_mode", "min"), record.best_step
            break
    ranked = [s.step for s in retention.ranked(saved, mode)]
    return [recorded, *(s for s in ranked if s != recorded)] if recorded in ranked else ranked


def best_step(workdir: pathlib.Path) -> int:
    """The saved step with the best value of the run's selection metric; the latest where none was measured."""
    steps = Workdir(workdir).steps()
    for _ in range(_LOOKS):
        ranked, before = best_steps(workdir), steps
        if (steps := Workdir(workdir).steps() or before) == before:
            break
    return (ranked or steps[-1:])[0]


def read_meta(workdir: pathlib.Path, step: int) -> dict[str, Any]:
    """The meta of a step, with what was found out about it since.

    Raises:
      Damaged: it is missing, is not JSON, or is not what was written.
      Gone: the step is not there any more.
      UserError: it cannot be read.
    """
    folder = Workdir(workdir).checkpoint(step).path
    meta = _json(folder, folder / "meta" / "metadata")
    _check(folder, contents=True, part="meta")
    amended = Checkpoint(folder).amended
    more = _json(folder, amended) if amended.exists() else {}
    if not jsons.intact(more):
        raise Damaged(f"{amended}: is not what was written")
    return meta | {name: value for name, value in more.items() if name != jsons.CHECKSUM}


def _json(folder: pathlib.Path, path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as e:
        _refuse_gone(folder)
        raise Damaged(f"{path} is missing") from e
    except ValueError as e:
        _refuse_gone(folder)
        raise Damaged(f"{path} is not JSON: {e}") from e
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {_short(e)}") from e


def _refuse_gone(folder: pathlib.Path) -> None:
    if not folder.is_dir():
        raise Gone(
            f"{folder}: the checkpoint is not there any more: its run has gone on and keeps others (checkpoint.keep_latest, "
            "checkpoint.keep_best); give the same command again to read a newer one"
        )


def check_files(workdir: pathlib.Path, step: int, *, contents: bool, part: str = "", alone: bool = False) -> None:
    """Compares a step's files, or those of an item, with those that were written: names and sizes, or also their `contents`, which
    the processes of a run share among them, unless each is `alone` in a folder of its own.

    Raises:
      Damaged: they differ.
      Gone: the step is not there any more.
      UserError: a file cannot be read.
    """
    _check(
        Workdir(workdir).checkpoint(step).path,
        contents=contents,
        part=part,
        share=(0, 1) if alone else (jax.process_index(), jax.process_count()),
    )


def _check(folder: pathlib.Path, **what: Any) -> None:
    """As `check_files`; `what` as for `manifest.damage`."""
    _refuse_gone(folder)
    try:
        lines = manifest.damage(folder, **what)
    except OSError as e:
        _refuse_gone(folder)
        raise UserError(f"{folder}: cannot be read: {_short(e)}") from e
    if lines:
        _refuse_gone(folder)
        raise Damaged(f"{folder}:{listed(lines)}")


def has_record(workdir: pathlib.Path, step: int) -> bool:
    """Whether a step has a record of its files, by which damage is seen before anything is read. Those of earlier versions
    have none."""
    return Workdir(workdir).checkpoint(step).manifest.is_file()


def shapes(workdir: pathlib.Path, step: int, name: str = "params") -> dict[str, Any]:
    """The saved tree of an item as ShapeDtypeStructs in nested dicts, without reading its arrays. Raises as `read_meta`."""
    folder = Workdir(workdir).checkpoint(step).path
    recorded = read_meta(workdir, step).get("shapes")
    if recorded is not None:
        flat = recorded.get(name, {})
        return unflatten(
            {p: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)) for p, (shape, dtype) in flat.items()}
        )
    try:  # of an earlier version
        import orbax.checkpoint as ocp

        tree = ocp.StandardCheckpointHandler().metadata(folder / name)
        return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), tree)
    except Exception as e:
        raise explained(folder, name, e) from e


def read(workdir: pathlib.Path, step: int, name: str, like: Any, meta: Mapping[str, Any], alone: bool = False) -> Any:
    """Restores an item into the form, dtypes and shardings of `like` and verifies its checksums. `alone`: each process has a folder of its
    own, with what its devices hold.

    Where several processes share a run, all have to call it, and all succeed or raise alike.

    Raises:
      Damaged: files missing or broken, or values that are not those that were saved.
      Gone: the step is not there any more.
      UserError: the saved tree has other leaves, shapes or dtypes than `like`; or reading failed although nothing is damaged.
    """
    import orbax.checkpoint as ocp  # here: verbs that read no arrays start without it

    folder = Workdir(workdir).checkpoint(step).path

    def checked() -> None:
        if meta["checksums"].get(name) is None:
            raise Damaged(f"{folder / name}: the meta of step {step} does not list it")
        # Before anything is made of it: a library that meets damage says so in many ways, and not once.
        try:
            check_files(workdir, step, contents=True, part=name, alone=alone)
        except Damaged as e:
            raise Damaged(f"{e}{'' if alone else _changed_leaves(workdir, step, name, meta)}") from e
        differences = compare(shapes(workdir, step, name), like, dtypes=True)
        if differences:
            raise UserError(f"{folder / name} does not fit this model:{listed(differences, 20)}")

    def restored() -> Any:
        try:
            tree = ocp.StandardCheckpointHandler().restore(folder / name, args=ocp.args.StandardRestore(like))
        except Exception as e:
            raise explained(folder, name, e) from e
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree)):
            raise Damaged(f"{folder / name}: some leaves were not restored")
        return tree

    together(checked)
    tree = together(restored)  # each process reads its own parts of the arrays
    found, saved = fingerprint.checksums(named_leaves(tree)), meta["checksums"][name]
    wrong = [path for path in found if found[path] != saved.get(path)]
    if wrong:
        raise Damaged(f"{folder / name}: values changed on disk:{listed(wrong)}")
    return tree


def read_leaf(workdir: pathlib.Path, step: int, name: str, path: str, leaf: Any, meta: Mapping[str, Any]) -> np.ndarray:
    """One leaf of an item on the host, the others left unread, verified by its checksum.

    Args:
      path: of the stored leaf; `leaf`: its entry in `shapes`.

    Raises:
      As `read`.
    """
    folder = Workdir(workdir).checkpoint(step).path
    try:
        array = _leaf(folder / name, path, leaf)
    except Exception as e:
        raise explained(folder, f"{name}: {path}", e) from e
    if fingerprint.checksums({path: array})[path] != meta["checksums"].get(name, {}).get(path):
        raise Damaged(f"{folder / name}: values changed on disk:{listed([path])}")
    return array


def _leaf(folder: pathlib.Path, path: str, leaf: Any) -> np.ndarray:
    import orbax.checkpoint as ocp

    like = unflatten({path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)})
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    args = ocp.args.PyTreeRestore(item=like, restore_args=kinds, partial_restore=True)
    return flatten(ocp.PyTreeCheckpointHandler().restore(folder, args=args))[path]


def _changed_leaves(workdir: pathlib.Path, step: int, name: str, meta: Mapping[str, Any]) -> str:
    """Which leaves of a damaged item are not what they were, for a message; "" where that cannot be told."""
    if name == "training" or "shapes" not in meta:
        return ""
    changed = []
    for path, leaf in flatten(shapes(workdir, step, name)).items():
        try:
            array = _leaf(Workdir(workdir).checkpoint(step).path / name, path, leaf)
            if fingerprint.checksums({path: array})[path] != meta["checksums"][name][path]:
                changed.append(path)
        except Exception:
            changed.append(path)
    return f"\nvalues changed on disk:{listed(changed)}" if changed else ""


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of any tree by path."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def explained(folder: pathlib.Path, what: str, error: Exception) -> Damaged | UserError:
    """What a failure to read `what` of the checkpoint in `folder` means, as the error to raise: damage only where its files
    prove it."""
    try:
        _refuse_gone(folder)
        lines = manifest.damage(folder, contents=True)
    except Gone as e:
        return e
    except OSError as e:
        return UserError(f"{folder}: {what} cannot be read: {_short(e)}")
    if lines:
        return Damaged(f"{folder}: {what}: {_short(error)}:{listed(lines)}")
    # Before files were recorded, the library's own word has to do.
    lost = isinstance(error, FileNotFoundError) or any(w in str(error) for w in ("NOT_FOUND", "DATA_LOSS"))
    if lines is None and lost and not isinstance(error, MemoryError):
        return Damaged(f"{folder}: {what}: {_short(error)}")
    memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    reason = (
        "there is not enough memory for it"
        if memory
        else "reading it failed, though its files are as they were written"
    )
    return UserError(f"{folder}: {what}: {reason}: {_short(error)}\nNothing was changed; give the same command again")


def together(act: Callable[[], T]) -> T:
    """What `act` gives in this process, where it succeeds in all of them; else all raise what failed first.

    All have to call it, and `act` must not wait for other processes.

    Raises:
      Damaged, Gone, UserError: as `act` does in some process.
    """
    made: tuple[T, ...] = ()  # of one, where it succeeds
    kind, problem, cause = "", "", None
    try:
        made = (act(),)
    except (Damaged, UserError) as e:
        kind, problem, cause = _KINDS.get(type(e), "other"), str(e), e
    outcomes = [tuple(outcome) for outcome in processes.gather([kind, problem])]
    failed = [outcome for outcome in outcomes if outcome[0]]
    if cause is not None and (kind, problem) == failed[0]:
        raise cause
    if failed:
        error = next(error for error, name in _KINDS.items() if name == failed[0][0])
        raise error(failed[0][1]) from cause
    return made[0]


_KINDS: dict[type[Exception], str] = {Damaged: "damaged", Gone: "gone", UserError: "other"}


def compare(found: Any, expected: Any, *, dtypes: bool = False) -> list[str]:
    """Every way in which two trees of shaped leaves differ, a line each: missing, extra, another shape or (if `dtypes`) dtype."""
    have, want = (forms(tree) for tree in (found, expected))
    lines = [f"missing {path} {want[path][0]}" for path in want if path not in have]
    lines += [f"extra {path} {have[path][0]}" for path in have if path not in want]
    both = [path for path in want if path in have]
    lines += [f"{p}: shape {have[p][0]}, expected {want[p][0]}" for p in both if have[p][0] != want[p][0]]
    if dtypes:
        lines += [f"{p}: dtype {have[p][1]}, expected {want[p][1]}" for p in both if have[p][1] != want[p][1]]
    return lines


def forms(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """{path: (shape, dtype)} of the leaves of a tree, as they are saved."""
    return {path: _form(leaf) for path, leaf in named_leaves(tree).items()}


def _form(leaf: Any) -> tuple[tuple[int, ...], str]:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # saved as the numbers it is made of
        leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return tuple(leaf.shape), str(np.dtype(leaf.dtype))


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
