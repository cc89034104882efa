"""Sets of files of which each says its number and how many there are: x-00000-of-00003.jsonl."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Sequence

from ptft_jax.data.records.files import COMPRESSED
from ptft_jax.data.records.reference import Reference
from ptft_jax.errors import listed

_NUMBERED = re.compile(r"^(?P<begin>.*?)(?P<number>\d+)(?P<of>-of-)(?P<total>\d+)(?P<end>.*)$")


def check(reference: Reference, names: Sequence[str], exists: Callable[[str], bool]) -> None:
    """Raises UserError where a file of a set is missing, unless the source says that this may be (`partial=yes`) or a
    pattern leaves out a file that is there; where sets of different sizes are mixed; and where a file is there twice, under
    two endings of compression. Numbers begin at 0, or at 1."""
    _refuse_twice(reference, names)
    sets: dict[str, dict[int, dict[int, str]]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        if match := _NUMBERED.match(last):
            begin = f"{folder}/{match['begin']}" if folder else match["begin"]
            of = sets.setdefault(begin, {}).setdefault(int(match["total"]), {})
            twice = of.setdefault(int(match["number"]), name)
            if twice != name:
                raise reference.error(f"{twice} and {name} are the same part of one set: leave one of them out")
    for begin, by_total in sets.items():
        if len(by_total) > 1:
            sizes = " and ".join(map(str, sorted(by_total)))
            some = [next(iter(parts.values())) for _, parts in sorted(by_total.items())]
            raise reference.error(
                f"{begin}*: parts of sets of {sizes} files are mixed; name those of one:{listed(some)}"
            )
        (total, parts), *_ = by_total.items()
        missing = _missing(total, parts)
        if missing is None:
            wrong = [
                name for number, name in sorted(parts.items()) if number > total or (0 in parts and number == total)
            ]
            raise reference.error(f"{begin}*: a set of {total} files has no such part:{listed(wrong)}")
        if missing and reference.options.get("partial") != "yes" and not any(map(exists, missing)):
            raise reference.error(
                f"{begin}*: {len(missing)} of {total} files of this set are missing; get them, or say partial=yes in the "
                f"options of the source:{listed(missing)}"
            )


def _missing(total: int, parts: dict[int, str]) -> list[str] | None:
    """The names of the files that a set lacks; None where it has some that it cannot have."""
    first = 1 if total in parts and 0 not in parts else 0
    expected = range(first, first + total)
    if not set(parts) <= set(expected):
        return None
    some = next(iter(parts.values()))
    folder, slash, last = some.rpartition("/")
    match = _NUMBERED.match(last)
    width = len(match["number"])
    end = f"{match['of']}{match['total']}{match['end']}"
    return [f"{folder}{slash}{match['begin']}{n:0{width}}{end}" for n in expected if n not in parts]


def _refuse_twice(reference: Reference, names: Sequence[str]) -> None:
    """Raises UserError for a file that is there as it is and compressed."""
    seen: dict[str, str] = {}
    for name in names:
        plain = name[: name.rindex(".")] if pathlib.PurePosixPath(name).suffix in COMPRESSED else name
        other = seen.setdefault(plain, name)
        if other != name:
            raise reference.error(
                f"{other} and {name} are the same file by name, compressed or not: leave one of them out"
            )
