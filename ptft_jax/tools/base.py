"""What a tool is: a function of what a model writes in a call, to a text that the model reads."""

from __future__ import annotations

import abc
import json
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple


class Tool(abc.ABC):
    """Of the settings of `config.tools.NAME` it is given those of its entry, as arguments.

    Attributes:
      bounded: whether every call ends soon, whatever it is given, in little memory. Others are called in a process of their own.
    """

    bounded: ClassVar[bool] = False

    @abc.abstractmethod
    def call(self, *text: str, **arguments: Any) -> Any:
        """What it says: a text, or a value of JSON. With `config.tools.form` "text" it is given a text, with "json" the arguments by their
        names. Whatever it raises is a failed call, and the model is told what."""


class Function(Tool):
    """A plain function."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def call(self, *text: str, **arguments: Any) -> Any:
        return self._function(*text, **arguments)


class Result(NamedTuple):
    """What became of a call.

    Attributes:
      tool: its name; "" where the call names none.
      given: what it was called with, as the model wrote it.
      text: what the model reads of it.
      failed: there is none, and the text says why.
      cut: the tool said more.
    """

    tool: str
    given: str
    text: str
    failed: bool = False
    cut: bool = False


class Failed(Exception):
    """A call has no result; the message says why, for the model."""


def said(tool: Tool, text: tuple[str, ...], arguments: dict[str, Any]) -> str:
    """What a tool says of a call, as text. Raises Failed, whatever the tool raises."""
    try:
        found = tool.call(*text, **arguments)
        shown = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        shown.encode()  # half a character (a lone surrogate) is no text that a tokenizer takes
        return shown
    except (Exception, SystemExit) as e:
        raise Failed(f"{type(e).__name__}: {e}" if str(e) else type(e).__name__) from e
