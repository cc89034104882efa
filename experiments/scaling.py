"""How does loss fall with parameters, tokens and compute, and does muP carry a learning rate from a narrow model to a wide one?

Small GPTs learn the bytes of Shakespeare's plays, by muP, at several widths and lengths of training, each with a schedule of its own length; a
law is fitted to all runs but the largest, which it has to predict. Then rates are compared at two widths, under muP and under the standard
parametrization, which are the same at the narrow one. Writes results.json, report.html and report.md.

  python -m experiments.scaling --out=runs/scaling
"""

from __future__ import annotations

import functools
import operator
import pathlib
import statistics
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import laws, plays
from . import verdicts as shared
from .verdicts import HOLDS, UNSHOWN, Measured, Part, at_most, below, claim

WIDTHS, STEPS = (16, 32, 64), (100, 200, 400, 800)
RATES, WIDE, RATED = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 128, 200  # the last: steps of each
KINDS = {"narrow": "width 32", "mup": "width 128, muP", "standard": "width 128, standard"}
SIZES = {f"w{w}-s{s}": (w, s) for w in WIDTHS for s in STEPS}
LABELS = {
    **{way: f"width {w}, {s * plays.TOKENS // 1000}k tokens" for way, (w, s) in SIZES.items()},
    **{f"{kind}-{rate:g}": f"{said}, rate {rate:g}" for kind, said in KINDS.items() for rate in RATES},
}
NAMES = {"nll": ("", "validation/nll")}
LARGEST, ERROR, LOSS = f"w{WIDTHS[-1]}-s{STEPS[-1]}", 0.05, 0.02


def define() -> None:
    shared.define("runs/scaling", "each size and rate")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of bytes, with {seeds} seeds each; ± is the standard deviation over them. nll: nats per byte of held-out text. The law is "
        "nll = E + A / N^a + B / D^b, with N parameters of the blocks and D tokens; intervals and bands are 90%, by drawing runs anew. Rings are runs "
        "that the law was not fitted to."
    )
    title = "Loss by parameters, tokens and compute; learning rates by width"
    return shared.main(title, lead, LABELS, NAMES, declared, claims, figures, tables)


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    demo, graph = size == "demo", pt.Graph()
    for seed in range(seeds):
        for way, (width, steps) in SIZES.items():
            _run(graph, way, width, steps, 1e-2, seed, True, demo)
        for kind in KINDS:
            for rate in RATES:
                _run(
                    graph,
                    f"{kind}-{rate:g}",
                    plays.WIDTH if kind == "narrow" else WIDE,
                    RATED,
                    rate,
                    seed,
                    kind == "mup",
                    demo,
                )
    return graph


def _run(graph: Any, way: str, width: int, steps: int, rate: float, seed: int, mup: bool, demo: bool) -> None:
    config = plays.config_of(width, steps, rate, seed=seed, mup=mup)
    if not demo:
        config.seed = 0
        config.model.update(layers=1, width=8, heads=1)
        config.training.steps = 1 + steps // STEPS[-1]
        config.optimizer.update(warmup_steps=0, learning_rate=1e-2)  # most are one run, then
        config.eval.update(every=0, tokens=200)
    graph.run(f"{way}-seed{seed}", config, group=way)


def runs_of(measured: Measured) -> list[tuple[str, laws.Run]]:
    """(way, run) of each size and seed."""
    return [
        (way, (plays.parameters(width), steps * plays.TOKENS, nll)) for way, (width, steps) in SIZES.items() for nll in measured[way]["nll"]
    ]  # fmt: skip


def regret(measured: Measured, kind: str) -> list[float]:
    """Of each seed: how much the wide model loses by the rate that is best for the narrow one, against its own best."""
    values = {k: [measured[f"{k}-{rate:g}"]["nll"] for rate in RATES] for k in ("narrow", kind)}
    narrow, wide = ([list(column) for column in zip(*values[k])] for k in ("narrow", kind))
    return [row[own.index(min(own))] - min(row) for own, row in zip(narrow, wide)]


@functools.cache
def _fitted(runs: tuple[laws.Run, ...]) -> tuple[laws.Law, list[laws.Law]]:
    law = laws.fit(runs)
    return law, laws.refits(runs, law)


def fitted(measured: Measured) -> tuple[laws.Law, list[laws.Law]]:
    """The law of all runs but the largest, and those of such runs drawn anew."""
    return _fitted(tuple(run for way, run in runs_of(measured) if way != LARGEST))


def claims(measured: Measured) -> list[dict[str, str]]:
    runs, (law, fits) = runs_of(measured), fitted(measured)
    rows = [
        claim(f"loss falls with {what}", _above(f"{name} > 0", law, fits, field))
        for what, name, field in (("parameters", "a", "alpha"), ("tokens", "b", "beta"), ("compute: the best size grows", "b / (a + b)", "share"))
    ]  # fmt: skip
    errors = [abs(law(*run[:2]) - run[2]) for way, run in runs if way == LARGEST]
    rows.append(claim("the law of smaller runs predicts the largest", at_most("error of its nll", errors, ERROR)))
    ours, plain = regret(measured, "mup"), regret(measured, "standard")
    rows.append(
        claim(
            "by muP the narrow model's rate is right for the wide one", at_most("nll above the best rate's", ours, LOSS)
        )
    )
    rows.append(
        claim("... and more so than by the standard parametrization", below("nll above the best rate's", plain, ours))
    )
    return rows


def _above(criterion: str, law: laws.Law, fits: list[laws.Law], field: str) -> Part:
    number = operator.attrgetter(field)
    low, high = laws.interval(fits, number)
    # An exponent at the end of where it is looked for says only that its term is of the smallest runs alone.
    exponents = (law.alpha, law.beta) if field == "share" else (number(law),)
    told = low > 0.01 and max(exponents) < 0.99 * laws.STEEPEST
    return Part(criterion, f"{number(law):.2f} ({low:.2f} to {high:.2f})", HOLDS if told else UNSHOWN)


def tables(measured: Measured) -> dict[str, list[dict[str, Any]]]:
    return {"law": laws.table(*fitted(measured))}


def figures(measured: Measured) -> list[str]:
    from ptft_jax.reporting import plots

    mean = {way: statistics.mean(row["nll"]) for way, row in measured.items()}
    places = {way: (plays.parameters(w), s * plays.TOKENS) for way, (w, s) in SIZES.items()}
    of = (
        {f"width {w}": {places[f"w{w}-s{s}"]: mean[f"w{w}-s{s}"] for s in STEPS} for w in WIDTHS},
        {
            f"{s * plays.TOKENS // 1000}k tokens": {places[f"w{w}-s{s}"]: mean[f"w{w}-s{s}"] for w in WIDTHS}
            for s in STEPS
        },
    )
    law, fits = fitted(measured)
    drawn = [
        laws.figure(lines, law, fits, over=over, title=f"Loss by {x}", x=x, apart=[places[LARGEST]])
        for lines, over, x in ((of[0], 1, "tokens"), (of[1], 0, "parameters"))
    ]
    compute = {name: [[(6e-12 * n * d, loss) for (n, d), loss in points.items()]] for name, points in of[0].items()}
    rates = {said: [[(rate, mean[f"{kind}-{rate:g}"]) for rate in RATES]] for kind, said in KINDS.items()}
    return [
        *drawn,
        plots.curves(compute, title="Loss by compute", x="6 N D, in TFLOP", y="nll", log=True),
        plots.curves(rates, title="Loss by learning rate", x="learning rate", y="nll", log=True),
    ]


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
