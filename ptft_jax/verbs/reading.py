"""The flags of verbs that read data, for the settings of `config.data` that say what examples and rows become."""

from __future__ import annotations

from typing import Any

from absl import flags

from ptft_jax.config import tree as config_tree
from ptft_jax.config.field import natural
from ptft_jax.verbs.command import define_number

CHOICES = ("packing", "overlong", "untrainable", "broken")
NAMES = ("length", "template", "train_on", "held_out", *CHOICES)


def define() -> None:
    """--length, --template, --train_on, --held_out, --packing, --overlong, --untrainable, --broken."""
    define_number("length", 0, natural(0, ""), "Tokens a row; 0 = as configured.")
    flags.DEFINE_string("template", "", "Chat template by name; '' = as configured.")
    flags.DEFINE_string("train_on", "", "assistant, last, all, or roles joined by commas; '' = as configured.")
    held_out = natural(0.0, "")
    define_number("held_out", 0.0, held_out, "Share held out for each split that the source lacks; 0 = as configured.")
    for name in CHOICES:
        field = config_tree.TREE["data"][name]
        flags.DEFINE_enum(name, "", ["", *field.choices], f"{field.meaning}; '' = as configured.")


def changes() -> dict[str, Any]:
    """The settings of `config.data` that were given, by name."""
    given = {name: getattr(flags.FLAGS, name) for name in NAMES}
    return {name: value for name, value in given.items() if value}
