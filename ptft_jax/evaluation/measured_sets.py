"""What a run is measured on: its own validation and test data, the parent's, and every source of a mixture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ptft_jax import config as configs
from ptft_jax.data import (
    batches,
    builders,
    class_names,
    filling,
    overview,
    records,
    source_splits,
    trained_on,
)
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders import Builder
from ptft_jax.data.class_names import Head
from ptft_jax.data.options import DataOptions
from ptft_jax.data.pictures import settled as pictures
from ptft_jax.data.rows import Rows
from ptft_jax.errors import UserError
from ptft_jax.evaluation import transfer
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import meant
from ptft_jax.runs import source as restore

RETAINED = "source"  # what the names of sets of the parent's data start with


class Sets(NamedTuple):
    """Batches by the name of their set.

    Attributes:
      validation: what is measured during the run: "validation"; "source" (of several adapters "source_NAME" each), what the
        parent was trained on; "validation_NAME", the other sources of a mixture.
      test: what is measured at its end: "test", "source_test"; of several adapters those of each.
      source: the settings of the parent's data, None where forgetting is not measured.
      retained: `config.objective` of what the parent learned from its data, where the run's own objective does not learn from such;
        None = the sets of `RETAINED` are measured by the run's own.
    """

    validation: dict[str, list[Rows]]
    test: dict[str, list[Rows]]
    source: DataOptions | None
    retained: Any = None

    @property
    def by_retained(self) -> tuple[str, ...]:
        """The names of the sets that are measured by `retained`."""
        return (
            () if self.retained is None else tuple(n for n in (*self.validation, *self.test) if n.startswith(RETAINED))
        )


def sets(
    config: configs.Section,
    parent: Any,
    tokenizer: tok.Tokenizer,
    builder: Builder,
    numbers: Mapping[str, int],
    reporter: Reporter,
    head: Head,
) -> Sets:
    """All that a run of `config` is measured on. `numbers`: the adapter of each source, where each has one of its own;
    `head`: the classes that labels are numbered by.

    Raises:
      UserError: as `ptft_jax.data.filling.filled`.
    """
    c = config

    def read(data: DataOptions, split: str, adapter: int | None, builder: Builder = builder) -> list[Rows]:
        read = source_splits.tokenized(data, data.source, split, tokenizer, builder.kinds)
        tokens, _ = class_names.numbered(read, head)
        found = filling.filled(data, tokens, builder, partial=True)
        if tokens.labels and data.source not in dict(
            trained_on.weighted(c.data)
        ):  # of those that are trained on it is said
            reporter.say(f"{split} of {data.source}: {tokens.labels}")
        if found.lost():
            counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.lost().items())
            reporter.say(f"{split} of {data.source}: {len(tokens.store):,} examples; {counts}")
        if said := overview.empty_answers(found.empty()):
            reporter.say(f"{split} of {data.source}: {said}")
        size = c.eval.batch_size or c.data.batch_size
        return batches.evaluation(found.rows, batch_size=size, tokens=c.eval.tokens, adapter=adapter)

    refuse_alone(
        c, c.eval.batch_size or c.data.batch_size, f"config.{'eval' if c.eval.batch_size else 'data'}.batch_size"
    )
    own = numbers.get(c.data.source)
    validation = {"validation": read(c.data, "validation", own)}
    test = {"test": read(c.data, "test", own)} if c.eval.test else {}
    changes = source_settings(c, parent)
    source = retained = None
    if changes is not None:
        source = _changed(c, _plugins(parent), **changes)
        # What each of several adapters forgot is its own.
        try:
            retained = _retained_objective(c, parent, source, builder)
            if retained is not None:
                source = _changed(c, _plugins(parent), objective=retained.name, **changes)
            theirs = builder if retained is None else builders.for_model(retained, tokenizer, c.model, source)
            adapters: list[tuple[str, int | None]] = [(f"_{name}", n) for n, name in enumerate(c.tune.adapters)]
            for name, number in adapters or [("", None)]:
                validation[f"source{name}"] = read(source, "validation", number, theirs)
                if c.eval.test:
                    test[f"source_test{name}"] = read(source, "test", number, theirs)
        except UserError as e:
            raise UserError(
                f"{e}\nthis is what the run's forgetting is measured on: config.eval.source names other data, and "
                "eval.parent_data=False measures none"
            ) from e
    if c.data.mixture and c.eval.mixture:
        known = {c.data.source, source.source if source is not None and not numbers else ""}
        for name, reference in trained_on.labels(c.data).items():
            if reference not in known:
                data = _changed(c, source=reference)
                validation[f"validation_{name}"] = read(data, "validation", numbers.get(reference))
                if c.eval.test and numbers:
                    test[f"test_{name}"] = read(data, "test", numbers[reference])
    return Sets(validation, test, source, retained)


def _retained_objective(config: configs.Section, parent: Any, source: DataOptions, builder: Builder) -> Any:
    """`Sets.retained`: that of the nearest ancestor that learned from such data and goes with the model, where the run's own
    objective does not learn from it; None otherwise."""
    learned = parent.config.tables.objectives[parent.config.objective.name]
    lineage = list(_lineage(parent))  # whose data `source` may be, too (`_retained`)
    kinds = (kind for a in lineage for kind in a.config.tables.objectives[a.config.objective.name].kinds)
    if {*kinds} <= {*builder.kinds}:
        return None
    kind = source_splits.kind_of(source, source.source, "validation", learned.kinds)
    if kind in builder.kinds:
        return None
    for ancestor in lineage:
        known = ancestor.config.tables.objectives
        spec = known[ancestor.config.objective.name]
        if kind in spec.kinds and spec.fits(config.model):
            values = ancestor.config.as_dict()
            values["objective"]["name"] = spec.alone or values["objective"]["name"]
            return configs.check(values).objective
    return None


def roles(config: configs.Section) -> dict[str, Mapping[str, str]]:
    """Which sets say what was gained and forgotten, as in `ptft_jax.evaluation.transfer.ROLES`: for each of `tune.adapters` by
    its name; of a run without several, for ""."""
    if not config.tune.adapters:
        return {"": transfer.ROLES}
    names = {reference: f"_{name}" for name, reference in trained_on.labels(config.data).items()}
    names[config.data.source] = ""
    return {
        adapter: {
            "target": f"validation{names[reference]}",
            "target_test": f"test{names[reference]}",
            "source": f"source_{adapter}",
            "source_test": f"source_test_{adapter}",
        }
        for adapter, (reference, _) in zip(config.tune.adapters, config.data.mixture)
    }


def source_settings(config: configs.Section, parent: Any) -> dict[str, Any] | None:
    """What forgetting is measured on, as changes of `config.data`: what the parent was trained on, as it read it, in rows of
    the run's own; or `eval.source`. Of a run that goes on with what its parent was trained on, that would be what is gained: it
    is what the parent's own forgetting was measured on, and so on along the lineage, where that is known. None where there is no
    parent, or its data are not known."""
    if not parent:
        return None
    known = parent.data if config.eval.parent_data else None
    if config.eval.source:
        return {"source": config.eval.source}
    if known is None:
        return None
    known = _retained(config, parent) or known
    own = ("length", "batch_size", "workers", "neighbors", "images", "augment")
    theirs = {name: v for name, v in known.read_all().items() if name not in own}
    return {**theirs, "mixture": ()}


def _retained(config: configs.Section, parent: Any) -> Any:
    """The data of the nearest ancestor that was trained on something else than the run is, or what an ancestor before it measured its
    own forgetting on; None where there is none, or it is no longer there."""
    mine = records.identity(config.data.source, config.data.tables.sources)
    for ancestor in _lineage(parent):
        data, settings = ancestor.data, ancestor.config
        if data is None:
            return None
        if records.identity(data.source, data.tables.sources) != mine:
            return data
        if settings.eval.source:
            there = meant.from_here(ancestor.workdir, settings)["eval"]["source"]
            return _changed(settings, source=there, mixture=())
    return None


def _plugins(parent: Any) -> tuple[str, ...]:
    """Those of a parent and of all before it, whose data may be what is measured."""
    return tuple(dict.fromkeys(name for ancestor in _lineage(parent) for name in ancestor.config.plugins))


def _lineage(parent: Any) -> Iterator[Any]:
    """A parent, and what it was started from, and so on, as long as that is still there."""
    while parent is not None:
        yield parent
        try:
            parent = restore.before(parent)
        except UserError:
            return


def refuse_alone(config: configs.Section, rows: int, field: str) -> None:
    """Refuses evaluations of so many rows at a time that a row has no other one, whose image it could be measured with. Raises UserError."""
    if not config.tables.objectives[config.objective.name].tower:
        return
    devices = jax.device_count() if config.parallel.compile == "pmap" else 1
    if rows < 2 * devices:
        each = " on each device" if devices > 1 else ""
        raise UserError(
            f"{field} = {rows}: {config.objective.name} measures each row with the image of another, too: expected at least 2{each}, {2 * devices}"
        )


def _changed(
    config: configs.Section, plugins: Sequence[str] = (), *, objective: str = "", **changes: Any
) -> DataOptions:
    """The data settings of a config with some changed; `plugins`: that have their kinds of sources, too; `objective`: another than the run's,
    from which it follows how images are read."""
    values = config.as_dict()
    values["plugins"] = tuple(dict.fromkeys((*config.plugins, *plugins)))
    values["data"].update(changes)
    if objective:
        values["objective"]["name"] = objective
        pictures.complete_anew(values)
    return configs.check(values).data
