"""What is measured of every run when it ends: transfer, drift, and the cost of its compiled step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation import drift as drifts
from ptft_jax.evaluation import measured, standalone, transfer
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.model.spec import HEAD
from ptft_jax.parallel import cost as costs
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.runs import source as restore
from ptft_jax.runs.workdir import Workdir


def step_cost(run: Any, state: Any, rows: Any) -> dict[str, Any]:
    """`ptft_jax.parallel.cost.cost` of the last training step, as it ran, or would have in this launch.

    Args:
      state: of the form of the loop's.
      rows: a batch of the loop's, this process' rows.
    """
    last = int(run.program.whole(state).step) - 1
    return costs.cost(costs.executable(run.program.at(last), state, run.program.place(rows)))


def of_parent(run: Any, check: Callable[[], None] = lambda: None) -> dict[str, float] | None:
    """The parent itself on all that a run is measured on, "SET/nll" -> loss, ...; None where the run starts as the parent is,
    or where an adapter that was there before (`init.adapter`), new tokens or a new kind of head make it another model.

    What the run gains and forgets counts from there: a new prompt, a quantised base, or a head that is made anew, changes the
    loss before anything is learned.
    """
    if run.parent is None or run.init["adapter"] or run.new_rows:
        return None
    model, fresh = run.plain, run.init["fresh"]
    if fresh:
        # With what is made anew as it was, of the step that the run started from.
        whole = restore.find(restore.recorded(run.config.init.from_, run.workdir), ignore=run.init["ignore"])
        spec = dataclasses.replace(model.spec, **{name: whole.fields[name] for name in HEAD})
        if spec.head != model.spec.head or spec.head == "classes":
            return None
        model = dataclasses.replace(model, spec=spec)
        flat = flatten(run.parameters_of(whole))
    elif run.adapter is None or run.adapter.starts_as_base:
        return None
    else:
        flat = flatten(run.base())
    params = unflatten(run.as_kept(flat, model.shapes()))
    place = jax.device_put if run.config.parallel.compile == "pmap" else run.program.place
    program = standalone.Program(model, run.objective, place)
    lengths = tok.byte_lengths(run.tokenizer) if run.objective.chained else None
    values: dict[str, float] = {}
    for name, batches in (run.eval_batches | run.test_batches).items():
        rows = [{key: array for key, array in batch.items() if key != "adapters"} for batch in batches]
        values |= EvalSet(name, rows, program, lengths).run(params, check)
    return values


def gains(run: Any, before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any] | None:
    """`ptft_jax.evaluation.transfer.measured` of a run with a parent, else None; {"adapters": {name: that of each}} of one with
    several."""
    if run.parent is None:
        return None
    lineage = Workdir(run.workdir).read_lineage()
    spec = run.model.spec
    classes = spec.classes if spec.head == "classes" else spec.vocab_size
    source = run.source.source if run.source is not None else ""
    starts = {role: transfer.reference(lineage, source, classes, split) for role, split in transfer.SPLITS.items()}
    found = {name: transfer.measured(before, after, starts, r) for name, r in measured.roles(run.config).items()}
    return {"adapters": found} if run.adapters else found[""]


def drift(run: Any, state: Any, print_: str) -> list[dict[str, Any]] | dict[str, Any] | None:
    """`ptft_jax.evaluation.drift.of` a run with a parent from its start, else None; {"adapters": {name: that of each}} of one
    with several; {"missing": why} where the start cannot be made again, because its parent is gone or has changed, or where
    the adapter cannot be merged.

    The start is computed anew, where the state does not keep it anyway. The state's optimizer moments are given up for the room:
    nothing can be done with the state afterwards but reading its parameters.
    """
    if run.parent is None:
        return None
    whole = run.program.whole(state)
    del state
    jax.tree.map(lambda a: a.delete(), whole.optimizer)
    try:
        kept = whole.anchor and not run.continued
        start, found = (whole.anchor, print_) if kept else run.start_trainable()
        if found != print_:
            return {"missing": f"{run.parent.name} has changed since the run was started"}
        layout = run.program.shardings
        end, frozen = jax.device_put((whole.ema or whole.trainable, whole.frozen), (layout.trainable, layout.frozen))
        copied = NamedSharding(run.mesh, PartitionSpec())
        each = [drifts.of(start, end, frozen, run.adapter, copied, n) for n in sorted(run.adapters.values()) or [None]]
        return {"adapters": dict(zip(run.config.tune.adapters, each))} if run.adapters else each[0]
    except (UserError, OSError) as e:
        return {"missing": str(e)}
