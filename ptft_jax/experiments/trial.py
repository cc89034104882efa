"""A run that is a trial of a search: what its evaluations give goes to the study, whose pruner may end it. Where it is carried out."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ptft_jax.experiments import study as studies
from ptft_jax.runs import files
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training.hooks import Moment


class Trial:
    """One trial, in the process that carries its run out.

    Attributes:
      pruned: why the run was ended, "" where it was not.
    """

    def __init__(self, folder: pathlib.Path, asked: Mapping[str, Any]):
        """
        Args:
          folder: the run's.
          asked: {"study": file, "trial": number in it, "metric", "pruner": its name, "least": see `studies.pruner`}.
        """
        self._here, self._asked, self.pruned = Workdir(folder), asked, ""
        study = studies.opened(pathlib.Path(asked["study"]))
        study.pruner = studies.pruner(asked["pruner"], asked["least"])
        self._trial = studies.at(study, asked["trial"])

    def ended(self) -> str:
        """Why it is not to go on: it was pruned, and its process ended before that was told; else ""."""
        found = self._here.read_pruned()
        return _words(found) if found.get("trial") == self._asked["trial"] else ""

    def check(self, run: Any) -> None:
        """Raises NoMetric where an assembled run does not give the metric."""
        prunes = self._asked["pruner"] != studies.NONE
        run.check_metric(self._asked["metric"], "--metric", on_the_way=prunes)

    @property
    def hooks(self) -> list[tuple[Callable[[Moment], bool], Callable[[Moment], None]]]:
        """Of the run."""
        return [(lambda at: at.evaluates and not at.first, self._report)]

    def _report(self, at: Moment) -> None:
        metric = self._asked["metric"]
        for step, value in (*evaluations(self._here, metric), (at.step, at.evaluated.get(metric))):
            if value is not None and step <= at.step:
                studies.report(self._trial, step, value)
        if metric not in at.evaluated or at.last or not self._trial.should_prune():
            return
        found = {"step": at.step, "metric": metric, "value": at.evaluated[metric], "trial": self._asked["trial"]}
        files.write_json(self._here.pruned, found)
        self.pruned = _words(found)
        at.leave()


def evaluations(here: Workdir, metric: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, of each evaluation after the first that a run has written down."""
    return [
        (row["step"], row[metric])
        for row in here.read_metrics()
        if row["kind"] == "eval" and row["step"] and metric in row
    ]


def _words(found: Mapping[str, Any]) -> str:
    return f"at step {found['step']}, with {found['metric']} {found['value']:.4g}"
