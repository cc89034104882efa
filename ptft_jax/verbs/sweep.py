"""Runs a config at every point of some axes, with several seeds, and writes a table of means and spread.

python -m ptft_jax.verbs.sweep --config=finetune/shakespeare:lora --config.init.from=runs/base --name=lr --out=runs/lr \\
  --axis optimizer.learning_rate=1e-4,3e-4 --axis "tune.lora.rank=loguniform(4,64)" --samples=4 --seeds=3

With --search the points are not all of them, but those that Optuna asks for:

python -m ptft_jax.verbs.sweep --config=finetune/shakespeare:lora --config.init.from=runs/base --out=runs/search \\
  --axis "optimizer.learning_rate=loguniform(1e-5,1e-2)" --search=tpe --trials=30 --pruner=median
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
    define_number("draw_seed", 0, seed(0, ""), "What these draws, and those of a search, follow from.")
    flags.DEFINE_string("search", "", "tpe, cmaes, random or grid: --trials runs at points that Optuna asks for.")
    define_number("trials", None, positive(1, ""), "How many runs a search has, those of earlier launches among them.")
    flags.DEFINE_string("metric", "", "What a search goes by, as table.csv has it; '' = what the runs select by.")
    flags.DEFINE_string("direction", "", "min or max: which values of --metric are better; '' = as it says itself.")
    flags.DEFINE_string(
        "pruner", "none", "median or halving: ends runs of a search that others were better than; or none."
    )


def main() -> int:
    args = flags.FLAGS
    if args.config is None:
        raise UserError("--config is missing, e.g. --config=finetune/shakespeare:lora")
    carrying.check()
    _check_search()
    if not args.axis and args.seeds == 1 and not args.search:
        raise UserError("--axis is missing: what to vary, e.g. --axis optimizer.learning_rate=1e-4,3e-4; or --seeds")
    from ptft_jax.experiments import axis_words
    from ptft_jax.experiments.nodes import Graph

    axes = [axis_words.parse(text) for text in args.axis]
    if args.samples > 1 and not any(axis.draw for axis in axes):
        raise UserError(f"--samples={args.samples}: no axis is drawn")
    prepare_experiment()
    if args.search:
        from ptft_jax.experiments.search import Search

        asked = Search(
            axes,
            args.search,
            trials=args.trials or 0,
            metric=args.metric,
            direction=args.direction,
            pruner=args.pruner,
            seed=args.draw_seed,
            name=args.name,
        )
        return carrying.search(args.config, asked)
    graph = Graph(args.question, baseline=args.baseline)
    graph.sweep(args.name, args.config, axes, seeds=args.seeds, samples=args.samples, draw_seed=args.draw_seed)
    return carrying.carry_out(graph)


def _check_search() -> None:
    """Raises UserError for flags of one kind of sweep beside the other."""
    args = flags.FLAGS
    of_search = ("trials", "metric", "direction", "pruner")
    one = "a trial is one run: --trials says how many"
    instead = {"seeds": one, "samples": one, "baseline": "trials of a search are compared with the best of them"}
    for name in instead if args.search else of_search:
        if getattr(args, name) != args[name].default:
            raise UserError(f"--{name}={getattr(args, name)}: {instead.get(name, 'it is of --search alone')}")


if __name__ == "__main__":
    launch(define, main)
