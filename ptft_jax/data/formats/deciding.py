"""Which layout records have: what the first of a source decide."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ptft_jax.data.formats import json_text
from ptft_jax.data.formats.base import Record
from ptft_jax.data.formats.layouts import (
    ASKED,
    LAYOUTS,
    RATED,
    SAID,
    TALKS,
    USUAL,
    Layout,
    is_flags,
    is_ids,
    is_text,
)
from ptft_jax.errors import UserError, listed, nearest


class Decided(NamedTuple):
    """What the first records of a source decide.

    Attributes:
      fitting: the layouts that all of them have, the one that is taken first, and what a column is -> its name in each.
      coded: the columns that hold JSON in a text.
      sample: the records, with what these hold.
    """

    fitting: list[tuple[Layout, dict[str, str]]]
    coded: tuple[str, ...]
    sample: list[Record]


def decide(
    sample: Sequence[Record],
    wanted: str | None,
    named: Mapping[str, str],
    where: Callable[[int], str],
    learns: Sequence[str] = (),
) -> Decided:
    """What a sample decides.

    Args:
      wanted: the only layout to be considered, None = all.
      named: what a column is -> the name that the user gave it.
      learns: as of `choose`.

    Raises:
      UserError: no layout fits, or some of the records have another.
    """
    candidates = candidates_of(wanted, named, learns)
    coded = json_text.columns(sample, structured(candidates, named), where)
    sample = [json_text.decoded(record, coded, where(index)) for index, record in enumerate(sample)]
    fitting = [(layout, columns) for layout in candidates if (columns := fit(layout, sample, named)) is not None]
    firsts = [first_of(candidates, record, named) for record in sample]
    if not fitting or any(first is not fitting[0][0] for first in firsts):
        raise UserError(_misfit(candidates, sample, firsts, named, where))
    return Decided(fitting, coded, sample)


def numbered(sample: Iterable[Record], naming: Mapping[str, str], untyped: bool) -> bool:
    """Whether a record has a format of regression; `untyped`: its number may be a text."""
    numbers = [layout for layout in LAYOUTS if layout.kind == "regression" and set(naming) <= set(layout.columns)]
    fits = ((record, fit(layout, [record], naming)) for record in sample for layout in numbers)
    return any(columns and (untyped or not isinstance(record[columns["label"]], str)) for record, columns in fits)


def captioned(sample: Sequence[Record], naming: Mapping[str, str], learns: Sequence[str]) -> bool:
    """Whether a record has an image and what is said of it, as one of the kinds that are learned from has them."""
    layouts = [layout for layout in LAYOUTS if layout.kind in SAID and layout.kind in learns]
    layouts = [layout for layout in layouts if set(naming) <= set(layout.columns)]
    return any(fit(layout, [record], naming) for record in sample for layout in layouts)


def rated(
    sample: Sequence[Record], naming: Mapping[str, str], where: Callable[[int], str], learns: Sequence[str]
) -> bool:
    """Whether a record has a format of the rated kinds that are learned from. Raises UserError where none has, and one would but for
    its label."""
    kinds = {*RATED}.intersection(learns)
    layouts = [layout for layout in LAYOUTS if layout.kind in kinds and set(naming) <= set(layout.columns)]
    if any(fit(layout, [record], naming) for record in sample for layout in layouts):
        return True
    for index, record in enumerate(sample):
        for layout, names in ((one, names) for one in layouts for names in one.usual):
            columns = {what: naming.get(what, names[what]) for what in layout.needs}
            label, others = columns["label"], {what: need for what, need in layout.needs.items() if what != "label"}
            bare = dataclasses.replace(layout, needs=others)
            if record.get(label) is not None and misfit_of(bare, record, columns) is None:
                raise UserError(f"{where(index)}: column {label!r} is {record[label]!r}: expected true or false")
    return False


def structured(candidates: Iterable[Layout], named: Mapping[str, str]) -> dict[str, list[str]]:
    """Column -> what lists a column of its name may hold, by any of these layouts."""
    kinds = {test: json_text.MESSAGES for test in TALKS}
    kinds |= {is_ids: json_text.IDS, is_flags: json_text.IDS}
    found: dict[str, list[str]] = {}
    for layout in candidates:
        tests = {what: test for what, (test, *_) in (*layout.needs.items(), *layout.may.items())}
        usual = [*(pair for names in layout.usual for pair in names.items()), *named.items()]
        usual += [(what, name) for what, (*_, names) in layout.may.items() for name in names]
        for what, column in usual:
            kind = kinds.get(tests.get(what))
            if kind and named.get(what, column) == column and kind not in found.setdefault(column, []):
                found[column].append(kind)
    return found


def candidates_of(wanted: str | None, named: Mapping[str, str], learns: Sequence[str] = ()) -> list[Layout]:
    names = [layout.name for layout in LAYOUTS]
    if wanted is not None and wanted not in names:
        raise UserError(f"format={wanted}: expected one of {', '.join(names)}{nearest(wanted, names)}")
    asked = {*ASKED}.intersection(learns)
    found = [one for one in LAYOUTS if wanted == one.name] if wanted else []
    found = found or [one for one in LAYOUTS if (one.kind in asked if asked else one.kind not in ASKED)]
    fit = [layout for layout in found if set(named) <= set(layout.columns)]
    if not fit:
        what = f"format={wanted} has no such columns" if wanted else "no format has all of these columns"
        raise UserError(f"{what}: {', '.join(named)}; formats need:{listed(map(_needs, found), len(found))}")
    return fit


def _needs(layout: Layout) -> str:
    needs = ", ".join(f"{what} ({words})" for what, (_, words) in layout.needs.items())
    usual = "; ".join(" and ".join(names.values()) for names in layout.usual)
    return f"{layout.name}: {needs}" + (f" [columns {usual}]" if len(layout.usual) > 1 else "")


def fit(layout: Layout, sample: Sequence[Record], named: Mapping[str, str]) -> dict[str, str] | None:
    """What a column is -> its name, where all the records fit the layout."""
    usual = list(layout.usual)
    if layout.name == "text" and "text" not in named:
        usual = _only_text(sample)
    for names in usual:
        columns = {what: named.get(what, names[what]) for what in layout.needs}
        if all(misfit_of(layout, record, columns) is None for record in sample):
            for what, (test, _, others) in layout.may.items():
                for column in (named[what],) if what in named else others:
                    values = [record[column] for record in sample if column in record]
                    good = all(value is None or test(value) for value in values)
                    if what in named and not good:
                        return None
                    if (values or what in named) and good and column not in columns.values():
                        columns[what] = column
                        break
            return columns
    return None


def misfit_of(layout: Layout, record: Record, columns: Mapping[str, str]) -> str | None:
    """Why a record does not fit the needs of a layout."""
    for what, (test, words) in layout.needs.items():
        column = columns[what]
        if record.get(column) is None:
            return f"column {column!r} is {'null' if column in record else 'missing'}"
        if not test(record[column]):
            return f"column {column!r} is not {words}"
    return None


def _only_text(sample: Sequence[Record]) -> list[dict[str, str]]:
    """The column "text", else the only one that holds text, beside none that another format would have."""
    columns = dict.fromkeys(column for record in sample for column in record)
    if "text" in columns:
        return [{"text": "text"}]
    texts = [column for column in columns if any(is_text(record.get(column)) for record in sample)]
    return [{"text": texts[0]}] if len(texts) == 1 and not USUAL & {*columns} - {*texts} else []


def first_of(candidates: Iterable[Layout], record: Record, named: Mapping[str, str]) -> Layout | None:
    return next((layout for layout in candidates if fit(layout, [record], named) is not None), None)


def _misfit(candidates, sample: Sequence[Record], firsts: Sequence[Layout | None], named, where) -> str:
    first = firsts[0]
    if first is not None:  # what the first record is, another is not
        columns = fit(first, sample[:1], named) or {}
        for index, (record, layout) in enumerate(zip(sample, firsts)):
            reason = misfit_of(first, record, columns)
            if reason or layout is not first:
                reason = reason or f"has the format {layout.name}"
                return f"{where(index)}: {reason}, while {where(0)} has the format {first.name}: name one with format="
    columns = [f"{name}: {shown(value)}{_near(str(name))}" for name, value in sample[0].items()]
    return (
        f"{where(0)}: no format has the columns of this record:{listed(columns or ['none'], 20)}\nformats need:"
        f"{listed(map(_needs, candidates), len(candidates))}\ncolumns of other names are given as options of the source, "
        "such as ?text=body"
    )


def _near(column: str) -> str:
    found = [] if column in USUAL else difflib.get_close_matches(column, sorted(USUAL), n=1, cutoff=0.7)
    return f" (did you mean {found[0]!r}?)" if found else ""


def shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"list of {shown(value[0])}" if value else "empty list"
    if isinstance(value, Mapping):
        return "{" + ", ".join(map(str, value)) + "}"
    words = {str: "text", bool: "yes or no", int: "number", float: "number", type(None): "null"}
    return words.get(type(value), type(value).__name__)
