"""JSON files that must hold a table of fields, which may tell whether it is as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError

CHECKSUM = "checksum"


def table(content: str | bytes, where: str) -> dict[str, Any]:
    """The fields of a JSON object. Raises UserError that begins with `where` for anything else."""
    try:
        values = json.loads(content)
    except ValueError as e:
        raise UserError(f"{where}: not JSON: {e}") from e
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds a {type(values).__name__}, expected a table of fields")
    return values


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """The table with one more field: a digest of the others."""
    others = {name: value for name, value in values.items() if name != CHECKSUM}
    text = json.dumps(others, sort_keys=True, ensure_ascii=False)
    return {**others, CHECKSUM: hashlib.sha256(text.encode()).hexdigest()[:32]}


def intact(values: Mapping[str, Any]) -> bool:
    """Whether a table is what `with_checksum` made; also one that has none, of an earlier release."""
    return CHECKSUM not in values or with_checksum(values)[CHECKSUM] == values[CHECKSUM]
