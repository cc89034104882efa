"""How soon does a small model of characters reach nanoGPT's loss on a CPU?

Trains on the first nine tenths of a text and measures on the rest, as nanoGPT does on Shakespeare: by its own recipe, which comes to
a validation loss of 1.88 in 2,000 steps, and by ours, with several seeds each. Writes results.json and report.html. The text is
a file, such as the 1.1 MB of Shakespeare that nanoGPT reads (input.txt).

  python -m experiments.characters --text=input.txt --out=runs/characters
"""

from __future__ import annotations

import pathlib
import statistics
from typing import Any

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.verbs.command import TERMINATED, launch, prepare_experiment

RECIPES = ("cpu", "cpu_fast")
TARGET = 1.88  # nanoGPT's README, on Shakespeare
TRAIN = 0.9


def define() -> None:
    flags.DEFINE_string("text", "", "The file that is learned.")
    flags.DEFINE_string("out", "runs/characters", "Folder of the experiment.")
    flags.DEFINE_integer("seeds", 3, "Runs of each recipe.", lower_bound=1)
    flags.DEFINE_enum("size", "demo", ["demo", "tiny"], "demo: minutes on two CPU cores; tiny: only to see it run.")


def main() -> int:
    args = flags.FLAGS
    if not args.text:
        raise UserError("--text is missing: the file that is learned, e.g. --text=input.txt")
    prepare_experiment()
    from ptft_jax.experiments.graph import Experiment, Interrupted
    from ptft_jax.reporting import plots  # noqa: F401  # needs an extra: said before anything is trained
    from ptft_jax.reporting.progress import Reporter

    reporter = Reporter()
    experiment = Experiment(args.out, reporter)
    parted = split(pathlib.Path(args.text), experiment.folder / "text")
    summaries: dict[str, list[dict[str, Any]]] = {name: [] for name in RECIPES}
    try:
        with reporter:
            experiment.expect(len(RECIPES) * args.seeds)
            for seed in range(args.seeds):
                for name in RECIPES:
                    config = config_of(name, parted, seed, args.size)
                    summaries[name].append(experiment.run(f"{name}-seed{seed}", config))
    except Interrupted as e:
        reporter.say(f"stopped by {e}; the same command continues")
        return TERMINATED
    write(experiment, summaries)
    return 0


def split(text: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Writes the first nine tenths of a text's characters to `folder`/train.txt and the rest to validation.txt; returns the folder.

    Raises:
      UserError: a text that there is not, or that is not UTF-8.
    """
    from ptft_jax.runs.files import keep_text

    try:
        whole = text.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--text={text}: {e}") from e
    at = int(TRAIN * len(whole))
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", whole[:at]), ("validation", whole[at:])):
        keep_text(folder / f"{name}.txt", part)
    return folder


def config_of(recipe: str, source: pathlib.Path, seed: int, size: str) -> Any:
    """The config of a run."""
    import ptft_jax as pt

    config = pt.recipe(f"pretrain/characters:{recipe},text:{source}")
    config.seed = seed
    if size == "tiny":
        config.model.update(layers=1, width=32, heads=2)
        config.training.steps = 8
        config.optimizer.warmup_steps = 2
        config.eval.update(every=4, tokens=500)
    return config


def curve(summary: dict[str, Any], rows: list[dict[str, Any]]) -> list[list[float]]:
    """[seconds of training, validation loss] at each evaluation: steps count as long as the run's mean step took."""
    step = summary["seconds_by"]["steps"] / summary["step"]
    return [
        [row["step"] * step, row["validation/nll"]] for row in rows if row["kind"] == "eval" and "validation/nll" in row
    ]


def results_of(
    summaries: dict[str, list[dict[str, Any]]], curves: dict[str, list[list[list[float]]]]
) -> dict[str, Any]:
    """{"target", "recipes": {name: {"steps", "losses": at the last step of each seed, "seconds": median of the steps', "curves"}}}."""
    recipes = {
        name: {
            "steps": runs[0]["step"],
            "losses": [run["last"]["validation/nll"] for run in runs],
            "seconds": statistics.median(run["seconds_by"]["steps"] for run in runs),
            "curves": curves[name],
        }
        for name, runs in summaries.items()
    }
    return {"target": TARGET, "recipes": recipes}


def write(experiment: Any, summaries: dict[str, list[dict[str, Any]]]) -> None:
    """results.json, report.html, and the table on the terminal."""
    from ptft_jax.reporting import plots
    from ptft_jax.reporting.page import Page
    from ptft_jax.runs.files import write_json
    from ptft_jax.runs.workdir import Workdir

    curves = {
        name: [
            curve(run, Workdir(experiment.workdir(f"{name}-seed{seed}")).read_metrics())
            for seed, run in enumerate(runs)
        ]
        for name, runs in summaries.items()
    }
    results = results_of(summaries, curves)
    write_json(experiment.folder / "results.json", results)
    rows = [
        {
            "recipe": name,
            "steps": found["steps"],
            "validation loss": ", ".join(f"{loss:.3f}" for loss in found["losses"]),
            "reached": f"{sum(loss <= TARGET for loss in found['losses'])} of {len(found['losses'])}",
            "seconds of steps": found["seconds"],
        }
        for name, found in results["recipes"].items()
    ]
    experiment.reporter.table(f"validation loss {TARGET}", rows)
    page = Page(
        "Characters", f"Two recipes on the way to a validation loss of {TARGET}, which nanoGPT's has after 2,000 steps."
    )
    page.table(rows)
    page.figure(
        plots.curves(
            curves, title="Validation loss", x="seconds of training", y="nats per character", level=("nanoGPT", TARGET)
        )
    )
    page.write(experiment.folder / "report.html", str(experiment.folder))


if __name__ == "__main__":
    launch(define, main)
