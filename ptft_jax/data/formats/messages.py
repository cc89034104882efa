"""Conversations as datasets write them, in the one form that templates read: OpenAI's messages, and ShareGPT's turns."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from ptft_jax.data.unread import empty
from ptft_jax.errors import UserError, nearest

# ShareGPT's "from", with what datasets of this form call it otherwise.
SHAREGPT_ROLES = {
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant",
    "model": "assistant", "function_call": "assistant",
    "system": "system", "developer": "developer",
    "tool": "tool", "function_response": "tool", "observation": "tool", "function": "tool", "ipython": "ipython",
}  # fmt: skip


def is_messages(value: Any) -> bool:
    """Whether a value has the form of OpenAI's messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)


def is_sharegpt(value: Any) -> bool:
    """Whether a value has the form of ShareGPT's turns."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "from" in m for m in value)


def normal(value: Any, where: str, unused: Collection[str] = ()) -> list[dict[str, Any]]:
    """A conversation of either form as messages for a template.

    Keys that are null are left out, as tables fill them in where another message has them. Text in parts is joined; an
    answer that is null, as beside a tool call, is an empty text. Arguments of tool calls, which OpenAI writes as JSON in a
    text, become values, as Hugging Face's templates expect them.

    Args:
      unused: fields that are left out: "name" of messages, "tool_calls.index" of their tool calls, "content.annotations" of
        parts of text.

    Raises:
      UserError: no list of messages; a turn that is of neither form; a text that is to be JSON and is not; a part of text
        with more than its text.
    """
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: {type(value).__name__}, expected a list of messages")
    return [_message(message, f"{where}: messages[{index}]", unused) for index, message in enumerate(value)]


def fields(value: Any) -> set[str]:
    """The names that `normal` leaves out as `unused` what a conversation of either form has."""
    if not isinstance(value, (list, tuple)):
        return set()
    try:
        as_read = normal(value, "")
    except UserError:  # said where it is read
        as_read = []
    found: set[str] = set()
    for message in (*value, *as_read):
        if isinstance(message, Mapping):
            found |= message.keys() - ({"role"} if "role" in message else {"from", "value"})
            for key in ("content", "tool_calls"):
                found |= _within(message.get(key), key)
    return found


def _within(value: Any, name: str) -> set[str]:
    if isinstance(value, (list, tuple)):
        return {found for item in value for found in _within(item, name)}
    if not isinstance(value, Mapping):
        return set()
    return {found for key, item in value.items() for found in {f"{name}.{key}", *_within(item, f"{name}.{key}")}}


def json_list(value: Any, where: str) -> list | None:
    """A list, or the JSON of one, as columns of tools are written; None where it is empty."""
    if isinstance(value, str):
        value = _json(value, where) if value.strip() else None
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: a {type(value).__name__}, expected a list")
    return value or None


def _message(message: Any, where: str, unused: Collection[str]) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(
            f'{where}: {message!r}, expected {{"role": ..., "content": ...}} or {{"from": ..., "value": ...}}'
        )
    null = "content" in message and message["content"] is None
    message = {key: value for key, value in message.items() if value is not None}
    if "role" not in message and "from" in message:
        message = _from_sharegpt(message, where)
    more = any(not empty(value) for key, value in message.items() if key not in ("role", "train", "weight"))
    if message.get("role") == "assistant" and (null or more):
        message.setdefault("content", "")
    calls = message.pop("tool_calls", None)
    if calls and "tool_calls" not in unused:
        calls = json_list(calls, f"{where}: tool_calls") or ()
        message["tool_calls"] = [_tool_call(call, f"{where}: tool_calls") for call in calls]
    message = _without(message, "", {name for name in unused if name not in ("role", "content")})
    content = message.get("content")
    if isinstance(content, list) and all(map(_is_text_part, content)):
        for number, part in enumerate(content):
            for key in part:
                if key not in ("type", "text") and not empty(part[key]):
                    raise UserError(
                        f"{where}: content[{number}].{key}: texts in parts are joined, and nothing else of them is read: leave "
                        f"it out with unused=content.{key} in the options of the source"
                    )
        message["content"] = "".join(part["text"] for part in content)
    return message


def _without(value: Any, name: str, unused: Collection[str]) -> Any:
    """JSON values without what has one of these names."""
    if not unused:
        return value
    if isinstance(value, (list, tuple)):
        return [_without(item, name, unused) for item in value]
    if not isinstance(value, Mapping):
        return value
    names = {key: f"{name}.{key}".removeprefix(".") for key in value}
    return {key: _without(item, names[key], unused) for key, item in value.items() if names[key] not in unused}


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)


def _from_sharegpt(message: dict[str, Any], where: str) -> dict[str, Any]:
    said_by = message.pop("from")
    if said_by not in SHAREGPT_ROLES:
        near = nearest(said_by, SHAREGPT_ROLES) if isinstance(said_by, str) else ""
        raise UserError(f"{where}: from = {said_by!r}: expected one of {', '.join(SHAREGPT_ROLES)}{near}")
    if "value" not in message:
        raise UserError(f'{where}: it has no "value"')
    value = message.pop("value")
    if said_by == "function_call":
        call = _json(value, f"{where}: value of a function_call")
        calls = call if isinstance(call, list) else [call]
        return {"role": "assistant", "content": "", "tool_calls": calls, **message}
    return {"role": SHAREGPT_ROLES[said_by], "content": value, **message}


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise UserError(
            f'{where}: {call!r}, expected {{"type": "function", "function": {{"name": ..., "arguments": ...}}}}'
        )
    if "function" not in call:
        call = {"type": "function", "function": call}
    function = call["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(f'{where}: {function!r}, expected {{"name": ..., "arguments": ...}}')
    function = dict(function)
    if isinstance(function.get("arguments"), str):
        function["arguments"] = _json(function["arguments"] or "{}", f"{where}: arguments of {function['name']}")
    return {**{key: value for key, value in call.items() if value is not None}, "function": function}


def _json(text: Any, where: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as e:
        raise UserError(f"{where}: not JSON: {e}") from e
