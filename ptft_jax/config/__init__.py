"""The settings of a run: their tree (`tree`, `tune`), what a value may be (`field`), configs with defaults (`defaults`) and with what a
recipe suggests (`suggestions`), a config checked (`section`, `contradictions`), and files that hold one (`files`).

The names of these are imported when they are first used: classes below the tree declare their own settings with `field`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptft_jax.config.contradictions import check_effects
    from ptft_jax.config.defaults import choose, default, extended, fields, get, tree_of
    from ptft_jax.config.section import Section, check, counted, decided, of, settle, settled
    from ptft_jax.config.suggestions import own, suggest
    from ptft_jax.config.tree import Config

_PLACES = {
    "contradictions": ("check_effects",),
    "defaults": ("choose", "default", "extended", "fields", "get", "tree_of"),
    "section": ("Section", "check", "counted", "decided", "of", "settle", "settled"),
    "suggestions": ("own", "suggest"),
    "tree": ("Config",),
}

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
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"ptft_jax.config.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
