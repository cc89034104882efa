"""One node carried out, in the process that asks: what every executor does somewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import pathlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.experiments.executors.base import Outcome, Task
from ptft_jax.experiments.store import RESULTS, Kept
from ptft_jax.runs.files import read_json
from ptft_jax.runs.workdir import Workdir

_BUSY = 600.0  # seconds that another launch, which was told to leave, may take to


def carry_out(task: Task) -> Outcome:
    """Carries a node out, and records what it came to in its folder. Nothing is raised but what ends the process."""
    began = time.monotonic()
    kept = _kept(task)
    try:
        if task.kind != "merge":  # which is written whole, into a folder that is not there
            kept.write()
        outcome = dataclasses.replace(_KINDS[task.kind](task), seconds=_since(began))
        if outcome.status in RESULTS:  # a full disk, too, is a node that failed
            dataclasses.replace(kept, result=dataclasses.asdict(outcome)).write()
        return outcome
    except SystemExit as e:  # a function that is a whole program's, which would end the experiment
        return Outcome("failed", f"it called sys.exit({'' if e.code is None else e.code!r})", seconds=_since(began))
    except Exception as e:
        traceback.print_exc()
        return Outcome(_failure(e), _message(e), seconds=_since(began))


def _since(began: float) -> float:
    return time.monotonic() - began


def _kept(task: Task) -> Kept:
    return Kept(pathlib.Path(task.folder), task.fingerprint, task.name, task.identity, None)


def _failure(error: Exception) -> str:
    """What an error is to an experiment: memory that is not enough has a name of its own."""
    short = isinstance(error, MemoryError) or any(
        words in str(error) for words in ("RESOURCE_EXHAUSTED", "Out of memory")
    )
    return "out_of_memory" if short else "failed"


def _message(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if isinstance(error, (UserError, OSError)) else f"{type(error).__name__}: {text.splitlines()[0]}"


def _run(task: Task) -> Outcome:
    from ptft_jax.experiments import nodes
    from ptft_jax.reporting.progress import Reporter
    from ptft_jax.runs.lease import Busy
    from ptft_jax.training import assembly
    from ptft_jax.training.loop import NonFinite

    config = nodes.config_of(task.settings)
    reporter, deadline = Reporter(), time.monotonic() + _BUSY
    trial = None
    if task.trial is not None:
        from ptft_jax.experiments.trial import Trial

        trial = Trial(pathlib.Path(task.folder), task.trial)
    if Workdir(pathlib.Path(task.folder)).is_finished:  # and the process ended before that was recorded
        return Outcome("finished")
    if trial is not None and (why := trial.ended()):
        return Outcome("pruned", why)
    more = {"hooks": trial.hooks, "check": trial.check} if trial is not None else {}
    while True:
        try:
            summary = assembly.train(config, task.folder, reporter=reporter, moved=True, **more)
        except Busy as e:
            if time.monotonic() > deadline:
                raise
            reporter.say(f"waiting: {e}")
            time.sleep(1.0)
        except NonFinite as e:
            return Outcome("diverged", str(e))
        except assembly.NoMetric as e:
            return Outcome("refused", str(e))
        else:
            if trial is not None and trial.pruned and summary["reason"] == "hook":
                return Outcome("pruned", trial.pruned)
            return Outcome("finished") if summary["finished"] else Outcome("interrupted", f"by {summary['reason']}")


def _merge(task: Task) -> Outcome:
    from ptft_jax.combining.combine import combine

    here = Workdir(pathlib.Path(task.folder))
    if here.is_finished:  # of an attempt that was ended before it was recorded: no other writes into this folder
        return Outcome("finished", values={"fingerprint": read_json(here.recipe)["fingerprint"]})
    asked = dict(task.settings)
    done = combine(asked.pop("method"), asked.pop("runs"), task.folder, say=print, **asked)
    return Outcome("finished", values={"fingerprint": done["fingerprint"]})


def _evaluation(task: Task) -> Outcome:
    from ptft_jax.evaluation.standalone import evaluate
    from ptft_jax.runs import loading

    asked = dict(task.settings)
    loaded = loading.load(asked.pop("of"), field="of", plugins=asked.get("plugins", ()))
    if "tasks" in asked:
        return Outcome("finished", values=_behavior(loaded, **asked))
    if "probes" in asked:
        from ptft_jax.evaluation import probes

        return Outcome("finished", values=probes.evaluate(loaded, **asked))
    return Outcome("finished", values=evaluate(loaded, asked.pop("source"), asked.pop("split"), **asked))


def _behavior(
    loaded: Any, source: str, tasks: Sequence[str], split: str, also: Sequence[str] = (), **options: Any
) -> dict[str, float]:
    """What `ptft behavior` measures of a model alone."""
    from ptft_jax.evaluation.behavior import of_loaded

    options["settings"] = {**options.get("settings", {}), **({"also": tuple(also)} if also else {})}
    made = of_loaded(loaded, source, tasks, split, **options)
    for note in made.notes:
        print(note)
    return made.measured(loaded.params)[0]


def _call(task: Task) -> Outcome:
    module, colon, name = task.settings["function"].partition(":")
    if not colon:
        raise UserError(f"call {task.name!r}: function = {task.settings['function']!r}: expected MODULE:FUNCTION")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise UserError(f"call {task.name!r}: function = {task.settings['function']!r}: {e}") from e
    values = function(pathlib.Path(task.folder), **task.settings["arguments"])
    try:
        values = json.loads(json.dumps(values, default=lambda number: number.item()))  # of NumPy and JAX
    except (AttributeError, TypeError, ValueError) as e:
        raise UserError(
            f"call {task.name!r}: what {task.settings['function']} returned cannot be kept as JSON: {e}"
        ) from e
    return Outcome("finished", values=values)


_KINDS: Mapping[str, Callable[[Task], Outcome]] = {
    "run": _run,
    "merge": _merge,
    "evaluation": _evaluation,
    "call": _call,
}


@contextlib.contextmanager
def logged(path: pathlib.Path) -> Any:
    """Within it, what is printed goes to the end of a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield
