"""An experiment as data: runs, merges, evaluations and calls, each of which may use others by name."""

from __future__ import annotations

import dataclasses
import graphlib
import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ptft_jax import config as configs
from ptft_jax.config import files, suggestions
from ptft_jax.config.changes import with_changes
from ptft_jax.config.field import hashable
from ptft_jax.errors import UserError, nearest
from ptft_jax.experiments import axes as axes_
from ptft_jax.runs import meant

# node:NAME[@best|@last|@STEP][#ADAPTER] in a setting: what that node makes; node:NAME/FILE: a file of its folder, and KIND:node:NAME/FILE,
# where a data source is asked for, the data in that.
NODE = "node:"
_REFERENCE = re.compile(r"((?:[a-z_]+:)?)node:([^@#/?]*)(.*)", re.DOTALL)
KINDS = ("run", "merge", "evaluation", "call")
_LONG = 150  # letters of a name, which is a folder's
# Settings of a run that may name a node: those that name a run, a file, a folder or data.
_MAY_NAME = tuple(meant.SETTINGS)


@dataclasses.dataclass(frozen=True)
class Node:
    """Something that is done once.

    Attributes:
      name: of its folder.
      kind: of `KINDS`.
      settings: of JSON's types. Of a run {"config": nested dicts, "suggested": fields that are as a recipe set them}.
      group: nodes of one group at one point differ in their seed.
      point: what axes varied, field -> value.
      seed: None where it has none.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    group: str = ""
    point: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int | None = None

    def references(self) -> Iterator[tuple[str, str]]:
        """(setting, the reference in it) of each that names a node."""
        if self.kind == "run":
            given = ((path, configs.get(self.settings["config"], path, "")) for path in _MAY_NAME)
            named = (found for path, value in given for found in _texts(value, path))
        else:
            named = _texts(self.settings, "")
        yield from ((path, text) for path, text in named if is_reference(text))

    def parents(self) -> list[str]:
        """Names of the nodes that it uses, each once."""
        return list(dict.fromkeys(parted(text)[1] for _, text in self.references()))


def config_of(settings: Mapping[str, Any]) -> configs.Config:
    """The config of a run's settings, with what a recipe suggested marked as that."""
    config = configs.of(settings["config"])
    values = config.to_dict()
    marks = {path: hashable(configs.get(values, path)) for path in settings["suggested"]}
    suggestions.mark(config, suggestions.Suggestions(marks, alone=True))
    return config


def is_reference(value: Any) -> bool:
    """Whether a value names a node."""
    return isinstance(value, str) and _REFERENCE.match(value) is not None


def parted(reference: str) -> tuple[str, str, str]:
    """("KIND:" of data, else "", name of the node, "@STEP#ADAPTER" or "/FILE") of a reference."""
    found = _REFERENCE.fullmatch(reference)
    assert found is not None
    return found[1], found[2], found[3]


# Declares what follows from results, see `Graph.then`.
Then = Callable[["Graph", Sequence[Mapping[str, Any]]], None]


class Graph:
    """Nodes by name, in the order in which they were declared. What declares a node returns a reference to it ("node:NAME"), which
    settings of others take: `init=base`, `init=f"{base}@last"`, `config.tokenizer.path = base`.

    Args:
      question: what the report begins with.
      figure: by which ways are compared, such as "source/nll"; "" = what runs were selected by, and of evaluations their loss.
      better: "min" or "max": which values of the figure are better; "" = as it says itself.
      baseline: a node, or what a point is called in the report, that others are compared with; "" = the best.

    Raises:
      UserError: by every method, for a name that is there already, or that cannot be a folder's.
    """

    def __init__(self, question: str = "", *, figure: str = "", better: str = "", baseline: str = "") -> None:
        if better not in ("", "min", "max"):
            raise UserError(f"better = {better!r}: expected 'min' or 'max'{nearest(better, ('min', 'max'))}")
        if better and not figure:
            raise UserError(f"better = {better!r}: of which figure? figure='NAME' says it")
        self.question, self.figure, self.better, self.baseline = question, figure, better, baseline
        self.nodes: dict[str, Node] = {}
        self.notes: list[str] = []  # what whoever launches it should know
        self._then: list[Then] = []

    def run(self, name: str, config: Any, *, init: str = "", **more: Any) -> str:
        """A run of a config, which starts from the node `init` where one is given. Raises UserError also for a bad config."""
        section = configs.check(config, complete=False)
        values = section.as_dict()
        if init:
            values["init"]["from_"] = _reference(init)
        settled = configs.settle(values, section.suggested)
        suggested = sorted(section.suggested - set(settled) - ({"init.from_"} if init else set()))
        seed = values["seed"]
        return self._add(name, "run", {"config": values, "suggested": suggested}, seed=seed, **more)

    def sweep(
        self,
        name: str,
        config: Any,
        axes: Sequence[axes_.Axis],
        *,
        seeds: int = 1,
        samples: int = 1,
        draw_seed: int = 0,
        init: str = "",
    ) -> list[str]:
        """Runs of a config at every point of some axes (`ptft_jax.experiments.axes`), `seeds` of each: the config's and those after it.

        Args:
          samples: draws of the axes that are drawn.
          draw_seed: what these follow from.

        Raises:
          UserError: see `axes.points`; a point that makes a bad config.
        """
        base = configs.check(config, complete=False).as_dict()
        if seeds < 1:
            raise UserError(f"--seeds={seeds}: expected 1 or more")
        made = []
        points, repeats = axes_.sampled(axes, base, samples=samples, seed=draw_seed)
        if repeats:
            self.notes.append(
                f"{name}: {repeats} of {samples} samples are as others before them, and are carried out once"
            )
        names = _names(name, points)
        for point, called in zip(points, names):
            for seed in range(base["seed"], base["seed"] + seeds):
                changed = with_changes(config, **point, seed=seed)
                more = {"group": name, "point": {k.rstrip("_"): v for k, v in point.items()}}
                made.append(self.run(f"{called}-seed{seed}", changed, init=init, **more))
        return made

    def merge(self, name: str, method: str, runs: Sequence[str], **options: Any) -> str:
        """Nodes combined into one model, as `ptft_jax.combining.combine.combine` does with these options."""
        asked = {"method": method, "runs": [_reference(run) for run in runs], **options}
        if options.get("base"):
            asked["base"] = _reference(options["base"])
        return self._add(name, "merge", asked)

    def evaluation(self, name: str, of: str, source: str = "", split: str = "", **options: Any) -> str:
        """The model of a node, measured on a data source as `ptft_jax.evaluate` does with these options; or, with `tasks`, its behavior, as
        `ptft_jax.evaluation.behavior.of_loaded` has them, and `also`, further sources of questions; or, with `probes`, what of images can be told
        from its states, as `ptft_jax.evaluation.probes.evaluate` has it."""
        if "tasks" in options and (isinstance(options["tasks"], str) or not options["tasks"] or not source):
            raise UserError(
                f"node {name!r}: tasks={options['tasks']!r}: expected a list of tasks, and a source of questions"
            )
        if "also" in options and "tasks" not in options:
            raise UserError(f"node {name!r}: also={options['also']!r} goes with tasks, and there are none")
        return self._add(name, "evaluation", {"of": _reference(of), "source": source, "split": split, **options})

    def call(self, name: str, function: str, *, version: int = 1, after: Sequence[str] = (), **arguments: Any) -> str:
        """A function of the user's own, "MODULE:FUNCTION", called with its folder and these arguments, in which references are
        folders; what it returns, of JSON's types, is kept.

        Args:
          version: another number has it called again: what is in the function is not looked at.
          after: nodes that it needs without naming them in an argument.
        """
        asked = {"function": function, "version": version, "after": [_reference(node) for node in after]}
        return self._add(name, "call", {**asked, "arguments": arguments})

    def then(self, follow: Then) -> None:
        """Has nodes declared that follow from results: `follow(graph, rows)` is called when all nodes have ended, and again when those have
        that were declared meanwhile, until it declares none. `rows` has one per node, as summary.json does: "name", "status", "group", "point",
        "seed", and "result" of what is finished. What it declares has to follow from these alone, so that the next launch finds the same.
        """
        self._then.append(follow)

    @property
    def grows(self) -> bool:
        """Whether more may follow from results."""
        return bool(self._then)

    def grow(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Asks what follows from results, and says whether that is anything. Raises UserError for whatever goes wrong in what is asked."""
        before = len(self.nodes)
        for follow in self._then:
            try:
                follow(self, rows)
            except UserError:
                raise
            except Exception as e:
                raise UserError(f"what follows from results: {files.described(e)}") from e
        return len(self.nodes) > before

    def ordered(self) -> list[Node]:
        """The nodes, each behind those that it uses, else as they were declared.

        Raises:
          UserError: a parent that is no node, or a cycle; an empty graph.
        """
        if not self.nodes:
            raise UserError("the graph has no nodes")
        for node in self.nodes.values():
            for parent in node.parents():
                if parent not in self.nodes:
                    raise UserError(f"node {node.name!r}: no node {parent!r}{nearest(parent, self.nodes)}")
        sorter = graphlib.TopologicalSorter({node.name: node.parents() for node in self.nodes.values()})
        try:
            sorter.prepare()
        except graphlib.CycleError as e:
            raise UserError(f"the graph has a cycle: {' -> '.join(e.args[1][::-1])}") from None
        places = {name: number for number, name in enumerate(self.nodes)}
        names, order, ready = list(self.nodes), list[Node](), list[int]()
        while sorter.is_active():
            for name in sorter.get_ready():
                heapq.heappush(ready, places[name])
            name = names[heapq.heappop(ready)]
            order.append(self.nodes[name])
            sorter.done(name)
        return order

    def _add(self, name: str, kind: str, settings: Mapping[str, Any], group: str = "", **more: Any) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.,+=-]*", name) or len(name) > _LONG:
            raise UserError(
                f"node {name!r}: expected a name of up to {_LONG} letters, digits, and any of _.,+=- (it is a folder's)"
            )
        if name in self.nodes:
            raise UserError(f"node {name!r} is declared twice")
        if kind != "run":  # whose settings are checked by their fields
            _check_json(settings, f"node {name!r}")
        self.nodes[name] = Node(name, kind, settings, group or name, **more)
        return NODE + name


def _reference(text: str) -> str:
    """A node, however it was named; what is on disk is named by a path or a kind (hf:)."""
    return text if ":" in text or "/" in text else NODE + text


def _check_json(value: Any, name: str) -> None:
    """Raises UserError for what would not be the same in another process."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{name}: the key {key!r} is no text: keys of arguments are (JSON)")
            _check_json(item, f"{name}: {key}" if ": " not in name else f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _check_json(item, f"{name}[{number}]")
    elif value is not None and not isinstance(value, (str, int, float)):
        raise UserError(
            f"{name}: {value!r} is a {type(value).__name__}: expected JSON's types (text, number, list, dict with texts as keys)"
        )


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _texts(item, f"{path}[{number}]")


def _names(name: str, points: Sequence[axes_.Point]) -> list[str]:
    """A name for each point: its values by the shortest ends of their fields that tell these apart."""
    fields = list(dict.fromkeys(field for point in points for field in point))
    ends = {field: end(field, [other for other in fields if other != field]) for field in fields}
    names = ["-".join([name, *(f"{ends[f]}={_short(v)}" for f, v in point.items())]) for point in points]
    numbered = len(set(names)) < len(names) or max(map(len, names)) > _LONG - 20
    return [f"{name}-{n}" for n in range(len(points))] if numbered else names


def end(field: str, others: Sequence[str]) -> str:
    """The shortest end of a dotted field that no other ends in."""
    parts = field.rstrip("_").split(".")
    ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
    free = [end for end in ends if not any(f".{other.rstrip('_')}".endswith(f".{end}") for other in others)]
    return free[0] if free else ends[-1]


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9_.,+-]+", "_", text).strip("_") or "none"
