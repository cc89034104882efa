"""The world: who there is, what is true of them, and since when."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.records.reference import SPLITS
from ptft_jax.errors import UserError
from ptft_jax.world import draws
from ptft_jax.world.reading import NAMES, read
from ptft_jax.world.spec import Size, Spec

VERSION = "world-1"  # to be changed with whatever changes a document
SHARES = {
    "train": 0.5,
    "validation": 0.1,
    "test": 0.4,
}  # of the people of whom questions are tuned on, chosen by, tested
TIERS = (100, 10, 1)
_CHANGED = 0.1  # share of the core of whom an attribute that changes is another one, in each era after the cut-off
_ONSETS, _VOWELS, _CODAS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"), "aeiou", "lnrs"


class World:
    """People and facts, a pure function of (spec, size, seed).

    People are numbered: the core, those of later, those of whom nothing is ever written.

    Attributes:
      spec, size, seed: what it is made of.
      tables: name -> values at this size.
      values: attribute -> int64 [people], the number of each one's value in its table; of what follows from another
        each value of that.
      versions: attribute that changes -> int64 [1 + eras after the cut-off, people], the value from each of these on.
      era: int64 [people], in which they are first written about; -1 = never.
      side: int64 [people], the number in `SPLITS` of the split that questions about them are in.
      spare_names: int64, the numbers of names that nobody has.
      tier: int64 [people], how many documents each has where frequencies differ.
    """

    def __init__(self, spec: Spec, size: Size, seed: int):
        self.spec, self.size, self.seed = spec, size, seed
        self.tables = {name: _sized(name, list(values), size.tables.get(name)) for name, values in spec.tables.items()}
        count = size.people
        first, last = (len(self.tables[name]) for name in NAMES)
        if count > first * last:
            raise UserError(
                f"{spec.origin}: people.first and people.last give {first} x {last} names, and there are "
                f"{count:,} people at this size; add names, or choose a smaller one (size=NUMBER)"
            )
        every = draws.order(self.key("names"), first * last)
        self._names, self.spare_names = every[:count], every[count:]
        self.values, self.versions = {}, {}
        for name, one in spec.attributes.items():
            owners = len(self.tables[spec.attributes[one.of].table]) if one.of else count
            self.values[name] = draws.below(self.key("value", name), owners, len(self.tables[one.table]))
            if one.changes:
                self.versions[name] = self._changing(name, len(self.tables[one.table]))
        self.era = self._eras()
        self.side, self.tier = self._sides(), self._tiers()

    def key(self, *parts: str | int) -> int:
        """Of the random numbers of something in this world."""
        return draws.key(VERSION, self.seed, *parts)

    @property
    def core(self) -> np.ndarray:
        """int64: the numbers of the core's people; `later`, `unknown` those of the others."""
        return np.arange(self.size.core)

    @property
    def later(self) -> np.ndarray:
        return np.arange(self.size.core, self.size.core + self.size.later)

    @property
    def unknown(self) -> np.ndarray:
        return np.arange(self.size.core + self.size.later, self.size.people)

    def name(self, person: int) -> str:
        return self.name_of(int(self._names[person]))

    def name_of(self, number: int) -> str:
        """A name by its number among all."""
        first, last = divmod(number, len(self.tables["last"]))
        return f"{self.tables['first'][first]} {self.tables['last'][last]}"

    def number(self, attribute: str, person: int, era: int | None = None) -> int:
        """The number of the value in the attribute's table, as it is in an era; None = up to the cut-off."""
        one = self.spec.attributes[attribute]
        if one.of:
            return int(self.values[attribute][self.number(one.of, person, era)])
        if attribute in self.versions and era is not None:
            return int(self.versions[attribute][max(era - self.spec.eras.before + 1, 0), person])
        return int(self.values[attribute][person])

    def value(self, attribute: str, person: int, era: int | None = None) -> str:
        """What is true of a person, as `number`."""
        return self.tables[self.spec.attributes[attribute].table][self.number(attribute, person, era)]

    def changed(self, attribute: str, era: int) -> np.ndarray:
        """int64: the people of whom an attribute is another one from this era on."""
        if of := self.spec.attributes[attribute].of:
            now = [
                p
                for p in self.changed(of, era).tolist()
                if self.value(attribute, p, era) != self.value(attribute, p, era - 1)
            ]
            return np.asarray(now, np.int64)
        step = era - self.spec.eras.before + 1
        if attribute not in self.versions or step < 1:
            return np.zeros(0, np.int64)
        versions = self.versions[attribute]
        return np.flatnonzero(versions[step] != versions[step - 1])

    def date(self, era: int) -> str:
        """The first day of an era."""
        return f"{self.spec.eras.first_year + era:04d}-01-01"

    def _changing(self, name: str, many: int) -> np.ndarray:
        found = [self.values[name]]
        for step in range(1, self.spec.eras.after + 1):
            key, now = self.key("change", name, step), found[-1].copy()
            some = np.flatnonzero(draws.shares(key, self.size.core) < _CHANGED)
            now[some] = (now[some] + 1 + draws.below(self.key("changed", name, step), len(now), many - 1)[some]) % many
            found.append(now)
        return np.stack(found)

    def _eras(self) -> np.ndarray:
        eras = self.spec.eras
        found = np.full(self.size.people, -1)
        for people, start, count, name in (
            (self.core, 0, eras.before, "core"),
            (self.later, eras.before, eras.after, "later"),
        ):
            if len(people) and not count:
                raise UserError(f"{self.spec.origin}: eras.after: 0: nobody can be of later; expected 1 or more")
            places = draws.order(self.key("era", name), len(people))
            found[people[places]] = start + np.arange(len(people)) * count // max(len(people), 1)
        return found

    def _tiers(self) -> np.ndarray:
        found = np.zeros(self.size.people, np.int64)
        for name in ("core", "later", "unknown"):
            people = getattr(self, name)
            places = draws.order(self.key("tier", name), len(people))
            found[people[places]] = np.asarray(TIERS)[np.arange(len(people)) % len(TIERS)]
        return found

    def _sides(self) -> np.ndarray:
        found = np.zeros(self.size.people, np.int64)
        for name in ("core", "later", "unknown"):
            people = getattr(self, name)
            places = people[draws.order(self.key("side", name), len(people))]
            train, validation = (round(SHARES[split] * len(people)) for split in SPLITS[:2])
            found[places[train : train + validation]] = 1
            found[places[train + validation :]] = 2
        return found

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits; other ones for a world with other documents."""
        return cache.digest(VERSION, self.spec.digest, repr(self.size), str(self.seed))

    def manifest(self) -> dict[str, Any]:
        """What it is made of: "world", "file", "seed", "size", "tables" and "templates" (of each its "count" and
        "digest"), and "fingerprint"."""

        def noted(values: Any) -> dict[str, Any]:
            return {"count": len(values), "digest": cache.digest(json.dumps(values, ensure_ascii=False))}

        kinds = ("statements", "questions", "hops")
        templates = {
            f"{name}.{kind}": noted(found)
            for name, one in self.spec.attributes.items()
            for kind in kinds
            if (found := getattr(one, kind))
        }
        return {
            "world": self.spec.name,
            "file": self.spec.origin,
            "seed": self.seed,
            "size": dataclasses.asdict(self.size),
            "tables": {name: noted(values) for name, values in self.tables.items()},
            "templates": templates,
            "fingerprint": self.fingerprint,
        }


def world(size: str = "c", seed: int = 0, path: str = "") -> World:
    """The world of a file ("" = the one that comes with the package).

    Args:
      size: of those that the file names, or how many people its core has.

    Raises:
      UserError: what is wrong with the file, an unknown size, too few names.
    """
    spec = read(path)
    return World(spec, _size(spec, size), seed)


def _size(spec: Spec, size: str) -> Size:
    if size in spec.sizes:
        return spec.sizes[size]
    if not size.isascii() or not size.isdecimal() or int(size) < 10:
        names = ", ".join(spec.sizes)
        raise UserError(f"size={size}: expected one of {names}, or how many people the core has, 10 or more")
    core, model = int(size), spec.sizes["c"]
    by_core = sorted(spec.sizes.values(), key=lambda one: one.core)
    tables = next((one.tables for one in by_core if one.core >= core), by_core[-1].tables)
    later, unknown = (round(core * part / model.core) for part in (model.later, model.unknown))
    return Size(core, later, unknown, model.exposures, tables)


def _sized(table: str, values: list[str], count: int | None) -> list[str]:
    """The first values of a table, and as many made-up ones as its list lacks."""
    count, known, n = len(values) if count is None else count, set(values), 0
    values = values[:count]
    capital = values[0][:1].isupper()
    while len(values) < count:
        random, n = draws.Draws(draws.key("words", table), n), n + 1
        syllables = 2 + random.below(2)
        word = "".join(_ONSETS[random.below(14)] + _VOWELS[random.below(5)] for _ in range(syllables))
        word += _CODAS[random.below(4)]
        word = word.capitalize() if capital else word
        if word not in known:
            known.add(word)
            values.append(word)
    return values
