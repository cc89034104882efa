"""The settings of a run: their tree (`tree`, `tune`), what a value may be (`field`), a config checked (`section`), and files
that hold one (`files`)."""

from ptft_jax.config.section import (
    HOW,
    Section,
    check,
    check_effects,
    choose,
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
    "HOW",
    "Section",
    "check",
    "check_effects",
    "choose",
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
