"""What a launch of an experiment will do with each node, and why, before anything is done."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.errors import UserError, few
from ptft_jax.experiments import estimates
from ptft_jax.experiments.identity import Identities, Identity
from ptft_jax.experiments.nodes import Graph, Node, config_of, is_reference, parted
from ptft_jax.experiments.store import Kept, Store
from ptft_jax.model.spec import HEAD, SIZES, STRUCTURE
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import completion

# What two runs have to have alike that one's time says something of the other's; their steps may differ.
_ALIKE = ("model.", "data.length", "data.batch_size", "tune.method", "objective.name", "training.micro_batches")
_SHOWN = 3  # changes
# Of an optimizer, what neither a step's time nor its memory follows from.
_RATES = ("learning_rate", "schedule", "warmup_steps", "end_ratio", "decay_fraction", "cut_frac", "ratio")
_CARRIED = ("new", "rerun", "resume")  # actions of what is carried out


@dataclasses.dataclass(frozen=True)
class Step:
    """A node, and what becomes of it.

    Attributes:
      action: "cached", "resume", "new", "rerun", or "same" as an earlier node of the graph.
      folder: where it is, or will be.
      reason: why, for people; "" where the action says it.
      kept: what is there of it.
      same_as: the name of the earlier node.
      seconds: what it will take; None where nothing tells. 0 of what is cached.
      peak_bytes: the memory of its compiled step per device, in bytes.
      source: where these are from (`ptft_jax.experiments.estimates.SAID`); "" where there are none.
    """

    node: Node
    identity: Identity
    action: str
    folder: pathlib.Path
    reason: str = ""
    kept: Kept | None = None
    same_as: str = ""
    seconds: float | None = None
    peak_bytes: int | None = None
    source: str = ""

    def settings(self, folders: Mapping[str, pathlib.Path]) -> dict[str, Any]:
        """The node's settings, with the folders of others in the place of their names."""
        return _placed(self.node, folders)


def plan(graph: Graph, store: Store) -> list[Step]:
    """A step for each node, behind those of its parents. Raises UserError: see `Planner.plan`."""
    return Planner(store).plan(graph)


class Planner:
    """Plans a graph, and again when that has more nodes: what was planned before stays as it was."""

    def __init__(self, store: Store):
        self._store, self._identities = store, Identities()
        self._steps: dict[str, Step] = {}
        self._first: dict[str, Step] = {}  # of a fingerprint
        self._sections: dict[str, configs.Section | None] = {}
        self._taken: list[pathlib.Path] = []
        self._learned: set[pathlib.Path] = set()
        self._known: dict[str, list[Mapping[str, Any]]] = {}  # summaries of runs that are alike
        self._others: dict[str, list[float]] = {}  # seconds of evaluations, merges and calls that are alike
        self._learn((kept.folder, kept.identity["settings"]) for kept in store.all if _is_timed(kept))
        for kept in store.all:
            if kept.identity["kind"] != "run" and kept.result and kept.result["status"] == "finished":
                self._others.setdefault(_asks(kept.identity), []).append(kept.result["seconds"])

    def plan(self, graph: Graph) -> list[Step]:
        """A step for each node, behind those of its parents.

        Raises:
          UserError: anything wrong with the graph, with a config that nothing has to complete, or with data.
        """
        nodes = graph.ordered()
        runs = (step for step in left(list(self._steps.values())) if step.node.kind == "run")
        self._learn((step.folder, step.identity.settings) for step in runs)
        for node in nodes:
            if node.name not in self._steps:
                self.step(node)
        return [self._steps[node.name] for node in nodes]

    def _learn(self, runs: Iterable[tuple[pathlib.Path, Mapping[str, Any]]]) -> None:
        """Takes in what runs took, (folder, settings) of each, as far as they are finished."""
        for folder, settings in runs:
            if folder in self._learned or not Workdir(folder).is_finished:
                continue
            self._learned.add(folder)
            summary = Workdir(folder).read_summary()
            if summary and summary.get("step"):
                self._known.setdefault(_alike(settings), []).append(summary)

    def step(self, node: Node) -> Step:
        """What becomes of a node, whose parents are planned. Raises UserError as `plan` does."""
        try:
            if node.kind == "run":
                self._sections[node.name] = _checked(node, self._sections)
            identity = self._identities.of(node)
        except UserError as e:
            raise UserError(f"node {node.name!r}: {e}") from None
        step = _step(node, identity, self._store, self._first.get(identity.fingerprint), self._taken)
        if step.action != "cached":
            _check_steps(node, self._steps)
        if step.action in _CARRIED:
            self._taken.append(step.folder)
            step = dataclasses.replace(step, **_expected(step, self._known, self._others))
        self._first.setdefault(identity.fingerprint, step)
        self._steps[node.name] = step
        return step

    def estimated(self, steps: Sequence[Step]) -> list[Step]:
        """Steps with what arithmetic tells of the runs among them of which none like them was finished."""
        speeds, rows, made = estimates.Speeds(), dict[str, int | None](), dict[str, estimates.Estimate | None]()
        known = estimates.rate([summary for alike in self._known.values() for summary in alike])
        found = []
        for step in steps:
            if (section := self._sections.get(step.node.name)) is not None:
                named = {path: parted(text)[1] for path, text in step.node.references()}
                other = named.get("tokenizer.path", named.get("init.from_", ""))
                rows[step.node.name] = estimates.vocabulary(section, rows.get(other))
                if step.action in _CARRIED and step.peak_bytes is None and (size := rows[step.node.name]) is not None:
                    key = _decides(section, size)
                    if key not in made:
                        made[key] = estimates.of(section, size)
                    step = _with(step, made[key], known, speeds)
            found.append(step)
        return found


def _with(step: Step, one: estimates.Estimate | None, known: float | None, speeds: estimates.Speeds) -> Step:
    """A step with its estimate; `known`: operations per second of finished runs."""
    if one is None:
        return step
    if step.seconds is not None:  # of runs like it, which had no measure of their memory
        return dataclasses.replace(step, peak_bytes=one.peak_bytes)
    config, source = step.node.settings["config"], estimates.SCALED if known else estimates.ARITHMETIC
    if config["training"]["epochs"]:  # so many steps as the data have
        return dataclasses.replace(step, peak_bytes=one.peak_bytes, source=source)
    seconds = one.flops / (known or speeds.of(one.product)) * _share_left(step)
    return dataclasses.replace(step, seconds=seconds, peak_bytes=one.peak_bytes, source=source)


def _decides(section: configs.Section, rows: int) -> str:
    """What estimates of runs follow from, rates and seeds and data apart."""
    values = section.as_dict()
    kept = {name: values[name] for name in ("model", "tune", "objective", "parallel", "training", "tokenizer", "init")}
    kept["init"] = {**values["init"], "from_": bool(section.init.from_)}
    kept["tokenizer"] = {name: values["tokenizer"][name] for name in ("add", "new_rows")}
    kept["optimizer"] = {name: value for name, value in values["optimizer"].items() if name not in _RATES}
    data = {name: values["data"][name] for name in ("length", "batch_size")}
    return json.dumps([kept, data, rows], default=str)


def ended(steps: Sequence[Step]) -> dict[str, dict[str, Any]]:
    """How all nodes have ended, by name, as far as `results.collect` asks for it; none where one is left to be carried out."""
    kept = {step.node.name: step.kept and step.kept.result for step in steps}
    return {name: dict(result) for name, result in kept.items() if result} if all(kept.values()) else {}


def _checked(node: Node, sections: Mapping[str, configs.Section | None]) -> configs.Section | None:
    """A run's config with the structure of its model, None where nobody knows that yet; `sections` has those of the nodes before. Raises
    UserError for what the run would refuse at its start, as far as that is known before its parent is there."""
    config = config_of(node.settings)
    origin, section = config.init.from_, configs.check(config, complete=False)
    section.refuse_of_other_methods()
    if not origin:
        return completion.resolve(config)[0]
    adapters.build(section.tune)
    parent = sections.get(parted(origin)[1]) if is_reference(origin) else None
    values, defaults = section.as_dict(), dict(section.fields())
    if parent is None:
        return None
    model = parent.as_dict()["model"]
    renewed = completion.renews_head(section.init.fresh)
    for name in STRUCTURE:
        own = (renewed and name in HEAD) or (section.init.resize and name in SIZES)
        if values["model"][name] == defaults[f"model.{name}"].default and not own:
            values["model"][name] = model[name]
    configs.settle(values, section.suggested)
    return configs.check_effects(configs.check(values))


def _step(node: Node, identity: Identity, store: Store, same: Step | None, taken: Sequence[pathlib.Path]) -> Step:
    if same is not None:
        return Step(node, identity, "same", same.folder, f"as {same.node.name}", same.kept, same.node.name, 0.0)
    kept = store.find(identity.fingerprint)
    if kept is not None and kept.result:
        here = store.owns(kept.folder) and kept.folder.name == node.name
        why = "" if kept.result["status"] == "finished" else f"it {kept.result['status']}"
        why = "; ".join(filter(None, (why, "" if here else f"from {kept.folder}")))
        return Step(node, identity, "cached", kept.folder, why, kept, seconds=0.0)
    if kept is not None and node.kind == "merge":  # which is made whole: what is there of it is none
        return Step(node, identity, "rerun", store.free(node.name, taken), "because what it came to was removed", kept)
    if kept is not None:
        steps = Workdir(kept.folder).steps()
        reason = f"from step {steps[-1]}" if steps else "it was begun"
        return Step(node, identity, "resume", kept.folder, reason, kept)
    before = store.latest(node.name)
    folder = store.free(node.name, taken)
    if before is None:
        return Step(node, identity, "new", folder)
    changes = identity.changes(before.identity)
    return Step(node, identity, "rerun", folder, f"because {few(changes, _SHOWN)}", before)


def _check_steps(node: Node, before: Mapping[str, Step]) -> None:
    """Raises UserError where a node asks for a checkpoint that a finished one has not kept."""
    for path, reference in node.references():
        _, name, rest = parted(reference)
        step = rest.removeprefix("@").partition("#")[0]
        there = before[name]
        if rest.startswith("@") and step.isdigit() and there.action == "cached" and there.node.kind == "run":
            kept = Workdir(there.folder).steps()
            if int(step) not in kept:
                raise UserError(
                    f"node {node.name!r}: {path.rstrip('_')}: {name}@{step}: {there.folder} is finished, and has kept steps "
                    f"{', '.join(map(str, kept)) or 'none'} alone (checkpoint.every, checkpoint.keep_latest)"
                )


def changed(step: Step, identities: Mapping[str, Identity]) -> list[str]:
    """What of a node's data and of the runs that it names is other than when it was planned; `identities` of all nodes by name.
    Raises UserError where it cannot be read any more."""
    return Identities(identities).of(step.node).changes(step.identity.as_dict())


def _is_timed(kept: Kept) -> bool:
    """Whether it is a run that finished, whose time says something of others."""
    return bool(kept.identity["kind"] == "run" and kept.result and kept.result["status"] == "finished")


def _expected(
    step: Step, known: Mapping[str, Sequence[Mapping[str, Any]]], others: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """The time and memory of a run like one that is known, by its steps; of another node the time of those that asked for the same."""
    if step.node.kind != "run":
        seconds = others.get(_asks(step.identity.as_dict()))
        return {"seconds": sum(seconds) / len(seconds), "source": estimates.MEASURED} if seconds else {}
    alike = known.get(_alike(step.identity.settings), ())
    config = step.node.settings["config"]["training"]
    if not alike or config["epochs"]:
        return {}
    cost = alike[-1].get("cost") or {}
    each = [summary["seconds"] / summary["step"] for summary in alike]
    seconds = config["steps"] * _share_left(step) * sum(each) / len(each)
    return {"seconds": seconds, "peak_bytes": cost.get("peak_bytes"), "source": estimates.MEASURED}


def _share_left(step: Step) -> float:
    """The share of a run's steps that are to be done."""
    there = Workdir(step.folder).steps() if step.action == "resume" else []
    steps = step.node.settings["config"]["training"]["steps"]
    return max(steps - (there[-1] if there else 0), 0) / max(steps, 1)


def _asks(identity: Mapping[str, Any]) -> str:
    """What an evaluation, a merge or a call asks for, whatever it asks that of."""
    settings = {name: value for name, value in identity["settings"].items() if name not in ("of", "runs", "base")}
    if identity["kind"] == "call":  # whose arguments may be anything
        settings = {"function": settings.get("function")}
    return json.dumps([identity["kind"], settings], sort_keys=True)


def _alike(settings: Mapping[str, Any]) -> str:
    found = {path: value for path, value in settings.items() if path.startswith(_ALIKE)}
    return json.dumps([found, bool(settings.get("init.from_"))], sort_keys=True)


def table(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """A row per node, for people."""
    return [
        {
            "node": step.node.name,
            "what": step.node.kind,
            "plan": step.action,
            "seconds": "-" if step.seconds is None else f"{_least(step)}{_rounded(step.seconds)}",
            "peak MiB": "-" if step.peak_bytes is None else f"{step.peak_bytes * 2**-20:.1f}",
            "by": step.source or "-",
            "why": step.reason,
        }
        for step in steps
    ]


def _least(step: Step) -> str:
    return ">= " if step.source == estimates.ARITHMETIC else ""


def _rounded(seconds: float) -> str:
    return f"{seconds:.1f}" if 0 < seconds < 1 else f"{seconds:.0f}"


def legend(steps: Sequence[Step]) -> list[str]:
    """A line for each way by which time and memory of some step are known."""
    there = {step.source for step in steps}
    return [f"{name}: {said}" for name, said in estimates.SAID.items() if name in there]


def left(steps: Sequence[Step]) -> list[Step]:
    """Those that are to be carried out."""
    return [step for step in steps if step.action in _CARRIED]


def totals(steps: Sequence[Step], slots: int) -> str:
    """How many there are of each kind, and how long all will take, in a line."""
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.action] = counts.get(step.action, 0) + 1
    said = ", ".join(f"{count} {action}" for action, count in counts.items())
    to_do = left(steps)
    known = [step.seconds for step in to_do if step.seconds is not None]
    if not to_do:
        return f"{len(steps)} node{'s' * (len(steps) != 1)}: {said}"
    unknown = len(to_do) - len(known)
    least = "at least " if any(map(_least, to_do)) else ""
    time = (
        f"{least}about {_rounded(max(sum(known) / slots, _longest(to_do)))} s"
        if known
        else "time is not known: no run like these was finished (--dry_run estimates it)"
    )
    more = f", and {unknown} of which that is not known" if known and unknown else ""
    return f"{len(steps)} node{'s' * (len(steps) != 1)}: {said}; {time}{more}"


def _longest(steps: Sequence[Step]) -> float:
    """Seconds of the longest chain of steps that wait for each other, by those whose time is known."""
    ends: dict[str, float] = {}
    for step in steps:  # parents before children
        before = max((ends.get(parent, 0.0) for parent in step.node.parents()), default=0.0)
        ends[step.node.name] = before + (step.seconds or 0.0)
    return max(ends.values(), default=0.0)


def _placed(node: Node, folders: Mapping[str, pathlib.Path]) -> dict[str, Any]:
    def place(value: Any) -> Any:
        if is_reference(value):
            kind, name, rest = parted(value)
            return f"{kind}{folders[name]}{rest}"
        if isinstance(value, Mapping):
            return {key: place(item) for key, item in value.items()}
        return [place(item) for item in value] if isinstance(value, (list, tuple)) else value

    if node.kind != "run":
        return place(dict(node.settings))
    config = {name: dict(v) if isinstance(v, Mapping) else v for name, v in node.settings["config"].items()}
    for path in dict.fromkeys(path.partition("[")[0] for path, _ in node.references()):
        *above, last = path.split(".")
        section = config
        for key in above:
            section[key] = dict(section[key])
            section = section[key]
        section[last] = place(section[last])
    return {"config": config, "suggested": node.settings["suggested"]}
