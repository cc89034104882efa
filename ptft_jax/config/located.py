"""Objects that tables of a config name by where they are."""

from __future__ import annotations

import pkgutil
from typing import Any

from ptft_jax.errors import UserError


def located(what: Any) -> Any:
    """An object, or what a text "package.module:name" names. Raises UserError where nothing is there."""
    try:
        return pkgutil.resolve_name(what) if isinstance(what, str) else what
    except (ImportError, AttributeError, ValueError) as e:
        raise UserError(f"config.plugins: {what!r}, a place that a table names, cannot be loaded: {e}") from e
