"""Files on other machines (gs://, s3://, https://, ...), through fsspec: copied once into the cache, then read there."""

from __future__ import annotations

import fnmatch
import functools
import glob
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from ptft_jax.data import cache
from ptft_jax.errors import UserError, nearest

# What file systems call a mark that changes when a file does.
_MARKS = (
    "ETag", "etag", "checksum", "md5Hash", "crc32c", "generation", "VersionId", "version_id",
    "mtime", "LastModified", "last_modified", "updated", "created",
)  # fmt: skip
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # of ours, that install the driver of a protocol


def is_url(name: str) -> bool:
    return "://" in name


def listing(url: str) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Whether a URL is a "file", "folder" or "glob" and the URLs of its files, sorted; "none" and the names beside it
    where it is nothing; and what is not read, with the reason. Raises UserError where the place cannot be reached or read."""
    system, path = file_system(url)
    try:
        system.invalidate_cache()  # of an earlier listing, which knows nothing of what has come since
        if system.isfile(path):
            return "file", [url], []
        if system.isdir(path):
            return "folder", *_apart(system, system.find(path), lambda file: _hidden(file[len(path.rstrip("/")) :], ""))
        if glob.has_magic(path):
            matched = [f for f in system.glob(path) if system.isfile(f)]
            if matched:
                return "glob", *_apart(system, matched, lambda file: _hidden(file, path))
        parent = system._parent(path)
        near = [f.rsplit("/", 1)[-1] for f in system.ls(parent, detail=False)] if system.isdir(parent) else []
        return "none", near, []
    except Exception as e:  # every driver has its own exceptions for networks, credentials and permissions
        unreachable(url, e)


def _apart(system: Any, files: Iterable[str], hidden: Callable[[str], bool]) -> tuple[list[str], list[tuple[str, str]]]:
    """The URLs of files that are read, and those of hidden ones with the reason, each sorted."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for file in files:
        found[hidden(file)].append(system.unstrip_protocol(file))
    return sorted(found[False]), [(name, "hidden") for name in sorted(found[True])]


def _hidden(file: str, pattern: str) -> bool:
    """Whether a file is hidden, or in a hidden folder, that the pattern does not name: as of local files, * and ** match no name that
    begins with a dot."""
    named = {part for part in pattern.split("/") if part.startswith(".")}
    return any(
        part.startswith(".") and not any(map(functools.partial(fnmatch.fnmatchcase, part), named))
        for part in file.split("/")
    )


def exists(url: str) -> bool:
    """Whether there is such a file. Raises UserError where the place cannot be reached or read."""
    system, path = file_system(url)
    try:
        return system.exists(path)
    except Exception as e:  # as above
        unreachable(url, e)


def copy(url: str) -> pathlib.Path:
    """The cached copy of a remote file, made where there is none of the file as it is now."""
    system, path = file_system(url)
    try:
        before = _mark(system, path)
        local = cache.root() / "remote" / cache.digest("remote-1", url, *before) / path.rsplit("/", 1)[-1]
        if cache.used(local, url):
            return local

        def write(temporary: pathlib.Path) -> None:
            with system.open(path, "rb") as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            system.invalidate_cache()
            size = before[0] or str(temporary.stat().st_size)
            if str(temporary.stat().st_size) != size or _mark(system, path) != before:
                raise UserError(f"{url}: the file changed while it was read; start again when nothing writes to it")

        cache.write_atomic(local, write, url)
        return local
    except UserError:
        raise
    except Exception as e:  # as above
        unreachable(url, e)


def copy_folder(url: str) -> pathlib.Path:
    """A cached folder with copies of all files under a remote one."""
    what, urls, _ = listing(url)
    if what != "folder":
        raise UserError(f"{url}: no such folder")
    system, root = file_system(url)
    copies = {system._strip_protocol(u)[len(root.rstrip("/")) + 1 :]: copy(u) for u in urls}
    local = cache.root() / "remote" / cache.digest("folder-1", url, *(f"{k} {v}" for k, v in copies.items()))
    if not cache.used(local, url):
        local.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(dir=local.parent, prefix=f".{local.name}."))
        for inside, file in copies.items():
            (temporary / inside).parent.mkdir(parents=True, exist_ok=True)
            (temporary / inside).symlink_to(file)
        with cache.placing(local, url):
            try:
                temporary.rename(local)
            except OSError:  # another process was first
                shutil.rmtree(temporary)
    return local


def _mark(system: Any, path: str) -> tuple[str, ...]:
    """Size ("" = not told) and what else tells a changed file."""
    info = system.info(path)
    size = info.get("size")
    return ("" if size is None else str(size), *(f"{key}={info[key]}" for key in _MARKS if info.get(key) is not None))


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path that it has there. Raises UserError where its driver is missing, or refuses it."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as e:
        extra = _EXTRAS.get(protocol)
        install = f"install it with: pip install 'ptft_jax[{extra}]'" if extra else str(e)
        raise UserError(f"{url}: {protocol}:// needs a package that is not installed; {install}") from e
    except ValueError as e:
        if protocol in fsspec.available_protocols():
            unreachable(url, e)
        raise UserError(
            f"{url}: fsspec knows no protocol {protocol!r}{nearest(protocol, fsspec.available_protocols())}"
        ) from e
    except Exception as e:  # as above
        unreachable(url, e)


def unreachable(url: str, error: Exception, what: str = "read") -> NoReturn:
    """Raises UserError, which says that `url` cannot be read, or what else was asked for, and why."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    raise UserError(
        f"{url}: cannot be {what} ({type(error).__name__}: {lines[0][:300]}); check the name, the network, and that your "
        f"credentials may {'read' if what == 'read' else 'write'} it"
    ) from error
