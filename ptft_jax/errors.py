"""The one exception that means "what you asked for cannot be done", and help for writing its message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: a config value, a file, a path. Its message says what is wrong, where, and what would be valid.

    The verbs print it as one message, without a traceback, and exit with status 2.
    """


def nearest(word: str, valid: Iterable[str]) -> str:
    """' (did you mean X?)' for the valid word closest to `word`; '' where none is near."""
    found = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def listed(items: Iterable[str], most: int = 8) -> str:
    """The items one a line, indented, cut after `most` with a count of the rest."""
    items = list(items)
    rest = [f"... and {len(items) - most} more"] if len(items) > most else []
    return "".join(f"\n  {item}" for item in items[:most] + rest)


def few(items: Iterable[str], most: int = 10) -> str:
    """The items on one line, joined by commas, cut after `most` with a count of the rest."""
    items = list(items)
    rest = [f"... and {len(items) - most:,} more"] if len(items) > most else []
    return ", ".join([*items[:most], *rest])
