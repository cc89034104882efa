"""How soon does a small model of characters reach nanoGPT's loss on a CPU?

Trains on the first nine tenths of a text and measures on the rest, as nanoGPT does on Shakespeare: by its own recipe, which comes to
a validation loss of 1.88 in 2,000 steps, and by ours, with several seeds each. Writes results.json and report.html. The text is
a file, such as the 1.1 MB of Shakespeare that nanoGPT reads (input.txt). `--recipes=gpu` is nanoGPT's larger model, whose loss is
1.4697 after 5,000 steps, for a GPU.

  python -m experiments.characters --text=input.txt --out=runs/characters
  python -m experiments.characters --text=input.txt --out=runs/gpu --recipes=gpu --seeds=1
"""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from absl import flags

from ptft_jax.errors import UserError, nearest
from ptft_jax.verbs import scripts
from ptft_jax.verbs.command import launch, prepare_experiment

RECIPES = ("cpu", "cpu_fast")  # unless others are asked for
# Of nanoGPT's README, on Shakespeare.
TARGETS = {"cpu": 1.88, "cpu_fast": 1.88, "gpu": 1.4697}
TRAIN = 0.9


def define() -> None:
    flags.DEFINE_string("text", "", "The file that is learned.")
    flags.DEFINE_list("recipes", list(RECIPES), f"Of {', '.join(TARGETS)}, joined by commas; all with one target.")
    scripts.define("runs/characters", "Runs of each recipe.", fewest=1)


def main() -> int:
    args = flags.FLAGS
    if not args.text:
        raise UserError("--text is missing: the file that is learned, e.g. --text=input.txt")
    recipes = chosen(args.recipes)
    prepare_experiment()
    from ptft_jax.reporting import plots  # noqa: F401  # needs an extra: said before anything is trained
    from ptft_jax.reporting.progress import Reporter
    from ptft_jax.runs import places

    folder, reporter = places.local(args.out, f"--out={args.out}"), Reporter()

    def declare(data: pathlib.Path) -> Any:
        return declared(split(pathlib.Path(args.text), data), args.size, args.seeds, recipes)

    with scripts.on_data(folder / "text", declare) as graph:
        done = scripts.carry_out(graph, reporter)
    write(done, reporter, args.seeds, recipes)
    return 0


def chosen(recipes: Sequence[str]) -> tuple[str, ...]:
    """The recipes, each once. Raises UserError: none, one that there is not, or such as have different targets."""
    for name in recipes:
        if name not in TARGETS:
            raise UserError(f"--recipes: no recipe {name!r}{nearest(name, TARGETS)}; there are {', '.join(TARGETS)}")
    if len({TARGETS[name] for name in recipes}) != 1:
        raise UserError(f"--recipes={','.join(recipes)}: expected recipes with one target; they have {TARGETS}")
    return tuple(dict.fromkeys(recipes))


def declared(source: pathlib.Path, size: str, seeds: int, recipes: Sequence[str] = RECIPES) -> Any:
    """The graph of all runs on a text in two parts."""
    import ptft_jax as pt

    graph = pt.Graph()
    for seed in range(seeds):
        for name in recipes:
            graph.run(f"{name}-seed{seed}", config_of(name, source, seed, size), group=name)
    return graph


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
    return {"target": TARGETS[next(iter(summaries))], "recipes": recipes}


def write(done: scripts.Carried, reporter: Any, seeds: int, recipes: Sequence[str]) -> None:
    """results.json, report.html, and the table on the terminal."""
    from ptft_jax.reporting import plots
    from ptft_jax.reporting.page import Page
    from ptft_jax.runs.files import write_json
    from ptft_jax.runs.workdir import Workdir

    names = {name: [f"{name}-seed{seed}" for seed in range(seeds)] for name in recipes}
    summaries = {name: [done.finished(run) for run in runs] for name, runs in names.items()}
    curves = {
        name: [curve(done.finished(run), Workdir(done.place(run)).read_metrics()) for run in runs]
        for name, runs in names.items()
    }
    results = results_of(summaries, curves)
    target = results["target"]
    write_json(done.folder / "results.json", results)
    rows = [
        {
            "recipe": name,
            "steps": found["steps"],
            "validation loss": ", ".join(f"{loss:.3f}" for loss in found["losses"]),
            "reached": f"{sum(loss <= target for loss in found['losses'])} of {len(found['losses'])}",
            "seconds of steps": found["seconds"],
        }
        for name, found in results["recipes"].items()
    ]
    reporter.table(f"validation loss {target}", rows)
    page = Page(
        "Characters", f"Recipes on the way to a validation loss of {target}, which nanoGPT's own has at its last step."
    )
    page.table(rows)
    page.figure(
        plots.curves(
            curves, title="Validation loss", x="seconds of training", y="nats per character", level=("nanoGPT", target)
        )
    )
    page.link(*scripts.GRAPH)
    page.write(done.folder / "report.html", str(done.folder))


if __name__ == "__main__":
    launch(define, main)
