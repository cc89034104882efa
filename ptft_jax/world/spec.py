"""What a world is made of, as its file says: tables of names and values, sizes, eras, templates of statements and
questions."""

from __future__ import annotations

import dataclasses
import functools
import string
from collections.abc import Mapping

PERSON = "name"  # what templates call a person by


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Something that is true of everybody.

    Attributes:
      name: what templates call its value by.
      table: the name of the table that its values are from.
      statements, questions: templates; a statement names whom or what it is about and the value, a question the
      first alone. held_out: how many of the questions, the last ones, are asked in evaluations alone.
      of: the attribute that it follows from, two hops from a name; "" = it is of people.
      hops: questions that ask for it by the name of a person.
      changes: it is another one for some in eras after the cut-off.
    """

    name: str
    table: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_out: int = 2
    of: str = ""
    hops: tuple[str, ...] = ()
    changes: bool = False

    @property
    def subject(self) -> str:
        """What templates call by which it is about."""
        return self.of or PERSON


@dataclasses.dataclass(frozen=True)
class Size:
    """How many there are.

    Attributes:
      core: people that everything before the cut-off is about.
      later: people of whom nothing is written before it.
      unknown: people of whom nothing is ever written.
      exposures: documents about each of the first.
      tables: table -> how many entries it has; those that its list lacks are made up.
    """

    core: int = 400
    later: int = 60
    unknown: int = 200
    exposures: int = 75
    tables: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def people(self) -> int:
        return self.core + self.later + self.unknown


@dataclasses.dataclass(frozen=True)
class Eras:
    """Time: a year each.

    Attributes:
      before: how many there are up to the cut-off; the core's people are spread over them.
      after: how many follow; those of `Size.later` are spread over them.
      first_year: the year of the first.
    """

    before: int = 5
    after: int = 3
    first_year: int = 2016

    @property
    def count(self) -> int:
        return self.before + self.after


@dataclasses.dataclass(frozen=True)
class Spec:
    """A world's file, read.

    Attributes:
      origin: the file, for messages; `digest` of its content; `path`, "" of the one that comes with the package.
      first, last: of names, entries of `tables`.
      pronoun: stands for a person whom the document has named.
      sizes: by name.
      tables: name -> values, all different.
      attributes: by name; one that follows from another stands behind it.
    """

    origin: str
    path: str
    digest: str
    name: str
    pronoun: str
    sizes: Mapping[str, Size]
    eras: Eras
    tables: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Attribute]

    @property
    def of_people(self) -> tuple[str, ...]:
        """The attributes that do not follow from others."""
        return tuple(name for name, one in self.attributes.items() if not one.of)


def fields(template: str) -> list[str]:
    """The names in a template's braces, in order. Raises ValueError where it is malformed."""
    found = []
    for _, field, form, conversion in string.Formatter().parse(template):
        if field is None:
            continue
        if not field.isidentifier() or form or conversion:
            raise ValueError(f"{{{field}}}")
        found.append(field)
    return found


@functools.lru_cache(maxsize=4096)
def before_value(template: str, value: str) -> str | None:
    """A statement up to its value, without white space before that; None where its subject comes behind."""
    before, _, after = template.partition(f"{{{value}}}")
    return before.rstrip() if fields(before) and not fields(after) else None
