"""How the runs of `experiments.methods` are carried out: a sweep over rates for each way, and seeds at its best one."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from experiments import transfer_runs
from experiments.methods_runs import LADDER, Way, name_of, tune_config
from ptft_jax.experiments.graph import Experiment
from ptft_jax.training.loop import NonFinite

Summary = Mapping[str, Any]


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


def sweep(run: Callable[[float, int], Summary | None], rates: Iterable[float], seeds: int) -> Tried:
    """Tries a way at these rates and at those that `next_rate` adds, then with the other seeds at the best.

    Args:
      run: (rate, seed) -> the summary of that run, None where it diverged.
    """
    tried = {rate: run(rate, 0) for rate in rates}
    while (beyond := next_rate(_losses(tried))) is not None:
        tried[beyond] = run(beyond, 0)
    best = _least(_losses(tried))
    if tried[best] is None:
        return Tried(tried, None, ())
    return Tried(tried, best, (tried[best], *(run(best, seed) for seed in range(1, seeds))))


def next_rate(losses: Mapping[float, float]) -> float | None:
    """The step of LADDER beside the rate of the least loss that was not tried, None where both were. An infinite loss is
    that of a run that diverged; where all did, lower rates are tried down to the end."""
    best = LADDER.index(_least(losses))
    for beside in (best - 1, best + 1):
        if 0 <= beside < len(LADDER) and LADDER[beside] not in losses:
            return LADDER[beside]
    return None


def _losses(tried: Mapping[float, Summary | None]) -> dict[float, float]:
    return {rate: math.inf if s is None else s["after"]["validation/nll"] for rate, s in tried.items()}


def _least(losses: Mapping[float, float]) -> float:
    """The rate of the least loss, of equals the lowest."""
    return min(losses, key=lambda rate: (losses[rate], rate))


class Runs:
    """Carries out the base and the runs of the ways, one after the other. A way's run that diverges ends nothing but itself."""

    def __init__(self, experiment: Experiment, ways: Mapping[str, Way], *, size: str, seeds: int):
        self._experiment, self._ways, self._size, self._seeds = experiment, ways, size, seeds
        self._expected = 0
        self._expect(1 + sum(len(way.rates) + seeds - 1 for way in ways.values()))

    def base(self) -> Summary:
        """The summary of the pre-trained model's run, which all others start from."""
        return self._experiment.run("base", transfer_runs.base_config(self._size))

    def tried(self, name: str) -> Tried:
        """The sweep of a way."""
        found = sweep(functools.partial(self._run, name), self._ways[name].rates, self._seeds)
        if found.best is None:
            self._expect(1 - self._seeds)
            self._experiment.reporter.say(f"{name}: left out, as its loss is not finite at any rate")
        return found

    def _run(self, name: str, rate: float, seed: int) -> Summary | None:
        if seed == 0 and rate not in self._ways[name].rates:
            self._expect(1)
        folder = name_of(name, rate, seed)
        base = str(self._experiment.workdir("base"))
        config = tune_config(self._size, base, self._ways[name], rate, seed)
        try:
            summary = self._experiment.run(folder, config)
        except NonFinite as e:
            self._expect(-1)
            self._experiment.reporter.say(f"{folder} diverged: {e}")
            return None
        return summary if math.isfinite(summary["after"]["validation/nll"]) else None

    def _expect(self, more: int) -> None:
        """Shows that so many more runs are to come, or fewer."""
        self._expected += more
        self._experiment.expect(self._expected)
