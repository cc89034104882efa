"""Names for the runs that a report is of, which tell them apart."""

from __future__ import annotations

from collections.abc import Sequence


def names(short: Sequence[str], references: Sequence[str]) -> list[str]:
    """The short names, such as those of folders, where no two are the same; else the references, which never are."""
    return list(short if len(set(short)) == len(short) else references)
