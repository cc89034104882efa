"""Packs runs into one file and deletes them, but none that another was started from.

ptft archive runs/first runs/second --out=archive/2026.tar.gz
tar xzf archive/2026.tar.gz -C runs
"""

from __future__ import annotations

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.verbs import removing
from ptft_jax.verbs.command import launch

WORDS = "run"


def define() -> None:
    removing.define()
    flags.DEFINE_string("out", "", "The .tar.gz file to write.")
    flags.DEFINE_bool("keep", False, "Delete nothing.")


def main() -> None:
    from ptft_jax.catalog import removal
    from ptft_jax.runs import places

    args = flags.FLAGS
    if not args.out.endswith((".tar.gz", ".tgz")):
        raise UserError(f"--out={args.out}: expected the name of a .tar.gz file to write")
    out = places.local(args.out, f"--out={args.out}")
    paths = removal.chosen(args.run, args.within, "--run")
    removal.archive(paths, out)
    print(f"archived in {out}")
    for path in paths if not args.keep else ():
        removal.remove(path)
        print(f"deleted {path}")


if __name__ == "__main__":
    launch(define, main, words=WORDS)
