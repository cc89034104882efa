"""Tools in processes of their own, which are ended when a call takes too long or too much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ptft_jax.config.located import located
from ptft_jax.data import apart
from ptft_jax.errors import UserError
from ptft_jax.tools.base import Failed, Function, Tool, said


def made(place: Any, settings: Mapping[str, Any]) -> Tool:
    """The tool of an entry of a table (`ptft_jax.config.tools.ToolSpec.tool`)."""
    found = located(place)
    return found(**settings) if isinstance(found, type) else Function(found)


class Apart:
    """A tool in a process of its own (`ptft_jax.data.apart`)."""

    def __init__(self, name: str, place: Any, settings: Mapping[str, Any], seconds: float, characters: int):
        self._name, self._seconds = name, seconds
        self._apart = apart.Apart(_made, place, dict(settings), characters)

    def said(self, text: tuple[str, ...], arguments: Mapping[str, Any]) -> str:
        """As of `ptft_jax.tools.base.said`; of a longer text at least its beginning. Raises UserError where the tool cannot be made."""
        try:
            fine, found = self._apart.called(self._seconds, text, dict(arguments))
        except apart.Lost as e:
            raise Failed(str(e)) from e
        except apart.Unsent as e:
            raise UserError(
                f"config.tools.use: {self._name!r} cannot be called in a process of its own ({e}): name it as 'package.module:name', or "
                "make it a class with bounded = True"
            ) from e
        except apart.Unmade as e:
            raise UserError(f"config.tools.use: {self._name!r} cannot be made in a process of its own: {e}") from e
        if not fine:
            raise Failed(found)
        return found

    def close(self) -> None:
        """Ends the process, where there is one."""
        self._apart.close()


def _made(place: Any, settings: Mapping[str, Any], characters: int) -> Callable[..., tuple[bool, str]]:
    """The tool as its process has it: a function of a call to whether it has a result, and that or why not."""
    tool = made(place, settings)

    def call(text: tuple[str, ...], arguments: dict[str, Any]) -> tuple[bool, str]:
        try:
            return True, said(tool, text, arguments)[: characters + 1]
        except Failed as e:
            return False, str(e)[: characters + 1]

    return call
