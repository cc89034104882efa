"""JSON files that must hold a table of fields."""

from __future__ import annotations

import json
from typing import Any

from ptft_jax.errors import UserError


def table(content: str | bytes, where: str) -> dict[str, Any]:
    """The fields of a JSON object. Raises UserError that begins with `where` for anything else."""
    try:
        values = json.loads(content)
    except ValueError as e:
        raise UserError(f"{where}: not JSON: {e}") from e
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds a {type(values).__name__}, expected a table of fields")
    return values
