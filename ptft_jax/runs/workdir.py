"""A run on disk: the only home of the names of its files, and what each of them says."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from ptft_jax import config as configs
from ptft_jax.config import plugins, renamed
from ptft_jax.errors import UserError, nearest
from ptft_jax.runs import files


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The folder of a run. Names of its files are attributes; `read_` methods say what is in them.

    Written before the first step: `environment`, `lineage`, `teacher`, `scorers`, `partition`, `data`, the tokenizer's files, and last `config`,
    which marks the folder as a run's. Written meanwhile: `metrics`, `samples`, `answers`, `rollout`s, `events`, `checkpoints`, `progress`. Written at
    the end: `summary`.
    """

    path: pathlib.Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", pathlib.Path(self.path))

    @property
    def config(self) -> pathlib.Path:
        return self.path / "config.json"

    @property
    def environment(self) -> pathlib.Path:
        return self.path / "environment.json"

    @property
    def lineage(self) -> pathlib.Path:
        return self.path / "lineage.json"

    @property
    def teacher(self) -> pathlib.Path:
        """The teacher that it learned from, where it had one."""
        return self.path / "teacher.json"

    @property
    def scorers(self) -> pathlib.Path:
        """The runs whose models score its answers, where there are such."""
        return self.path / "scorers.json"

    @property
    def partition(self) -> pathlib.Path:
        """What trained and what was frozen."""
        return self.path / "partition.json"

    @property
    def data(self) -> pathlib.Path:
        """What it was trained on, a row per source."""
        return self.path / "data.json"

    @property
    def metrics(self) -> pathlib.Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> pathlib.Path:
        return self.path / "samples.jsonl"

    @property
    def pictures(self) -> pathlib.Path:
        """Images beside what the run makes of them (`ptft_jax.evaluation.gallery`)."""
        return self.path / "pictures.jsonl"

    @property
    def answers(self) -> pathlib.Path:
        """What was answered to prompts of data, and how good that is."""
        return self.path / "answers.jsonl"

    def rollout(self, number: int) -> pathlib.Path:
        """Answers that were sampled for training, and what they were rewarded with (`ptft_jax.training.rollout_files`)."""
        return self.path / "rollouts" / f"{number:06d}.jsonl"

    @property
    def events(self) -> pathlib.Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def trackers(self) -> pathlib.Path:
        """What the run is at the services that track it (`ptft_jax.reporting.trackers.relay`)."""
        return self.path / "trackers.json"

    @property
    def profile(self) -> pathlib.Path:
        """Traces of some steps (`ptft_jax.training.profile`)."""
        return self.path / "profile"

    @property
    def summary(self) -> pathlib.Path:
        return self.path / "summary.json"

    @property
    def recipe(self) -> pathlib.Path:
        """What a combined model was made of."""
        return self.path / "combine.json"

    @property
    def node(self) -> pathlib.Path:
        """What it is in an experiment, and what it came to (`ptft_jax.experiments.store`)."""
        return self.path / "node.json"

    @property
    def pruned(self) -> pathlib.Path:
        """Where a search ended it before its end (`ptft_jax.experiments.trial`): it stands there until it goes on."""
        return self.path / "pruned.json"

    @property
    def moved(self) -> pathlib.Path:
        """Where its data lie now (`ptft_jax.experiments.data_places`)."""
        return self.path / "moved.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def damaged(self) -> pathlib.Path:
        """Where damaged checkpoints are moved to."""
        return self.path / "checkpoints-damaged"

    @property
    def progress(self) -> pathlib.Path:
        """The last step that was saved, kept beside the checkpoints: it shows where all of them were lost."""
        return self.path / "progress.json"

    @property
    def owner(self) -> pathlib.Path:
        """Who runs it now (`ptft_jax.runs.lease`)."""
        return self.path / "owner.json"

    @property
    def references(self) -> pathlib.Path:
        """Which steps others need (`ptft_jax.runs.pins`)."""
        return self.path / "references"

    def checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(self.path.absolute() / "checkpoints" / str(step))

    @property
    def hung(self) -> pathlib.Path:
        """Where each process of a run that did not go on any more was."""
        return self.path / "hung"

    def nonfinite(self, step: int) -> pathlib.Path:
        """The batch at which the loss or its gradient was not finite."""
        return self.path / f"nonfinite_step_{step}.npz"

    @property
    def is_run(self) -> bool:
        return self.config.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended, so that its checkpoints stay as they are."""
        return self.summary.is_file()

    def check(self, field: str = "") -> None:
        """Raises UserError for a folder that holds no run, with the nearest beside it that does; `field` is what it was given as."""
        if not self.is_run:
            name = str(self.path)
            if name.startswith(("hf:", "gguf:")):
                raise UserError(
                    f"{f'{field}={name}' if field else name}: weights, which have no record of a training; name a run"
                )
            whole = Workdir(pathlib.Path(name.rpartition("@")[0])) if "@" in name else self
            if whole.is_run:
                raise UserError(
                    f"{f'{field}={name}' if field else name}: this is of whole runs: name it as {whole.path}"
                )
            parent = self.path.parent
            beside = [str(p) for p in sorted(parent.iterdir()) if Workdir(p).is_run] if parent.is_dir() else []
            given = f"{field}={self.path}" if field else str(self.path)
            raise UserError(f"{given}: no run there (no {self.config.name}){nearest(str(self.path), beside)}")

    def steps(self) -> list[int]:
        """Steps with a completed checkpoint, oldest first. Half-written ones have another name and do not count."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(int(p.name) for p in self.checkpoints.iterdir() if p.name.isdigit() and p.is_dir())

    def begun(self) -> bool:
        """Whether there is anything of a run but what is recorded before its first step, so that another config would be another
        run: a checkpoint, if only a damaged one, a row of a later step, or a summary."""
        return bool(
            self.steps() or self.damaged.is_dir() or self.is_finished or any(row["step"] for row in self.read_metrics())
        )

    # What the files say. Raise UserError, naming the file, where it is damaged.

    def recorded_config(self) -> dict[str, Any]:
        """The resolved config as nested dicts, by today's names: what it says, with no check that this version can carry it out,
        and without its plugins."""
        return renamed.current(files.read_json(self.config))

    def read_config(self) -> configs.Section:
        """The resolved config, checked."""
        try:
            with plugins.never_from(self.path):
                return configs.check(self.recorded_config())
        except UserError as e:
            raise UserError(str(e) if str(self.config) in str(e) else f"{self.config}: {e}") from e

    def read_summary(self) -> dict[str, Any] | None:
        """None of a run that has not finished."""
        return _known(self.summary)

    def read_lineage(self) -> list[dict[str, Any]]:
        """The chain of checkpoints that the run came from, nearest first; [] where it began with random parameters."""
        return _known(self.lineage) or []

    def read_teacher(self) -> dict[str, Any]:
        """{"reference", "step" of a run}; {} where it had none."""
        return _known(self.teacher) or {}

    def read_scorers(self) -> dict[str, dict[str, Any]]:
        """{verifier: {"reference", "step", "fingerprint"}}; {} where no run scores its answers."""
        return _known(self.scorers) or {}

    def read_data(self) -> list[dict[str, Any]]:
        """What it was trained on, a row per source; [] where that is not known."""
        return _known(self.data) or []

    def read_pruned(self) -> dict[str, Any]:
        """{"step", "metric", "value", "trial"} of a run that a search ended where it stands; {} of others."""
        found = {} if self.is_finished else _known(self.pruned) or {}
        return found if found and self.steps()[-1:] == [found["step"]] else {}

    def read_moved(self) -> dict[str, Any]:
        """{"folder", from which paths are seen, "settings": dotted name -> value} of a run whose data were moved; {} of others."""
        return _known(self.moved) or {}

    def write_moved(self, folder: str, settings: Mapping[str, Any]) -> None:
        files.write_json(self.moved, {"folder": folder, "settings": dict(settings)})

    def read_partition(self) -> list[dict[str, Any]]:
        return files.read_json(self.partition)

    def read_recipe(self) -> dict[str, Any] | None:
        """None of a run that was trained."""
        return _known(self.recipe)

    def read_metrics(self) -> list[dict[str, Any]]:
        return files.read_rows(self.metrics)

    def read_samples(self) -> list[dict[str, Any]]:
        return files.read_rows(self.samples)

    def read_pictures(self) -> list[dict[str, Any]]:
        return files.read_rows(self.pictures)

    def read_answers(self) -> list[dict[str, Any]]:
        return files.read_rows(self.answers)

    @property
    def run_id(self) -> str:
        """The id a run was given when it was started; another run in the same folder has another. "" where there is none."""
        return (_known(self.environment) or {}).get("run_id", "")

    @property
    def begun_in(self) -> str:
        """The folder in which the run was begun, from which its config's relative paths count; "" where that is not known."""
        return (_known(self.environment) or {}).get("folder", "")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The folder of one checkpoint, beside what Orbax keeps in it."""

    path: pathlib.Path

    @property
    def manifest(self) -> pathlib.Path:
        """Its files, with size and digest (`ptft_jax.runs.manifest`)."""
        return self.path / "files.json"

    @property
    def amended(self) -> pathlib.Path:
        """What was found out after it was saved."""
        return self.path / "amended.json"


def _known(path: pathlib.Path) -> Any:
    return files.read_json(path) if path.is_file() else None
