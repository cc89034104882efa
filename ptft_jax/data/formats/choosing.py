"""Finding out which format records have."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ptft_jax.data.formats import json_text, labels, late, messages
from ptft_jax.data.formats.base import Format, Record
from ptft_jax.data.formats.layouts import (
    COLUMNS,
    LAYOUTS,
    NAMES,
    TALKS,
    USUAL,
    Layout,
    is_conversation,
    is_flags,
    is_ids,
    is_text,
)
from ptft_jax.data.formats.messages import is_messages, is_sharegpt
from ptft_jax.errors import UserError, listed, nearest

FIRST = 100  # records that are looked at


def choose(
    records: Sequence[Record],
    options: Mapping[str, str],
    where: Callable[[int], str],
    like: Format | None = None,
    pool: labels.Pool | None = None,
    elsewhere: Iterable[tuple[str, Record]] = (),
) -> Format:
    """The format of records, by their columns and what the options of the source reference say.

    Args:
      records: all of a source's that are trained on. The first hundred decide; of the others those are looked at in which a
        column turns up first that could have decided otherwise.
      options: those in OPTIONS count: `format` is a layout's name; a column's is the name it has in the records;
        `classes` are names of classes joined by commas, in their numbers' order (see `labels.of`); `assistant_first` is
        yes where conversations may start with the assistant; `control_tokens` where control tokens that texts spell are
        meant; `empty_answers` is learn, or context where they are not learned; `unused` are columns, and fields of messages,
        that need not be read.
      where: index -> the place of a record.
      like: the format of the source's train split, when this is another split: it is that, classes included.
      pool: what else the source tells of its labels; by default their names are those of `records`.
      elsewhere: (place, record) of other splits that the source has itself: what need not be read may be in these alone.

    Raises:
      UserError: no format, or not the one that is asked for, fits the first records; a record that differs from those
        before it.
    """
    if not len(records):
        raise UserError("no records: which format they have cannot be told")
    sample = [records[i] for i in range(min(FIRST, len(records)))]
    naming = named(options)
    firsts = late.firsts(records, NAMES | {*naming.values()}, where)
    if like is not None:
        _check_like(like, sample, firsts, where)
        return like
    left = left_out(options)
    _check_named(naming, left, [*sample, *(record for _, record in firsts)], where)
    wanted = options.get("format")
    fitting, coded, sample = decide(sample, wanted, naming, where)
    layout, columns = fitting[0]
    texts = [columns[what] for what, (test, _) in layout.needs.items() if test is is_text]
    if not {"format", *layout.needs} & options.keys():
        json_text.question(sample, texts, where)
    columns = kept(layout, columns, left)
    firsts = [(place, json_text.decoded(record, coded, place)) for place, record in firsts]
    every = (json_text.decoded(records[i], coded, where(i)) for i in range(len(sample), len(records)))
    others = (json_text.decoded(record, coded, place) for place, record in elsewhere)
    _check_left_out(layout, columns, left, itertools.chain(sample, (record for _, record in firsts), every, others))
    _check_further(layout, columns, sample, where, left)
    _check_options(layout, options)
    seen = dict.fromkeys(column for record in (*sample, *(record for _, record in firsts)) for column in record)
    placed = [*((where(i), record) for i, record in enumerate(sample)), *firsts]
    absent = {name: what for name, what in _absent(layout, columns, sample).items() if name not in left}
    late.refuse_absent(absent, firsts)
    if layout.kind in ("answers", "preference"):
        late.refuse_unread(layout.name, columns, placed, left)
    candidates = _candidates(wanted, naming)
    _refuse_other(layout, columns, placed, len(sample), candidates, naming)
    found = labels.Labels("", (), False)
    if layout.kind == "classification":
        column, pool = columns["label"], pool or labels.Pool(lambda: [(records, where)])
        found = labels.of(column, sample[0][column], options.get("classes"), pool)
    kinds = dict.fromkeys(other.name for other, _ in fitting[1:])
    structured = _structured(candidates, naming)
    return Format(
        layout.kind,
        layout.name,
        columns,
        found.classes,
        tuple(column for column in seen if column not in columns.values()),
        tuple(kinds),
        absent,
        _yes(options.get("assistant_first", "no"), "assistant_first"),
        found.kind,
        found.declared,
        _yes(options.get("control_tokens", "no"), "control_tokens"),
        left,
        _one_of(options.get("empty_answers", "learn"), "empty_answers", ("learn", "context")) == "learn",
        tuple(column for column in coded if column in columns.values()),
        tuple(column for column in texts if json_text.MESSAGES in structured.get(column, ())),
    )


def _check_like(like: Format, sample: Sequence[Record], firsts: late.Placed, where: Callable[[int], str]) -> None:
    """Raises UserError where another split has not the format of the train split."""
    layout = next(layout for layout in LAYOUTS if layout.name == like.name)
    for index, record in enumerate(sample):
        if reason := _bad(layout, json_text.decoded(record, like.json, where(index)), like.columns):
            raise UserError(f"{where(index)}: {reason}, while the train split has the format {like.describe()}")
    if like.kind in ("answers", "preference"):
        late.refuse_unread(like.name, like.columns, firsts, like.left_out)
    late.refuse_absent(like.absent, firsts)


def _check_named(
    naming: Mapping[str, str], left: Sequence[str], records: Sequence[Record], where: Callable[[int], str]
) -> None:
    """Raises UserError where a column that the user named is in no record, or is to be left out as well."""
    for what, column in naming.items():
        if not any(column in record for record in records):
            raise UserError(
                f"{where(0)}: {what}={column}: no such column{nearest(column, records[0])}; there are:"
                f"{listed(map(str, records[0]))}"
            )
        if column in left:
            raise UserError(
                f"{what}={column} has the column {column!r} read, and unused={','.join(left)} leaves it out"
            )


def _check_options(layout: Layout, options: Mapping[str, str]) -> None:
    """Raises UserError for an option that the layout has no use for."""
    talks = any(test in (is_messages, is_sharegpt, is_conversation) for test, _ in layout.needs.values())
    read_by = {
        "classes": layout.kind == "classification",
        "assistant_first": talks,
        "control_tokens": layout.kind != "tokens",
        "empty_answers": layout.kind in ("answers", "preference"),
    }
    for option, read in read_by.items():
        if option in options and not read:
            raise UserError(
                f"{option}={options[option]}: the records have the format {layout.name}, which has no use for it"
            )


def named(options: Mapping[str, str]) -> dict[str, str]:
    """What a column is -> the name that the options of a source give it."""
    return {what: options[what] for what in COLUMNS if what in options}


def left_out(options: Mapping[str, str]) -> tuple[str, ...]:
    """The columns, and fields of messages, that the options of a source say need not be read."""
    return tuple(name.strip() for name in options.get("unused", "").split(",") if name.strip())


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
    sample: Sequence[Record], wanted: str | None, named: Mapping[str, str], where: Callable[[int], str]
) -> Decided:
    """What a sample decides.

    Args:
      wanted: the only layout to be considered, None = all.
      named: what a column is -> the name that the user gave it.

    Raises:
      UserError: no layout fits, or some of the records have another.
    """
    candidates = _candidates(wanted, named)
    coded = json_text.columns(sample, _structured(candidates, named), where)
    sample = [json_text.decoded(record, coded, where(index)) for index, record in enumerate(sample)]
    fitting = [(layout, columns) for layout in candidates if (columns := _fit(layout, sample, named)) is not None]
    firsts = [_first(candidates, record, named) for record in sample]
    if not fitting or any(first is not fitting[0][0] for first in firsts):
        raise UserError(_misfit(candidates, sample, firsts, named, where))
    return Decided(fitting, coded, sample)


def kept(layout: Layout, columns: Mapping[str, str], left_out: Sequence[str]) -> dict[str, str]:
    """The columns of a layout without further ones that are left out."""
    return {what: column for what, column in columns.items() if what in layout.needs or column not in left_out}


def _structured(candidates: Iterable[Layout], named: Mapping[str, str]) -> dict[str, list[str]]:
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


def _check_left_out(layout: Layout, columns: Mapping[str, str], left: Sequence[str], records: Iterable[Record]) -> None:
    """Raises UserError for a name to be left out that is read, or is neither that of a column or field of messages that is
    there nor of one that could be in another split."""
    said = [columns[what] for what, (test, _) in layout.needs.items() if test in TALKS]
    said += [columns[what] for what, (test, *_) in layout.may.items() if test in TALKS and what in columns]

    def has(record: Record, name: str) -> bool:
        return name in record or any(name in messages.fields(record.get(column)) for column in said)

    if read := [name for name in left if name in columns.values()]:
        raise UserError(f"unused={','.join(left)}: the format {layout.name} needs the column {read[0]!r}")
    missing = [name for name in left if name not in late.TELLING]
    if layout.kind in ("answers", "preference"):  # texts are contents, too, where a template makes turns of them
        missing = [name for name in missing if name != "content"]
    for record in records:
        missing = [name for name in missing if not has(record, name)]
        if not missing:
            return
    if missing:
        of = " and no field of messages" if said else ""
        raise UserError(f"unused={','.join(left)}: the records have no column{of} {missing[0]!r} that is not read")


def _absent(layout: Layout, columns: Mapping[str, str], sample: Sequence[Record]) -> dict[str, str]:
    """Names that further columns of a layout usually have and no record of the sample has -> what they would be."""
    seen = {column for record in sample for column in record}
    further = ((name, what) for what, (*_, names) in layout.may.items() if what not in columns for name in names)
    return {name: what for name, what in further if name not in seen}


def _refuse_other(
    layout: Layout,
    columns: Mapping[str, str],
    placed: late.Placed,
    first: int,
    candidates: Sequence[Layout],
    named: Mapping[str, str],
) -> None:
    """Raises UserError for one of the records after the `first` with which these would have had another format."""
    begin, sample = placed[0][0], [record for _, record in placed[:first]]
    structured = _structured(candidates, named)
    for place, record in placed[first:]:
        # As one of the first would have been read.
        coded = json_text.columns([record], structured, lambda _, place=place: place)
        record = json_text.decoded(record, coded, place)
        found, reason = _first(candidates, record, named), _bad(layout, record, columns)
        if found is None:  # said when it is encoded, with its columns
            continue
        if reason or found is not layout:
            reason = reason or f"has the format {found.name}"
            raise UserError(f"{place}: {reason}, while {begin} has the format {layout.name}: name one with format=")
        names = _fit(layout, [*sample, record], named) or {}
        for what in layout.needs:
            if names.get(what) != columns[what]:
                raise UserError(
                    f"{place}: with the columns of this record it cannot be told whether {what} is in {columns[what]!r}, from "
                    f"which it is read before: say so with {what}={columns[what]} in the options of the source"
                )


def _candidates(wanted: str | None, named: Mapping[str, str]) -> list[Layout]:
    names = [layout.name for layout in LAYOUTS]
    if wanted is not None and wanted not in names:
        raise UserError(f"format={wanted}: expected one of {', '.join(names)}{nearest(wanted, names)}")
    found = [layout for layout in LAYOUTS if wanted in (None, layout.name)]
    fit = [layout for layout in found if set(named) <= set(layout.columns)]
    if not fit:
        what = f"format={wanted} has no such columns" if wanted else "no format has all of these columns"
        raise UserError(f"{what}: {', '.join(named)}; formats need:{listed(map(_needs, found), len(found))}")
    return fit


def _needs(layout: Layout) -> str:
    needs = ", ".join(f"{what} ({words})" for what, (_, words) in layout.needs.items())
    usual = "; ".join(" and ".join(names.values()) for names in layout.usual)
    return f"{layout.name}: {needs}" + (f" [columns {usual}]" if len(layout.usual) > 1 else "")


def _fit(layout: Layout, sample: Sequence[Record], named: Mapping[str, str]) -> dict[str, str] | None:
    """What a column is -> its name, where all the records fit the layout."""
    usual = list(layout.usual)
    if layout.name == "text" and "text" not in named:
        usual = _only_text(sample)
    for names in usual:
        columns = {what: named.get(what, names[what]) for what in layout.needs}
        if all(_bad(layout, record, columns) is None for record in sample):
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


def _check_further(
    layout: Layout,
    columns: Mapping[str, str],
    sample: Sequence[Record],
    where: Callable[[int], str],
    left_out: Sequence[str],
) -> None:
    """Raises UserError where a column has the name of a further one but not its values: left out, a mask or a system
    message would be lost."""
    for what, (test, words, names) in layout.may.items():
        for name in () if what in columns else names:
            for index, record in enumerate(sample):
                if name in columns.values() or name in left_out:
                    continue
                if record.get(name) is not None and not test(record[name]):
                    raise UserError(
                        f"{where(index)}: column {name!r} is {_shown(record[name])}, and the format {layout.name} reads it "
                        f"as {what}: {words}; convert it, or rename the column if it is something else"
                    )


def _bad(layout: Layout, record: Record, columns: Mapping[str, str]) -> str | None:
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


def _first(candidates: Iterable[Layout], record: Record, named: Mapping[str, str]) -> Layout | None:
    return next((layout for layout in candidates if _fit(layout, [record], named) is not None), None)


def _misfit(candidates, sample: Sequence[Record], firsts: Sequence[Layout | None], named, where) -> str:
    first = firsts[0]
    if first is not None:  # what the first record is, another is not
        columns = _fit(first, sample[:1], named) or {}
        for index, (record, layout) in enumerate(zip(sample, firsts)):
            reason = _bad(first, record, columns)
            if reason or layout is not first:
                reason = reason or f"has the format {layout.name}"
                return f"{where(index)}: {reason}, while {where(0)} has the format {first.name}: name one with format="
    columns = [f"{name}: {_shown(value)}{_near(str(name))}" for name, value in sample[0].items()]
    return (
        f"{where(0)}: no format has the columns of this record:{listed(columns or ['none'], 20)}\nformats need:"
        f"{listed(map(_needs, candidates), len(candidates))}\ncolumns of other names are given as options of the source, "
        "such as ?text=body"
    )


def _near(column: str) -> str:
    found = [] if column in USUAL else difflib.get_close_matches(column, sorted(USUAL), n=1, cutoff=0.7)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"list of {_shown(value[0])}" if value else "empty list"
    if isinstance(value, Mapping):
        return "{" + ", ".join(map(str, value)) + "}"
    words = {str: "text", bool: "yes or no", int: "number", float: "number", type(None): "null"}
    return words.get(type(value), type(value).__name__)


def _yes(value: str, option: str) -> bool:
    return _one_of(value, option, ("yes", "no")) == "yes"


def _one_of(value: str, option: str, valid: tuple[str, str]) -> str:
    if value not in valid:
        raise UserError(f"{option}={value}: expected {' or '.join(valid)}{nearest(value, valid)}")
    return value
