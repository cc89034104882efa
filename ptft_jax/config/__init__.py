"""The settings of a run: their tree (`tree`, `tune`), what a value may be (`field`), a config checked (`section`), and files
that hold one (`files`).

The names of `section` are imported when they are first used: classes below the tree declare their own settings with `field`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptft_jax.config.section import (
        Config,
        Section,
        check,
        check_effects,
        choose,
        counted,
        decided,
        default,
        extended,
        fields,
        get,
        of,
        own,
        settle,
        settled,
        suggest,
        tree_of,
    )

__all__ = [
    "Config",
    "Section",
    "check",
    "check_effects",
    "choose",
    "counted",
    "decided",
    "default",
    "extended",
    "fields",
    "get",
    "of",
    "own",
    "settle",
    "settled",
    "suggest",
    "tree_of",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ptft_jax.config import section

    return getattr(section, name)
