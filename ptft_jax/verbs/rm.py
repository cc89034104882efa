"""Deletes runs, but none that another was started from.

ptft rm runs/first runs/second
ptft rm runs/first --dry_run
"""

from __future__ import annotations

from absl import flags

from ptft_jax.verbs import removing
from ptft_jax.verbs.command import launch

WORDS = "run"


def define() -> None:
    removing.define()
    flags.DEFINE_bool("dry_run", False, "Say what would be deleted, and delete nothing.")


def main() -> None:
    from ptft_jax.catalog import removal

    args = flags.FLAGS
    for path in removal.chosen(args.run, args.within, "--run"):
        if not args.dry_run:
            removal.remove(path)
        print(f"{'would delete' if args.dry_run else 'deleted'} {path}")


if __name__ == "__main__":
    launch(define, main, words=WORDS)
