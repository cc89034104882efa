"""The sources that a run is trained on, by name: their weights, what stands for a parent's, and what each is called."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.data import records
from ptft_jax.data.options import DataOptions
from ptft_jax.data.source_weights import FIELD, weight_at
from ptft_jax.errors import UserError

PARENT = "parent"  # in a mixture: what the parent was trained on


def weighted(data: DataOptions) -> tuple[tuple[str, Any], ...]:
    """The sources that are trained on, each with its weight or the schedule of its weight."""
    return data.mixture or ((data.source, 1.0),)


def with_parent(
    mixture: Sequence[tuple[str, Any]], theirs: Any, parent: str, step: int = 0, steps: int = 0
) -> tuple[tuple[str, Any], ...]:
    """A mixture with 'parent' replaced by what the parent was trained on (replay): its source, or the sources of its
    mixture, which share the entry's weight as they did in the parent's last step.

    Args:
      theirs: the parent's `config.data`, or None where it is not known.
      parent: its name, for messages; '' = there is none.
      step: how many steps it was trained.
      steps: how many its run was to have, of which its weights' shares are.

    Raises:
      UserError: there is no parent, nobody knows what it was trained on, or what should be a weight is none.
    """
    out: list[tuple[str, Any]] = []
    for source, weight in mixture:
        if source != PARENT:
            out.append((source, weight))
            continue
        if theirs is None:
            reason = f"what {parent} was trained on is not known" if parent else "init.from names no parent"
            raise UserError(f"config.data.mixture: {PARENT!r}: {reason}; name its sources")
        weight_at(source, weight, 0)  # well-formed?
        last = [(s, weight_at(s, w, max(step - 1, 0), steps or step)) for s, w in weighted(theirs)]
        twice = [s for s, _ in last if s in dict(mixture)]
        if twice:
            raise UserError(
                f"config.data.mixture: {twice[0]} is named, and is among what {parent} was trained on, which {PARENT!r} "
                "stands for: name the parent's sources one by one instead"
            )
        total = sum(w for _, w in last)
        out += [(s, _scaled(weight, w / total)) for s, w in last if w]
    return tuple(out)


def _scaled(weight: Any, factor: float) -> Any:
    if isinstance(weight, (list, tuple)):
        return tuple((step, value * factor) for step, value in weight)
    return weight * factor


def refuse_twice(references: Sequence[str], kinds: Mapping[str, Any]) -> None:
    """Raises UserError where a source is named twice, however its path is spelled; `kinds`: those that there are."""
    seen: dict[Any, str] = {}
    for reference in references:
        other = seen.setdefault(records.identity(reference, kinds), reference)
        if other is not reference:
            twice = other if other == reference else f"{other} and {reference}"
            raise UserError(f"{FIELD} names a source more than once: {twice}; give it one weight")


def labels(data: DataOptions) -> dict[str, str]:
    """A short name for every source of a mixture, for metrics."""
    found: dict[str, str] = {}
    for reference, _ in weighted(data):
        kind, name, _ = records.parted(reference)
        stem = re.sub(r"\W+", "_", name.rstrip("/").rsplit("/", 1)[-1].partition(".")[0]).strip("_")
        numbered = (f"{stem}_{k}" for k in itertools.count(2))
        name = next(n for n in itertools.chain((stem, f"{kind}_{stem}"), numbered) if n not in found)
        found[name] = reference
    return found


def numbered(data: DataOptions, adapters: Sequence[str]) -> dict[str, int]:
    """The number of the adapter of each source of `config.data`, where each has one of `config.tune.adapters`; {} where
    these are (). Raises UserError where they are not as many, or a source that is evaluated has none."""
    if not adapters:
        return {}
    references = [reference for reference, _ in data.mixture]
    if len(references) != len(adapters):
        raise UserError(
            f"config.tune.adapters names {len(adapters)} adapters ({', '.join(adapters)}), and data.mixture has "
            f"{len(references)} sources: give one for each"
        )
    if data.source not in references:
        raise UserError(
            f"config.data.source = {data.source!r}: it has none of config.tune.adapters, as it is no source of data.mixture; "
            "leave it at '', or name one"
        )
    return {reference: number for number, reference in enumerate(references)}
