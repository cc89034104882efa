"""Lists the runs below a folder: where each stands, what it was started from, what came out of it.

ptft runs runs
ptft runs runs --where "tune.method=lora and after.validation/nll<3.2" --sort=-transfer.target.gain
ptft runs runs --columns=name,tune.lora.rank,after.validation/nll,seconds --csv
ptft runs runs --names

Any setting has a name, tune.lora.rank, and so has all that summaries say, after.test/nll; --names lists them. --where compares them by
=, !=, <, <=, >, >= and ~ (is a part of), joined by and, or, not and parentheses. --sort=A,-B sorts by A, then by B, the largest
first. latest.NAME is the last that a run said of a metric. An index in the cache makes the next listing fast.
"""

from __future__ import annotations

import csv
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from ptft_jax.catalog import facts
from ptft_jax.errors import UserError, nearest
from ptft_jax.verbs import folders
from ptft_jax.verbs.command import launch

WORDS = "folder"
_WIDTH = 160  # of a table in a file or a pipe
_ALWAYS = ("name", "state", "step")


def define() -> None:
    flags.DEFINE_multi_string("folder", [], "The folder that is looked through; also without --folder=. '' = this one.")
    flags.DEFINE_string("where", "", 'Only these, such as "tune.method=lora and after.validation/nll<3.2".')
    flags.DEFINE_list("sort", [], "By these, joined by commas; -NAME: the largest first. Then by name.")
    flags.DEFINE_list("columns", [], "What is shown, joined by commas.")
    flags.DEFINE_bool("names", False, "Print what is known of the runs, by name, in place of the runs.")
    flags.DEFINE_bool("csv", False, "Print CSV.")
    flags.DEFINE_bool("json", False, "Print JSON, a list with an object for each run.")


def main() -> None:
    args = flags.FLAGS
    if args.csv and args.json:
        raise UserError("--csv and --json: choose one")
    folder = folders.chosen()
    from ptft_jax.catalog.index import Index

    with Index(folder) as index:
        if not len(index):
            raise UserError(f"--folder={folder}: no run below it")
        if args.names:
            _print_names(index)
            return
        _print(*_listed(index, folder))


def _listed(index: Any, folder: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """The rows that are asked for, and how many runs there are."""
    from ptft_jax.catalog import where

    args, names = flags.FLAGS, [*facts.OWN, *index.names()]
    sort = [(name.removeprefix("-"), name.startswith("-")) for name in args.sort]
    for flag, given in (("columns", args.columns), ("sort", [name for name, _ in sort])):
        for name in given:
            if name not in names:
                raise UserError(
                    f"--{flag}: no run below {folder} has {name!r}{nearest(name, names)}; --names lists what they have"
                )
    condition = where.parse(args.where, names, "--where") if args.where.strip() else None
    rows = index.rows(args.columns or list(facts.SHOWN), condition, sort)
    return rows, len(index)


def _print(rows: Sequence[dict[str, Any]], count: int) -> None:
    args = flags.FLAGS
    if args.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    elif args.csv:
        writer = csv.DictWriter(sys.stdout, args.columns or list(facts.SHOWN), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        if rows:
            _print_table(rows)
        print(f"{len(rows):,} of {count:,} runs" if args.where.strip() else f"{count:,} run{'s' * (count > 1)}")


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    from ptft_jax.reporting.progress import print_table

    given = flags.FLAGS.columns
    columns = given or [
        name for name in facts.SHOWN if name in _ALWAYS or any(row[name] not in (None, "") for row in rows)
    ]
    shown = [
        {name if given else facts.SHOWN[name]: "-" if row[name] is None else row[name] for name in columns}
        for row in rows
    ]
    print_table(shown, None if sys.stdout.isatty() else _WIDTH)


def _print_names(index: Any) -> None:
    for name in index.names():
        print(f"{name}: {facts.OWN[name]}" if name in facts.OWN else name)


if __name__ == "__main__":
    launch(define, main, words=WORDS)
