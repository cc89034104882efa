"""What is measured of every run when it ends: transfer, drift, and the cost of its compiled step."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ptft_jax import config as configs
from ptft_jax.data.builders.pictures import MaskedPictures
from ptft_jax.data.rows import Rows
from ptft_jax.errors import UserError
from ptft_jax.evaluation import drift as drifts
from ptft_jax.evaluation import measured_sets, standalone, transfer
from ptft_jax.evaluation.evaluate import EvalSet, Measuring
from ptft_jax.model.spec import HEAD, ModelSpec
from ptft_jax.model.texts import text_flops
from ptft_jax.model.vision import masked_flops
from ptft_jax.model.vision_tower import tower_flops
from ptft_jax.parallel import cost as costs
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.runs import bucket, meant
from ptft_jax.runs import source as restore
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training.programs import Program
from ptft_jax.training.start import Start


def step_cost(program: Program, state: Any, rows: Rows) -> dict[str, Any]:
    """`ptft_jax.parallel.cost.cost` of the last training step, as it ran, or would have in this launch.

    Args:
      program: the compiled steps (`ptft_jax.training.programs`).
      state: of the form of the loop's.
      rows: a batch of the loop's, this process' rows.
    """
    last = int(program.whole(state).step) - 1
    return costs.cost(costs.executable(program.at(last), state, program.place(rows)))


def of_parent(
    start: Start,
    workdir: pathlib.Path,
    sets: Mapping[str, list[Rows]],
    measuring: Callable[[str], Measuring],
    check: Callable[[], None] = lambda: None,
) -> dict[str, float] | None:
    """The parent itself on all that a run is measured on, "SET/nll" -> loss, ...; None where the run starts as the parent is,
    or where an adapter that was there before (`init.adapter`), new tokens or a new kind of head make it another model.

    Nothing is said of sets whose objective compares a model with the run's start.

    What the run gains and forgets counts from there: a new prompt, a quantized base, or a re-initialized head changes the
    loss before anything is learned.

    Args:
      workdir: the run's.
      sets: batches by the name of the set.
      measuring: what each set is measured by.
    """
    trainer, config, init = start.trainer, start.trainer.config, start.init
    if start.parent is None or init["adapter"] or trainer.new_rows:
        return None
    model = trainer.plain
    if init["fresh"]:
        # With what is re-initialized as it was, of the step that the run started from.
        origin = restore.recorded(config.init.from_, workdir)
        whole = restore.find(origin, ignore=init["ignore"], plugins=config.plugins)
        spec = dataclasses.replace(model.spec, **{name: whole.fields[name] for name in HEAD})
        if spec.head != model.spec.head or spec.head == "classes":
            return None
        model = dataclasses.replace(model, spec=spec)
        flat = flatten(start.parameters_of(whole))
    elif trainer.adapter is None or trainer.adapter.starts_as_base:
        return None
    else:
        flat = flatten(start.base())
    params = unflatten(start.as_kept(flat, model.shapes()))
    place = jax.device_put if config.parallel.compile == "pmap" else trainer.program.place
    programs: dict[Any, standalone.Program] = {}
    values: dict[str, float] = {}
    for name, batches in sets.items():
        objective, _, byte_lengths = measuring(name)
        if objective.needs_reference:  # counts from what the run starts as, which is its reference
            continue
        if objective not in programs:
            programs[objective] = standalone.Program(model, objective, trainer.measures, place)
        rows = [{key: array for key, array in batch.items() if key != "adapters"} for batch in batches]
        values |= EvalSet(name, rows, programs[objective], byte_lengths).run(params, check)
    return values


def row_flops(config: configs.Section, spec: ModelSpec, positions: int) -> float:
    """Matrix-multiply FLOPs of one forward pass of a row of so many positions."""
    if spec.head == "pixels":
        return masked_flops(spec, MaskedPictures.of_images(config.objective, spec, config.data).seen)
    seen = tower_flops(spec) if config.tables.objectives[config.objective.name].tower else 0.0
    return spec.flops_per_token(positions) * positions + text_flops(spec) + seen


def gains(
    start: Start, workdir: pathlib.Path, source: str, before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, Any] | None:
    """`ptft_jax.evaluation.transfer.measured` of a run with a parent, else None; {"adapters": {name: that of each}} of one with
    several. `source`: the data source that forgetting is measured on, "" = none."""
    if start.parent is None:
        return None
    config, spec = start.trainer.config, start.trainer.model.spec
    lineage, folder = _lineage(start, workdir), ""
    if (
        config.eval.source
    ):  # as it was named when the run was begun: the runs of the lineage say so too, wherever it lies now
        source, folder = Workdir(workdir).read_config().eval.source, meant.begun_in(workdir) or ""
    classes = max(spec.classes, 2) if spec.head == "classes" else spec.vocab_size  # one number tells two answers apart
    starts = {
        role: transfer.reference(lineage, source, classes, split, folder) for role, split in transfer.SPLITS.items()
    }
    found = {name: transfer.measured(before, after, starts, r) for name, r in measured_sets.roles(config).items()}
    return {"adapters": found} if config.tune.adapters else found[""]


def _lineage(start: Start, workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The runs behind a run, each where it lies now, as far as its parent's place tells: what lay beside that was moved with it."""
    rows, found = Workdir(workdir).read_lineage(), start.continued or start.parent
    if not (rows and isinstance(found, restore.Source) and rows[0].get("run_id") == Workdir(found.workdir).run_id):
        return rows
    if bucket.is_url(rows[0]["workdir"]):  # found from anywhere
        return rows
    old, new = pathlib.Path(rows[0]["workdir"]), found.workdir.absolute()
    while old.name and old.name == new.name:
        old, new = old.parent, new.parent
    if old == new:
        return rows
    for row in rows:
        place = pathlib.Path(row.get("workdir", ""))
        if place.is_relative_to(old) and (new / place.relative_to(old)).is_dir():
            row["workdir"] = str(new / place.relative_to(old))
    return rows


def drift(start: Start, state: Any, fingerprint: str) -> list[dict[str, Any]] | dict[str, Any] | None:
    """`ptft_jax.evaluation.drift.of` a run with a parent from its start, else None; {"adapters": {name: that of each}} of one
    with several; {"missing": why} where the start cannot be made again, because its parent is gone or has changed, or where
    the adapter cannot be merged.

    The start is computed again, where the state does not keep it anyway. The state's optimizer moments are given up for the room:
    nothing can be done with the state afterwards but reading its parameters.
    """
    if start.parent is None:
        return None
    trainer, adapters = start.trainer, start.trainer.config.tune.adapters
    whole = trainer.program.whole(state)
    del state
    jax.tree.map(lambda a: a.delete(), whole.optimizer)
    try:
        kept = whole.anchor and not start.continued
        began, found = (whole.anchor, fingerprint) if kept else start.trainable(fingerprint)
        if found != fingerprint:
            return {"missing": f"{start.parent.name} has changed since the run was started"}
        layout = trainer.program.shardings
        end, frozen = jax.device_put((whole.ema or whole.trainable, whole.frozen), (layout.trainable, layout.frozen))
        copied = NamedSharding(trainer.mesh, PartitionSpec())
        each = [drifts.of(began, end, frozen, trainer.adapter, copied, n) for n in range(len(adapters)) or [None]]
        return {"adapters": dict(zip(adapters, each))} if adapters else each[0]
    except (UserError, OSError) as e:
        return {"missing": str(e)}
