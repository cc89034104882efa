"""Measures training, starting and how cost grows beside what you would use instead, in turns, and writes a page of ratios.

ptft bench --out=runs/bench
python -m ptft_jax.verbs.bench 4x128 start

A training step is compared with plain PyTorch, transformers, its Trainer, PEFT and TRL where they are installed
(pip install 'ptft_jax[bench]'); which were not is said. Each has to compute the same function first. It runs in the repository.
"""

from __future__ import annotations

import sys

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.verbs.command import launch, prepare_jax, say

WORDS = "only"  # the flag that words without one belong to


def define() -> None:
    flags.DEFINE_multi_string("only", [], "A case, e.g. 4x128; also without --only=. All where none is given.")
    flags.DEFINE_string(
        "out", "runs/bench", "Folder of benchmarks.json, benchmarks.md and figures; what it has is kept."
    )
    flags.DEFINE_bool("tiny", False, "Small sizes: to see that it runs.")
    flags.DEFINE_string("quality", "", "The folder of a finished `python -m experiments.characters`, for the page.")


def main() -> None:
    from ptft_jax.config import files
    from ptft_jax.runs import places

    args = flags.FLAGS
    folder = files.shipped()
    if not (folder / "benchmarks").is_dir():
        raise UserError(
            "the benchmarks are in the repository, not in the installed package: clone it, and run `make bench`"
        )
    out = places.local(args.out, f"--out={args.out}")
    from ptft_jax.reporting import plots  # noqa: F401  # needs an extra: said before anything is measured

    sys.path.insert(0, str(folder))
    prepare_jax()
    from benchmarks import bench

    bench.run(args.only, out, small=args.tiny, quality=args.quality, say=say)
    print(f"page: {out / 'benchmarks.md'}")


if __name__ == "__main__":
    launch(define, main, words=WORDS)
