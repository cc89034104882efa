"""What experiments that end in a report of their own share: flags, how their graph is carried out, and what the report ends with."""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags

from ptft_jax.errors import few
from ptft_jax.verbs import carrying


def define(out: str, seeds: str, *, fewest: int = 2, takes: str = "minutes") -> None:
    """The flags of an experiment: --seeds, --size and those of `ptft experiment`.

    Args:
      out: the default of --out.
      seeds: what there are so many of.
      fewest: the least that --seeds may be.
      takes: how long it takes on two CPU cores.
    """
    carrying.define(out)
    flags.DEFINE_integer("seeds", 3, seeds, lower_bound=fewest)
    flags.DEFINE_enum("size", "demo", ["demo", "tiny"], f"demo: {takes} on two CPU cores; tiny: only to see it run.")


# File beside an experiment's own report -> what that is, for a link.
GRAPH = (
    "experiment.html",
    "All runs side by side: their curves, graph and cost, and the command that carries them out again",
)


@dataclasses.dataclass(frozen=True)
class Carried:
    """A graph that was carried out.

    Attributes:
      folder: of the experiment.
      outcomes: how each node ended, as `ptft_jax.experiments.launch.launch` returns it.
    """

    folder: pathlib.Path
    outcomes: Mapping[str, Mapping[str, Any]]

    def place(self, name: str) -> pathlib.Path:
        """The folder of a node, which may lie in another experiment's."""
        return self.folder / self.outcomes[name]["folder"]

    def summary(self, name: str) -> dict[str, Any] | None:
        """What a run came to; None where it diverged."""
        return self.finished(name) if self.outcomes[name]["status"] == "finished" else None

    def finished(self, name: str) -> dict[str, Any]:
        """What a run came to that finished."""
        from ptft_jax.runs.workdir import Workdir

        summary = Workdir(self.place(name)).read_summary()
        assert summary is not None
        return summary

    def values(self, name: str) -> Any:
        """What an evaluation or a call returned."""
        from ptft_jax.experiments.store import Kept

        kept = Kept.read(self.place(name))
        assert kept is not None and kept.result is not None
        return kept.result["values"]

    def recipe(self, name: str) -> dict[str, Any]:
        """What a merge was made of, and how."""
        from ptft_jax.runs.files import read_json
        from ptft_jax.runs.workdir import Workdir

        return read_json(Workdir(self.place(name)).recipe)


def carry_out(graph: Any, reporter: Any, *, may_diverge: bool = False) -> Carried:
    """Carries a graph out as the flags say.

    Args:
      may_diverge: whether a run whose loss is not finite is a result of this experiment.

    Raises:
      UserError: anything wrong with the flags or the graph.
      SystemExit: there is nothing to report: --dry_run was answered (status 0), a node came to no result (1), which is said, or it was asked
        to leave (130, 143).
    """
    from ptft_jax.experiments.scheduler import Stopped
    from ptft_jax.runs import places

    carrying.check()
    if flags.FLAGS.dry_run:
        carrying.look(graph)
        raise SystemExit(0)
    folder = places.local(flags.FLAGS.out, f"--out={flags.FLAGS.out}")
    try:
        with contextlib.nullcontext() if reporter.active else reporter:
            outcomes = carrying.launch(graph, reporter, show=False)
    except Stopped as e:
        reporter.say(f"{e}; the same command continues")
        raise SystemExit(e.status) from None
    results = ("finished", "diverged") if may_diverge else ("finished",)
    missing = [f"{n} {o['status']} ({o['message']})" for n, o in outcomes.items() if o["status"] not in results]
    if missing:
        reporter.say(f"there is no report: {few(missing, 3)}")
        raise SystemExit(1)
    return Carried(folder, outcomes)


@contextlib.contextmanager
def on_data(folder: pathlib.Path, declare: Callable[[pathlib.Path], Any]) -> Iterator[Any]:
    """The graph that `declare` makes of data that it writes into a folder. --dry_run writes nothing there: where they are not there yet, they
    lie elsewhere as long as the context lasts. Raises UserError for flags that do not go together, before anything is written."""
    carrying.check()
    if not flags.FLAGS.dry_run:
        yield declare(folder)
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        graph = declare(pathlib.Path(elsewhere))
        yield declare(folder) if _same(pathlib.Path(elsewhere), folder) else graph


def _same(written: pathlib.Path, there: pathlib.Path) -> bool:
    """Whether a folder has all files of another, as they are there."""
    names = [str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()]
    return all(filecmp.cmpfiles(written, there, [name], shallow=False)[0] for name in names)


def footer(results: Mapping[str, Any]) -> str:
    """What the figures were made with, of results with "environment" and "seconds"."""
    e = results["environment"]
    packages = ", ".join(
        f"{k} {v}" for k, v in e["packages"].items() if k in ("jax", "flax", "optax", "orbax-checkpoint")
    )
    return (
        f"ptft_jax {e['ptft_jax']} {e['revision'][:12]}, Python {e['python']}, {packages}, on {', '.join(e['devices'])}; all runs "
        f"together {results['seconds']:.0f} s. Every figure is in results.json beside this file."
    )
