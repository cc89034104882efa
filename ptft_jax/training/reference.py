"""What a run's objective needs of another model, its reference or its teacher, computed once and kept in the cache beside the data."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import jax
import numpy as np

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.data import batches, cache
from ptft_jax.data.packing import Plan
from ptft_jax.data.rows import Rows, RowSet
from ptft_jax.errors import UserError
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.source import Source
from ptft_jax.training.start import Start
from ptft_jax.training.trainer import Trainer

FORM = "reference-2"  # changes with what is computed, and how it is kept
# What of a config decides what is computed of a model, and which model a run starts as, beside its parent's parameters.
_OF_OBJECTIVE = ("objective.preference.tail_weight", "objective.distill.top", "objective.distill.temperature")
_OF_START = ("seed", "tune", "model.dtype", "model.param_dtype")
_DIGEST = hashlib.sha256().digest_size


def check(config: configs.Section, objective: Any, continued: Source | None, tuned: bool) -> None:
    """Raises UserError where the objective would be given another reference than it says, or none.

    Args:
      continued: the checkpoint of another run that the run goes on from with its optimizer.
      tuned: whether the run has a parent.
    """
    if config.objective.name == "distill" and objective.needs_reference and not tuned:
        raise UserError(
            "config.objective.distill.teacher = '': the teacher is then the parent, and init.from names none: name a run, or weights "
            "(hf:FOLDER, gguf:FILE)"
        )
    if continued is not None and objective.needs_reference:
        before = objectives.build(continued.config.objective)
        if objective.precomputed or before.precomputed or not before.needs_reference:
            raise UserError(
                f"config.init.optimizer = True: objective.name = {config.objective.name!r} compares a model with what the run starts from, "
                f"and {continued.name}, which it would go on from, has not kept that for it: with init.optimizer=False a new run starts from "
                "it, and compares with it"
            )
    if not objective.precomputed:
        return
    field = _field(config)
    distills = config.objective.name == "distill"
    if config.tune.adapters and distills:
        raise UserError(
            f"{field}: the teacher is asked once, of rows without adapters: train a run for each of tune.adapters"
        )
    if config.tune.adapters:
        raise UserError(f"{field}: of a run with tune.adapters each step asks the reference: set it to False")
    advice = "name a teacher (objective.distill.teacher)" if distills else "set it to False"
    if jax.process_count() > 1:
        raise UserError(f"{field} is for a single process" + (f": {advice}" if objective.live.needs_reference else ""))


@dataclasses.dataclass(frozen=True)
class Asked:
    """The model that is asked, before its parameters are there.

    Attributes:
      load: gives the model and its whole parameters, as of an objective's `reference_of`; called where something has to be computed.
      place: puts a batch where these are.
      rows: how many rows a batch has: those that a device, or all together, have in a part of a training step.
      key: all that decides what it says of a batch: the fingerprint of its parameters, and how it runs.
      says: what is computed, for people.
      field: what asks for it, for messages.
    """

    load: Callable[[], tuple[Any, Any]]
    place: Callable[[Rows], Any]
    rows: int
    key: tuple[str, ...]
    says: str
    field: str


def start(trainer: Trainer, fingerprint: str, params: Callable[[], Any]) -> Asked:
    """The model that a run starts as, the reference. `fingerprint`: of its parent's parameters, and of an adapter that it starts
    with."""
    per_device = trainer.config.parallel.compile == "pmap"
    place: Callable[[Rows], Any] = jax.device_put if per_device else trainer.program.place
    init = {
        name: value for name, value in trainer.config.as_dict()["init"].items() if name != "from_"
    }  # the fingerprint tells
    key = (fingerprint, json.dumps(init, sort_keys=True, default=list), _settings(trainer, _OF_START))
    rows = rows_at_once(trainer.config, trainer.mesh.size if per_device else 1)
    return Asked(
        lambda: (trainer.model, params()), place, rows, key, "the reference's predictions", _field(trainer.config)
    )


def rows_at_once(config: configs.Section, devices: int) -> int:
    """The rows of a part of a training step that one of so many devices has."""
    return int(max(config.data.batch_size // config.training.micro_batches // devices, 1))


def _field(config: configs.Section) -> str:
    """What asks for a reference that is computed once."""
    if config.objective.name == "distill":
        return "config.objective.name = 'distill'"
    return "config.objective.preference.precompute = True"


def _settings(trainer: Trainer, names: Sequence[str]) -> str:
    values = trainer.config.as_dict()
    return json.dumps([configs.get(values, name) for name in names], sort_keys=True, default=list)


class Reference:
    """Computes, or finds in the cache, what `Objective.reference_of` gives of rows.

    What is kept goes by the model that is asked, what is asked of it, and the rows: their ids, and how they were cut and packed. Nothing
    else is ever taken for it.
    """

    def __init__(
        self,
        trainer: Trainer,
        asked: Asked,
        reporter: Reporter,
        check: Callable[[], None] = lambda: None,
    ):
        """`check` is called before each batch, and may raise to end it."""
        objective = trainer.objective
        self._key = (FORM, type(objective).__name__, *asked.key, _settings(trainer, _OF_OBJECTIVE))
        self._asked, self._reporter, self._check = asked, reporter, check
        self._trainer = trainer

    def of_rows(self, rows: RowSet) -> RowSet:
        """Rows with what the model makes of them."""
        bare = dataclasses.replace(rows, reference=None)
        plan = rows.plan
        if isinstance(plan, Plan):
            cut = (plan.spans.tobytes(), plan.rows.tobytes())
        else:
            cut = (plan.all_spans().tobytes(), b"windows")
        known = ("rows", rows.store.key, *cut, str((rows.length, rows.pairs, rows.segmented)))
        in_order = batches.filled_up(bare, np.arange(len(rows)), self._asked.rows)
        form = like(self._trainer, _first(bare))
        return dataclasses.replace(rows, reference=self._found(known, in_order, len(rows), form))

    def into(self, evaluated: Sequence[Rows]) -> None:
        """Puts what the model makes of them into batches that are evaluated."""
        form = like(self._trainer, evaluated[0])
        bare = [{name: v for name, v in batch.items() if name not in form} for batch in evaluated]
        arrays = [name.encode() + v.tobytes() for batch in bare for name, v in sorted(batch.items())]
        sizes = [len(batch["inputs"]) for batch in bare]
        found = self._found(("batches", str(sizes), *arrays), _cut(bare, self._asked.rows), sum(sizes), form)
        for batch, stop in zip(evaluated, np.cumsum(sizes)):
            batch.update({name: array[stop - len(batch["inputs"]) : stop] for name, array in found.items()})

    def _found(
        self, parts: Sequence[bytes | str], wanted: Iterator[Rows], count: int, form: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Of the first `count` rows of the wanted batches what `form` has, mapped from files."""
        folder = cache.root() / "references"
        paths = {name: folder / f"{cache.digest(*self._key, *parts, name)}.npy" for name in form}
        shapes = {name: (count, *like.shape[1:]) for name, like in form.items()}
        found = {name: _mapped(path, shapes[name], form[name].dtype) for name, path in paths.items()}
        if any(array is None for array in found.values()):
            size = sum(np.dtype(form[name].dtype).itemsize * math.prod(shape) for name, shape in shapes.items())
            self._reporter.say(f"{self._asked.says} of {count:,} rows are computed, {size / 2**20:,.1f} MiB to keep")
            _together(
                list(paths.values()),
                lambda places: self._fill(dict(zip(form, places)), wanted, shapes, form),
            )
            found = {name: _mapped(path, shapes[name], form[name].dtype) for name, path in paths.items()}
        made = {name: array for name, array in found.items() if array is not None}
        assert len(made) == len(form), "what has just been written is there"
        return made

    @functools.cached_property
    def _compute(self) -> Callable[[Rows], dict[str, np.ndarray]]:
        """What the model makes of the rows of a batch."""
        (model, params), objective = self._asked.load(), self._trainer.objective
        compiled = jax.jit(lambda params, batch: objective.reference_of(model, params, batch))
        return lambda batch: jax.device_get(compiled(params, self._asked.place(batch)))

    def _fill(
        self,
        places: Mapping[str, pathlib.Path],
        wanted: Iterator[Rows],
        shapes: Mapping[str, tuple[int, ...]],
        form: Mapping[str, Any],
    ) -> None:
        count = next(iter(shapes.values()))[0]
        done, bar = 0, self._reporter.start(self._asked.says, count)
        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context(_Growing(path, shapes[name], form[name].dtype))
                for name, path in places.items()
            }
            for batch in wanted:
                self._check()
                said = self._compute(batch)
                for name, file in files.items():
                    file.add(self._finite(said[name][: count - done]))
                done = min(done + len(batch["inputs"]), count)
                self._reporter.advance(bar, done, "")
        self._reporter.finish(bar)

    def _finite(self, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(
                f"{self._asked.field}: {self._asked.says} are not finite: that model's parameters, or its dtype, do not suit these rows"
            )
        return values


def pending(trainer: Trainer, sets: Sequence[RowSet]) -> tuple[RowSet, ...]:
    """The same rows with places for what is computed later, which are not numbers until then."""

    def one(rows: RowSet) -> RowSet:
        form = like(trainer, _first(rows))
        return dataclasses.replace(rows, reference={name: _nothing(a, len(rows)) for name, a in form.items()})

    return tuple(map(one, sets))


def pending_in(trainer: Trainer, evaluated: Sequence[Rows]) -> None:
    """As `pending`, of batches that are evaluated."""
    form = like(trainer, evaluated[0])
    for batch in evaluated:
        batch.update({name: _nothing(a, len(batch["inputs"])) for name, a in form.items()})


def like(trainer: Trainer, batch: Rows) -> dict[str, Any]:
    """The form of what `Objective.reference_of` gives of a batch: of any model the same."""
    model = dataclasses.replace(trainer.model, constrain=None)  # it may be a single row
    return dict(
        jax.eval_shape(lambda params, b: trainer.objective.reference_of(model, params, b), trainer.shapes, batch)
    )


def _cut(batches: Sequence[Rows], size: int) -> Iterator[Rows]:
    """The rows of batches, in order, in batches of `size`; the last is filled up with zeros."""
    left: Rows = {name: values[:0] for name, values in batches[0].items()}
    for batch in batches:
        left = {name: np.concatenate([left[name], values]) for name, values in batch.items()}
        while len(left["inputs"]) >= size:
            yield {name: values[:size] for name, values in left.items()}
            left = {name: values[size:] for name, values in left.items()}
    if short := len(left["inputs"]):
        yield {name: np.pad(v, [(0, size - short), *[(0, 0)] * (v.ndim - 1)]) for name, v in left.items()}


def _first(rows: RowSet) -> Rows:
    return rows.batch(np.zeros(1, np.int64), [(0, 0)])


def _nothing(like: Any, count: int) -> np.ndarray:
    value = np.nan if np.dtype(like.dtype).kind == "f" else 0
    return np.broadcast_to(np.asarray(value, like.dtype), (count, *like.shape[1:]))


class _Growing:
    """A .npy file that is written from its beginning to its end, with the SHA-256 of all of it after that."""

    def __init__(self, path: pathlib.Path, shape: tuple[int, ...], dtype: Any):
        self._path, self._hash = path, hashlib.sha256()
        self._header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}

    def __enter__(self) -> _Growing:
        self._file: BinaryIO = self._path.open("wb")
        np.lib.format.write_array_header_2_0(self, self._header)
        return self

    def write(self, data: Any) -> None:
        self._hash.update(data)
        self._file.write(data)

    def add(self, rows: np.ndarray) -> None:
        self.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)

    def __exit__(self, failed: Any, *_: object) -> None:
        if failed is None:
            self._file.write(self._hash.digest())
        self._file.close()


def _mapped(path: pathlib.Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    """What a `_Growing` file of the cache holds; None where there is none, or it is damaged and has to be made again."""
    if not cache.used(path):
        return None
    with contextlib.suppress(OSError, ValueError, EOFError):
        if _whole(path):
            found = np.load(path, mmap_mode="r")
            if found.shape == shape and found.dtype == dtype:
                return np.asarray(found)  # slicing a memmap object costs microseconds more
    return None


def _whole(path: pathlib.Path) -> bool:
    """Whether a file ends with the SHA-256 of what comes before."""
    left, hashed = path.stat().st_size - _DIGEST, hashlib.sha256()
    with path.open("rb") as file:
        while left > 0:
            part = file.read(min(left, 1 << 20))
            if not part:
                return False
            hashed.update(part)
            left -= len(part)
        return file.read() == hashed.digest()


def _together(
    paths: Sequence[pathlib.Path],
    fill: Callable[[Sequence[pathlib.Path]], None],
    places: tuple[pathlib.Path, ...] = (),
) -> None:
    """`cache.write_atomic` of several files that are filled at once."""
    if not paths:
        fill(places)
        return
    cache.write_atomic(paths[0], lambda place: _together(paths[1:], fill, (*places, place)))


def whole(trainer: Trainer, state: Any) -> Any:
    """The whole parameters of a state of the loop's."""
    logical = trainer.program.whole(state)
    return trainer.partition.merge(logical.trainable, logical.frozen)


def begun(trainer: Trainer, start: Start, fingerprint: str) -> Any:
    """The whole parameters that a run, which goes on, began with; its parent had this fingerprint. Raises UserError where it has another
    now."""
    trainable, found = start.trainable(fingerprint)
    if found != fingerprint:
        raise UserError(
            f"{_field(trainer.config)}: the parent has changed since the run was started, and the cache has lost what was computed of it"
        )
    return trainer.partition.merge(trainable, start.frozen(fingerprint)[0])
