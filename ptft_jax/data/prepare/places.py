"""Files that workers leave for the process that started them: on a shared disk, or where fsspec reaches."""

from __future__ import annotations

import io
import pathlib
from typing import IO

from ptft_jax.data import cache
from ptft_jax.errors import UserError


def write(path: str, data: bytes) -> None:
    """Writes a file, all of it or nothing."""
    if "://" not in path:
        cache.write_atomic(pathlib.Path(path), lambda temporary: temporary.write_bytes(data))
        return
    with _filesystem(path).open(path, "wb") as f:  # object stores show an object when it is complete
        f.write(data)


def read(path: str) -> bytes:
    """A file's content. Raises UserError where there is none."""
    with open_(path) as f:
        return f.read()


def open_(path: str) -> IO[bytes]:
    """Opens a file to read, seekable. Raises UserError where there is none."""
    try:
        if "://" not in path:
            return open(path, "rb")
        return io.BytesIO(_filesystem(path).cat_file(path))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; workers on other machines need a place that all of them reach, see --work"
        ) from None


def exists(path: str) -> bool:
    return _filesystem(path).exists(path) if "://" in path else pathlib.Path(path).exists()


def remove(path: str) -> None:
    """Deletes a file."""
    _filesystem(path).rm(path) if "://" in path else pathlib.Path(path).unlink()


def _filesystem(path: str):
    try:
        import fsspec

        filesystem, _ = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as e:
        raise UserError(f"{path}: {e}") from e
    return filesystem
