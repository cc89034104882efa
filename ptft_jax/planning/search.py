"""Plans of one config with other meshes, micro-batches and recomputation, ranked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ptft_jax import config as configs
from ptft_jax.config.changes import with_changes
from ptft_jax.errors import UserError
from ptft_jax.planning.plan import Plan, completed, plan
from ptft_jax.planning.topologies import Topology
from ptft_jax.reporting.progress import Reporter

REMAT = ("none", "dots", "full")
TENSOR = 8  # parts of a layer, at most: more are seldom near enough to each other


class Tried(NamedTuple):
    """Settings, and what came of them: a plan, or why there is none."""

    settings: Mapping[str, Any]
    plan: Plan | None
    reason: str = ""


def candidates(section: configs.Section, devices: int) -> Iterator[dict[str, Any]]:
    """Settings to try: meshes of all devices from all copies to all parts, with experts in every number of parts that divides them and
    layers in up to TENSOR; as many micro-batches as the rows of a device allow, by doubling; and each kind of recomputation; beside the config's parts of
    positions (`parallel.context`)."""
    devices //= max(section.parallel.context, 1)
    heads, experts = section.model.heads, section.model.experts
    for tensor, expert in itertools.product(
        (n for n in _powers(min(TENSOR, devices)) if devices % n == 0 and heads % n == 0),
        (n for n in range(1, max(experts, 1) + 1) if n == 1 or experts % n == 0),
    ):
        if devices % (tensor * expert):
            continue
        left, groups = devices // (tensor * expert), devices // tensor
        micro = [n for n in _powers(section.data.batch_size // groups) if section.data.batch_size % (n * groups) == 0]
        for fsdp, count, remat in itertools.product((n for n in range(1, left + 1) if left % n == 0), micro, REMAT):
            yield {
                "parallel.replica": left // fsdp,
                "parallel.fsdp": fsdp,
                "parallel.expert": expert,
                "parallel.tensor": tensor,
                "training.micro_batches": count,
                "model.remat": remat,
            }


def tried(
    config: configs.Config, topology: Topology, *, tuned: bool | None = None, reporter: Reporter | None = None
) -> list[Tried]:
    """A plan for each of `candidates`, those that fit first, by the time of a step.

    Raises:
      UserError: there is nothing to try, or nothing of it can be planned.
    """
    section, _ = completed(config, tuned)
    devices = len(topology.devices)
    found: list[Tried] = []
    choices = list(candidates(section, devices))
    if not choices:
        raise UserError(
            f"config.data.batch_size = {section.data.batch_size}: expected a multiple of the {devices} devices"
        )
    for number, settings in enumerate(choices, 1):
        try:
            found.append(Tried(settings, plan(with_changes(config, **settings), topology, tuned=tuned)))
        except UserError as e:
            found.append(Tried(settings, None, str(e)))
        if reporter:
            reporter.say(f"{number} of {len(choices)}: {', '.join(f'{k}={v}' for k, v in settings.items())}")
    if not any(one.plan for one in found):
        raise UserError(f"nothing can be planned: {found[0].reason}")
    return sorted(found, key=_rank)


def best(found: Sequence[Tried]) -> Plan:
    """The first of ranked plans."""
    return next(one.plan for one in found if one.plan)


def _rank(one: Tried) -> tuple[Any, ...]:
    if one.plan is None:
        return (2,)
    fits = 1 if one.plan.fits is False else 0
    return fits, one.plan.step if one.plan.step is not None else 0.0, one.plan.needs or float("inf")


def _powers(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length()) if 2**n <= most]
