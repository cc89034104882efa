"""The chain of models behind a run, as in its lineage.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def place(entry: Mapping[str, Any]) -> str:
    """An entry as a reference: WORKDIR@STEP[#ADAPTER] of a run, or what imported weights were named by."""
    one = f"#{entry['adapter']}" if entry.get("adapter") else ""
    return entry.get("reference") or f"{entry['workdir']}@{entry['step']}{one}"
