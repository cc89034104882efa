"""The settings of a run: their tree (`tree`, `tune`), what a value may be (`field`), and a config checked (`section`)."""

from ptft_jax.config.section import HOW, Section, check, check_effects, choose, default, extended, fields, get, tree_of

__all__ = ["HOW", "Section", "check", "check_effects", "choose", "default", "extended", "fields", "get", "tree_of"]
