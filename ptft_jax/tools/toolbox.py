"""The tools that a config names, ready to be called by what a model writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ptft_jax import config as configs
from ptft_jax.config.located import located
from ptft_jax.errors import UserError, nearest
from ptft_jax.tools.apart import Apart, made
from ptft_jax.tools.base import Failed, Result, Tool, said

FIELD = "tools"


class Marks(NamedTuple):
    """What stands around a call, and around what a tool says."""

    opens: str
    closes: str
    before: str
    after: str


class Toolbox:
    """Tools by name, and how they are called (`config.tools`).

    Attributes:
      marks: around calls and results.
      calls: turns with a call that an answer may have.
    """

    def __init__(self, tools: Mapping[str, Tool | Apart], form: str, marks: Marks, calls: int, characters: int):
        self._tools, self._form, self._characters = dict(tools), form, characters
        self.marks, self.calls = marks, calls

    @property
    def names(self) -> tuple[str, ...]:
        """What may be called."""
        return tuple(self._tools)

    def results(self, written: str | None) -> list[Result]:
        """What becomes of what stands in a call, at least one result; None where the text has the end of a call and no beginning. Never an
        error, whatever the model wrote; raises UserError where a tool cannot be made."""
        if written is None:
            return [self._failed("", "", f"no call begins with {self.marks.opens}")]
        if self._form == "text":
            return [self._called(self.names[0], written.strip(), (written.strip(),), {})]
        try:
            found = json.loads(written)
        except (ValueError, RecursionError):
            return [self._failed("", written, "the call is not JSON")]
        calls = found if isinstance(found, list) and found else [found]
        return [self._read(call) for call in calls[: self.calls]] + [
            self._failed("", json.dumps(call, ensure_ascii=False), f"more than {self.calls} calls at once")
            for call in calls[self.calls : self.calls + 1]
        ]

    def _read(self, call: Any) -> Result:
        given = json.dumps(call, ensure_ascii=False)
        if not (isinstance(call, Mapping) and isinstance(call.get("name"), str)):
            return self._failed("", given, 'expected {"name": ..., "arguments": {...}}')
        name, arguments = call["name"], call.get("arguments", call.get("parameters"))  # Llama's word
        if isinstance(arguments, str):  # as OpenAI writes them
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                return self._failed(name, given, "the arguments are not JSON")
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, dict):
            return self._failed(name, given, "the arguments are no object")
        if name not in self._tools:
            return self._failed(name, given, f"no tool {name!r}: expected of {', '.join(self._tools)}")
        return self._called(name, given, (), arguments)

    def _called(self, name: str, given: str, text: tuple[str, ...], arguments: dict[str, Any]) -> Result:
        tool = self._tools[name]
        try:
            found = tool.said(text, arguments) if isinstance(tool, Apart) else said(tool, text, arguments)
        except Failed as e:
            return self._failed(name, given, str(e))
        return Result(name, given, found[: self._characters], cut=len(found) > self._characters)

    def _failed(self, name: str, given: str, why: str) -> Result:
        return Result(name, given, f"error: {why}"[: self._characters], failed=True)

    def close(self) -> None:
        """Ends processes of its own; it may be used again after that."""
        for tool in self._tools.values():
            if isinstance(tool, Apart):
                tool.close()


def change(values: dict[str, Any], tools: Mapping[str, Any]) -> None:
    """Changes `tools` in the plain values of a config, in place; a setting of a tool is "NAME.SETTING"."""
    for path, value in tools.items():
        name, dot, setting = path.partition(".")
        values["tools"] |= {name: {**values["tools"].get(name, {}), setting: value} if dot else value}


def of_run(source: Any, tools: Mapping[str, Any]) -> Toolbox | None:
    """The tools of a loaded run (its `source`; None = none), with other settings; see `chosen`, and `change`."""
    config = configs.default() if source is None else source.config
    values = config.to_dict() if source is None else config.as_dict()
    change(values, tools)
    return chosen(configs.check(values))


def chosen(config: Any) -> Toolbox | None:
    """The tools that `config.tools.use` names; None where that is none. Of others' settings none is read.

    Raises:
      UserError: a tool that is not known or is named twice; marks that are not two texts, or nothing to tell a call by.
    """
    t, known = config.tools, config.tables.tools
    if not t.use:
        return None
    for name in t.use:
        if name not in known:
            raise UserError(
                f"config.{FIELD}.use: no tool {name!r}: expected of {', '.join(known)}{nearest(name, known)}"
            )
        if list(t.use).count(name) > 1:
            raise UserError(f"config.{FIELD}.use: {name!r} is named twice")
    if t.form == "text" and len(t.use) > 1:
        raise UserError(
            f"config.{FIELD}.use names {len(t.use)} tools, and a call that is a text does not say which: set {FIELD}.form='json'"
        )
    for name, pair in (("call", t.call), ("result", t.result)):
        if len(pair) != 2:
            raise UserError(f"config.{FIELD}.{name} = {tuple(pair)}: expected two texts, what stands before and after")
    if t.call[0] == t.call[1]:
        raise UserError(
            f"config.{FIELD}.call = {tuple(t.call)}: a call begins as it ends: expected two different texts"
        )
    tools: dict[str, Tool | Apart] = {}
    for name in t.use:
        settings = t[name].read_all() if known[name].fields else {}
        place = known[name].tool
        found = located(place)
        bounded = isinstance(found, type) and issubclass(found, Tool) and found.bounded
        tools[name] = made(place, settings) if bounded else Apart(name, place, settings, t.seconds, t.characters)
    return Toolbox(tools, t.form, Marks(*t.call, *t.result), t.calls, t.characters)
