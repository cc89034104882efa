"""Labels of classification: of which type they are, which classes there are, and the number of each label's.

The labels of a source are all of one type: texts, the names of classes; whole numbers, the classes themselves; or true
and false. Cells of CSV, which has no types, are whole numbers where all of them are spelled as JSON spells these.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ptft_jax.data import cache
from ptft_jax.errors import UserError, few, nearest

if TYPE_CHECKING:
    from ptft_jax.data.formats.base import Format

MOST_CLASSES = 10_000
TRUTHS = ("false", "true")
# The type of the labels of a source, and what it is called in messages.
TEXT, NUMBER, TRUTH, SPELLED = "text", "number", "truth", "spelled"
_CALLED = {TEXT: "texts", NUMBER: "numbers", TRUTH: "true and false", SPELLED: "numbers"}
_WHOLE = re.compile("0|-?[1-9][0-9]*")
_LARGEST = 2**31 - 1
_LARGEST_FLOAT = 3.4028234663852886e38  # of float32
HINT = "; the names of all classes may be given, in the order of their numbers, by the option classes=A,B,..."


class Labels(NamedTuple):
    """What is known of the labels of a source.

    Attributes:
      kind: TEXT, NUMBER, TRUTH, or SPELLED (texts that are whole numbers).
      classes: names in the order of their numbers; () where labels are numbers without names.
      declared: the order is that of the option `classes`, of the source itself or of false and true, not the alphabet's.
    """

    kind: str
    classes: tuple[str, ...]
    declared: bool


@dataclasses.dataclass(frozen=True)
class Pool:
    """What beside its train records a source tells of its labels.

    Attributes:
      parts: gives all records that classes are found in, those of train and of the splits that were divided from it, each
        with what names the place of one.
      untyped: every value is a text, as in CSV.
      names: column -> names of classes in the order of their numbers, where the source declares them.
    """

    parts: Callable[[], Sequence[tuple[Sequence[Any], Callable[[int], str]]]]
    untyped: bool = False
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def of(column: str, first: Any, given: str | None, pool: Pool) -> Labels:
    """The labels of a source.

    Args:
      column: the one that holds them.
      first: the first record's.
      given: the option `classes`, or None.

    Raises:
      UserError: `classes` that are not names that differ; labels of several types, an empty one, names that look like
        one class spelled in two ways; more names than classes can be.
    """
    classes = named(given) if given is not None else _worded(pool.names.get(column, ()))
    declared, kind = bool(classes), kind_of(first)
    if kind == TRUTH:
        return Labels(kind, classes or TRUTHS, True)
    if kind == NUMBER or (declared and not pool.untyped):
        return Labels(kind, classes, declared)
    found, spelled = _found(column, pool, unlike=not declared)
    if spelled and pool.untyped:
        return Labels(SPELLED, classes, declared)
    return Labels(TEXT, classes or found, declared)


def named(given: str) -> tuple[str, ...]:
    """The names that the option `classes` gives. Raises UserError."""
    names = tuple(name.strip() for name in given.split(","))
    if len(set(names)) != len(names) or not all(names):
        raise UserError(f"classes={given}: expected names that differ, joined by commas")
    return names


def _worded(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that a source declares; () where they are but its numbers, as datasets without names declare them."""
    return () if names == tuple(map(str, range(len(names)))) else names


def kind_of(label: Any) -> str:
    """The type of one label; "" for what is none."""
    if isinstance(label, bool):
        return TRUTH
    return NUMBER if isinstance(label, int) else TEXT if isinstance(label, str) else ""


def number(label: Any, form: Format, where: str) -> int:
    """The number of the class that a label means.

    Raises:
      UserError: of another type than the source's labels, an unknown name, or a number that is no class's.
    """
    shown, names = f"{where}: column {form.columns['label']!r} is", form.classes
    kind = kind_of(label)
    if kind == TEXT and not label.strip():
        raise UserError(f"{shown} empty: expected a class{HINT}")
    if kind == TEXT and form.labels == TEXT:
        if label not in names:
            raise UserError(
                f"{shown} {label!r}: expected one of {few(names)}{nearest(label, names)}"
                + (HINT if not form.declared else "")
            )
        return names.index(label)
    if kind == TEXT and form.labels == SPELLED and _WHOLE.fullmatch(label):
        kind, label = SPELLED, int(label)
    if kind in (NUMBER, SPELLED):
        label = _numbered(label, names, shown)
    if not kind:
        raise UserError(f"{shown} {label!r}: expected a class, a whole number from 0 or a name")
    if kind != form.labels:
        raise UserError(f"{shown} {_other(label, kind, form.labels)}")
    if kind == TRUTH and label >= len(names):
        raise UserError(f"{shown} true: expected two classes, of false and of true, and there is one: {names[0]}")
    return int(label)


def value(label: Any, form: Format, where: str, column: str = "label") -> float:
    """The number that a label of regression (or another `column`) is, as a float32 holds it. Texts are numbers in CSV alone, which has
    no others.

    Raises:
      UserError: it is none, or not finite.
    """
    shown = f"{where}: column {form.columns[column]!r} is"
    if isinstance(label, str) and form.labels == SPELLED:
        if not label.strip():
            raise UserError(f"{shown} empty: expected a number")
        try:
            found = float(label)
        except ValueError:
            raise UserError(f"{shown} {label!r}: expected a number") from None
    elif isinstance(label, (int, float)) and not isinstance(label, bool):
        found = float(label) if abs(label) < 1e39 or label != label else math.inf
    else:
        raise UserError(f"{shown} {label!r}: expected a number")
    if not abs(found) <= _LARGEST_FLOAT:
        raise UserError(f"{shown} {label!r}: expected a number that is finite in float32")
    return found


def _numbered(label: int, names: Sequence[str], shown: str) -> int:
    if values := values_of(names):
        if label not in values:
            raise UserError(f"{shown} {label}: expected one of {few(names)}")
        return values[label]
    most = len(names) or _LARGEST + 1
    if not 0 <= label < most:
        below = f" below {most}" if names or label > 0 else ""
        none = " (-1 often means that a record has no label: leave such records out)" if label == -1 else ""
        raise UserError(
            f"{shown} {label}: expected a class, a number from 0{below}{none}; classes=A,B,... names numbers of another kind"
        )
    return label


def values_of(names: Sequence[str]) -> dict[int, int]:
    """Number -> the class whose name it is, where the names are all whole numbers; else {}."""
    whole = bool(names) and all(map(_WHOLE.fullmatch, names))
    return {int(name): n for n, name in enumerate(names)} if whole else {}


def renumbers(form: Format) -> bool:
    """Whether labels that are numbers get other numbers, by names that are numbers."""
    values = values_of(form.classes) if form.labels in (NUMBER, SPELLED) else {}
    return any(value != n for value, n in values.items())


def _other(label: Any, kind: str, expected: str) -> str:
    what = {TEXT: f"the text {label!r}", TRUTH: str(label).lower()}.get(kind, f"the number {label!r}")
    return f"{what}; the first records have {_CALLED[expected]}, and the labels of a source are of one type"


def _found(column: str, pool: Pool, *, unlike: bool) -> tuple[tuple[str, ...], bool]:
    """The names that stand in a column, sorted, and whether all of them spell whole numbers. What was found once of the
    same records is remembered.

    Args:
      unlike: refuse names that only white space around them, case or Unicode form tells apart.
    """
    parts = pool.parts()
    prints = [getattr(records, "fingerprint", "") for records, _ in parts]
    memo = cache.root() / "labels" / cache.digest("labels-1", column, *prints) if all(prints) else None
    if memo is not None and (known := cache.noted(memo)):
        names = json.loads(known)
    else:
        first = _scanned(column, parts)
        names = _ordered(first)
        alike = _alike(column, first)
        if alike and unlike:
            raise UserError(alike)
        if memo is not None and not alike:
            cache.write_atomic(memo, lambda temporary: temporary.write_text(json.dumps(names), encoding="utf-8"))
    return tuple(names), all(map(_WHOLE.fullmatch, names))


def _scanned(column: str, parts: Sequence[tuple[Sequence[Any], Callable[[int], str]]]) -> dict[str, str]:
    """Name -> where it stands first."""
    first: dict[str, str] = {}
    for records, where in parts:
        for index in range(len(records)):
            label = records[index].get(column)
            if label is None:  # refused where it is read
                continue
            kind = kind_of(label)
            if kind != TEXT:
                raise UserError(f"{where(index)}: column {column!r} is {_other(label, kind, TEXT)}")
            if not label.strip():
                raise UserError(f"{where(index)}: column {column!r} is empty: expected a class")
            if label not in first:
                first[label] = where(index)
            if len(first) > MOST_CLASSES:
                raise UserError(
                    f"column {column!r} has more than {MOST_CLASSES} values: these are no classes; name format="
                )
    return first


def _ordered(names: Iterable[str]) -> list[str]:
    """In the alphabet's order, but "2" before "10"."""
    return sorted(names, key=lambda name: (int(name), name) if name.isdecimal() else (math.inf, name))


def plain(name: str) -> str:
    """The name without what is easily overlooked: white space around it, case, Unicode form."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _alike(column: str, first: Mapping[str, str]) -> str:
    seen: dict[str, str] = {}
    for name, where in first.items():
        other = seen.setdefault(plain(name), name)
        if other != name:
            return (
                f"{where}: column {column!r} is {name!a}, and at {first[other]} {other!a}: these differ in white space around "
                "them, case or Unicode form alone; spell one class in one way, or give the names of all by the option "
                "classes=A,B,..."
            )
    return ""
