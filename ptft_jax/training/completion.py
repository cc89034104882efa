"""A run's config completed: by what it starts from, and by what follows from the rest of it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.config.field import hashable
from ptft_jax.config.objectives import ObjectiveSpec
from ptft_jax.config.plugins import tables
from ptft_jax.config.verifiers import ANSWERS
from ptft_jax.data import class_names, records, trained_on
from ptft_jax.data.pictures import settled as pictures
from ptft_jax.errors import UserError, listed
from ptft_jax.evaluation.names import AUTO, direction, known
from ptft_jax.evaluation.samples import MAX_NEW_TOKENS
from ptft_jax.model.spec import HEAD, SIZES, STRUCTURE, wordless
from ptft_jax.params.rules import assign, flatten, matches
from ptft_jax.runs import loading, meant
from ptft_jax.runs import source as restore
from ptft_jax.runs.lineage import parted
from ptft_jax.runs.parent import Parent
from ptft_jax.training import markers


def resolve(
    config: Mapping[str, Any] | configs.Config, workdir: pathlib.Path | None = None
) -> tuple[configs.Section, Parent | None]:
    """The checked config with the parent's model structure filled in, and the parent.

    Of a run that goes on from another with its optimizer (`init.optimizer`), the parent is that of the other.

    Args:
      workdir: of a run that may have been started before: its parent is then the checkpoint that it was started from.

    Raises:
      UserError: see `config.check` and `config.check_effects`; also a structural field that was set to something else than the parent's.
    """
    section = configs.check(config, complete=False)
    marks = section.tokenizer.add_markers
    if marks:  # what is added is told by tokenizer.add alone
        values = section.as_dict()
        values["tokenizer"]["add_markers"] = False
        section = configs.check(values, complete=False, suggested=section.suggested)
    parent, other = None, continued(section, workdir)
    if other is not None:
        section, parent = _as_continued(section, other), _parent_of(other)
    elif section.init.from_:
        reference = restore.recorded(section.init.from_, workdir) if workdir else section.init.from_
        options: dict[str, Any] = {
            "ignore": section.init.ignore,
            "fresh": section.init.fresh,
            "plugins": section.plugins,
        }
        parent = restore.find(reference, **options)
    if parent is None:
        trained_on.with_parent(section.data.mixture, None, "")
        values = section.as_dict()
        if marks and other is None:
            markers.add(values, None)
        return _completed(values, section.suggested, tuned=False), None
    if parent.adapter is not None and not parent.adapter.mergeable:
        raise UserError(
            f"config.init.from: {parent.name} is a run with tune.method={parent.config.tune.method!r}, which cannot be "
            "merged into the parameters of a plain model: start from its base"
        )
    restore.check_merge(parent, section.init.merge_into, "config.init.merge_into")
    values, theirs = section.as_dict(), parent.fields
    defaults = dict(section.fields())
    new_head, resized = renews_head(section.init.fresh), section.init.resize
    if resized and not theirs["image_size"]:
        raise UserError(f"config.init.resize = True: the parent {parent.name} reads texts, and has no images to resize")
    for name in (*STRUCTURE, "vocab_size"):
        mine, default = values["model"][name], defaults[f"model.{name}"].default
        if (name in HEAD and new_head) or (name in SIZES and resized):  # what the config says, its defaults too
            continue
        changed = hashable(mine) not in (hashable(theirs[name]), default)
        if changed:
            hint = "; a new head needs init.fresh=('head/.*',)" if name in HEAD else ""
            hint = "; init.resize=True has it otherwise" if theirs["image_size"] and name in SIZES else hint
            raise UserError(f"config.model.{name} = {mine!r}, but the parent {parent.name} has {theirs[name]!r}{hint}")
        values["model"][name] = theirs[name]
    if wordless(values["model"]):
        values["model"]["vocab_size"] = 0  # of a tower for texts, where the parent has one
    if section.init.adapter:
        added = loading.peft_adapter(section.init.adapter, parent, "config.init.adapter", section.init.merge_into)
        _inherit_method(values, added)
        _train_replaced(values, added)
    if marks and other is None:
        markers.add(values, parent)
    mine, of_parent = values["data"], parent.data
    replays = any(name == trained_on.PARENT for name, _ in mine["mixture"])
    if replays and of_parent is not None and of_parent.held_out != mine["held_out"]:
        raise UserError(
            f"config.data.held_out = {mine['held_out']!r}, but the parent's is {of_parent.held_out!r}: what it was validated "
            f"on would be trained on by replay of {trained_on.PARENT!r}; give the same, or name the sources"
        )
    values["data"]["mixture"] = trained_on.with_parent(
        values["data"]["mixture"], parent.data, parent.name, parent.step, parent.config.training.steps
    )
    if replays:
        values["plugins"] = _with_kinds(section.plugins, parent.config.plugins, values["data"]["mixture"])
    return _completed(values, section.suggested, tuned=True), parent


def _with_kinds(plugins: Sequence[str], theirs: Sequence[str], mixture: Sequence[tuple[str, Any]]) -> tuple[str, ...]:
    """The plugins of a run, and those of its parent's that have the kinds of sources that it replays."""
    known, owners = tables(tuple(plugins)).sources, tables(tuple(theirs)).owners
    kinds = dict.fromkeys(records.parted(reference)[0] for reference, _ in mixture)
    needed = (owners.get(("SOURCES", kind)) for kind in kinds if kind not in known)
    return tuple(dict.fromkeys((*plugins, *filter(None, needed))))


def continued(section: configs.Section, workdir: pathlib.Path | None = None) -> restore.Source | None:
    """The checkpoint of another run that a run goes on from with its optimizer; None where it begins at step 0. `workdir` as of
    `resolve`. Raises UserError where what `init.from` names is no such thing."""
    if not section.init.optimizer:
        return None
    reference = section.init.from_
    if not reference:
        raise UserError(
            "config.init.optimizer = True: init.from is missing: the run, WORKDIR[@last|@best|@STEP], to go on from"
        )
    if restore.is_reference(reference) or parted(reference)[1]:
        raise UserError(
            f"config.init.optimizer = True: init.from = {reference!r} has no optimizer; only a whole run, WORKDIR[@last|@best|@STEP], has"
        )
    # What goes on goes on from where the other stopped.
    return restore.find_run(restore.recorded(reference, workdir) if workdir else reference, together=True, bare="last")


def _parent_of(run: restore.Source) -> Parent | None:
    """What a run was started from itself; of one that went on from another, what that was started from."""
    config = configs.check(meant.from_here(run.workdir, run.config))
    init = config.init
    if not init.from_:
        return None
    other = continued(config, run.workdir)
    if other is not None:
        return _parent_of(other)
    options: dict[str, Any] = {"ignore": init.ignore, "fresh": init.fresh, "plugins": run.config.plugins}
    return restore.find(restore.recorded(init.from_, run.workdir), "its init.from", **options)


# What of a method's settings is only of how it learns.
_OF_TRAINING = ("dropout", "b_ratio")


def _as_continued(section: configs.Section, run: restore.Source) -> configs.Section:
    """A config of a run that goes on from another: what the other's state is made of is as there. Raises UserError where it is
    set to something else; how far a run is held near its start, dropout, and such, may be."""
    suggested = section.suggested
    plugins = tuple(dict.fromkeys((*run.config.plugins, *section.plugins)))
    section, there = (configs.check({**c.as_dict(), "plugins": plugins}, complete=False) for c in (section, run.config))
    values, theirs = section.as_dict(), there.as_dict()
    method = ("tune.method", "tune.quantize.", *(f"tune.{name}." for name in section.tables.methods))
    fixed = ("init.", "tokenizer.", "model.vocab_size", *(f"model.{name}" for name in STRUCTURE), *method)
    theirs["model"]["vocab_size"] = run.fields["vocab_size"]
    for path, field in section.fields():
        if not path.startswith((*fixed, "tune.")) or path in ("init.from_", "init.optimizer"):
            continue
        *parents, last = path.split(".")
        part, known = configs.get(values, ".".join(parents)), configs.get(theirs, path)
        default = hashable(part[last]) == hashable(field.default)
        stays = path.startswith(fixed) and last not in _OF_TRAINING
        if stays and not default and hashable(part[last]) != hashable(known):
            raise UserError(
                f"config.{path} = {part[last]!r}, but the run that init.optimizer goes on from, {run.name}, has {known!r}"
            )
        part[last] = known if default else part[last]
    return configs.check(values, complete=False, suggested=suggested)


def _completed(values: dict[str, Any], suggested: frozenset[str], *, tuned: bool) -> configs.Section:
    """The config with what follows from the rest filled in. It is the one whose reads are counted."""
    pictures.complete(values)
    settled = configs.settle(values, suggested)
    values = _with_direction(_with_answers(_with_rate(_with_source(values), tuned)))
    section = configs.check_effects(configs.check(values, suggested=suggested, settled=settled))
    read_before = (section.init.from_, section.init.optimizer, section.tokenizer.add_markers)
    assert None not in read_before, "read before this one was made"
    return section


def _with_direction(values: dict[str, Any]) -> dict[str, Any]:
    """A config with `select.metric`, where it is as it is, filled in by the objective, and `select.mode` by the metric; of one that says nothing, a run tells whether it is measured."""
    select, known_tables = values["select"], tables(tuple(values["plugins"]))
    metrics, chosen = known_tables.metrics, known_tables.objectives[values["objective"]["name"]]
    if select["metric"] == f"validation/{ObjectiveSpec.selects}":
        select["metric"] = f"validation/{chosen.selects}"
        answers = values["eval"]["answers"]
        if chosen.builder.sampled and values["objective"]["policy"]["verifiers"] and not answers["every"]:
            prefix = "" if answers["source"] else "validation/"
            select["metric"] = f"{prefix}{ANSWERS}{answers['verifiers'][0]}"
    if select["mode"] != AUTO or known(select["metric"], metrics):
        select["mode"] = direction(select["metric"], select["mode"], metrics)
    return values


def _with_answers(values: dict[str, Any]) -> dict[str, Any]:
    """A config with the length of answers that are asked for, where it says nothing: of a model that learns from its own, that of these.
    Where its answers are rewarded, `eval.answers` is as in training where it has no verifiers: held-out prompts tell how good it is."""
    spec = tables(tuple(values["plugins"])).objectives[values["objective"]["name"]]
    policy, answers = values["objective"]["policy"], values["eval"]["answers"]
    sampled = spec.builder.sampled
    if sampled and policy["verifiers"] and not answers["verifiers"]:
        answers["verifiers"] = policy["verifiers"]
        for name in ("reference", "stop"):
            answers[name] = answers[name] or policy[name]
    if answers["verifiers"]:
        answers["max_new_tokens"] = answers["max_new_tokens"] or (
            policy["max_new_tokens"] if sampled else MAX_NEW_TOKENS
        )
    return values


def renews_head(fresh: Sequence[str]) -> bool:
    """Whether the head is among what is re-initialized."""
    return any(matches(fresh, f"head/{leaf}") for leaf in ("kernel", "classes/kernel", "dense/kernel"))


def head_of(parent: Parent | None, fresh: Sequence[str]) -> class_names.Head:
    """The classes of the head that a run starts with: its parent's, unless it is re-initialized."""
    return class_names.NEW if parent is None or renews_head(fresh) else class_names.of(parent)


def default_rate(values: Mapping[str, Any], tuned: bool) -> float:
    """The highest rate of a config that gives none: of pre-training, or of the fine-tuning method."""
    return adapters.learning_rate(configs.check(values).tune) if tuned else 1e-3


def _with_rate(values: dict[str, Any], tuned: bool) -> dict[str, Any]:
    """A config with `optimizer.learning_rate` filled in."""
    if not values["optimizer"]["learning_rate"]:
        values["optimizer"]["learning_rate"] = default_rate(values, tuned)
    return values


def _with_source(values: dict[str, Any]) -> dict[str, Any]:
    """A config with `data.source` filled in by the mixture's first source."""
    data = values["data"]
    if not data["source"]:
        if not data["mixture"]:
            raise UserError("config.data.source is missing: what to train on, such as jsonl:chat.jsonl or text:FOLDER")
        data["source"] = data["mixture"][0][0]
    return values


def _inherit_method(values: dict[str, Any], adapter: Any) -> None:
    """Fills in `tune` from an adapter that a run starts with; what was set to something else is an error."""
    defaults = dict(configs.fields())
    for path, theirs in _leaves(adapter.tune, "tune"):
        *parents, last = path.split(".")
        section = configs.get(values, ".".join(parents))
        mine = hashable(section[last])
        if mine not in (hashable(theirs), defaults[path].default):
            raise UserError(f"config.{path} = {mine!r}, but the adapter of config.init.adapter has {theirs!r}")
        section[last] = theirs


def _train_replaced(values: dict[str, Any], adapter: Any) -> None:
    """Lets what an adapter replaced of the base train, as it did where the adapter was made. Raises UserError where `tune.rates`
    freezes it: a checkpoint holds what trains, and takes the rest from the base, which has not that."""
    replaced = {path: array.shape for path, array in flatten(adapter.replaced).items()}
    if not replaced:
        return
    tune, fresh = configs.check(values, complete=False).tune, tuple(values["init"]["fresh"])
    rules = adapters.rates(tune, fresh)
    if not tune.rates:
        values["tune"]["rates"] = (*((path, 1.0) for path in replaced), *rules)
        adapters.rates(
            configs.check(values, complete=False).tune, fresh
        )  # whether these silence any of the method's own
        return
    rates = assign(rules, replaced, "config.tune.rates", strict=False)
    if frozen := [path for path, row in rates.items() if not all(row)]:
        raise UserError(
            f"config.tune.rates: the adapter of init.adapter comes with these in the place of the base's, and they are frozen:"
            f"{listed(frozen)}\nlet them train: tune.rates={(*((path, 1.0) for path in frozen), *rules)}"
        )


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value
