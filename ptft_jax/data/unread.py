"""What a conversation carries and its rendered text does not depend on: said, and never dropped in silence.

A value whose characters are in the text is read. Of any other, the conversation is rendered without it: if the text stays
the same, nothing of it would be learned, or known to the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ptft_jax.data import provenance
from ptft_jax.data.sandbox import Traced
from ptft_jax.errors import UserError


class Asked(NamedTuple):
    """What of a conversation need not be in its text.

    Attributes:
      allowed: fields: "name" of messages, "tool_calls.index" of their tool calls, "content" for parts of contents.
      columns: variable of the template -> the column of the record that it is.
    """

    allowed: Collection[str] = ()
    columns: Mapping[str, str] = {}


Render = Callable[[Mapping[str, Any]], str]  # what a template is given -> the text


def empty(value: Any) -> bool:
    """Whether a value says nothing: null, an empty text or list, nothing but white space, 0, false."""
    return not (value.strip() if isinstance(value, str) else value)


def check(
    render: Render,
    traced: Traced,
    paths: Sequence[provenance.Path],
    given: Mapping[str, Any],
    learned: Collection[int],
    asked: Asked,
) -> None:
    """Raises UserError that names what of a conversation is not in its text.

    A template may leave out of earlier turns what it shows of the last, as of reasoning: that is no loss where such turns
    are not learned. An id by which a tool's result names its call says nothing that its place does not, if results are in
    the order of their calls.

    Args:
      traced: the whole conversation.
      paths: of `provenance.said`.
      given: what the template is given: "messages", and further variables that are data.
      learned: the messages that are.
    """
    read = {path[:n] for path in (paths[n] for n in provenance.values(traced.origin)) for n in range(len(path) + 1)}
    idle: dict[provenance.Path, None] = {}
    for path in _fields(given):
        if path in read or _name(path) in asked.allowed or _implied(given["messages"], path, idle):
            continue
        if _matters(render, given, path, traced.text):
            continue
        index = path[1] if path[0] == "messages" else None
        if index is not None and index not in learned:
            then = {**given, "messages": given["messages"][: index + 1]}
            if index + 1 < len(given["messages"]) and _matters(render, then, path, _rendered(render, then)):
                continue
        idle[path] = None
    if idle:
        raise UserError(_message(idle, given, asked.columns))
    for index in learned:
        if "content" not in asked.allowed and (lost := _lost(traced, paths, given["messages"][index], index)):
            raise UserError(
                f"messages[{index}].content: the template leaves out a part of it, {lost!r}: choose another data.template, or let "
                "it with unused=content in the options of the source"
            )


def _fields(given: Mapping[str, Any]) -> Iterator[provenance.Path]:
    """What says something, as far down as it has a name of its own."""
    for name, value in given.items():
        if name != "messages" and not empty(value):
            yield from ((name, n) for n in range(len(value))) if isinstance(value, list) else [(name,)]
    for index, message in enumerate(given["messages"]):
        for key, value in message.items():
            path = ("messages", index, key)
            if key == "role" or empty(value):
                continue
            if key == "content" and isinstance(value, list):
                yield from _inside(value, path, {"type": "text"})
            elif key == "tool_calls":
                for n, call in enumerate(value):
                    yield from _inside([call.get("function", {})], (*path, n, "function"), {}, number=False)
                    more = {k: v for k, v in call.items() if k not in ("id", "function")}
                    yield from _inside([more], (*path, n), {"type": "function"}, number=False)
            else:
                yield path


def _inside(
    values: list, path: provenance.Path, usual: Mapping[str, Any], number: bool = True
) -> Iterator[provenance.Path]:
    """The fields of tables, without those that have their usual value."""
    for n, value in enumerate(values):
        place = (*path, n) if number else path
        if not isinstance(value, Mapping):
            yield place
            continue
        for key, item in value.items():
            if not empty(item) and usual.get(key) != item:
                yield (*place, key)


def _rendered(render: Render, given: Mapping[str, Any]) -> str | None:
    try:
        return render(given)
    except UserError:
        return None


def _matters(render: Render, given: Mapping[str, Any], path: provenance.Path, whole: str | None) -> bool:
    """Whether the text, if there is one, is another without the value at a path, or there is none then."""
    return whole is not None and _rendered(render, _removed(given, path)) != whole


def _removed(value: Any, path: provenance.Path) -> Any:
    """A copy without the value at a path; a content becomes an empty text, an element of a list null."""
    first, *rest = path
    if isinstance(value, list):
        return [
            _removed(item, rest) if rest and n == first else item for n, item in enumerate(value) if rest or n != first
        ]
    if rest:
        return {**value, first: _removed(value[first], rest)}
    return {**value, first: ""} if first == "content" else {key: item for key, item in value.items() if key != first}


def _implied(messages: Sequence[Mapping[str, Any]], path: provenance.Path, idle: Collection[provenance.Path]) -> bool:
    """Whether a path is the id of a tool's call that the order of results tells, of calls that are read."""
    if path[0] != "messages" or path[2:] != ("tool_call_id",):
        return False
    first = index = path[1]
    while first and messages[first - 1]["role"] == messages[index]["role"]:
        first -= 1
    calls = messages[first - 1].get("tool_calls") or () if first else ()
    if index - first >= len(calls) or any(other[:3] == ("messages", first - 1, "tool_calls") for other in idle):
        return False
    return calls[index - first].get("id") == messages[index]["tool_call_id"]


def _lost(traced: Traced, paths: Sequence[provenance.Path], message: Mapping[str, Any], index: int) -> str:
    """What of a message's content the text lacks, "" where it has all of it, white space aside. A part that a template
    takes out and spells itself is there."""
    content = message["content"]
    if not isinstance(content, str) or provenance.UNKNOWN in traced.origin:
        return ""
    number = next((n for n, path in enumerate(paths) if path == ("messages", index, "content")), None)
    if number is None:
        return ""
    origin = provenance.of_value(number)
    if traced.origin.count(origin) >= len(content.strip()):
        return ""
    gaps, at = [], 0
    for run in re.finditer(f"{re.escape(origin)}+", traced.origin):
        there = traced.text[slice(*run.span())]
        place = content.find(there, at)
        if place < 0:  # spelled otherwise
            return ""
        gaps.append(content[at:place].strip())
        at = place + len(there)
    gaps.append(content[at:].strip())
    own = "".join(char for char, o in zip(traced.text, traced.origin) if o == provenance.TEMPLATE)
    return next((gap for gap in gaps if gap not in own), "")[:40]


def _name(path: provenance.Path) -> str:
    """As `unused` has it: tool_calls.function.arguments."""
    return ".".join(part for part in path[1 if path[0] == "messages" else 0 :] if isinstance(part, str))


def _message(idle: Mapping[provenance.Path, None], given: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    names: dict[str, list[str]] = {}
    for path in idle:
        name = _name(path) if path[0] == "messages" else columns.get(path[0], path[0])
        if path[0] == "messages" and path[2] == "tool_calls" and _all_idle(idle, given, path[1]):
            name = "tool_calls"
        place = f"messages[{path[1]}]" if path[0] == "messages" else ""
        listed = names.setdefault(place, [])
        if name not in listed:
            listed.append(name)
    (place, first), *_ = names.items()
    every = list(dict.fromkeys(name for listed in names.values() for name in listed))
    said = ", ".join(repr(name) for name in first)
    more = [name for name in every if name not in first]
    also = f" (nor on {', '.join(map(repr, more))} of other messages)" if more else ""
    return (
        f"{f'{place}: ' if place else ''}the rendered text does not depend on {said}{also}: choose a data.template that has a "
        f"place for it, or leave it out on purpose with unused={','.join(every)} in the options of the source"
    )


def _all_idle(idle: Mapping[provenance.Path, None], given: Mapping[str, Any], index: int) -> bool:
    calls = [path for path in _fields(given) if path[:3] == ("messages", index, "tool_calls")]
    return all(path in idle for path in calls)
