"""Carries out an experiment that a file declares: runs in stages, sweeps, merges and evaluations.

python -m ptft_jax.verbs.experiment --file=experiments/stages.py --out=runs/stages --dry_run
python -m ptft_jax.verbs.experiment --file=experiments/stages.py --out=runs/stages --executor=local --max_parallel=2
"""

from __future__ import annotations

import pathlib

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.verbs import carrying
from ptft_jax.verbs.command import launch, prepare_experiment


def define() -> None:
    flags.DEFINE_string("file", None, "A Python file with a function `graph()` that returns a graph.")
    carrying.define()


def main() -> int:
    args = flags.FLAGS
    if not args.file:
        raise UserError("--file is missing: a Python file that declares a graph, e.g. --file=experiments/stages.py")
    carrying.check()
    path = pathlib.Path(args.file).expanduser()
    if not path.is_file():
        raise UserError(f"--file={args.file}: no such file")
    prepare_experiment()
    from ptft_jax.config import files
    from ptft_jax.experiments.nodes import Graph

    files.make_importable(path.resolve().parent)
    graph = files.carried_out(path, files.function(path, "graph", packaged=True))
    if not isinstance(graph, Graph):
        raise UserError(f"{path}: graph() returned {type(graph).__name__}: expected a ptft_jax.Graph")
    return carrying.carry_out(graph)


if __name__ == "__main__":
    launch(define, main)
