"""Values of records: of JSON's types only, and digests that say when two records, or what they say, are equal."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

import numpy as np

from ptft_jax.data.pictures import decoding
from ptft_jax.data.pictures.decoding import Image
from ptft_jax.data.records.base import Record


class Broken(Exception):
    """A record that cannot be read. Its message says why.

    Attributes:
      place: where in the file, if that is nearer than the record's own place ("line 12, column 5").
    """

    def __init__(self, reason: str, place: str = ""):
        super().__init__(reason)
        self.place = place


def plain(value: Any, column: str) -> Any:
    """A value of other libraries' types as one of JSON's, or an `Image`: bytes are decoded, arrays become lists, dates and decimals
    the text that names them. Raises Broken for bytes that are neither UTF-8 text nor an image, and for types that JSON has nothing
    for."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        if isinstance(value, Image):
            return value
        if decoding.looks(value):
            return Image(value)
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as e:
            raise Broken(f"column {column!r} holds bytes that are not UTF-8 text (byte {e.start})") from None
    if isinstance(value, dict):
        return {k if isinstance(k, str) else str(k): plain(v, column) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, column) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), column)
    if isinstance(value, np.generic):
        return plain(value.item(), column)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (datetime.timedelta, decimal.Decimal, uuid.UUID)):
        return str(value)
    raise Broken(f"column {column!r} holds a {type(value).__name__}, which JSON has no type for")


def canonical(value: Any) -> bytes:
    """One spelling for equal values: keys sorted, no spaces, UTF-8.

    Raises:
      Broken: NaN or an infinity, a lone surrogate (half a character of UTF-16), nesting without end.
    """
    try:
        options: dict[str, Any] = {"sort_keys": True, "ensure_ascii": False, "separators": (",", ":")}
        return json.dumps(value, allow_nan=False, default=_image, **options).encode()
    except UnicodeEncodeError as e:
        raise _half(e) from None
    except ValueError:
        written = _constant(value)
        raise Broken(
            f"{written}, which is not JSON" if written else "NaN or an infinite number, which JSON does not have"
        ) from None
    except RecursionError:
        raise Broken("values nested too deep") from None


def _image(value: Any) -> dict[str, str]:
    """What stands for an image's bytes, which are too many to be spelled."""
    if not isinstance(value, Image):
        raise TypeError(f"a {type(value).__name__} is not of JSON's types")
    return {"image": hashlib.blake2b(value, digest_size=16).hexdigest()}


def _half(error: UnicodeEncodeError) -> Broken:
    return Broken(f"half a character (surrogate {error.object[error.start]!r}), which no text can hold")


class Constant(float):
    """NaN or an infinity as a file that calls itself JSON spells it: an error where it is read, and only there."""

    def __new__(cls, name: str) -> Constant:
        made = super().__new__(cls, name)
        made.name = name
        return made


def _constant(value: Any) -> str:
    """The spelling of the first `Constant` in a value, "" where there is none."""
    if isinstance(value, Constant):
        return value.name
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_constant, inner)), "")


def digest(record: Record) -> bytes:
    """16 bytes that two records share when they are equal as JSON, whatever the order of their keys."""
    return hashlib.blake2b(canonical(record), digest_size=16).digest()


def texts_digest(texts: Iterable[str]) -> bytes:
    """16 bytes that the same texts in the same order share: BLAKE2b of each text's length in bytes (8 bytes, the least
    significant first) and its UTF-8. Raises Broken for a lone surrogate, as what is JSON in a text may spell one."""
    hashed = hashlib.blake2b(digest_size=16)
    for text in texts:
        try:
            data = text.encode()
        except UnicodeEncodeError as e:
            raise _half(e) from None
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.digest()


class TextDigests:
    """`digest` of {"text": TEXT} and `texts_digest` of [TEXT], of a text that comes in blocks."""

    def __init__(self, size: int):
        """`size`: bytes of the text's UTF-8."""
        self._record = hashlib.blake2b(b'{"text":"', digest_size=16)
        self._text = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)

    def add(self, block: str) -> None:
        self._record.update(json.dumps(block, ensure_ascii=False)[1:-1].encode())
        self._text.update(block.encode())

    def found(self) -> tuple[bytes, bytes]:
        """Of the record, and of the text."""
        self._record.update(b'"}')
        return self._record.digest(), self._text.digest()


def id_digest(identity: Any) -> bytes:
    """8 bytes of an id, never all zero: that stands for no id."""
    return hashlib.blake2b(canonical(identity), digest_size=8).digest() if identity is not None else bytes(8)
