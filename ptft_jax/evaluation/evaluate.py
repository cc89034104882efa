"""Exact evaluation: sums over a whole set, means taken once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.config.metrics import RAW
from ptft_jax.data.rows import Rows
from ptft_jax.objectives import calibration, correlation, counts, recall
from ptft_jax.parallel import processes
from ptft_jax.parallel.compile import to_host

BITS = "bits_per_byte"
# Tables whose rows are put one after the other, and what is made of them.
JOINED: Mapping[str, Callable[[np.ndarray], dict[str, float]]] = {
    correlation.ROWS: correlation.values,
    recall.VECTORS: recall.values,
}


class Measuring(NamedTuple):
    """What a set is measured by.

    Attributes:
      objective: see `ptft_jax.objectives.base.Objective`.
      program: compiled evaluations of it (`ptft_jax.training.programs.Evaluations`).
      byte_lengths: as of `EvalSet`.
    """

    objective: Any
    program: Any
    byte_lengths: np.ndarray | None


class EvalSet:
    """A named set whose batches are on the host; one at a time is put on the devices, while they compute on the one before."""

    def __init__(
        self, name: str, batches: list[Rows], program: Any, byte_lengths_V: np.ndarray | None, *, raw: bool = False
    ):
        """
        Args:
          byte_lengths_V: bytes of text that each token stands for; None where the objective does not predict each byte of a
            text once, after those before it, so that bits per byte would mean nothing.
          raw: also measure the parameters themselves, beside their average.
        """
        self.name = name
        self._batches, self._place = batches, program.place
        self._measures = {"": program.evaluate} | ({RAW: program.evaluate_raw} if raw else {})
        mine = (_spanned(batches, byte_lengths_V), float(sum(b["weights"].sum() for b in batches)))
        self._bytes, self.tokens = map(sum, zip(*processes.gather(mine)))

    def run(self, state: Any, check: Callable[[], None] = lambda: None) -> dict[str, float]:
        """{"NAME/nll": nats per token, "NAME/accuracy", "NAME/bits_per_byte", ...} of the state; of the parameters beside their
        average "NAME/raw_nll", ... `check` is called before each batch, and may raise to end it."""
        return self.measured(state, check)[0]

    def measured(
        self, state: Any, check: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, float], np.ndarray | None]:
        """What `run` gives, and of an objective that names classes how many rows of each [C, C] were given each
        (`ptft_jax.objectives.counts`), by the state's average where it has one; else None."""
        found: dict[str, float] = {}
        confusion = None
        for prefix, evaluate in self._measures.items():
            sums = self._sums(evaluate, state, check)
            confusion = confusion if prefix else sums.get(counts.CONFUSION)
            found |= {f"{self.name}/{prefix}{k}": v for k, v in self._values(sums).items()}
        return found, confusion

    def _sums(self, evaluate: Callable[..., Any], state: Any, check: Callable[[], None]) -> dict[str, Any]:
        # Read one batch late: the devices stay busy, and no queue of programs builds up. Sums are taken in float64.
        parts: list[dict[str, Any]] = []
        waiting: Any = None
        for batch in self._batches:
            check()
            following = evaluate(state, self._place(batch))
            if waiting is not None:
                parts.append(to_host(waiting))
            waiting = following
        parts.append(to_host(waiting))
        return {
            name: tuple(map(sum, zip(*(part[name] for part in parts))))
            if isinstance(first, tuple)
            else np.concatenate([part[name].reshape(-1, part[name].shape[-1]) for part in parts])
            if name in JOINED
            else sum(part[name] for part in parts)
            for name, first in parts[0].items()
        }

    def _values(self, sums: Mapping[str, Any]) -> dict[str, float]:
        host = {name: pair for name, pair in sums.items() if isinstance(pair, tuple)}
        values = {k: float(total / weight) if weight else math.nan for k, (total, weight) in host.items()}
        if counts.BY_CLASS in sums:
            values |= counts.f1(sums[counts.BY_CLASS])
        for name, figures in JOINED.items():
            if name in sums:
                values |= figures(sums[name])
        if calibration.TABLE in sums:
            values |= calibration.values(sums[calibration.TABLE])
        if "nll" in host and self._bytes:
            values[BITS] = host["nll"][0] / math.log(2) / self._bytes
        return values


def names(
    sets: Mapping[str, list[Rows]], metrics: Sequence[str], byte_lengths_V: np.ndarray | None, raw: Collection[str]
) -> list[str]:
    """The names of all that `EvalSet.run` gives of these sets, of those in `raw` of the parameters themselves too, known before
    anything is computed. `metrics`: what is measured of each."""
    found = []
    for name, batches in sets.items():
        spanned = any(processes.gather(_spanned(batches, byte_lengths_V) > 0))
        measured = (*metrics, *((BITS,) if spanned else ()))
        found += [f"{name}/{prefix}{metric}" for prefix in ("", RAW)[: 1 + (name in raw)] for metric in measured]
    return found


def costly(sets: Mapping[str, Collection[Any]], every: int) -> str:
    """What to say where evaluations of these sets of batches, `every` so many steps, take longer than the steps; "" elsewhere.
    A forward pass costs a third of a training step: the gradients of inputs and of weights cost as much again each."""
    each = {name: len(batches) for name, batches in sets.items()}
    total = sum(each.values())
    if not every or total <= 3 * every:
        return ""
    parts = ", ".join(f"{count:,} of {name}" for name, count in each.items())
    return (
        f"an evaluation is {total:,} batches ({parts}), about the cost of {total / 3:,.0f} training steps, and comes after every "
        f"{every:,}: config.eval.tokens evaluates a part of each set, config.eval.every sets how often"
    )


def _spanned(batches: list[Rows], byte_lengths_V: np.ndarray | None) -> float:
    """The bytes that targets stand for: bits per byte compare models whose tokens differ.

    The end of a text is predicted, too: its nats count, and it has no byte. So -log2 P of a text with its end, over the text's
    bytes: what a code for whole texts needs, with P summing to one over all texts. Other control tokens count likewise.
    """
    if byte_lengths_V is None:
        return 0.0
    return float(sum((byte_lengths_V[b["targets"]] * b["weights"]).sum() for b in batches))
