"""Tools of tests, which a config names as a plugin."""

import os

from ptft_jax.config.tools import ToolSpec
from ptft_jax.tools.base import Tool
from tests.unruly import misbehave


def following(letter: str) -> str:
    """The next of eight letters."""
    return chr(97 + (ord(letter) - 96) % 8)


def unruly(what: str, times: int = 1):
    """Does what no tool should, and gives the number of its process where it is asked for that."""
    misbehave(what)
    match what:
        case "huge":
            return "é" * 10_000_000
        case "pid":
            return os.getpid()
        case "surrogate":
            return "\ud800"
        case "object":
            return object()
    return {"said": [what] * times}


class Next(Tool):
    """`following`, in the process of the run."""

    bounded = True

    def call(self, letter: str) -> str:
        return following(letter)


TOOLS = {
    "following": ToolSpec(Next),
    "unruly": ToolSpec("tests.tools.given:unruly"),
}
