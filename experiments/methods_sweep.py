"""How `experiments.methods` goes on from what came out: other rates for each way, seeds at its best one, and averages of weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ptft_jax as pt
from experiments import transfer_runs
from experiments.methods_runs import LADDER, TARGET, Way, group_of, name_of, tune_config
from ptft_jax.experiments.store import RESULTS
from ptft_jax.verbs.scripts import Carried

Summary = Mapping[str, Any]
ALPHAS = "0,0.1,...,1"
TOGETHER: Mapping[str, Mapping[str, Any]] = {
    "soup": {}, "greedy_soup": {}, "ties": {"density": 0.5}, "dare_linear": {"density": 0.5},
}  # fmt: skip
MEASURED = {"target": TARGET, "source": "shakespeare:general"}  # what averages are measured on


@dataclasses.dataclass(frozen=True)
class Tried:
    """What the runs of a way came to; None in place of the summary of a run that diverged, whose loss was not finite.

    Attributes:
      rates: rate -> summary of the first seed's run.
      best: the rate of the least loss; None where all diverged.
      seeds: summaries at the best rate, by seed; none where all diverged.
    """

    rates: Mapping[float, Summary | None]
    best: float | None
    seeds: tuple[Summary | None, ...]

    @property
    def runs(self) -> dict[tuple[float, int], Summary | None]:
        """Every run once, by its rate and seed."""
        first = {(rate, 0): summary for rate, summary in self.rates.items()}
        return first | {(self.best, seed): summary for seed, summary in enumerate(self.seeds)}

    @property
    def finite(self) -> list[int]:
        """The seeds that did not diverge at the best rate."""
        return [seed for seed, summary in enumerate(self.seeds) if summary is not None]


class Sweep:
    """The graph of the base and the runs of some ways, which grows by what came out."""

    def __init__(self, ways: Mapping[str, Way], *, size: str, seeds: int):
        self._ways, self._size, self._seeds = ways, size, seeds
        self.graph = pt.Graph()
        self._base = self.graph.run("base", transfer_runs.base_config(size))
        self._runs: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}  # (rate, seed), as declared
        for name, way in ways.items():
            for rate in way.rates:
                self._declare(name, rate, 0)
        self.graph.then(self._more)

    def _more(self, graph: pt.Graph, rows: Sequence[Mapping[str, Any]]) -> None:
        """Declares the runs that are wanted next, of what all before came to. A way of which a run failed ends there."""
        ended = {row["name"]: row for row in rows}
        for name, runs in self._runs.items():
            found = {run: ended[name_of(name, *run)] for run in runs}
            if any(row["status"] not in RESULTS for row in found.values()):
                continue
            losses = {run: _loss(row) for run, row in found.items()}
            further = wanted(losses, self._seeds)
            for rate, seed in further:
                self._declare(name, rate, seed)
            if name == "full" and not further and "wise" not in graph.nodes:
                best = least({rate: loss for (rate, seed), loss in losses.items() if seed == 0})
                self._average(
                    best, [seed for seed in range(self._seeds) if losses.get((best, seed), math.inf) < math.inf]
                )

    def _declare(self, name: str, rate: float, seed: int) -> None:
        config = tune_config(self._size, self._base, self._ways[name], rate, seed)
        point = {"optimizer.learning_rate": rate}
        self.graph.run(name_of(name, rate, seed), config, group=group_of(name), point=point)
        self._runs[name].append((rate, seed))

    def _average(self, rate: float, seeds: Sequence[int]) -> None:
        """Of full fine-tuning: the line from the parent to the first seed's run (WiSE-FT), and what all seeds' runs make together,
        where there are several."""
        runs = [name_of("full", rate, seed) for seed in seeds]
        if not runs:
            return
        self.graph.merge("wise", "interpolate", [f"node:{runs[0]}@best"], curve=ALPHAS, rule="sum")
        mean = {"dare_linear": {"weights": [1 / len(runs)] * len(runs)}}  # the others take a mean anyway
        made = TOGETHER if len(runs) > 1 else {}
        for method, options in made.items():
            self.graph.merge(method, method, [f"node:{run}@best" for run in runs], **options, **mean.get(method, {}))
        config = tune_config(self._size, self._base, self._ways["full"], rate, 0)
        reading = {"tokens": config.eval.tokens, "length": config.data.length}
        for name in (*made, *runs):
            for what, source in MEASURED.items():
                self.graph.evaluation(f"{name}-{what}", name, source, "validation", **reading)

    def tried(self, name: str, done: Carried) -> Tried:
        """What the runs of a way came to."""
        found = {run: _finite(done.summary(name_of(name, *run))) for run in self._runs[name]}
        rates = {rate: summary for (rate, seed), summary in found.items() if seed == 0}
        best = least({rate: math.inf if s is None else s["after"]["validation/nll"] for rate, s in rates.items()})
        if rates[best] is None:
            return Tried(rates, None, ())
        return Tried(rates, best, tuple(found[best, seed] for seed in range(self._seeds)))

    def averages(self, done: Carried, full: Tried) -> dict[str, Any]:
        """What was measured of averages, in nats per token: "wise" {"alpha", "target", "source"} at each point, the methods of `TOGETHER`, and
        "members", the seeds' runs alone."""
        if full.best is None:
            return {}
        runs = [name_of("full", full.best, seed) for seed in full.finite]

        def losses(name: str) -> dict[str, float]:
            return {what: done.values(f"{name}-{what}")["nll"] for what in MEASURED}

        return {
            "wise": [
                {"alpha": row["alpha"], "target": row["validation/nll"], "source": row["source/nll"]}
                for row in done.recipe("wise")["curve"]
            ],
            **{method: losses(method) for method in TOGETHER if len(runs) > 1},
            "members": [losses(run) for run in runs],
        }


def wanted(losses: Mapping[tuple[float, int], float], seeds: int) -> list[tuple[float, int]]:
    """What a way is to be tried at next, (rate, seed), of the losses so far: the rates that `next_rate` adds, then the other seeds at
    the best; none where that is all."""
    first = {rate: loss for (rate, seed), loss in losses.items() if seed == 0}
    if (beyond := next_rate(first)) is not None:
        return [(beyond, 0)]
    best = least(first)
    if math.isinf(first[best]):
        return []
    return [(best, seed) for seed in range(1, seeds) if (best, seed) not in losses]


def next_rate(losses: Mapping[float, float]) -> float | None:
    """The step of LADDER beside the rate of the least loss that was not tried, None where both were. An infinite loss is
    that of a run that diverged; where all did, lower rates are tried down to the end."""
    best = LADDER.index(least(losses))
    for beside in (best - 1, best + 1):
        if 0 <= beside < len(LADDER) and LADDER[beside] not in losses:
            return LADDER[beside]
    return None


def least(losses: Mapping[float, float]) -> float:
    """The rate of the least loss, of equals the lowest."""
    return min(losses, key=lambda rate: (losses[rate], rate))


def _loss(row: Mapping[str, Any]) -> float:
    """Of a run that ended, on validation data; infinite where it is not finite."""
    loss = row["result"]["after"]["validation/nll"] if row["status"] == "finished" else math.inf
    return loss if math.isfinite(loss) else math.inf


def _finite(summary: Summary | None) -> Summary | None:
    return summary if summary is not None and math.isfinite(summary["after"]["validation/nll"]) else None
