"""Shows the recipes that come with the package, the config that one gives, and every setting.

ptft config --list
ptft config --config=pretrain/shakespeare:small --config.training.steps=100 > mine.json
ptft config --fields
python -m ptft_jax.verbs.config --list

What --config prints is a config file itself: ptft train --config=mine.json --workdir=runs/mine
"""

from __future__ import annotations

import json
import sys

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.verbs.command import define_config, launch


def define() -> None:
    define_config()
    flags.DEFINE_bool("list", False, "The recipes: what each is, and what goes after the colon.")
    flags.DEFINE_bool("fields", False, "Every setting, with its default and meaning.")


def main() -> None:
    args = flags.FLAGS
    if sum((args.list, args.fields, args.config is not None)) != 1:
        raise UserError("what to show: --list, --fields or --config=NAME[:ARG], one of them")
    if args.list:
        _list()
    elif args.fields:
        _fields()
    else:
        _show()


def _list() -> None:
    from ptft_jax.config import files

    for recipe in files.recipes():
        print(f"{recipe.name}:ARG\n    {recipe.summary}")
        default = f" Without one: {recipe.default}." if recipe.default else ""
        print(f"    ARG: {recipe.argument}{default}")


def _fields() -> None:
    from ptft_jax import config

    for path, field in config.fields():
        choices = f" ({', '.join(choice or repr(choice) for choice in field.choices)})" if field.choices else ""
        print(f"{path.rstrip('_')} = {field.default!r}\n    {field.meaning}{choices}")


def _show() -> None:
    from ptft_jax import config

    section = config.check(flags.FLAGS.config, complete=False)
    values = section.as_dict()
    for said in config.settle(values, section.suggested).values():
        if said:
            print(said, file=sys.stderr)
    # Of a run with a parent, some settings are the parent's, which is not read here.
    config.check_effects(config.check(values, complete=not section.init.from_))
    print(json.dumps(values, indent=2))


if __name__ == "__main__":
    launch(define, main)
