"""A split of images as a shard of records: each is decoded once when it is indexed, so that what cannot be is known then."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ptft_jax.data.formats import Reading
from ptft_jax.data.pictures import decoding
from ptft_jax.data.pictures.decoding import BoundedImage, Image
from ptft_jax.data.records.index import Found
from ptft_jax.data.records.sequences import SequenceShard
from ptft_jax.data.records.values import Broken
from ptft_jax.errors import UserError


class Images(Protocol):
    """The images of a split, as `ptft_jax.data.records.sequences.sequence_source` has sequences, and

    Attributes:
      fingerprint: a text that is another one when they are others.
      checked: whether they are known to be images, since they were made here.
    """

    fingerprint: str
    checked: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def place(self, index: int) -> str:
        """What a person would look up."""
        ...


class PictureShard(SequenceShard):
    """Images with their classes: records {"image": bytes, "label": ..., ...}."""

    def __init__(self, name: str, rows: Images, most: int):
        """`most`: pixels of an image; one that has more is broken."""
        super().__init__(name, rows)  # type: ignore[arg-type]  # only its length and items are asked for
        self._images, self._most = rows, most
        self.key = f"{self.key} {most}" if self.key else ""

    def scan(self, reading: Reading, id_column: str | None) -> Iterator[Found]:
        for found in super().scan(reading, id_column):
            yield found._replace(record=self._seen(found.record))

    def _read(self, number: int) -> dict[str, Any]:
        # When it was indexed, it was compared with the bound of its source, which may be above the usual one.
        found = super()._read(number)
        return {name: BoundedImage(v) if isinstance(v, Image) else v for name, v in found.items()}

    def _seen(self, record: Any) -> Any:
        if isinstance(record, Broken) or self._images.checked:
            return record
        try:
            for image in (value for value in record.values() if isinstance(value, Image)):
                decoding.decoded(image, most=self._most)
        except ValueError as e:
            return Broken(str(e))
        return record

    def place(self, number: int) -> str:
        return self._images.place(number)


@dataclasses.dataclass(frozen=True)
class FileImages:
    """Files of images, the name of whose folder is their class.

    Attributes:
      root: the folder of the source.
      names: of the files, from there.
      labels: the class of each; () where there are none.
      files: path -> digest of its content.
    """

    root: pathlib.Path
    names: Sequence[str]
    labels: Sequence[str]
    files: Mapping[str, str]
    fingerprint: str
    checked: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record: dict[str, Any] = {"image": read(self.root / self.names[index])}
        return record | ({"label": self.labels[index]} if self.labels else {})

    def place(self, index: int) -> str:
        return self.names[index]


@dataclasses.dataclass(frozen=True)
class MadeImages:
    """Images that are made, or lie in arrays.

    Attributes:
      make: index -> record.
      size: how many.
      where: index -> place.
    """

    make: Callable[[int], Mapping[str, Any]]
    size: int
    where: Callable[[int], str]
    fingerprint: str
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    class_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    checked: bool = True

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.make(index)

    def place(self, index: int) -> str:
        return self.where(index)


def read(path: pathlib.Path) -> Image:
    """The bytes of a file. Raises ValueError where there is none, or it is empty; UserError where it may not be read."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: there is no such file") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror or e}") from e
    if not data:
        raise ValueError(f"{path}: the file is empty")
    return Image(data)
