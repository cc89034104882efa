"""The study of a search: Optuna's, in a file of SQLite in the experiment's folder. All that is asked of Optuna is asked here.

A trial has a place in the search, from 0 on, which its run is named by. One that failed is told as that, and tried again by the next
launch as another trial of Optuna at the same place.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax import environment
from ptft_jax.errors import UserError, listed

FILE = "search.db"
NONE = "none"
SAMPLERS = ("tpe", "cmaes", "random", "grid")
PRUNERS = ("median", "halving", NONE)
_NAME = "search"
_ASKED, _PLACE, _STATUS, _MESSAGE, _SEARCH = "asked", "place", "status", "message", "search"


def optuna() -> Any:
    """The package, which says no more than what is wrong. Raises UserError where it is not installed."""
    found: Any = environment.needed("optuna", "--search")
    found.logging.set_verbosity(found.logging.ERROR)
    return found


def opened(path: pathlib.Path, direction: str = "") -> Any:
    """The study in a file; with a direction, "minimize" or "maximize", one that may be new. Raises UserError."""
    o = optuna()
    if "?" in str(path):
        raise UserError(f"{path}: the place of a search cannot have a question mark in it")
    try:
        storage = o.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
        # What is told is no sampler's business: each trial has one of its own.
        options = {"study_name": _NAME, "storage": storage, "sampler": o.samplers.RandomSampler()}
        if direction:
            return o.create_study(**options, direction=direction, load_if_exists=True)
        return o.load_study(**options)
    except Exception as e:  # SQLAlchemy's, and those of the database below it
        raise UserError(f"{path}: cannot be read as a study of Optuna: {str(e).splitlines()[0]}") from e


def pruner(name: str, least: int) -> Any:
    """A pruner of Optuna by our name; `least`: steps of a run until it may be ended."""
    found = optuna().pruners
    if name == "median":
        return found.MedianPruner()
    return found.SuccessiveHalvingPruner(min_resource=least) if name == "halving" else found.NopPruner()


def sampler(name: str, seed: int, place: int, grid: Mapping[str, Sequence[Any]]) -> Any:
    """A sampler of Optuna by our name, for the trial at one place: what it draws follows from the seed, the place and the trials before,
    and so do not depend on how often the search was stopped. `grid`: the values of each parameter of a grid."""
    found = optuna().samplers
    if name == "grid":
        return found.GridSampler(grid, seed=seed)
    own = int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
    if name == "cmaes":
        environment.needed("cmaes", "--search=cmaes")
        return found.CmaEsSampler(seed=own, warn_independent_sampling=False)
    return found.RandomSampler(seed=own) if name == "random" else found.TPESampler(seed=own)


def at(study: Any, number: int) -> Any:
    """The trial of a study that has this number, to be reported to."""
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    return optuna().trial.Trial(study, trial_id)


def report(trial: Any, step: int, value: float) -> None:
    """Notes what a trial's run has come to after a step, once."""
    if step not in trial.storage.get_trial(trial._trial_id).intermediate_values:
        trial.report(value, step)


class Study:
    """The study of one search, for the process that drives it."""

    def __init__(self, path: pathlib.Path, direction: str, described: Mapping[str, Any]):
        """
        Args:
          direction: "minimize" or "maximize".
          described: what makes the search what it is: name -> value, of JSON's types.

        Raises:
          UserError: the file has the study of another search.
        """
        optuna()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._direction = path, direction
        self._study = opened(path, direction)
        if _SEARCH not in self._study.user_attrs:
            self._study.set_user_attr(_SEARCH, dict(described))
        _check_same(self._study, path, described)
        self.live: dict[int, Any] = {}  # the trial at each place
        self.again = 0  # trials that wait to be tried again
        self._restore()

    def _restore(self) -> None:
        state = optuna().trial.TrialState
        waiting = set[int]()
        for trial in self._study.get_trials(deepcopy=False):
            if trial.user_attrs.get(_ASKED):
                self.live[trial.user_attrs[_PLACE]] = trial
            elif trial.state == state.RUNNING:  # the process ended while it asked
                self._study.tell(trial.number, state=state.FAIL)
                if _PLACE in trial.user_attrs:
                    waiting.discard(trial.user_attrs[_PLACE])
            elif trial.state == state.WAITING:
                waiting.add(trial.user_attrs[_PLACE])
        for place, trial in sorted(self.live.items()):
            if trial.state == state.FAIL and trial.user_attrs[_STATUS] != "refused":
                del self.live[place]
                if place not in waiting:
                    self._study.enqueue_trial(trial.params, user_attrs={_PLACE: place})
                    waiting.add(place)
        self.again = len(waiting)
        self._next = max((*self.live, *waiting), default=-1) + 1

    @property
    def count(self) -> int:
        """Trials that there are, those among them that wait to be tried again."""
        return len(self.live) + self.again

    def ask(self, asked: str, seed: int, space: Any) -> tuple[int, dict[str, Any]]:
        """(its place, its point) of another trial. `space`: a `ptft_jax.experiments.space.Space`."""
        place = self._next
        self._study.sampler = sampler(asked, seed, place, space.grid)
        trial = self._study.ask()
        place = trial.user_attrs.get(_PLACE, place)
        point = space.suggest(trial)
        trial.set_user_attr(_PLACE, place)
        trial.set_user_attr(_ASKED, True)
        self._study.sampler = optuna().samplers.RandomSampler()
        if place == self._next:
            self._next += 1
        else:
            self.again -= 1
        self.live[place] = self._frozen(trial.number)
        return place, point

    def _frozen(self, number: int) -> Any:
        return self._study.get_trials(deepcopy=False)[number]

    def params(self, place: int) -> dict[str, Any]:
        """What was drawn for a trial."""
        return dict(self.live[place].params)

    def number(self, place: int) -> int:
        """The number that Optuna has given a trial."""
        return int(self.live[place].number)

    def status(self, place: int) -> tuple[str, str]:
        """(how it ended, why) of a trial that has been told; ("", "") of others."""
        found = self.live[place].user_attrs
        return found.get(_STATUS, ""), found.get(_MESSAGE, "")

    def told(self, place: int) -> bool:
        """Whether a trial has come to something."""
        return bool(self.live[place].state.is_finished())

    def last(self, place: int) -> tuple[int, float] | None:
        """(step, value) of a trial's last evaluation that was reported."""
        found = self._frozen(self.number(place)).intermediate_values
        return max(found.items()) if found else None

    def tell(
        self, place: int, status: str, message: str, value: float | None, evaluations: Sequence[tuple[int, float]]
    ) -> None:
        """Notes how a trial ended: "finished" with its value, "diverged" and a value that is nan as the worst there is, "pruned", and all else
        as failed. `evaluations`: what it was on the way, where its run has not reported that."""
        if self.told(place):
            return
        state, number = optuna().trial.TrialState, self.number(place)
        trial = at(self._study, number)
        for step, found in evaluations:
            report(trial, step, found)
        trial.set_user_attr(_STATUS, status)
        trial.set_user_attr(_MESSAGE, message)
        if status in ("finished", "diverged"):
            worst = math.inf if self._direction == "minimize" else -math.inf
            self._study.tell(number, worst if value is None or math.isnan(value) else value)
        else:
            self._study.tell(number, state=state.PRUNED if status == "pruned" else state.FAIL)
        self.live[place] = self._frozen(number)

    def forget(self) -> None:
        """Removes a study of which nothing came: it was asked for what there is not."""
        if not any(trial.state.name in ("COMPLETE", "PRUNED") for trial in self._study.get_trials(deepcopy=False)):
            self._study._storage.remove_session()
            self.path.unlink(missing_ok=True)


def states(path: pathlib.Path, described: Mapping[str, Any]) -> list[str]:
    """How each trial of a study that is there ended, "begun" of one that did not. Raises UserError where it is another search's."""
    found = opened(path)
    _check_same(found, path, described)
    trials = {t.user_attrs[_PLACE]: t for t in found.get_trials(deepcopy=False) if t.user_attrs.get(_ASKED)}
    return [trials[place].user_attrs.get(_STATUS, "begun") for place in sorted(trials)]


def _check_same(of: Any, path: pathlib.Path, described: Mapping[str, Any]) -> None:
    if changed := differing(of.user_attrs.get(_SEARCH, {}), described):
        raise UserError(
            f"{path} is another search's:{listed(changed, 20)}\nGive what it was begun with, to continue it, or another --out"
        )


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """ "NAME: BEFORE -> NOW" of what two searches have otherwise."""
    names = dict.fromkeys((*now, *before))
    return [
        f"{name}: {_said(before, name)} -> {_said(now, name)}" for name in names if before.get(name) != now.get(name)
    ]


def _said(of: Mapping[str, Any], name: str) -> str:
    return str(of[name]) if name in of else "not there"
