"""Principles that answers are to keep, read from a file: TOML, or JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from ptft_jax import config as configs
from ptft_jax.errors import UserError, nearest
from ptft_jax.rewards.base import Verifier
from ptft_jax.rewards.choosing import chosen

CRITIQUE = "Say how your last answer goes against this principle: {text}"
REVISION = "Now write your last answer again so that it keeps this principle, and write nothing else: {text}"


@dataclasses.dataclass(frozen=True)
class Check:
    """How it is measured whether an answer keeps a principle: by the score of a verifier.

    Attributes:
      verifier, settings: its name, and those of `config.rewards.NAME`.
      least, most: the scores of answers that keep the principle; None = there is no such bound.
    """

    verifier: str
    settings: Mapping[str, Any]
    least: float | None
    most: float | None

    def keeps(self, score: float) -> bool:
        return (self.least is None or score >= self.least) and (self.most is None or score <= self.most)


@dataclasses.dataclass(frozen=True)
class Repair:
    """What is made of an answer that goes against a principle: a text in place of what a pattern of Python's re finds, or in place of
    all of it (pattern "")."""

    pattern: str
    text: str


@dataclasses.dataclass(frozen=True)
class Principle:
    """What answers are to keep.

    Attributes:
      critique, revision: what the model is asked to do with an answer of its own.
      check, repair: None = there is none.
    """

    name: str
    text: str
    critique: str
    revision: str
    check: Check | None = None
    repair: Repair | None = None

    def verifier(self, plugins: tuple[str, ...] = ()) -> Verifier:
        """What its check scores by. Raises UserError for settings that are wrong."""
        assert self.check is not None
        values = {"plugins": plugins, "rewards": {self.check.verifier: dict(self.check.settings)}}
        config = configs.check(values if self.check.settings else {"plugins": plugins})
        found = chosen((self.check.verifier,), config, "rewards")[self.check.verifier]
        found.strictly()
        return found


def read(file: str) -> tuple[Principle, ...]:
    """The principles of a file, in its order.

    Raises:
      UserError: that names the file, the principle and the field: what cannot be read, is missing, is not known, or is of another type.
    """
    values = _parsed(pathlib.Path(file).expanduser(), file)
    if isinstance(values, dict):
        _known(values, ("principles",), file)
        values = values.get("principles")
    if not isinstance(values, list) or not values:
        raise UserError(
            f"{file}: it has no principles: expected a list of tables, [[principles]], each with a name and a text"
        )
    found: dict[str, Principle] = {}
    for number, value in enumerate(values, 1):
        named = f" {value['name']!r}" if isinstance(value, dict) and isinstance(value.get("name"), str) else ""
        where = f"{file}: principle {number}{named}"
        if not isinstance(value, dict):
            raise UserError(f"{where}: a {type(value).__name__}, expected a table with a name and a text")
        principle = _principle(value, where)
        if principle.name in found:
            raise UserError(f"{where}: name: another one is called so")
        found[principle.name] = principle
    return tuple(found.values())


def _parsed(path: pathlib.Path, file: str) -> Any:
    if path.suffix not in (".toml", ".json"):
        raise UserError(f"{file}: principles are read from a .toml or .json file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{file}: cannot be read: {e}") from e
    try:
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{file}: not {path.suffix[1:].upper()}: {e}") from e


def _principle(value: Mapping[str, Any], where: str) -> Principle:
    _known(value, [field.name for field in dataclasses.fields(Principle)], where)
    name, text = (_text(value, field, where) for field in ("name", "text"))
    requests = {"critique": CRITIQUE, "revision": REVISION}
    asked = {
        field: _text(value, field, where) if field in value else usual.format(text=text)
        for field, usual in requests.items()
    }
    check, repair = (_table(value, field, where) for field in ("check", "repair"))
    if repair is not None and check is None:
        raise UserError(f"{where}: repair: there is no check, which says what is to be repaired")
    return Principle(
        name,
        text,
        **asked,
        check=None if check is None else _check(check, f"{where}: check"),
        repair=None if repair is None else _repair(repair, f"{where}: repair"),
    )


def _check(value: Mapping[str, Any], where: str) -> Check:
    _known(value, ("verifier", "settings", "least", "most"), where)
    bounds = {}
    for field in ("least", "most"):
        bound = value.get(field)
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, (int, float))):
            raise UserError(f"{where}: {field} = {bound!r}: expected a number")
        if bound is not None and not math.isfinite(bound):
            raise UserError(
                f"{where}: {field} = {bound!r}: expected a finite number; leave out a bound that there is not"
            )
        bounds[field] = bound
    if bounds == {"least": None, "most": None}:
        raise UserError(
            f"{where}: least or most is missing: the scores of answers that keep the principle, such as least = 1, or most = 0"
        )
    if None not in (bounds["least"], bounds["most"]) and bounds["least"] > bounds["most"]:
        raise UserError(
            f"{where}: least = {bounds['least']} is more than most = {bounds['most']}: no answer keeps that"
        )
    settings, verifier = _table(value, "settings", where) or {}, _text(value, "verifier", where)
    if verifier == "principles":
        raise UserError(f"{where}: verifier = 'principles': it counts the principles of a file, and a check is of one")
    return Check(verifier, settings, **bounds)


def _repair(value: Mapping[str, Any], where: str) -> Repair:
    _known(value, ("pattern", "text"), where)
    if not isinstance(value.get("text"), str):
        raise UserError(
            f"{where}: text is missing: what is put in place of the answer, or of what a pattern finds in it"
        )
    pattern = _text(value, "pattern", where) if "pattern" in value else ""
    try:
        re.compile(pattern).sub(value["text"], "") if pattern else None
    except (re.error, IndexError, RecursionError, OverflowError) as e:
        raise UserError(f"{where}: {pattern!r} -> {value['text']!r}: {e}") from e
    return Repair(pattern, value["text"])


def _known(value: Mapping[str, Any], names: Any, where: str) -> None:
    for name in value:
        if name not in names:
            raise UserError(f"{where}: {name}: no such field: expected of {', '.join(names)}{nearest(name, names)}")


def _text(value: Mapping[str, Any], field: str, where: str) -> str:
    found = value.get(field)
    if not isinstance(found, str) or not found.strip():
        raise UserError(f"{where}: {field} {'is missing' if found is None else f'= {found!r}'}: expected a text")
    return found


def _table(value: Mapping[str, Any], field: str, where: str) -> Mapping[str, Any] | None:
    found = value.get(field)
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{where}: {field} = {found!r}: expected a table")
    return found
