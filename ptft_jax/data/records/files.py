"""Files of a source: what each holds, noticed when it changes."""

from __future__ import annotations

import bz2
import codecs
import dataclasses
import gzip
import hashlib
import itertools
import lzma
import os
import pathlib
import re
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ptft_jax import environment
from ptft_jax.data import cache
from ptft_jax.data.records import remote
from ptft_jax.errors import UserError

if TYPE_CHECKING:
    from ptft_jax.data.records.known import Known

BLOCK = 1 << 20  # bytes of a file that are read at a time
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_OPENED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# How much newer than its last change a file must be for its digest to be remembered: two changes within the resolution
# of a file system's clock (2 s on the coarsest) leave the same time stamp.
_SETTLED = 2.0


class Stamp(NamedTuple):
    """What changes when a file does."""

    size: int
    modified: int  # ns
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Stamp:
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino)


class NoRecords(UserError):
    """A file that holds nothing: no reason to refuse others beside it."""


@dataclasses.dataclass(frozen=True)
class File:
    """A file that can be read at any place: local, and not compressed (a copy in the cache where it was).

    Attributes:
      name: what it is called in messages.
      path: what to read.
      digest: of its content, as it was before it was decompressed.
      stamp: what the digest was true of; None for a copy in the cache, which never changes.
    """

    name: str
    path: pathlib.Path
    digest: str
    stamp: Stamp | None

    @classmethod
    def open(cls, name: str, *, empty: bool = False, known: Known | None = None) -> File:
        """The file of that path or URL. Raises UserError where it cannot be read or is a broken archive, NoRecords where
        (unless that is allowed) it is empty.

        Args:
          known: the digests of this file and of others, where it is one of several.
        """
        copied = remote.is_url(name)
        path = remote.copy(name) if copied else pathlib.Path(os.path.expanduser(name))
        try:
            stat = os.stat(path)
            if not stat.st_size and not empty:
                raise NoRecords(f"{name}: the file is empty")
            digest = content_digest(path, name) if known is None or copied else known.digest(path, name, stat)
        except OSError as e:
            raise UserError(f"{name}: cannot be read: {e.strerror or e}") from e
        if path.suffix in COMPRESSED and stat.st_size:
            plain = _decompressed(cls(name, path, digest, Stamp.of(stat)))
            if not plain.stat().st_size and not empty:
                raise NoRecords(f"{name}: the file is empty")
            return cls(name, plain, digest, None)
        return cls(name, path, digest, None if copied else Stamp.of(stat))

    def noted(self) -> dict[str, str]:
        """Its name and digest; nothing of a remote one."""
        return {} if remote.is_url(self.name) else {self.name: self.digest}

    def check(self, descriptor: int | None = None) -> None:
        """Raises UserError if the file (the open one, or the one that has its name) is not what the digest is of."""
        if self.stamp and Stamp.of(os.stat(self.path if descriptor is None else descriptor)) != self.stamp:
            raise UserError(f"{self.name}: the file changed while it was read; start again when nothing writes to it")


class Descriptor:
    """An open file that any number of threads read at any place, closed when nothing refers to it."""

    def __init__(self, file: File):
        self._file = file
        try:
            self._fd = os.open(file.path, os.O_RDONLY)
        except OSError as e:
            raise UserError(f"{file.name}: cannot be read: {e.strerror or e}") from e
        file.check(self._fd)

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`. Raises UserError where the file has changed since it was indexed."""
        # Not by mapping the file: a mapped file that another process cuts short ends this one with a bus error.
        data = os.pread(self._fd, end - start, start)
        while len(data) < end - start and (more := os.pread(self._fd, end - start - len(data), start + len(data))):
            data += more  # reads of more than 2 GiB come in parts
        self.check()
        return data

    def check(self) -> None:
        """Raises UserError where the file has changed since it was indexed."""
        self._file.check(self._fd)

    def __del__(self):
        if hasattr(self, "_fd"):
            os.close(self._fd)


def blocks(file: File, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a file from `start` to `end`, some at a time. Raises UserError where it has changed since it was indexed."""
    descriptor = Descriptor(file)
    for at in range(start, end, BLOCK):
        yield descriptor.read(at, min(at + BLOCK, end))


class Undecodable(Exception):
    """Bytes that are not UTF-8: at which byte, and in which line, from 1."""

    def __init__(self, at: int, line: int):
        super().__init__(at, line)
        self.at, self.line = at, line


def decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    """The text that blocks of UTF-8 make. Raises Undecodable."""
    rest, before, line = b"", 0, 1
    for block in itertools.chain(blocks, [None]):
        data = rest + (block or b"")
        try:
            text, size = codecs.utf_8_decode(data, "strict", block is None)
        except UnicodeDecodeError as e:
            raise Undecodable(before + e.start, line + data.count(b"\n", 0, e.start)) from None
        rest, before, line = data[size:], before + size, line + data.count(b"\n", 0, size)
        if text:
            yield text


def digests(names: Iterable[str]) -> dict[str, str]:
    """Of the files among these that are local: digests of their content."""
    local = (name for name in names if not remote.is_url(name))
    return {name: content_digest(pathlib.Path(name).expanduser(), name) for name in local}


def content_digest(path: pathlib.Path, name: str) -> str:
    """Digest of a file's bytes: computed once, and remembered for as long as nothing about the file changes."""
    before = path.stat()
    stamp = (str(path.resolve()), before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino, before.st_dev)
    memo = cache.root() / "digests" / cache.digest("digest-1", *map(str, stamp))
    if known := cache.noted(memo):
        return known.decode()
    found = read_digest(path, name)
    if is_settled(before):
        cache.write_atomic(memo, lambda temporary: temporary.write_text(found, encoding="utf-8"))
    return found


def read_digest(path: pathlib.Path, name: str) -> str:
    """As `content_digest`, always by reading. Raises UserError where the file changes meanwhile."""
    with open(path, "rb") as f:
        before = Stamp.of(os.fstat(f.fileno()))
        found = hashlib.file_digest(f, "sha256").hexdigest()[:32]
    if Stamp.of(os.stat(path)) != before:
        raise UserError(f"{name}: the file changed while it was read; start again when nothing writes to it")
    return found


def is_settled(stat: os.stat_result) -> bool:
    """Whether a change of the file would be seen in its times."""
    return time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED


def _decompressed(file: File) -> pathlib.Path:
    path = file.path
    plain = cache.root() / "decompressed" / f"{file.digest}{pathlib.Path(path.stem).suffix}"
    if cache.used(plain, file.name):
        return plain

    zstandard = environment.needed("zstandard", file.name) if path.suffix == ".zst" else None
    damaged = (OSError, EOFError, zlib.error, lzma.LZMAError)  # gzip's BadGzipFile is an OSError
    damaged += (zstandard.ZstdError,) if zstandard else ()

    def write(temporary: pathlib.Path) -> None:
        if zstandard:
            _unzstd(path, temporary)
        else:
            with _OPENED[path.suffix](path, "rb") as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        file.check()

    cache.clear_left(plain.parent)
    try:
        cache.write_atomic(plain, write, file.name)
    except damaged as e:
        raise UserError(f"{file.name}: cannot be decompressed: {e}") from e
    return plain


def _unzstd(path: pathlib.Path, to: pathlib.Path) -> None:
    """Frame by frame, for the readers of whole files that zstandard offers take one that is cut short for complete."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame = None
    with open(path, "rb") as source, open(to, "wb") as target:
        while data := source.read(1 << 20):
            while data:
                frame = frame or decompressor.decompressobj()
                target.write(frame.decompress(data))
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame:
        raise EOFError("the file is cut short")


def suffix(name: str) -> str:
    """The suffix that says the format: ".jsonl" of "x.jsonl.gz" and of "x.jsonl-00000-of-00002"."""
    name = re.sub(r"-\d+-of-\d+$", "", name.rstrip("/").rpartition("/")[2])
    found = _last_suffix(name)
    return (_last_suffix(name[: -len(found)]) if found in COMPRESSED else found).lower()


def _last_suffix(name: str) -> str:
    """From the last dot of a name on, unless it begins or ends with that."""
    at = name.rfind(".")
    return name[at:] if 0 < at < len(name) - 1 else ""


def canonical_split(name: str) -> str | None:
    """The split with whose word a name begins ("val-00000.parquet" is validation); None for others."""
    for split, words in ALIASES.items():
        if re.match(rf"({'|'.join(words)})(?![a-z])", name.lower()):
            return split
    return None
