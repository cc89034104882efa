"""Experiments: graphs of runs in one folder. A finished run is never run again."""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax import config as configs
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import meant, places
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, completion


class Experiment:
    """Runs by name below `folder`/runs. Launching it again continues where it stopped.

    A run is reused when its config is the same and its parent is still the run it started from; else the old folder is
    moved aside (NAME.old, NAME.old+, ...), never deleted.
    """

    def __init__(self, folder: str | pathlib.Path, reporter: Reporter):
        self.folder, self.reporter = places.local(folder, f"--out={folder}"), reporter
        self._bar: int | None = None
        self._done = 0

    def workdir(self, name: str) -> pathlib.Path:
        """Where the run `name` lives."""
        return self.folder / "runs" / name

    def expect(self, total: int) -> None:
        """Shows a bar over so many runs, in place of the one before."""
        self.reporter.finish(self._bar)
        self._bar = self.reporter.start(self.folder.name, total, self._done)

    def run(self, name: str, config: configs.Config) -> dict[str, Any]:
        """The summary of the run, which is carried out only if it has not been.

        Raises:
          UserError: anything wrong with the config.
          NonFinite: a loss that is not finite (`ptft_jax.training.loop`).
        """
        workdir = self.workdir(name)
        here = Workdir(workdir)
        if workdir.exists() and not self._is_current(workdir, config):
            aside = workdir.with_name(workdir.name + ".old")
            while aside.exists():
                aside = aside.with_name(aside.name + "+")
            workdir.rename(aside)
            self.reporter.say(f"{workdir} was made with another config or parent: moved to {aside.name}")
        summary = here.read_summary() if here.is_run else None
        if summary is None:
            summary = assembly.train(config, workdir, reporter=self.reporter)
        if not summary["finished"]:
            raise Interrupted(summary["reason"])
        self._done += 1
        self.reporter.advance(self._bar, self._done, f"{name} done")
        return summary

    def _is_current(self, workdir: pathlib.Path, config: configs.Config) -> bool:
        here = Workdir(workdir)
        if not here.is_run:
            return not any(workdir.iterdir())
        section, parent = completion.resolve(config)
        before = here.read_config()
        if section.training.epochs and section.training.epochs == before.training.epochs:
            section = configs.counted(section, before.training.steps)
        if before.as_dict() != meant.spelled(workdir, section).as_dict():
            return False
        chain = here.read_lineage()
        came_from = completion.continued(section) or parent
        if not came_from:
            return True
        now = came_from.lineage("")[0]
        return bool(chain) and all(chain[0].get(k) == now.get(k) for k in ("run_id", "reference"))


class Interrupted(Exception):
    """A run was asked to stop (SIGTERM); launching the experiment again continues it."""


def with_changes(config: configs.Config, **changes: Any) -> configs.Config:
    """A copy of a config with dotted fields changed: with_changes(c, **{"data.length": 64}). Raises UserError."""
    values = configs.check(config, complete=False).as_dict()
    for path, value in changes.items():
        path = "init.from_" if path == "init.from" else path
        section = values
        *parents, last = path.split(".")
        for key in parents:
            section = section.setdefault(key, {})
        section[last] = value
    out = configs.of(values, suggested_by=config)
    configs.own(out, changes)
    return out
