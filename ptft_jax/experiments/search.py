"""A search: runs of a config at points that Optuna asks for, one after the other or several at a time, each found as a node of any experiment."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax import config as configs
from ptft_jax.config import spans
from ptft_jax.config.changes import with_changes
from ptft_jax.errors import UserError, nearest
from ptft_jax.evaluation import names
from ptft_jax.experiments import record, report, results, scheduler, search_results, study, trial
from ptft_jax.experiments.axes import Axis
from ptft_jax.experiments.executors.base import Executor, Outcome, Task
from ptft_jax.experiments.identity import Identities
from ptft_jax.experiments.nodes import Graph
from ptft_jax.experiments.plan import Planner, Step
from ptft_jax.experiments.space import Space
from ptft_jax.experiments.store import RESULTS, Store
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import lease
from ptft_jax.runs.workdir import Workdir

_DIRECTIONS = {"min": "minimize", "max": "maximize"}
_AT_THE_END = {"gain": "max", "forgetting": "min"}


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
      axes: where (`ptft_jax.experiments.axes`).
      sampler: "tpe", "cmaes", "random" or "grid".
      trials: how many, those of earlier launches among them; 0 = the whole grid.
      metric: a figure of a run, as tables have it ("validation/nll", "gain"); "" = what the runs select by.
      direction: "min" or "max"; "" = as the metric says.
      pruner: "median", "halving" (asynchronous successive halving) or "none".
      seed: what is drawn follows from it.
      name: what names of runs begin with.
    """

    axes: Sequence[Axis]
    sampler: str = "tpe"
    trials: int = 0
    metric: str = ""
    direction: str = ""
    pruner: str = study.NONE
    seed: int = 0
    name: str = "trial"

    def settled(self, config: configs.Section, space: Space) -> Search:
        """With what was left open. Raises UserError for what cannot be."""
        for flag, value, known in (
            ("search", self.sampler, study.SAMPLERS),
            ("pruner", self.pruner, study.PRUNERS),
            ("direction", self.direction or "min", tuple(_DIRECTIONS)),
        ):
            if value not in known:
                raise UserError(f"--{flag}={value}: expected one of {', '.join(known)}{nearest(value, known)}")
        if not self.axes:
            raise UserError(
                "--axis is missing: what to search, e.g. --axis 'optimizer.learning_rate=loguniform(1e-4,1e-2)'"
            )
        space.check(self.sampler)
        trials = self.trials or (space.size if self.sampler == "grid" else 0)
        if trials < 1:
            raise UserError(f"--trials={trials}: expected how many trials there are to be, 1 or more")
        if self.sampler == "grid" and trials > space.size:
            raise UserError(f"--trials={trials}: the grid has {space.size} points")
        if self.pruner != study.NONE and not config.eval.every:
            raise UserError(f"--pruner={self.pruner}: the runs evaluate at their ends alone: set eval.every")
        metric = self.metric or config.select.metric
        return dataclasses.replace(self, trials=trials, metric=metric, direction=self._direction(metric, config))

    def _direction(self, metric: str, config: configs.Section) -> str:
        own = _AT_THE_END.get(metric) or names.known(metric, config.tables.metrics)
        if not own and metric == config.select.metric and config.select.mode != names.AUTO:
            own = config.select.mode
        if self.direction and own and self.direction != own:
            better = {"min": "smaller", "max": "larger"}[own]
            raise UserError(f"--direction={self.direction}: {better} values of {metric} are better")
        if not (self.direction or own):
            raise UserError(
                f"--direction is missing: whether smaller (min) or larger (max) values of {metric} are better is not known"
            )
        return self.direction or own

    def described(self) -> dict[str, Any]:
        """What makes the search what it is, beside its axes and its config."""
        flags = {"search": self.sampler, "metric": self.metric, "direction": self.direction, "pruner": self.pruner}
        return {f"--{name}": value for name, value in (flags | {"draw_seed": self.seed, "name": self.name}).items()}


def search(
    config: Any,
    asked: Search,
    out: str | pathlib.Path,
    *,
    by: Executor,
    reuse: Sequence[str | pathlib.Path] = (),
    retries: int = 2,
    halve: bool = False,
    reporter: Reporter | None = None,
    question: str = "",
    command: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Carries a search out or continues it, and writes summary.json, table.csv, table.md, best.json, experiment.md and experiment.html into `out`.

    A new trial is asked for whenever one ends. With one at a time the same seed gives the same trials, however often it was stopped.

    Args:
      config: what all runs have but for the axes.
      by, reuse, retries, halve, reporter, command: see `ptft_jax.experiments.launch.launch`.
      question: what the report begins with; "" = the command.

    Returns:
      How the run of each trial ended, see `Scheduler.carry_out`.

    Raises:
      UserError: anything wrong with what is asked for; `out` has another search; Optuna is not installed (extra "search").
      Stopped: it was asked to leave; the same call continues.
    """
    reporter = reporter or Reporter()
    space, asked = _settled(config, asked)
    notes = space.check(asked.sampler)
    folder = Store(out, reuse).folder
    described = _described(config, asked, space)
    with lease.owned(folder, reporter.say, "--out"):
        store = Store(out, reuse)
        found = study.Study(folder / study.FILE, _DIRECTIONS[asked.direction], described)
        graph = Graph(question, figure=asked.metric, better=asked.direction)
        searching = Searching(found, config, asked, space, store, by, reporter, retries, halve, graph, command)
        there = f"{found.count} of {asked.trials}" if found.count else asked.trials
        for note in (*notes, f"{there} trials by {asked.sampler}" + (" are there" if found.count else "")):
            reporter.say(note)
        outcomes = searching.carry_out()
        if not outcomes:
            raise UserError(f"the config of every trial is refused; the first: {searching.trials[0]['message']}")
        rows = results.collect(searching.steps, outcomes)
        shown = search_results.write(folder, searching, rows)
        refused = {trial["name"]: {"message": trial["message"], "seconds": 0.0} for trial in searching.refused}
        rest = {"refused": list(map(record.refusal, searching.refused)), "notes": [search_results.told(searching)]}
        for said in report.write(folder, graph, searching.steps, rows, {**outcomes, **refused}, command, **rest):
            reporter.say(said)
    reporter.table(str(folder / f"{results.TABLE}.md"), shown)
    return outcomes


def look(config: Any, asked: Search, out: str | pathlib.Path) -> list[str]:
    """What `search` would do, in lines, which writes nothing. Raises UserError."""
    space, asked = _settled(config, asked)
    described, path = _described(config, asked, space), Store(out).folder / study.FILE
    states = study.states(path, described) if path.is_file() else []
    there = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    left = max(asked.trials - len(states), 0)
    lines = [*space.check(asked.sampler), f"{left} of {asked.trials} trials by {asked.sampler} would be asked for"]
    return [*lines, f"there are {there}"] if there else lines


def _settled(config: Any, asked: Search) -> tuple[Space, Search]:
    """Where is searched, and how, with what was left open. Raises UserError."""
    study.optuna()
    section = configs.check(config, complete=False)
    space = Space(asked.axes, section.as_dict())
    return space, asked.settled(section, space)


def _described(config: Any, asked: Search, space: Space) -> dict[str, Any]:
    """What makes a study the one that it is: the search, its axes, and what the config has that none of these varies, as far as it decides
    what is computed; data by their content. Raises UserError."""
    graph = Graph()
    graph.run("base", config)
    identity = Identities().of(graph.nodes["base"])
    settings = {path.rstrip("_"): v for path, v in identity.settings.items() if path not in space.fields}
    versions = {f"version of {name}": number for name, number in identity.code.items()}
    return {**asked.described(), **space.described(), **settings, **versions}


class Searching(scheduler.Scheduler):
    """One launch of a search.

    Attributes:
      asked: settled.
      trials: place -> {"trial", "name", "state", "value", "message", "point"}, of those that ended.
    """

    def __init__(
        self,
        found: study.Study,
        config: Any,
        asked: Search,
        space: Space,
        store: Store,
        executor: Executor,
        reporter: Reporter,
        retries: int,
        halve: bool,
        graph: Graph,
        command: Sequence[str],
    ):
        super().__init__([], store, executor, reporter, retries, halve)
        self._graph, self._command = graph, command
        self.asked, self._study, self._config, self._space = asked, found, config, space
        section = configs.check(config, complete=False)
        self._least = spans.steps_of(section.eval.every, section.training.steps) or 1
        self._planner = Planner(store)
        self._places: dict[str, int] = {}
        self.trials: dict[int, dict[str, Any]] = {}
        for place in sorted(found.live):
            self._declare(place, space.point(found.params(place)))
        if self.trials:
            self._record()

    @property
    def steps(self) -> list[Step]:
        """Of all trials that have a run, by place."""
        return sorted(self._steps.values(), key=lambda step: self._places[step.node.name])

    def _declare(self, place: int, point: Mapping[str, Any]) -> str:
        """The name of the run of a trial, "" where its config is refused."""
        name, shown = f"{self.asked.name}-{place}", {field.rstrip("_"): value for field, value in point.items()}
        self._places[name] = place
        self.trials[place] = {"trial": place, "name": name, "state": "", "value": None, "message": "", "point": shown}
        try:
            self._graph.run(name, with_changes(self._config, **point), group=self.asked.name, point=shown)
            step = self._planner.step(self._graph.nodes[name])
        except UserError as e:
            self._tell(place, "refused", str(e))
            self._reporter.say(f"{name} is refused: {e}")
            return ""
        self._add(step)
        status, message = self._study.status(place)
        if status == "pruned" and step.action != "cached":
            self._note(name, status, message)
        return name

    def _expected(self) -> int:
        return max(self.asked.trials, self._study.count)

    def _open(self) -> bool:
        return bool(self._study.again) or self._study.count < self.asked.trials

    def _more(self, room: int) -> list[str]:
        added, before = list[str](), len(self.trials)
        while len(added) < room and self._open():
            place, point = self._study.ask(self.asked.sampler, self.asked.seed, self._space)
            if name := self._declare(place, point):
                added.append(name)
        if len(self.trials) > before:
            self._record()
        return added

    @property
    def refused(self) -> list[dict[str, Any]]:
        """Trials that have no run, as `record.write` wants them."""
        found = [trial for _, trial in sorted(self.trials.items()) if trial["state"] == "refused"]
        return [{**trial, "group": self.asked.name} for trial in found if trial["name"] not in self._steps]

    def _record(self) -> None:
        asked = {**self.asked.described(), "--trials": self.asked.trials}
        more = {"search": asked, "refused": self.refused}
        record.write(self._store.folder, self._graph, self.steps, self._command, **more)

    def _task(self, step: Step) -> Task:
        task, place = super()._task(step), self._places[step.node.name]
        if self._study.told(place):  # what it came to was removed since
            return task
        asked = {"study": str(self._study.path), "trial": self._study.number(place), "metric": self.asked.metric}
        return dataclasses.replace(task, trial={**asked, "pruner": self.asked.pruner, "least": self._least})

    def _end(self, name: str, outcome: Outcome, asked: Any) -> bool:
        if outcome.status == "refused":
            self._tell(self._places[name], outcome.status, outcome.message)
            self._study.forget()
            raise UserError(outcome.message)
        return super()._end(name, outcome, asked)

    def _note(self, name: str, status: str, message: str, seconds: float = 0.0) -> None:
        super()._note(name, status, message, seconds)
        if status != "interrupted":
            self._tell(self._places[name], status, message)

    def _tell(self, place: int, status: str, message: str) -> None:
        value, evaluations = None, list[tuple[int, float]]()
        step = self._steps.get(self.trials[place]["name"])
        if step is not None and status in (*RESULTS, "pruned"):
            evaluations = trial.evaluations(Workdir(step.folder), self.asked.metric)
        if step is not None and status == "finished":
            value = self._value(step)
            if math.isnan(value):
                self._reporter.say(f"{step.node.name}: {self.asked.metric} is nan, which counts as the worst there is")
        self._study.tell(place, status, message, value, evaluations)
        self.trials[place] |= {"state": status, "value": value, "message": message}
        if status != "finished" and (last := self._study.last(place)):
            self.trials[place] |= {"last": list(last)}

    def _value(self, step: Step) -> float:
        metric, [row] = self.asked.metric, results.collect([step], self._status)
        found = results.metrics(row)
        if metric not in found:
            raise UserError(
                f"--metric={metric}: {step.folder}, which is finished, gives {', '.join(found)}{nearest(metric, found)}"
            )
        return found[metric]

    @property
    def best(self) -> dict[str, Any] | None:
        """The trial with the best value, of several with that the first."""
        sign = 1 if self.asked.direction == "min" else -1
        known = [t for _, t in sorted(self.trials.items()) if t["value"] is not None and math.isfinite(t["value"])]
        return min(known, key=lambda t: sign * t["value"]) if known else None

    def config_of(self, name: str) -> dict[str, Any]:
        """The config of a trial's run."""
        return dict(self._graph.nodes[name].settings["config"])
