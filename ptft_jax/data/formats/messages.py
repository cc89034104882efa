"""Conversations as datasets write them, in the one form that templates read: OpenAI's messages, and ShareGPT's turns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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


def normal(value: Any, where: str) -> list[dict[str, Any]]:
    """A conversation of either form as messages for a template.

    Keys that are null are left out, as tables fill them in where another message has them. Text in parts is joined; a
    tool call without text has an empty one. Arguments of tool calls, which OpenAI writes as JSON in a text, become values,
    as Hugging Face's templates expect them.

    Raises:
      UserError: no list of messages; a turn that is of neither form; a text that is to be JSON and is not.
    """
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: {type(value).__name__}, expected a list of messages")
    return [_message(message, f"{where}: messages[{index}]") for index, message in enumerate(value)]


def json_list(value: Any, where: str) -> list | None:
    """A list, or the JSON of one, as columns of tools are written; None where it is empty."""
    if isinstance(value, str):
        value = _json(value, where) if value.strip() else None
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: a {type(value).__name__}, expected a list")
    return value or None


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(
            f'{where}: {message!r}, expected {{"role": ..., "content": ...}} or {{"from": ..., "value": ...}}'
        )
    message = {key: value for key, value in message.items() if value is not None}
    if "role" not in message and "from" in message:
        message = _from_sharegpt(message, where)
    content = message.get("content")
    if isinstance(content, list) and all(map(_is_text_part, content)):
        message["content"] = "".join(part["text"] for part in content)
    if message.get("tool_calls"):
        message.setdefault("content", "")
        message["tool_calls"] = [_tool_call(call, f"{where}: tool_calls") for call in message["tool_calls"]]
    else:
        message.pop("tool_calls", None)
    return message


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
