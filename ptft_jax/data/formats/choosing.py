"""Finding out which format records have."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from ptft_jax.data.formats import json_text, labels, late, messages
from ptft_jax.data.formats.base import Format, Record
from ptft_jax.data.formats.deciding import (
    candidates_of,
    captioned,
    decide,
    first_of,
    fit,
    misfit_of,
    numbered,
    rated,
    shown,
    structured,
)
from ptft_jax.data.formats.layouts import (
    CLASSED,
    COLUMNS,
    LAYOUTS,
    NAMES,
    RATED,
    SAID,
    TALKING,
    TALKS,
    Layout,
    is_conversation,
    is_text,
)
from ptft_jax.data.formats.messages import is_messages, is_sharegpt
from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.pairing import PICTURED

FIRST = 100  # records that are looked at


def choose(
    records: Sequence[Record],
    options: Mapping[str, str],
    where: Callable[[int], str],
    like: Format | None = None,
    pool: labels.Pool | None = None,
    elsewhere: Iterable[tuple[str, Record]] = (),
    learns: Sequence[str] = (),
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
      learns: kinds of data that are learned from: with regression labels are numbers where a record has such, with rated those of
        answers say whether they are good.
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
    if not (
        rated(sample, naming, where, learns)
        if {*RATED}.intersection(learns)
        else captioned(sample, naming, learns)
        if {*SAID}.intersection(learns)
        else numbered(sample, naming, pool is not None and pool.untyped)
    ):
        learns = ()
    fitting, coded, sample = decide(sample, wanted, naming, where, learns)
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
    if layout.kind in TALKING:
        late.refuse_unread(layout.name, columns, placed, left)
    candidates = candidates_of(wanted, naming, learns)
    _refuse_other(layout, columns, placed, len(sample), candidates, naming)
    known = pool or labels.Pool(lambda: [(records, where)])
    found = _labels(layout, columns, sample[0], options.get("classes"), known)
    lists = structured(candidates, naming)
    return Format(
        layout.kind,
        layout.name,
        columns,
        found.classes,
        tuple(column for column in seen if column not in columns.values()),
        tuple(dict.fromkeys(other.name for other, _ in fitting[1:])),
        absent,
        _yes(options.get("assistant_first", "no"), "assistant_first"),
        found.kind,
        found.declared,
        _yes(options.get("control_tokens", "no"), "control_tokens"),
        left,
        _one_of(options.get("empty_answers", "learn"), "empty_answers", ("learn", "context")) == "learn",
        tuple(column for column in coded if column in columns.values()),
        tuple(column for column in texts if json_text.MESSAGES in lists.get(column, ())),
    )


def _labels(
    layout: Layout, columns: Mapping[str, str], first: Record, classes: str | None, pool: labels.Pool
) -> labels.Labels:
    """What is known of the labels of a source."""
    if layout.kind in CLASSED:
        return labels.of(columns["label"], first[columns["label"]], classes, pool)
    if layout.kind == "regression" or "margin" in columns:
        return labels.Labels(labels.SPELLED if pool.untyped else labels.NUMBER, (), False)
    return labels.Labels("", (), False)


def _check_like(like: Format, sample: Sequence[Record], firsts: late.Placed, where: Callable[[int], str]) -> None:
    """Raises UserError where another split has not the format of the train split."""
    layout = next(layout for layout in LAYOUTS if layout.name == like.name)
    for index, record in enumerate(sample):
        if reason := misfit_of(layout, json_text.decoded(record, like.json, where(index)), like.columns):
            raise UserError(f"{where(index)}: {reason}, while the train split has the format {like.describe()}")
    if like.kind in TALKING:
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
        "classes": layout.kind in CLASSED,
        "assistant_first": talks,
        "control_tokens": layout.kind not in ("tokens", *PICTURED),
        "empty_answers": layout.kind in TALKING,
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


def kept(layout: Layout, columns: Mapping[str, str], left_out: Sequence[str]) -> dict[str, str]:
    """The columns of a layout without further ones that are left out."""
    return {what: column for what, column in columns.items() if what in layout.needs or column not in left_out}


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
    if layout.kind in TALKING:  # texts are contents, too, where a template makes turns of them
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
    lists = structured(candidates, named)
    for place, record in placed[first:]:
        # As one of the first would have been read.
        coded = json_text.columns([record], lists, lambda _, place=place: place)
        record = json_text.decoded(record, coded, place)
        found, reason = first_of(candidates, record, named), misfit_of(layout, record, columns)
        if found is None:  # said when it is encoded, with its columns
            continue
        if reason or found is not layout:
            reason = reason or f"has the format {found.name}"
            raise UserError(f"{place}: {reason}, while {begin} has the format {layout.name}: name one with format=")
        names = fit(layout, [*sample, record], named) or {}
        for what in layout.needs:
            if names.get(what) != columns[what]:
                raise UserError(
                    f"{place}: with the columns of this record it cannot be told whether {what} is in {columns[what]!r}, from "
                    f"which it is read before: say so with {what}={columns[what]} in the options of the source"
                )


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
                        f"{where(index)}: column {name!r} is {shown(record[name])}, and the format {layout.name} reads it "
                        f"as {what}: {words}; convert it, or rename the column if it is something else"
                    )


def _yes(value: str, option: str) -> bool:
    return _one_of(value, option, ("yes", "no")) == "yes"


def _one_of(value: str, option: str, valid: tuple[str, str]) -> str:
    if value not in valid:
        raise UserError(f"{option}={value}: expected {' or '.join(valid)}{nearest(value, valid)}")
    return value
