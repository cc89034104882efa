"""References to runs, and the chain of models behind one, as in its lineage.json."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any


def place(entry: Mapping[str, Any]) -> str:
    """An entry as a reference: WORKDIR@STEP[#ADAPTER] of a run, or what imported weights were named by."""
    one = f"#{entry['adapter']}" if entry.get("adapter") else ""
    return entry.get("reference") or f"{entry['workdir']}@{entry['step']}{one}"


def parted(reference: str) -> tuple[str, str]:
    """(place, adapter or "") of WORKDIR...[#ADAPTER]; a folder may have such a sign in its own name, before a step."""
    place, sign, adapter = reference.rpartition("#")
    folders = (reference, f"{place}#{adapter.rpartition('@')[0]}") if "@" in adapter else (reference,)
    own = any(pathlib.Path(folder).expanduser().exists() for folder in folders)
    return (place, adapter) if sign and not own else (reference, "")


def step_parted(reference: str) -> tuple[str, str]:
    """(WORKDIR, what follows the last "@", or "") of a reference; a folder may have such a sign in its own name."""
    if "@" in reference and not pathlib.Path(reference).expanduser().is_dir():
        name, _, which = reference.rpartition("@")
        return name, which
    return reference, ""
