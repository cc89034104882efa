"""Shows the recipes that come with the package, the config that one gives, and every setting.

ptft config --list
ptft config --config=pretrain/shakespeare:small --config.training.steps=100 > mine.json
ptft config --fields
ptft config --fields --config=pretrain/shakespeare:small
python -m ptft_jax.verbs.config --list

What --config prints is a config file itself: ptft train --config=mine.json --workdir=runs/mine. With --fields it is every setting
with its meaning, those that differ from their defaults marked by a star.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.verbs.command import define_config, launch


def define() -> None:
    define_config()
    flags.DEFINE_bool("list", False, "The recipes: what each is, and what goes after the colon.")
    flags.DEFINE_bool("fields", False, "Every setting, with its value and meaning; alone, or of --config.")


def main() -> None:
    args = flags.FLAGS
    if args.list and (args.fields or args.config is not None):
        raise UserError("what to show: --list, or --config=NAME[:ARG] and --fields")
    if args.list:
        _list()
    elif args.config is None:
        _fields()
    elif args.fields:
        _described(_resolved())
    else:
        section = _resolved()
        _described(section, changed=True, file=sys.stderr)
        print(json.dumps(section.as_dict(), indent=2))


def _list() -> None:
    from ptft_jax.config import files

    for recipe in files.recipes():
        print(f"{recipe.name}:ARG\n    {recipe.summary}")
        default = f" Without one: {recipe.default}." if recipe.default else ""
        print(f"    ARG: {recipe.argument}{default}")


def _fields() -> None:
    from ptft_jax import config

    for path, field in config.fields():
        print(f"{path.rstrip('_')} = {field.text(field.default)}\n    {_meaning(field)}")


def _meaning(field: Any) -> str:
    choices = f" ({', '.join(choice or repr(choice) for choice in field.choices)})" if field.choices else ""
    return f"{field.meaning}{choices}"


def _described(section: Any, *, changed: bool = False, file: Any = None) -> None:
    """Every setting of a config, those that differ from their defaults with a star and the default; `changed`: these alone."""
    from ptft_jax import config

    values = section.as_dict()
    for path, field in section.fields():
        value, default = config.get(values, path), json.loads(json.dumps(field.default))
        if value != default:
            print(
                f"* {path.rstrip('_')} = {field.text(value)}  (default {field.text(default)})\n      {_meaning(field)}",
                file=file,
            )
        elif not changed:
            print(f"  {path.rstrip('_')} = {field.text(value)}\n      {_meaning(field)}", file=file)


def _resolved() -> Any:
    """The config as a run would have it; what of a recipe is not taken is said."""
    from ptft_jax import config

    section = config.check(flags.FLAGS.config, complete=False)
    values = section.as_dict()
    for said in config.settle(values, section.suggested).values():
        if said:
            print(said, file=sys.stderr)
    # Of a run with a parent, some settings are the parent's, which is not read here.
    return config.check_effects(config.check(values, complete=not section.init.from_))


if __name__ == "__main__":
    launch(define, main)
