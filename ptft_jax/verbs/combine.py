"""Makes one run of several finished ones: between a run and its parent, averages, task vectors, adapters.

python -m ptft_jax.verbs.combine --method=interpolate --run=runs/tuned@best --curve=0,0.1,...,1 --rule=sum --out=runs/between
python -m ptft_jax.verbs.combine --method=ties --run=runs/a --run=runs/b --density=0.2 --out=runs/both
python -m ptft_jax.verbs.combine --method=tower --run=runs/text --run=runs/images --out=runs/joined
python -m ptft_jax.verbs.combine --adapter --method=cat --run=runs/lora_a --run=runs/lora_b --weights=1,-0.5 --out=runs/lora
"""

from __future__ import annotations

import json

from absl import flags

from ptft_jax.config.field import mass, natural, positive, whole_share
from ptft_jax.config.tree import TREE
from ptft_jax.errors import UserError
from ptft_jax.verbs.command import IGNORE, SOURCES, define_number, launch, prepare_jax, say

# Options of `ptft_jax.combining.combine`, which says for each method which it reads; None = not given.
OPTIONS = (
    "base", "alpha", "curve", "rule", "budget", "weights", "density", "trim", "sign", "seed", "rank", "experts",
    "experts_per_token", "skip", "projector", "merge", "metric", "data", "source", "tokens", "batch_size",
)  # fmt: skip


def define() -> None:
    flags.DEFINE_string(
        "method",
        None,
        "Of whole models: interpolate, slerp, soup, greedy_soup, upcycle, tower, task, magnitude_prune, ties, dare_linear, dare_ties. With "
        "--adapter: cat, svd, linear, and the last four, which may end in _svd.",
    )
    flags.DEFINE_multi_string("run", [], f"{SOURCES} May be given more than once.")
    flags.DEFINE_string("out", None, "The workdir to write.")
    flags.DEFINE_bool("adapter", False, "The runs are adapters for one base, and so is the result.")
    flags.DEFINE_multi_string("ignore", [], IGNORE)
    flags.DEFINE_string(
        "base", None, "What the runs were fine-tuned from, where their lineage does not say; a run or weights."
    )
    define_number(
        "alpha",
        None,
        whole_share(0.5, ""),
        "Of interpolate: 0 = the parent, 1 = the run; 0.5 where no --rule is given. Of slerp: 0 = the first run, 1 = the second.",
    )
    flags.DEFINE_string("curve", None, "Of interpolate: alphas to measure, such as 0,0.1,...,1.")
    flags.DEFINE_string(
        "rule",
        None,
        "Of interpolate, chooses alpha from the curve: target (least loss on the run's data), sum (of that and the loss "
        "on its parent's data), budget (as target, but with --budget on the parent's data).",
    )
    define_number("budget", None, natural(0.0, ""), "Of --rule=budget: nats per token that the parent's data may lose.")
    flags.DEFINE_list(
        "weights", None, "A number for each --run, such as 1,-0.5; 1 each where not given. A soup divides by their sum."
    )
    define_number("density", None, mass(1.0, ""), "Share of each task vector that is kept; of DARE, 1 - its drop rate.")
    flags.DEFINE_string(
        "trim", None, "The largest of a whole task vector are kept (model), or of each layer's (layer)."
    )
    flags.DEFINE_string(
        "sign", None, "Of ties: the sign of the sum is elected (total), or the most frequent (frequency)."
    )
    define_number(
        "seed", None, TREE["seed"], "Of what DARE drops, of the routers of upcycle, and of the projector of tower."
    )
    define_number(
        "rank", None, positive(1, ""), "Of svd: the rank of the result; the largest of the adapters' where not given."
    )
    define_number("experts", None, positive(8, ""), "Of upcycle: how many are made of each MLP.")
    define_number(
        "experts_per_token", None, positive(2, ""), "Of upcycle: how many a token is sent to; 2 where not given."
    )
    define_number(
        "skip", None, natural(0, ""), "Of tower: last blocks of the ViT that are left out; 0 where not given."
    )
    flags.DEFINE_string("projector", None, "Of tower: mlp (where not given) or linear.")
    define_number(
        "merge",
        None,
        positive(1, ""),
        "Of tower: so many patches, high and wide, become one vector; 1 where not given.",
    )
    flags.DEFINE_string("metric", None, "Of greedy_soup: nll, accuracy, mse, pearson or spearman, on validation data.")
    flags.DEFINE_string("data", None, "Data to measure on; the (first) run's where not given.")
    flags.DEFINE_string("source", None, "Data to measure forgetting on; the parent's where not given.")
    define_number("tokens", None, TREE["eval"]["tokens"], "Use only the first so many tokens of each set; 0 = all.")
    define_number("batch_size", None, positive(16, ""), "Rows at a time where something is measured.")


def main() -> None:
    args = flags.FLAGS
    for name, example in (("method", "soup"), ("run", "runs/a"), ("out", "runs/soup")):
        if not getattr(args, name):
            raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if "weights" in given:
        try:
            given["weights"] = tuple(map(float, given["weights"]))
        except ValueError:
            raise UserError(f"--weights={','.join(given['weights'])}: expected numbers such as 1,-0.5") from None
    prepare_jax()
    from ptft_jax.combining.combine import combine

    chosen: list[str] = []
    done = combine(
        args.method, args.run, args.out, adapter=args.adapter, ignore=args.ignore, say=chosen.append, **given
    )
    for text in chosen:
        say(text)
    print(json.dumps(done, indent=1))


if __name__ == "__main__":
    launch(define, main)
