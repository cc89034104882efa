"""Measures of behavior of several models by the same questions, such as a run and what it was started from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ptft_jax.evaluation.behavior import of_loaded
from ptft_jax.runs import loading, meant
from ptft_jax.runs import source as restore


def compare(
    references: Sequence[str],
    source: str,
    tasks: Sequence[str],
    split: str = "",
    *,
    parent: bool = True,
    adapter: str = "",
    dtype: str = "float32",
    ignore: Sequence[str] = (),
    rows: list[dict[str, Any]] | None = None,
    say: Callable[[str], None] = lambda text: None,
    loaded: Callable[[Any], None] = lambda loaded: None,
    plugins: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """What models do with questions, as `ptft behavior` does.

    Args:
      references: as of `ptft_jax.runs.loading.load`; all are measured by the tasks and questions of the first one's config, where these are
        () and "".
      source, tasks, split, plugins, options: as of `ptft_jax.evaluation.behavior.of_loaded`.
      parent: one run is measured after what it was started from, where it was and that is there.
      adapter: a folder in PEFT's format, put onto the model of the one reference, which is measured without it first.
      dtype, ignore: as of `ptft_jax.runs.loading.load`.
      rows: where what each model says to each question is added.
      say, loaded: told what people should know, and of each loaded run.

    Returns:
      {"data", "split", "records", "asked": {task: questions}, "runs": [{"run", "step", "values": {name: value}, "details": {task: ...}}]},
      the runs in order, the parent first.

    Raises:
      UserError: see `of_loaded`.
    """
    order = ordered(references, parent=parent, adapter=adapter, ignore=ignore, plugins=plugins)
    runs: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    if not (source and tasks) and not restore.is_reference(references[0]):  # a parent may measure nothing itself
        own = meant.of_source(restore.find(references[0], "--run", plugins=plugins))["eval"]["behavior"]
        if not source:
            source, options["settings"] = own["source"], {"also": own["also"], **options.get("settings", {})}
        tasks = tuple(tasks) or own["tasks"]
    for reference, added in order:
        one = opened(reference, added, dtype=dtype, ignore=ignore, plugins=plugins)
        loaded(one)
        made = of_loaded(one, source, tasks, split, plugins=plugins, **options)
        source, tasks = made.source, tuple(made.tasks)
        if not facts:
            facts = {"data": " and ".join((made.source, *made.also)), "split": made.split, "records": made.total}
            facts["asked"] = {name: len(found) for name, found in made.asked.items()}
            for note in made.notes:
                say(note)
        values, details, answered = made.measured(one.params)
        name = named(reference, added)
        runs.append({"run": name, "step": one.source.step, "values": values, "details": details})
        if rows is not None:
            rows += [{"run": name, **row} for row in answered]
        del one, made  # its parameters, before the next ones are loaded
    return {**facts, "runs": runs}


def ordered(
    references: Sequence[str], *, parent: bool, adapter: str, ignore: Sequence[str], plugins: Sequence[str]
) -> list[tuple[str, str]]:
    """(reference, adapter) of all models that are measured beside one another, in order; see `compare`."""
    if adapter:
        return [(references[0], ""), *((reference, adapter) for reference in references)]
    before = _before(references[0], ignore, plugins) if parent and len(references) == 1 else []
    return [(reference, "") for reference in (*before, *references)]


def opened(reference: str, adapter: str, *, dtype: str, ignore: Sequence[str], plugins: Sequence[str]) -> Any:
    """One of them, loaded."""
    kept = ignore if restore.is_reference(reference) else ()
    return loading.load(reference, field="--run", dtype=dtype, adapter=adapter, ignore=kept, plugins=plugins)


def named(reference: str, adapter: str) -> str:
    """How one of them is called."""
    return f"{reference} + {adapter}" if adapter else reference


def _before(reference: str, ignore: Sequence[str], plugins: Sequence[str]) -> list[str]:
    """What a run was started from; [] of one that was started from nothing. Raises UserError where that is no longer there."""
    if restore.is_reference(reference):
        return []
    found = restore.before(restore.find(reference, "--run", ignore, plugins=plugins))
    return [] if found is None else [found.name]
