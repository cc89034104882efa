"""Which columns make which format, and finding out which one records have."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ptft_jax.data.formats import labels
from ptft_jax.data.formats.base import Format, Record
from ptft_jax.data.formats.messages import is_messages, is_sharegpt
from ptft_jax.errors import UserError, listed, nearest

FIRST = 100  # records that are looked at


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_ids(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(v) is int for v in value[:1000])


def _is_flags(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(v) in (int, bool) for v in value[:1000])


def _is_label(value: Any) -> bool:
    return isinstance(value, (int, str))


def _is_conversation(value: Any) -> bool:
    return is_messages(value) or is_sharegpt(value)


def _is_prompt(value: Any) -> bool:
    return _is_text(value) or _is_conversation(value)


def _anything(value: Any) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Layout:
    """The columns of a format.

    Attributes:
      kind, name: see `Format`.
      needs: what a column is -> (test of its values, what they are in words).
      usual: the names that these columns usually have, the first that fits counts.
      may: further columns -> (test, what they are in words, names they usually have).
    """

    kind: str
    name: str
    needs: Mapping[str, tuple[Callable[[Any], bool], str]]
    usual: Sequence[Mapping[str, str]]
    may: Mapping[str, tuple[Callable[[Any], bool], str, Sequence[str]]] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.needs, *self.may)


def _named(*names: str, **more: str) -> list[dict[str, str]]:
    [what] = more
    return [{what: name} for name in (more[what], *names)]


# Prompts and completions are published under these names.
PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("question", "response"),
    ("instruction", "response"), ("query", "response"), ("input", "output"),
)  # fmt: skip
_BOTH = {"chosen": "chosen", "rejected": "rejected"}
_TEXT, _MESSAGES = (_is_text, "text"), (is_messages, 'a list of {"role", "content"}')
_CONVERSATION = (_is_conversation, "a list of messages")
_AROUND = {"tools": (_anything, "tools", ("tools",)), "system": (*_TEXT, ("system",))}
_PAIR_NAMES = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]
# In this order: the first that fits is taken.
LAYOUTS = (
    Layout(
        "tokens",
        "tokens",
        {"input_ids": (_is_ids, "a list of ids")},
        _named("tokens", input_ids="input_ids"),
        {
            "labels": (_is_ids, "a list of ids", ("labels",)),
            "mask": (_is_flags, "a list of 0 and 1", ("loss_mask", "assistant_masks", "completion_mask")),
            "padding": (_is_flags, "a list of 0 and 1", ("attention_mask",)),
        },
    ),
    Layout(
        "preference",
        "preference-messages",
        {side: _CONVERSATION for side in _BOTH},
        [_BOTH],
        {"prompt": (_is_prompt, "text or a list of messages", ("prompt",)), **_AROUND},
    ),
    Layout("preference", "preference", {side: _TEXT for side in _BOTH}, [_BOTH], {"prompt": (*_TEXT, ("prompt",))}),
    Layout(
        "answers",
        "messages",
        {"messages": _MESSAGES},
        _named("conversations", "conversation", "dialog", "dialogue", "chat", messages="messages"),
        _AROUND,
    ),
    Layout(
        "answers",
        "sharegpt",
        {"messages": (is_sharegpt, 'a list of {"from", "value"}')},
        _named("conversation", "messages", "dialog", "dialogue", "chat", messages="conversations"),
        _AROUND,
    ),
    Layout(
        "answers",
        "alpaca",
        {"instruction": _TEXT, "output": _TEXT},
        [{"instruction": "instruction", "output": "output"}],
        {"input": (*_TEXT, ("input",))},
    ),
    Layout(
        "answers",
        "prompt-messages",
        {"prompt": _CONVERSATION, "completion": _CONVERSATION},
        _PAIR_NAMES,
        _AROUND,
    ),
    Layout("answers", "prompt-completion", {"prompt": _TEXT, "completion": _TEXT}, _PAIR_NAMES),
    Layout(
        "classification",
        "classification",
        {"text": _TEXT, "label": (_is_label, "a class: a whole number or a name")},
        [{"text": text, "label": label} for text in ("text", "sentence") for label in ("label", "labels")],
    ),
    Layout("text", "text", {"text": _TEXT}, [{"text": "text"}]),
)
COLUMNS = tuple(dict.fromkeys(what for layout in LAYOUTS for what in layout.columns))
USUAL = frozenset(name for layout in LAYOUTS for names in layout.usual for name in names.values())
# Options of a source reference that are read here.
OPTIONS = ("format", "classes", "assistant_first", "unused", *COLUMNS)
# Columns of questions and answers that say something to the model, whatever the format: not to be left out by oversight.
TELLING = ("context", "input", "system", "history", "tools", "functions")


def choose(
    records: Sequence[Record],
    options: Mapping[str, str],
    where: Callable[[int], str],
    like: Format | None = None,
    pool: labels.Pool | None = None,
) -> Format:
    """The format of records, by their columns and what the options of the source reference say.

    Args:
      records: all of a split's; the first hundred are looked at.
      options: those in OPTIONS count: `format` is a layout's name; a column's is the name it has in the records;
        `classes` are names of classes joined by commas, in their numbers' order (see `labels.of`); `assistant_first` is
        yes where conversations may start with the assistant; `unused` are columns that need not be read.
      where: index -> the place of a record.
      like: the format of the source's train split, when this is another split: it is that, classes included.
      pool: what else the source tells of its labels; by default their names are those of `records`.

    Raises:
      UserError: no format, or not the one that is asked for, fits the first records; a record that differs from those
        before it.
    """
    if not len(records):
        raise UserError("no records: which format they have cannot be told")
    sample = [records[i] for i in range(min(FIRST, len(records)))]
    if like is not None:
        layout = next(layout for layout in LAYOUTS if layout.name == like.name)
        for index, record in enumerate(sample):
            if reason := _bad(layout, record, like.columns):
                raise UserError(f"{where(index)}: {reason}, while the train split has the format {like.describe()}")
        return like
    named = {what: options[what] for what in COLUMNS if what in options}
    for what, column in named.items():
        if not any(column in record for record in sample) and not _later(records, what, column):
            raise UserError(
                f"{where(0)}: {what}={column}: no such column{nearest(column, sample[0])}; there are:"
                f"{listed(map(str, sample[0]))}"
            )
    candidates = _candidates(options.get("format"), named)
    fitting = [(layout, columns) for layout in candidates if (columns := _fit(layout, sample, named)) is not None]
    firsts = [_first(candidates, record, named) for record in sample]
    if not fitting or any(first is not fitting[0][0] for first in firsts):
        raise UserError(_misfit(candidates, sample, firsts, named, where))
    layout, columns = fitting[0]
    _check_further(layout, columns, sample, where)
    talks = any(test in (is_messages, is_sharegpt, _is_conversation) for test, _ in layout.needs.values())
    for option, read in (("classes", layout.kind == "classification"), ("assistant_first", talks)):
        if option in options and not read:
            raise UserError(
                f"{option}={options[option]}: the records have the format {layout.name}, which has no use for it"
            )
    found = labels.Labels("", (), False)
    if layout.kind == "classification":
        column, pool = columns["label"], pool or labels.Pool(lambda: [(records, where)])
        found = labels.of(column, sample[0][column], options.get("classes"), pool)
    kinds = dict.fromkeys(other.name for other, _ in fitting[1:])
    seen = dict.fromkeys(column for record in sample for column in record)
    _refuse_unread(layout, columns, sample, options.get("unused", ""), where)
    return Format(
        layout.kind,
        layout.name,
        columns,
        found.classes,
        tuple(column for column in seen if column not in columns.values()),
        tuple(kinds),
        {
            what: name
            for what, (*_, names) in layout.may.items()
            if what not in columns
            for name in names
            if name not in seen
        },
        _yes(options.get("assistant_first", "no"), "assistant_first"),
        found.kind,
        found.declared,
    )


def _refuse_unread(layout: Layout, columns: Mapping[str, str], sample: Sequence[Record], unused: str, where) -> None:
    """Raises UserError for a telling column that the format does not read and that the user did not say is not needed."""
    allowed = [name.strip() for name in unused.split(",") if name.strip()]
    for name in allowed:
        if name in columns.values() or not any(name in record for record in sample):
            raise UserError(f"unused={unused}: the records have no column {name!r} that is not read")
    for column in TELLING if layout.kind in ("answers", "preference") else ():
        if column in allowed or column in columns.values():
            continue
        index = next((i for i, record in enumerate(sample) if record.get(column)), None)
        if index is not None:
            raise UserError(
                f"{where(index)}: the format {layout.name} does not read column {column!r}, which this record has: make it "
                f"part of another column, or leave it out with unused={column} in the options of the source"
            )


def _later(records: Sequence[Record], what: str, column: str) -> bool:
    """Whether a column that formats may have, but need not, is in any record."""
    if all(what in layout.needs for layout in LAYOUTS if what in layout.columns):
        return False
    return any(column in records[index] for index in range(len(records)))


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
    layout: Layout, columns: Mapping[str, str], sample: Sequence[Record], where: Callable[[int], str]
) -> None:
    """Raises UserError where a column has the name of a further one but not its values: left out, a mask or a system
    message would be lost."""
    for what, (test, words, names) in layout.may.items():
        for name in () if what in columns else names:
            for index, record in enumerate(sample):
                if name not in columns.values() and record.get(name) is not None and not test(record[name]):
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
    texts = [column for column in columns if any(_is_text(record.get(column)) for record in sample)]
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
    if value not in ("yes", "no"):
        raise UserError(f"{option}={value}: expected yes or no")
    return value == "yes"
