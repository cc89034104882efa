"""Where steps are compiled: by `jit` over a mesh, or, kept beside it, per device by `pmap`.

Both forms have the same methods and give the same losses; the loop does not know which it runs. A run whose phases train
different parameters has a program each for training, of states of one form; it is compiled when it is first run.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ptft_jax.objectives import correlation
from ptft_jax.parallel.compile import donating
from ptft_jax.parallel.sharding import Rows
from ptft_jax.params import phases
from ptft_jax.runs.state import TrainState
from ptft_jax.training.step import Step, check

Later = Sequence[tuple[int, Step]]
Compiled = Callable[..., Any]  # a function of arrays, compiled when it is first called


class Evaluations(NamedTuple):
    """Compiled evaluations, `(state, batch) -> metrics`, see `ptft_jax.training.step.Step`, and what puts a batch on devices."""

    evaluate: Compiled
    evaluate_raw: Compiled
    place: Callable[[dict[str, np.ndarray]], dict[str, Any]]


class Program(Protocol):
    """The compiled steps of a run. `state` is of the form of the loop's: see `whole`.

    Attributes:
      shardings: of the state.
      at: gives the training step of the update of a number, counted from 0: `(state, batch) -> (state, metrics)`.
      train: that of the first phase.
      evaluate, evaluate_raw: `(state, batch) -> metrics`, see `ptft_jax.training.step.Step`.
    """

    @property
    def shardings(self) -> Any: ...

    @property
    def at(self) -> Callable[[int], Compiled]: ...

    @property
    def train(self) -> Compiled: ...

    @property
    def evaluate(self) -> Compiled: ...

    @property
    def evaluate_raw(self) -> Compiled: ...

    def evaluations(self, step: Step) -> Evaluations:
        """Those of another step on the same state."""

    def create(self, make: Callable[..., Any], *args: Any, donate: Sequence[int] = ()) -> Any:
        """The state that `make` gives from `args`; those of the numbers in `donate` are given up."""

    def adopt(self, state: Any) -> Any:
        """A whole state that was made elsewhere."""

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """This process' rows of a batch, put on its devices."""

    def check(self, state: Any, rows: dict[str, jax.ShapeDtypeStruct]) -> None:
        """Raises UserError where the step of a phase would change its state's form."""

    def ahead(self, state: Any, rows: dict[str, jax.ShapeDtypeStruct], step: int) -> None:
        """Begins to compile the training step of update `step`, while other programs are made and run; the arguments are of `check`."""

    def wait(self) -> None:
        """Blocks until that is done."""

    def whole(self, state: Any) -> Any:
        """The state as one logical tree, as checkpoints hold it."""

    def spread(self, state: Any) -> Any:
        """The inverse of `whole`."""


class _Phases:
    """The compiled training step of each phase of a run."""

    def __init__(self, step: Step, later: Later, compiled: Callable[[Compiled], Compiled]):
        self._starts = [0, *(start for start, _ in later)]
        self.steps = [step, *(other for _, other in later)]
        self._trains = [compiled(one.train) for one in self.steps]

    def check(self, state: Any, batch: dict[str, Any], compiled: bool) -> None:
        """See `JitProgram.check`; traces what is `compiled` later, which keeps the trace, or the step itself."""
        for start, step, train in zip(self._starts, self.steps, self._trains):
            check(train if compiled else step.train, state, batch, f"the phase from step {start} on" if start else "")

    def at(self, step: int) -> Compiled:
        """`(state, batch) -> (state, metrics)` for the update number `step`, counted from 0."""
        return self._trains[phases.at(self._starts, step)]


class JitProgram:
    """One logical program over all devices; the compiler inserts the communication that the shardings imply."""

    def __init__(self, step: Step, mesh: Mesh, shardings: Any, later: Later = ()):
        """`later` are the steps of further phases of the run, and the updates they begin with. An optimizer's state whose sharding is of
        another memory is on its device during a step."""
        rows = Rows(mesh).sharding
        self._rows, self._copied = rows, NamedSharding(mesh, PartitionSpec())
        self.shardings = shardings
        self._phases = _Phases(
            step,
            later,
            lambda train: jax.jit(
                _fetched(train, shardings.optimizer),
                in_shardings=(shardings, rows),
                out_shardings=(shardings, None),
                donate_argnums=0,
            ),
        )
        self.at, self.train = self._phases.at, self._phases.at(0)
        self.evaluate, self.evaluate_raw, _ = self.evaluations(step)
        self._ahead: concurrent.futures.Future[Any] | None = None

    def evaluations(self, step: Step) -> Evaluations:
        """As of `Program`."""
        evaluate, raw = (
            jax.jit(one, in_shardings=(self.shardings, self._rows), out_shardings=self._copied)
            for one in (step.evaluate, step.evaluate_raw)
        )
        return Evaluations(evaluate, raw, self.place)

    def create(self, make: Callable[..., Any], *args: Any, donate: Sequence[int] = ()) -> Any:
        """The state, born sharded: `make` is compiled with its output's shardings. Arguments of the numbers in `donate` are given
        up: what the state takes from them as it is, is not copied."""
        return donating(make, self.shardings, donate)(*args)

    def adopt(self, state: Any) -> Any:
        """A whole state that was made elsewhere. What lies as it should is not copied."""
        return jax.device_put(state, self.shardings)

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process' rows of a batch, put on its devices as part of one global array."""
        return {k: jax.make_array_from_process_local_data(self._rows, v) for k, v in batch.items()}

    def check(self, state: Any, rows: dict[str, jax.ShapeDtypeStruct]) -> None:
        """Raises UserError where the step of a phase would change its state's form; nothing is compiled or run.

        Args:
          state: of the form of the loop's; likewise `rows`, those of all processes.
        """
        self._phases.check(state, self.placed(rows), compiled=True)

    def ahead(self, state: Any, rows: dict[str, jax.ShapeDtypeStruct], step: int) -> None:
        """As of `Program`. Not on a GPU, whose compiler times kernels while it chooses among them, nor for several processes, which
        compile in one order."""
        if jax.process_count() > 1 or self._rows.mesh.devices.flat[0].platform == "gpu":
            return
        train: Any = self.at(step)
        thread = concurrent.futures.ThreadPoolExecutor(1, "compile_step")
        self._ahead = thread.submit(lambda: train.lower(state, self.placed(rows)).compile())
        thread.shutdown(wait=False)

    def wait(self) -> None:
        """As of `Program`. What went wrong is raised where the step is called, and so compiled again."""
        if self._ahead is not None:
            self._ahead.exception()
            self._ahead = None

    def placed(self, rows: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """The forms of a batch of all processes, with where its rows lie."""
        return {k: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._rows) for k, a in rows.items()}

    def whole(self, state: Any) -> Any:
        """The state as one logical tree, as checkpoints hold it."""
        return state

    def spread(self, state: Any) -> Any:
        """The inverse of `whole`."""
        return state


class PmapProgram:
    """Every device runs the same step on its own rows and adds up gradients by hand: data-parallel, state copied."""

    def __init__(self, step: Step, mesh: Mesh, shardings: Any, later: Later = ()):
        """`later` as of `JitProgram`."""
        self.shardings = shardings
        self._copied = NamedSharding(mesh, PartitionSpec())
        self._devices = list(mesh.devices.flat)
        self._stacked = NamedSharding(Mesh(np.asarray(self._devices), ("rows",)), PartitionSpec("rows"))
        # One program: of one per leaf, with sums over devices each, many would wait for threads that hold one another up.
        self._first = jax.jit(lambda tree: jax.tree.map(lambda x: x[0], tree), out_shardings=self._copied)
        self._copies = jax.jit(
            lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x[None], (len(self._devices), *x.shape)), tree),
            out_shardings=self._stacked,
        )
        self._phases = _Phases(
            step,
            later,
            lambda train: jax.pmap(
                functools.partial(train, axis="rows"), "rows", devices=self._devices, donate_argnums=0
            ),
        )
        self.at, self.train = self._phases.at, self._phases.at(0)
        self.evaluate, self.evaluate_raw, _ = self.evaluations(step)

    def evaluations(self, step: Step) -> Evaluations:
        """As of `Program`."""
        return Evaluations(self._summed(step.evaluate), self._summed(step.evaluate_raw), self.place)

    def _summed(self, evaluate: Compiled) -> Compiled:
        def together(*args: Any) -> dict[str, Any]:
            found = evaluate(*args)
            rows = found.pop(correlation.ROWS, None)
            summed = jax.lax.psum(found, "rows")
            return (
                summed if rows is None else {**summed, correlation.ROWS: jax.lax.all_gather(rows, "rows", tiled=True)}
            )

        return jax.pmap(together, "rows", devices=self._devices)

    def create(self, make: Callable[..., Any], *args: Any, donate: Sequence[int] = ()) -> Any:
        return self.spread(donating(make, self._copied, donate)(*args))

    def adopt(self, state: Any) -> Any:
        return self.spread(state)

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        devices = sum(d.process_index == jax.process_index() for d in self._devices)
        return {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}

    def check(self, state: Any, rows: dict[str, jax.ShapeDtypeStruct]) -> None:
        """As `JitProgram.check`."""
        self._phases.check(state, rows, compiled=False)

    def ahead(self, state: Any, rows: dict[str, jax.ShapeDtypeStruct], step: int) -> None:
        """Does nothing: what `pmap` compiles is not found again by a call."""

    def wait(self) -> None:
        """As of `Program`: at once."""

    def whole(self, state: Any) -> Any:
        return self._first(state)

    def spread(self, state: Any) -> Any:
        return self._copies(state)


def _fetched(train: Compiled, shardings: Any) -> Compiled:
    """A step whose state has the optimizer's part where `shardings` say; it is put on the devices first."""
    if all(s.memory_kind in (None, "device") for s in jax.tree.leaves(shardings)):
        return train

    def moved(state: TrainState, batch: Any) -> Any:
        near = jax.device_put(state.optimizer, jax.tree.map(lambda s: s.with_memory_kind("device"), shardings))
        return train(dataclasses.replace(state, optimizer=near), batch)

    return moved


PROGRAMS: dict[str, Callable[[Step, Mesh, Any, Later], Program]] = {"jit": JitProgram, "pmap": PmapProgram}
