"""Texts that know of each character whether a template wrote it, or which value of the data it was in.

A template joins, cuts, trims, replaces and re-spells texts, so what it makes does not tell what stood in the data. `Text`
is a str that does all of this as str does, and takes the origin of every character along. Whatever this file cannot
follow gets the origin UNKNOWN, never that of the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

# Origins are characters too, one of each character of a text, so that they are cut and joined as fast as it is.
TEMPLATE, UNKNOWN = "\0", "\1"
_FIRST = 2  # value n of the data is chr(_FIRST + n)
_LAST = 0xFFFF - _FIRST  # further values share the last origin
_MASK = 0xF0000  # + the origin: the private character that stands for one of it, see `shadowed`

Path = tuple[str | int, ...]


class Text(str):
    """A str with the origin of each character. Methods that are not here give a plain str: whoever lets templates call
    them follows them with `shadowed`."""

    _origin: str  # templates may not look at what starts with an underscore

    def __new__(cls, text: str, origin: str | None = None) -> Text:
        made = super().__new__(cls, text)
        made._origin = UNKNOWN * len(made) if origin is None else origin
        return made

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[Text]:
        return map(Text, str.__iter__(self), self._origin)

    def __getitem__(self, key: Any) -> Text:
        return Text(str.__getitem__(self, key), self._origin[key])

    def __add__(self, other: Any) -> Text:
        if isinstance(other, Markup):  # escapes what it is added to
            return NotImplemented
        return Text(str.__add__(self, other), self._origin + origin(other))

    def __radd__(self, other: Any) -> Text:
        return (
            Text(str.__add__(other, self), origin(other) + self._origin) if isinstance(other, str) else NotImplemented
        )

    def __mul__(self, times: Any) -> Text:
        return Text(str.__mul__(self, times), self._origin * times)

    __rmul__ = __mul__

    def join(self, values: Iterable[Any]) -> Text:
        values = list(values)
        return Text(str.join(self, values), self._origin.join(map(origin, values)))

    def strip(self, *chars: Any) -> Text:
        return self.lstrip(*chars).rstrip(*chars)

    def lstrip(self, *chars: Any) -> Text:
        return self[len(self) - len(str.lstrip(self, *chars)) :]

    def rstrip(self, *chars: Any) -> Text:
        return self[: len(str.rstrip(self, *chars))]

    def removeprefix(self, prefix: str) -> Text:
        return self[len(self) - len(str.removeprefix(self, prefix)) :]

    def removesuffix(self, suffix: str) -> Text:
        return self[: len(str.removesuffix(self, suffix))]

    def split(self, *args: Any, **kwargs: Any) -> list[Text]:
        return self._found(str.split(self, *args, **kwargs), *args[:1], **kwargs)

    def rsplit(self, *args: Any, **kwargs: Any) -> list[Text]:
        return self._found(str.rsplit(self, *args, **kwargs), *args[:1], **kwargs)

    def _found(self, parts: list[str], sep: str | None = None, **_: Any) -> list[Text]:
        """Parts in the order in which they are in the text, with `sep` between them, or white space."""
        found, at = [], 0
        for part in parts:
            at = str.index(self, part, at)
            found.append(self[at : at + len(part)])
            at += len(part) + len(sep or "")
        return found

    def splitlines(self, *keepends: Any, **kwargs: Any) -> list[Text]:
        found, at = [], 0
        for whole, line in zip(str.splitlines(self, True), str.splitlines(self, *keepends, **kwargs)):
            found.append(self[at : at + len(line)])
            at += len(whole)
        return found

    def partition(self, sep: str) -> tuple[Text, ...]:
        return self._cut(str.partition(self, sep))

    def rpartition(self, sep: str) -> tuple[Text, ...]:
        return self._cut(str.rpartition(self, sep))

    def _cut(self, parts: tuple[str, str, str]) -> tuple[Text, ...]:
        first, second = len(parts[0]), len(parts[0]) + len(parts[1])
        return self[:first], self[first:second], self[second:]

    def replace(self, old: str, new: str, count: int = -1) -> Text:
        if old == "" and new != "":
            return Text(str.replace(self, old, new, count))
        return lifted(new).join(self.split(old, count)) if old else self

    def ljust(self, width: int, fill: str = " ") -> Text:
        return self + lifted(fill) * (len(str.ljust(self, width, fill)) - len(self))

    def rjust(self, width: int, fill: str = " ") -> Text:
        return lifted(fill) * (len(str.rjust(self, width, fill)) - len(self)) + self

    def zfill(self, width: int) -> Text:
        sign = int(str.startswith(self, ("+", "-")))
        return self[:sign] + "0" * (len(str.zfill(self, width)) - len(self)) + self[sign:]

    def lower(self) -> Text:
        return self._spelled(str.lower)

    def upper(self) -> Text:
        return self._spelled(str.upper)

    def casefold(self) -> Text:
        return self._spelled(str.casefold)

    def swapcase(self) -> Text:
        return self._spelled(str.swapcase)

    def capitalize(self) -> Text:
        return self._spelled(str.capitalize)

    def title(self) -> Text:
        return self._spelled(str.title)

    def _spelled(self, spell: Callable[[str], str]) -> Text:
        """Each character spelled otherwise; some become several."""
        text = spell(self)
        if len(text) == len(self):
            return Text(text, self._origin)
        sizes = [len(spell(char)) for char in str.__iter__(self)]
        whole = sum(sizes) == len(text)
        return Text(text, "".join(o * n for o, n in zip(self._origin, sizes)) if whole else None)


class Safe(Markup):
    """As Text, of what templates call safe from escaping. What is computed with it has no known origin."""

    def __new__(cls, text: Any = "", origin: str | None = None, *_: Any) -> Safe:
        made = super().__new__(cls, text)
        made._origin = UNKNOWN * len(made) if origin is None else origin
        return made


def origin(text: str) -> str:
    """Of each character."""
    return text._origin if isinstance(text, (Text, Safe)) else TEMPLATE * len(text)


def lifted(text: str) -> Text:
    """A text that a template wrote, with methods that follow what they are given; a Text as it is."""
    return text if isinstance(text, Text) else Text(text, origin(text))


def said(value: Any, path: Path, paths: list[Path], plain: Callable[[Path], bool] = lambda path: False) -> Any:
    """A copy of JSON values of the data, all of whose texts know that they are.

    Args:
      path: where the value is.
      paths: gets the path of each text, in the order of their numbers; a key of a table has that of its value.
      plain: whether a text at a path is a word of a template's own language.
    """
    if isinstance(value, str):
        if plain(path):
            return str(value)
        paths.append(path)
        return Text(value, of_value(len(paths) - 1) * len(value))
    if isinstance(value, Mapping):
        return {
            # Templates look keys up that are names; what is spelled by another is none.
            key if len(path) < 3 and key.isidentifier() else said(key, (*path, key), paths): said(
                item, (*path, key), paths, plain
            )
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [said(item, (*path, n), paths, plain) for n, item in enumerate(value)]
    return value


def of_value(number: int) -> str:
    """The origin of characters of a value."""
    return chr(_FIRST + min(number, _LAST))


def values(origins: str) -> set[int]:
    """The numbers of the values that are among origins."""
    return {ord(o) - _FIRST for o in set(origins) if ord(o) >= _FIRST}


def texts_in(value: Any) -> Iterator[str]:
    """All texts in JSON values, tables' keys too, in the order in which JSON writes them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key if isinstance(key, str) else ""
            yield from texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_in(item)


def _follows(value: Any) -> bool:
    return any(isinstance(text, (Text, Safe)) for text in texts_in(value))


def as_text(value: Any) -> Any:
    """A value as it is before it is written: what writes out as data has their origin."""
    if isinstance(value, Safe):
        return Text(str.__str__(value), value._origin)
    if isinstance(value, (Mapping, list, tuple)) and _follows(value):
        return Text(str(value))
    return value


def joined(values: Iterable[Any], between: Any = "") -> str:
    """Values as texts, one after the other."""
    parts = [str(as_text(value)) for value in values]
    if isinstance(between, Text) or any(isinstance(part, Text) for part in parts):
        return lifted(str(between)).join(parts)
    return str(between).join(parts)


def to_json(value: Any, **options: Any) -> str:
    """As `json.dumps`. A text keeps its origin as far as it has one only; signs between texts are the template's."""
    made = json.dumps(value, **options)
    if not _follows(value):
        return made
    texts = list(texts_in(_sorted(value) if options.get("sort_keys") else value))
    places = [found.span() for found in re.finditer(r'"(?:[^"\\]|\\.)*"', made)]
    if len(texts) != len(places):  # separators with quotes
        return Text(made)
    origins, at = [], 0
    for text, (start, end) in zip(texts, places):
        its = set(origin(text))
        inside = (its.pop() if len(its) == 1 else UNKNOWN) * (end - start - 2)
        origins += [TEMPLATE * (start + 1 - at), inside]
        at = end - 1
    return Text(made, "".join([*origins, TEMPLATE * (len(made) - at)]))


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(item) for key, item in sorted(value.items())}
    return [_sorted(item) for item in value] if isinstance(value, (list, tuple)) else value


def closed(made: Any, *given: Any) -> Any:
    """What was made of texts by what cannot be followed: of unknown origin, if any of these has one."""
    if (
        not isinstance(made, str)
        or isinstance(made, (Text, Safe))
        or not any(isinstance(x, (Text, Safe)) for x in given)
    ):
        return made
    return Safe(made) if isinstance(made, Markup) else Text(made)


def shadowed(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a function makes of plain texts, followed from outside: it is called once more with private characters in place
    of those of the data, which are then where its result has them. Where that result is another, nothing is known."""
    plain = _changed([list(args), dict(kwargs)], lambda text: str.__str__(text))
    made = function(*plain[0], **plain[1])
    given = [list(args), dict(kwargs)]
    if not isinstance(made, str) or not _follows(given):
        return made
    origins = {o for text in texts_in(given[0]) for o in origin(text)}
    origins |= {o for item in kwargs.values() for text in texts_in(item) for o in origin(text)}
    found = None
    if len(origins) == 1:
        found = origins.pop() * len(made)
    else:
        masked = _changed(given, _masked)
        try:
            shadow = function(*masked[0], **masked[1])
        except Exception:  # it looks at what it is given
            shadow = ""
        if len(shadow) == len(made) and all(a == b or ord(a) >= _MASK for a, b in zip(shadow, made)):
            found = "".join(
                chr(ord(a) - _MASK) if ord(a) >= _MASK and a != b else TEMPLATE for a, b in zip(shadow, made)
            )
    return (Safe if isinstance(made, Markup) else Text)(made, found)


def _masked(text: str) -> str:
    if len(its := set(origin(text))) == 1 and TEMPLATE not in its:
        return chr(_MASK + ord(its.pop())) * len(text)
    return "".join(c if o == TEMPLATE else chr(_MASK + ord(o)) for c, o in zip(str.__str__(text), origin(text)))


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """JSON values with all texts changed, other values as they are."""
    if isinstance(value, Markup):
        return Markup(change(value))
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_changed(key, change): _changed(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_changed(item, change) for item in value)
    return value
