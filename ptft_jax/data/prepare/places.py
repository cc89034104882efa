"""Files that workers leave for the process that started them: on a shared disk, or where fsspec reaches."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

from ptft_jax.data import cache
from ptft_jax.errors import UserError

OBJECT_STORES = ("abfs", "az", "gcs", "gs", "memory", "oss", "s3", "s3a")  # which show an object when it is complete


def write(path: str, data: bytes) -> None:
    """Writes a file, all of it or nothing."""
    if "://" not in path:
        cache.write_atomic(pathlib.Path(path), lambda temporary: temporary.write_bytes(data))
        return
    filesystem = _filesystem(path)
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    if path.partition("://")[0] in OBJECT_STORES:
        filesystem.pipe_file(path, data)
    else:
        filesystem.pipe_file(f"{path}.part", data)
        filesystem.mv(f"{path}.part", path)


def read(path: str) -> bytes:
    """A file's content. Raises UserError where there is none."""
    try:
        return _filesystem(path).cat_file(path) if "://" in path else pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; workers on other machines need a place that all of them reach, see --work"
        ) from None


def exists(path: str) -> bool:
    """Whether there is such a file or folder."""
    return _filesystem(path).exists(path) if "://" in path else pathlib.Path(path).exists()


def clear(folder: str) -> None:
    """Deletes a folder with all that is in it, where there is one."""
    if "://" not in folder:
        shutil.rmtree(folder, ignore_errors=True)
    elif exists(folder):
        _filesystem(folder).rm(folder, recursive=True)


def _filesystem(path: str) -> Any:
    try:
        import fsspec

        filesystem, _ = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as e:
        raise UserError(f"{path}: {e}") from e
    return filesystem
