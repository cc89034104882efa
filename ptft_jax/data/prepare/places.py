"""Files that workers leave for the process that started them: on a shared disk, or where fsspec reaches."""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.data import cache
from ptft_jax.errors import UserError


def write(path: str, data: bytes) -> None:
    """Writes a file, all of it or nothing."""
    if "://" not in path:
        cache.write_atomic(pathlib.Path(path), lambda temporary: temporary.write_bytes(data))
        return
    filesystem = _filesystem(path)
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(path, data)  # object stores show an object when it is complete


def read(path: str) -> bytes:
    """A file's content. Raises UserError where there is none."""
    try:
        return _filesystem(path).cat_file(path) if "://" in path else pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; workers on other machines need a place that all of them reach, see --work"
        ) from None


def exists(path: str) -> bool:
    """Whether there is such a file."""
    return _filesystem(path).exists(path) if "://" in path else pathlib.Path(path).exists()


def remove(path: str) -> None:
    """Deletes a file, and its folder where that is empty then. Nothing where there is no such file."""
    if "://" in path:
        if exists(path):
            _filesystem(path).rm(path)
        return
    file = pathlib.Path(path)
    file.unlink(missing_ok=True)
    if file.parent.is_dir() and not any(file.parent.iterdir()):
        file.parent.rmdir()


def _filesystem(path: str) -> Any:
    try:
        import fsspec

        filesystem, _ = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as e:
        raise UserError(f"{path}: {e}") from e
    return filesystem
