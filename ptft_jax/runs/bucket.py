"""Runs in buckets (gs://, s3://): read and written in a folder of this machine, which is named as the bucket names it.

That folder lies below `$PTFT_CACHE/buckets`, so that places of runs to each other are the same in both. An object store has no folder that could
be renamed: there a checkpoint counts where the record of its files is (`ptft_jax.runs.workdir.Checkpoint.manifest`), which is written last
(`ptft_jax.runs.upload`) and removed first. Whatever is copied is held to that record when it is read.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ptft_jax.data import cache
from ptft_jax.data.records import remote
from ptft_jax.errors import UserError, nearest
from ptft_jax.runs import manifest, owner
from ptft_jax.runs.workdir import Checkpoint, Workdir

T = TypeVar("T")
SCHEMES = ("gs", "s3", "memory")  # the last for tests: buckets of this process
_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between tries; drivers try again by themselves before that
_THREADS = 8  # that copy at once
_LOOKS = 3  # at a run that removes checkpoints meanwhile
# What tells of a checkpoint without its arrays: which of them is the best, and of what form.
_FACTS = re.compile(r"checkpoints/\d+/(files\.json|amended\.json|meta/.*)")
_STEP = re.compile(r"checkpoints/(\d+)/")
_NAMES = Workdir(pathlib.Path())  # how files are called


def is_url(place: str | pathlib.Path) -> bool:
    """Whether a place is one in a bucket."""
    scheme, sign, _ = str(place).partition("://")
    return bool(sign) and scheme in SCHEMES


def folder_of(url: str, field: str) -> pathlib.Path:
    """The folder of this machine that a place in a bucket is worked on in. Raises UserError where the URL names none."""
    scheme, _, rest = url.partition("://")
    parts = [part for part in rest.split("/") if part]
    if len(parts) < 2 or not {".", ".."}.isdisjoint(parts):
        raise UserError(f"{field}: expected {scheme}://BUCKET/FOLDER")
    return (cache.root() / "buckets" / scheme).absolute().joinpath(*parts)


def url_of(folder: pathlib.Path) -> str:
    """The place in a bucket that a folder of this machine stands for; "" where it is a folder like any other."""
    root = (cache.root() / "buckets").absolute()
    if not folder.is_absolute() or not folder.is_relative_to(root):
        return ""
    scheme, *parts = folder.relative_to(root).parts or ("",)
    return f"{scheme}://{'/'.join(parts)}" if len(parts) > 1 else ""


def named(folder: pathlib.Path) -> str:
    """A folder as it is found from any machine, if it stands for one of a bucket; else its absolute path."""
    return url_of(folder.absolute()) or str(folder.absolute())


class Bucket:
    """The files below a URL. What fails for a moment is tried again; errors are those of the driver."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self._system, path = remote.file_system(self.url)
        self._root = path.rstrip("/")

    def files(self, under: str = "") -> list[str]:
        """Names of the files below a folder, as they are now."""
        # Folder by folder: `find` of some drivers leaves out what it could not list, and says nothing.
        self._system.invalidate_cache()
        found, folders = [], [f"{self._root}/{under}".rstrip("/")]
        while folders:
            place = folders.pop()
            try:
                inside = _again(functools.partial(self._system.ls, place, detail=True))
            except FileNotFoundError:
                continue
            for info in inside:
                if (path := info["name"].rstrip("/")) == place:
                    continue
                if info["type"] == "directory":
                    folders.append(path)
                else:
                    found.append(path[len(self._root) + 1 :])
        return sorted(found)

    def beside(self) -> list[str]:
        """Names of what is beside the folder."""
        self._system.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            above = self._system._parent(self._root)
            return [name.rstrip("/").rsplit("/", 1)[-1] for name in self._system.ls(above, detail=False)]
        return []

    def has(self, name: str) -> bool:
        """Whether there is such a file; an error where that may not be known, of which `isfile` says nothing."""
        self._system.invalidate_cache()
        try:
            return _again(lambda: self._system.info(f"{self._root}/{name}"))["type"] == "file"
        except FileNotFoundError:
            return False

    def get(self, name: str, target: pathlib.Path) -> None:
        """Copies a file to this machine, whole or not at all. Raises FileNotFoundError where it is not there (any more)."""
        fetch = functools.partial(self._system.get_file, f"{self._root}/{name}")
        cache.write_atomic(target, lambda temporary: _again(lambda: fetch(str(temporary))))

    def put(self, source: pathlib.Path, name: str) -> None:
        """Copies a file of this machine there. Raises FileNotFoundError where it is not here (any more)."""
        _again(lambda: self._system.put_file(str(source), f"{self._root}/{name}"))

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        self._system.invalidate_cache()
        return _again(lambda: self._system.cat_file(f"{self._root}/{name}"))

    def write(self, name: str, data: bytes) -> None:
        _again(lambda: self._system.pipe_file(f"{self._root}/{name}", data))

    def remove(self, names: Iterable[str]) -> None:
        """Deletes files; those that are gone already are no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                _again(functools.partial(self._rm, f"{self._root}/{name}"))

    def _rm(self, path: str) -> None:
        try:
            self._system.rm_file(path)
        except NotImplementedError:  # of s3fs before 0.5
            self._system.rm(path)


def _again(act: Callable[[], T]) -> T:
    """What `act` gives, tried again where it fails for what may pass."""
    for wait in _WAITS:
        try:
            return act()
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError):
            raise
        except Exception:  # every driver has its own for networks
            time.sleep(wait)
    return act()


def together(act: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """What `act` gives of each name, several at once."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(act, names))


def step_of(name: str) -> int | None:
    """The checkpoint that a file belongs to."""
    found = _STEP.match(name)
    return int(found[1]) if found else None


def marker(step: int) -> str:
    """The name of the file that makes a checkpoint count."""
    return Checkpoint(_NAMES.checkpoints / str(step)).manifest.as_posix()


def own(names: Iterable[str], damaged: bool = False) -> list[str]:
    """The names of a run's files, without those of runs in folders below it, of `damaged` checkpoints where these are not asked for, and of
    what others write: who runs it, and what is needed of it."""
    names = list(names)
    config = _NAMES.config.name
    inner = tuple(name.removesuffix(config) for name in names if name.endswith(f"/{config}"))
    apart = (f"{_NAMES.references}/", _NAMES.owner.name, *(() if damaged else (f"{_NAMES.damaged}/",)))
    return [name for name in names if not name.startswith((*inner, *apart))]


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """One process of this machine at a time copies into a folder."""
    import fcntl

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.copying").open("w", encoding="utf-8") as held:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def copied(url: str, field: str, new: bool = False) -> pathlib.Path:
    """The folder of this machine for the run at a URL, with its files as they are there now, but the arrays of checkpoints (`complete`).
    Of a run that a launch on this machine is carrying out, it is that launch's.

    Args:
      field: what the URL was given as, for messages.
      new: there need be no run.

    Raises:
      UserError: no such bucket, no run in that place, or it cannot be read.
    """
    url = url.rstrip("/")
    folder = folder_of(url, field)
    try:
        with alone(folder):
            if owner.alive(folder):
                return folder
            bucket = Bucket(url)
            if not bucket.has(_NAMES.config.name) and not new:
                what = f"no run there (no {_NAMES.config.name})"
                raise UserError(f"{field}: {what}{nearest(url.rsplit('/', 1)[-1], bucket.beside())}")
            pull(bucket, folder, lambda name: step_of(name) is None or bool(_FACTS.fullmatch(name)))
    except (UserError, KeyboardInterrupt):
        raise
    except FileNotFoundError as e:
        raise UserError(
            f"{url}: its run removed checkpoints while they were looked at; give the same command again"
        ) from e
    except Exception as e:  # every driver has its own exceptions for networks, credentials and permissions
        remote.unreachable(url, e)
    return folder


def complete(workdir: pathlib.Path, step: int) -> None:
    """Copies what is missing of a checkpoint, where `workdir` stands for one in a bucket. Of one that its run has removed meanwhile nothing is
    left here either: reading it says so (`ptft_jax.runs.checkpoint.Gone`). Raises UserError where it cannot be read."""
    url = url_of(workdir)
    if not url:
        return
    try:
        with alone(workdir):
            if not owner.alive(workdir):
                bucket = Bucket(url)
                of_step = [name for name in bucket.files(f"{_NAMES.checkpoints}/{step}") if step_of(name) == step]
                try:
                    there = marker(step) in of_step
                    if there:
                        _get(bucket, workdir, of_step, contents=False)
                except FileNotFoundError:
                    there = False
                if not there:
                    shutil.rmtree(Workdir(workdir).checkpoint(step).path, ignore_errors=True)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as e:  # as above
        remote.unreachable(url, e)


def published(workdir: pathlib.Path, path: pathlib.Path) -> bool:
    """Copies a file of a run's folder to where the run is, if that is in a bucket. Whether it is there now."""
    if not (url := url_of(workdir)):
        return True
    try:
        Bucket(url).put(path, path.relative_to(workdir).as_posix())
    except Exception:  # as above
        return False
    return True


def pull(bucket: Bucket, folder: pathlib.Path, wanted: Callable[[str], bool], contents: bool = False) -> list[str]:
    """Makes a folder that of the run in a bucket: the files that are `wanted`, of checkpoints only those that count, and nothing else.
    Returns the names of all of the bucket's; `contents`: what was there of checkpoints is compared."""
    for look in range(_LOOKS):
        there = own(bucket.files())
        counted = {step for name in there if (step := step_of(name)) is not None and name == marker(step)}
        if not counted and not {_NAMES.config.name, _NAMES.progress.name} & set(
            there
        ):  # no run, but what is nobody's concern
            there = []
        names = [name for name in there if (step_of(name) is None or step_of(name) in counted) and wanted(name)]
        _clear(folder, set(there), counted)
        try:
            _get(bucket, folder, names, contents)
            return there
        except FileNotFoundError:  # the run has removed a checkpoint meanwhile
            if look == _LOOKS - 1:
                raise
    raise AssertionError("unreachable")


def _clear(folder: pathlib.Path, there: set[str], counted: set[int]) -> None:
    """Removes what the bucket has not, or not any more."""
    for name in own(listed(folder)):
        step = step_of(name)
        if step not in counted if step is not None else name not in there:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
    checkpoints = Workdir(folder).checkpoints
    for path in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if path.name.isdigit() and int(path.name) not in counted:
            shutil.rmtree(path, ignore_errors=True)


def _get(bucket: Bucket, folder: pathlib.Path, names: list[str], contents: bool) -> None:
    """Copies files. Those of a checkpoint do not change, but for what was found out later: of one that is here with the same record, only what
    is missing is copied, unless what is here is not what was written (`contents`: by its digests)."""
    same = set()
    for step in {step for name in names if (step := step_of(name)) is not None}:
        mine = Checkpoint(folder / _NAMES.checkpoints / str(step))
        if mine.manifest.is_file() and mine.manifest.read_bytes() == bucket.read(marker(step)):
            lines = manifest.damage(mine.path, contents=contents) or []
            if all(line.endswith(manifest.MISSING) for line in lines):
                same.add(step)
        if step not in same:
            shutil.rmtree(mine.path, ignore_errors=True)
    ends = (_NAMES.config.name, *map(marker, {step_of(name) or 0 for name in names}))  # they say that the rest is there
    changing = Checkpoint(pathlib.Path()).amended.name

    def get(name: str) -> None:
        if step_of(name) not in same or name.endswith(f"/{changing}") or not (folder / name).is_file():
            bucket.get(name, folder / name)

    together(get, [name for name in names if name not in ends])
    together(get, [name for name in names if name in ends])


def listed(folder: pathlib.Path) -> list[str]:
    """Names of the files of a run's folder, but of those that are being made or removed."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        parts = path.relative_to(folder).parts
        unfinished = any(part.startswith(".") for part in parts) or (
            parts[0] == _NAMES.checkpoints.name and len(parts) > 1 and not parts[1].isdigit()
        )
        if not unfinished and path.is_file():
            found.append("/".join(parts))
    return found


def facts(folder: pathlib.Path) -> dict[str, Any]:
    """Of each of a run's files in a folder: size and when it was changed."""
    found = {}
    for name in own(listed(folder), damaged=True):
        with contextlib.suppress(FileNotFoundError):
            at = (folder / name).stat()
            found[name] = (at.st_size, at.st_mtime_ns)
    return found
