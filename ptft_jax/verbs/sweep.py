"""Runs a config at every point of some axes, with several seeds, and writes a table of means and spread.

python -m ptft_jax.verbs.sweep --config=finetune/shakespeare:lora --config.init.from=runs/base --name=lr --out=runs/lr \\
  --axis optimizer.learning_rate=1e-4,3e-4 --axis "tune.lora.rank=loguniform(4,64)" --samples=4 --seeds=3
"""

from __future__ import annotations

from absl import flags

from ptft_jax.config.field import positive, seed
from ptft_jax.errors import UserError
from ptft_jax.verbs import carrying
from ptft_jax.verbs.command import define_config, define_number, launch, prepare_experiment


def define() -> None:
    define_config()
    carrying.define()
    flags.DEFINE_multi_string(
        "axis",
        [],
        "FIELD=VALUE,...; FIELD=loguniform(LEAST,MOST), uniform(LEAST,MOST) or choice(VALUE,...), which are drawn; or "
        "FIELD,FIELD=(VALUE,VALUE),..., which vary together. Each may end in ' if FIELD=VALUE'. May be given more than once.",
    )
    flags.DEFINE_string("name", "sweep", "What the names of the runs begin with.")
    flags.DEFINE_string("question", "", "What the report begins with; '' = this command.")
    flags.DEFINE_string(
        "baseline", "", "What others are compared with: a node, or a point as the report names it; '' = the best."
    )
    define_number("seeds", 1, positive(1, ""), "Runs at each point: of the config's seed and those after it.")
    define_number("samples", 1, positive(1, ""), "Draws of the axes that are drawn.")
    define_number("draw_seed", 0, seed(0, ""), "What these draws follow from.")


def main() -> int:
    args = flags.FLAGS
    if args.config is None:
        raise UserError("--config is missing, e.g. --config=finetune/shakespeare:lora")
    carrying.check()
    if not args.axis and args.seeds == 1:
        raise UserError("--axis is missing: what to vary, e.g. --axis optimizer.learning_rate=1e-4,3e-4; or --seeds")
    from ptft_jax.experiments import axis_words
    from ptft_jax.experiments.nodes import Graph

    axes = [axis_words.parse(text) for text in args.axis]
    if args.samples > 1 and not any(axis.draw for axis in axes):
        raise UserError(f"--samples={args.samples}: no axis is drawn")
    prepare_experiment()
    graph = Graph(args.question, baseline=args.baseline)
    graph.sweep(args.name, args.config, axes, seeds=args.seeds, samples=args.samples, draw_seed=args.draw_seed)
    return carrying.carry_out(graph)


if __name__ == "__main__":
    launch(define, main)
