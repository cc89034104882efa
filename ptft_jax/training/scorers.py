"""The models that score a run's answers (`ptft_jax.rewards.models`): at which step of its own run each was when the run began, and stays."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Verifier, named
from ptft_jax.runs import meant
from ptft_jax.runs import source as restore
from ptft_jax.runs.files import write_json
from ptft_jax.runs.workdir import Workdir


def pinned(config: configs.Section, workdir: pathlib.Path, moved: bool = False) -> dict[str, str]:
    """What a model is known by (`Verifier.models`) -> the checkpoint that is asked, of a run in `workdir` that has begun; {} of others, and
    of such of earlier versions. `moved`: as of `ptft_jax.runs.meant.spelled`.

    Raises:
      UserError: that checkpoint is gone, or is another model's.
    """
    here = Workdir(workdir)
    if not here.is_run or not here.begun():
        return {}
    found, scorers = {}, here.read_scorers()
    if not scorers:
        return {}
    begun, now_said = (
        here.read_config().as_dict()["rewards"],
        meant.spelled(pathlib.Path(workdir), config, moved).as_dict()["rewards"],
    )
    for name, was in scorers.items():
        setting, given = named(config.rewards, name)
        field = f"config.rewards.{setting}"
        if given is None or named(begun, name) != named(now_said, name):
            continue  # another model: the run is refused for its config
        found[name] = restore.at_step(given, was["step"])
        began = f"the run in {workdir} began with step {was['step']} of it to score answers"
        try:
            now = restore.find_run(found[name], field)
        except UserError as e:
            raise UserError(
                f"{field} = {given!r}: {began}, and it is not there any more ({e}): put it back, or begin another run (init.from)"
            ) from e
        if now.meta["fingerprint"] != was["fingerprint"]:
            raise UserError(
                f"{field} = {given!r}: {began}, which is another model now: scores of two models do not compare; put it back, or begin another run "
                "(init.from)"
            )
    return found


def record(verifiers: Iterable[Verifier], workdir: pathlib.Path) -> list[str]:
    """Writes down which checkpoints score the answers of the run in `workdir`, before its first step, and protects them as a parent is.
    Returns what people should know of that."""
    models: dict[str, Any] = {name: model for verifier in verifiers for name, model in verifier.models().items()}
    runs = {name: model for name, model in models.items() if isinstance(model, restore.Source)}
    if runs or Workdir(workdir).scorers.is_file():
        write_json(Workdir(workdir).scorers, {name: _known(run) for name, run in runs.items()})
    return list(filter(None, (restore.protect(run, workdir) for run in runs.values())))


def _known(run: restore.Source) -> Mapping[str, Any]:
    return {"reference": run.name, "step": run.step, "fingerprint": run.meta["fingerprint"]}
