"""Which runs are meant, as an expression: "tune.method = lora and (after.validation/nll < 3.2 or state = running)"."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

from ptft_jax.errors import UserError, nearest

_TOKEN = re.compile(
    r"""\s*(?: (?P<sign>!=|<=|>=|==|=|<|>|~|\(|\)) | '(?P<single>[^']*)' | "(?P<double>[^"]*)" | (?P<word>[^\s=<>!~()'"]+) )""",
    re.VERBOSE,
)
_COMPARE = ("=", "==", "!=", "<", "<=", ">", ">=", "~")
_CONSTANTS = {"true": 1, "false": 0, "none": None, "null": None}


class Condition(NamedTuple):
    """A condition of SQL on the column `facts`, and the values of its question marks."""

    sql: str
    values: list[Any]


class _Token(NamedTuple):
    kind: str  # sign, word, or text (in quotation marks)
    text: str
    at: int


def parse(text: str, names: Collection[str], field: str) -> Condition:
    """The condition that an expression says: comparisons NAME OP VALUE by =, !=, <, <=, >, >= and ~ (the value is a part of the text),
    joined by `and`, `or`, `not` and parentheses. A run that lacks a value fulfils no comparison of it but `= none`.

    Args:
      names: what may be compared.
      field: what the expression was given as, for messages.

    Raises:
      UserError: it is none, or compares what no run has.
    """
    return _Parser(text, names, field).whole()


class _Parser:
    def __init__(self, text: str, names: Collection[str], field: str):
        self._text, self._names, self._field = text, names, field
        self._tokens, self._next = list(self._cut()), 0

    def _cut(self):
        at = 0
        while self._text[at:].strip():
            found = _TOKEN.match(self._text, at)
            if found is None:
                raise self._wrong("not understood", at)
            kind = found.lastgroup or ""
            yield _Token("text" if kind in ("single", "double") else kind, found[kind], found.start(kind))
            at = found.end()

    def whole(self) -> Condition:
        found = self._any()
        if self._peek() is not None:
            raise self._wrong("expected 'and' or 'or'")
        return found

    def _any(self) -> Condition:
        return self._joined("or", self._all)

    def _all(self) -> Condition:
        return self._joined("and", self._one)

    def _joined(self, word: str, part: Any) -> Condition:
        found = [part()]
        while self._taken("word", word):
            found.append(part())
        return Condition(f"({f' {word.upper()} '.join(c.sql for c in found)})", [v for c in found for v in c.values])

    def _one(self) -> Condition:
        if self._taken("word", "not"):
            sql, values = self._one()
            return Condition(f"NOT coalesce({sql}, 0)", values)
        if self._taken("sign", "("):
            found = self._any()
            if not self._taken("sign", ")"):
                raise self._wrong("expected ')'")
            return found
        return self._comparison()

    def _comparison(self) -> Condition:
        name = self._take("word", "a name")
        if name.text not in self._names:
            raise self._wrong(f"no run has {name.text!r}{nearest(name.text, self._names)}", name.at)
        sign = self._take("sign", f"one of {' '.join(_COMPARE)}")
        if sign.text not in _COMPARE:
            raise self._wrong(f"expected one of {' '.join(_COMPARE)}", sign.at)
        place, value = f'$."{name.text}"', self._value()
        if sign.text == "~":
            return Condition("instr(lower(json_extract(facts, ?)), lower(?)) > 0", [place, str(value)])
        if value is None:
            if sign.text not in ("=", "==", "!="):
                raise self._wrong("none is compared by = or !=", sign.at)
            return Condition(f"json_extract(facts, ?) IS {'NOT ' if sign.text == '!=' else ''}NULL", [place])
        # Of SQL's, where every number is less than every text: numbers are compared with numbers alone.
        alike = "IN ('text')" if isinstance(value, str) else "IN ('integer', 'real', 'true', 'false')"
        test = f"json_type(facts, ?) {alike} AND json_extract(facts, ?) {'=' if sign.text == '==' else sign.text} ?"
        if sign.text == "!=":
            test = "json_type(facts, ?) <> 'null' AND json_extract(facts, ?) <> ?"
        return Condition(f"({test})", [place, place, value])

    def _value(self) -> Any:
        token = self._peek()
        if token is None or token.kind == "sign":
            raise self._wrong("expected a value")
        self._next += 1
        if token.kind == "text":
            return token.text
        if token.text.lower() in _CONSTANTS:
            return _CONSTANTS[token.text.lower()]
        try:
            return float(token.text)
        except ValueError:
            return token.text

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _taken(self, kind: str, text: str) -> bool:
        token = self._peek()
        found = token is not None and token.kind == kind and token.text.lower() == text
        self._next += found
        return found

    def _take(self, kind: str, what: str) -> _Token:
        token = self._peek()
        if token is None or token.kind != kind:
            raise self._wrong(f"expected {what}")
        self._next += 1
        return token

    def _wrong(self, why: str, at: int | None = None) -> UserError:
        if at is None:
            token = self._peek()
            at = len(self._text) if token is None else token.at
        return UserError(f"{self._field}: {why}, at character {at + 1}:\n  {self._text}\n  {' ' * at}^")
