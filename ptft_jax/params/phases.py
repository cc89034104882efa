"""What trains when: the phases of a run, each with a recipe of `ptft_jax.params.recipes` and a factor of the rate.

Gradual unfreezing (Howard & Ruder 2018, section 3.3), a linear probe before fine-tuning (Kumar et al. 2022, "Fine-Tuning
can Distort Pretrained Features"), and layers that are frozen as a run goes on (Brock et al. 2017, "FreezeOut")
are all written so.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from ptft_jax.config.spans import is_step, steps_of, text
from ptft_jax.config.tune import TuneOptions
from ptft_jax.errors import UserError
from ptft_jax.params import recipes

FIELD = "tune.phases"


@dataclasses.dataclass(frozen=True)
class Phase:
    """From the update `start` (counted from 0) on, `recipe` names what trains, at `factor` times the rate."""

    start: int
    recipe: str
    factor: float = 1.0

    @property
    def name(self) -> str:
        """For messages."""
        return f"config.{FIELD}: {self.recipe!r} from step {self.start} on"

    def rules(self, reinitialized: tuple[str, ...]) -> recipes.Rules:
        """Of what trains. Raises UserError where there is no such recipe."""
        return recipes.rules(self.recipe, reinitialized, FIELD)


def of_config(tune: TuneOptions, layers: int, steps: int) -> tuple[Phase, ...]:
    """The phases of `config.tune` in a run of `steps` updates of a model of `layers` blocks; () where nothing changes.

    Raises:
      UserError: entries that are no phases, out of order, or that begin after the run has ended.
    """
    every = steps_of(tune.unfreeze_every, steps)
    if every and tune.phases:
        raise UserError(
            f"config.tune.unfreeze_every = {text(tune.unfreeze_every)}: config.{FIELD} says already what trains when"
        )
    if every:
        if every * layers >= steps:
            most = (steps - 1) // layers
            raise UserError(
                f"config.tune.unfreeze_every = {text(tune.unfreeze_every)}: the last of {layers} blocks and the embeddings would follow at step "
                f"{every * layers} of {steps}; " + (f"at most {most}" if most else "train for more steps")
            )
        return (*(Phase(every * k, f"last:{k + 1}") for k in range(layers)), Phase(every * layers, "all"))
    found = tuple(_phase(entry, steps) for entry in tune.phases)
    for number, phase in enumerate(found):
        if number == 0 and phase.start:
            raise UserError(f"config.{FIELD}: begins at step {phase.start}; say with step 0 what trains before that")
        if number and phase.start <= found[number - 1].start:
            raise UserError(
                f"config.{FIELD}: step {phase.start} comes after step {found[number - 1].start}: out of order"
            )
        if number and phase.start >= steps:
            raise UserError(f"{phase.name}: the run ends after {steps} steps (training.steps)")
    return found


def _phase(entry: Any, steps: int) -> Phase:
    expected = "expected (step, recipe) or (step, recipe, factor of the rate)"
    if not isinstance(entry, (tuple, list)) or len(entry) not in (2, 3):
        raise UserError(f"config.{FIELD}: {entry!r}: {expected}")
    start, recipe, factor = (*entry, 1.0)[:3]
    if not is_step(start) or not isinstance(recipe, str):
        raise UserError(f"config.{FIELD}: {entry!r}: {expected}")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
        raise UserError(f"config.{FIELD}: {entry!r}: the factor of the rate is a number above 0")
    return Phase(steps_of(start, steps), recipe, float(factor))


def at(starts: Sequence[int], step: int) -> int:
    """The number of the phase that update `step` falls into, of phases that start at `starts`."""
    return max(bisect.bisect_right(starts, step) - 1, 0)


def scaled(schedule: Callable[[Any], Any], phases: Sequence[Phase]) -> Callable[[Any], Any]:
    """The schedule `step -> rate` times the factor of the step's phase; the schedule itself where no factor is but 1."""
    if all(phase.factor == 1.0 for phase in phases):
        return schedule
    starts = jnp.asarray([phase.start for phase in phases])
    factors = jnp.asarray([phase.factor for phase in phases], jnp.float32)
    return lambda step: schedule(step) * factors[jnp.searchsorted(starts, step, side="right") - 1]
