"""Axes as the command line has them: `FIELD=A,B`, `FIELD=loguniform(4,64)`, `FIELD,FIELD=(A,B),(C,D)`, each with ` if FIELD=VALUE`."""

from __future__ import annotations

import ast
import re
from typing import Any

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.experiments.axes import DRAWS, Axis, grid, zipped

FORM = "FIELD=VALUE,..., FIELD=loguniform(LEAST,MOST) (uniform, choice), or FIELD,FIELD=(VALUE,VALUE),..."


def parse(text: str) -> Axis:
    """The axis that a text names. Raises UserError."""
    body, *conditions = _cut(text.strip(), r"\s+(?:if|and)\s+")
    names, equals, rest = body.partition("=")
    if not equals or not names.strip():
        raise UserError(f"--axis {text!r}: expected {FORM}")
    fields = [name.strip() for name in names.split(",")]
    drawn = re.fullmatch(rf"\s*({'|'.join(DRAWS)})\((.*)\)\s*", rest)
    if len(fields) > 1:
        if drawn:
            raise UserError(f"--axis {text!r}: {drawn[1]} draws for one field")
        axis = zipped(fields, *(_together(word, fields, text) for word in _split(rest)))
    else:
        words = _split(drawn[2] if drawn else rest)
        axis = grid(fields[0], *(_value(word, fields[0], drawn[1] if drawn else "") for word in words))
        axis = Axis(axis.fields, axis.values, drawn[1]) if drawn else axis
    for condition in conditions:
        field, equals, rest = condition.partition("=")
        if not equals:
            raise UserError(f"--axis {text!r}: if {condition}: expected FIELD=VALUE")
        axis = axis.when(field, *(_value(word, field.strip()) for word in _split(rest)))
    return axis


def _together(word: str, fields: list[str], text: str) -> list[Any]:
    if not (word.startswith("(") and word.endswith(")")):
        raise UserError(f"--axis {text!r}: {word}: expected ({','.join('VALUE' for _ in fields)})")
    values = _split(word[1:-1])
    return [_value(value, field) for value, field in zip(values, fields)] + values[len(fields) :]


def _value(word: str, field: str, draw: str = "") -> Any:
    """A word as a value of a field: of one that holds a text the text itself, else as Python writes it."""
    declared = dict(configs.fields()).get("init.from_" if field == "init.from" else field.removeprefix("config."))
    text = declared is not None and type(declared.default) is str
    quoted = len(word) > 1 and word[0] == word[-1] and word[0] in "'\""
    if text and draw in ("", "choice") and not quoted:
        return word
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(word, word))
    except (ValueError, SyntaxError):
        return word  # of a plugin's field, or what its field refuses


def _split(text: str) -> list[str]:
    """The parts between the commas that are in no brackets or quotes."""
    return [part.strip() for part in _cut(text.strip(), ",")] if text.strip() else []


def _cut(text: str, between: str) -> list[str]:
    """The parts between what matches a pattern and is in no brackets or quotes."""
    parts, depth, quote, begin, place = list[str](), 0, "", 0, 0
    while place < len(text):
        letter = text[place]
        quote = ("" if letter == quote else quote) if quote else letter if letter in "'\"" else ""
        depth += 0 if quote else (letter in "([{") - (letter in ")]}")
        found = re.compile(between).match(text, place) if not depth and not quote else None
        if found:
            parts.append(text[begin:place])
            begin = place = found.end()
        else:
            place += 1
    return [*parts, text[begin:]]
