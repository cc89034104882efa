"""Does learning from rewards add to learning from examples?

A small GPT learns some addition from worked sums. It then goes on in two ways of equal compute: with more examples, or by GRPO, which
is told only whether its own answers are right. Both see the same sums, and are measured on sums that neither has seen, by the share of
exact answers. Writes results.json and report.html.

  python -m experiments.arithmetic_rl --out=runs/arithmetic_rl
"""

from __future__ import annotations

import itertools
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from ptft_jax.verbs.command import TERMINATED, launch, prepare_experiment

LABELS = {"sft": "more examples", "grpo": "rewards (GRPO)"}
# Products of matrices per position and parameter: writing a token is a forward pass, learning from it a forward and a backward one.
WRITING, LEARNING = 2, 6
EXACT = "answers/exact"
ROWS, LENGTH = 256, 16  # of a batch of answers: what is right of them says little where they are few


def define() -> None:
    flags.DEFINE_string("out", "runs/arithmetic_rl", "Folder of the experiment.")
    flags.DEFINE_integer("seeds", 3, "Runs of each way.", lower_bound=2)
    flags.DEFINE_enum("size", "demo", ["demo", "tiny"], "demo: minutes on two CPU cores; tiny: only to see it run.")


def main() -> int:
    args = flags.FLAGS
    prepare_experiment()
    from ptft_jax.experiments.graph import Experiment, Interrupted
    from ptft_jax.reporting import plots  # noqa: F401  # needs an extra: said before anything is trained
    from ptft_jax.reporting.progress import Reporter

    reporter = Reporter()
    experiment = Experiment(args.out, reporter)
    data = write_sums(experiment.folder / "sums", most=100 if args.size == "demo" else 10)
    summaries: dict[str, list[dict[str, Any]]] = {name: [] for name in LABELS}
    try:
        with reporter:
            experiment.expect(1 + len(LABELS) * args.seeds)
            start = experiment.run("start", start_config(data, args.size))
            for seed, name in itertools.product(range(args.seeds), LABELS):
                config = config_of(name, experiment.workdir("start"), data, seed, args.size)
                summaries[name].append(experiment.run(f"{name}-seed{seed}", config))
    except Interrupted as e:
        reporter.say(f"stopped by {e}; the same command continues")
        return TERMINATED
    write(experiment, start, summaries)
    return 0


def write_sums(folder: pathlib.Path, *, most: int, seed: int = 0) -> pathlib.Path:
    """Writes sums of two numbers below `most`, {"prompt": "3+4=", "completion": "7"} per line: train.jsonl, and held_out.jsonl, a fifth of all
    pairs of numbers; 3+4 and 4+3 are one pair. Returns the folder."""
    from ptft_jax.runs.files import keep_text

    pairs = [(a, b) for a in range(most) for b in range(a, most)]
    order = np.random.default_rng(seed).permutation(len(pairs))
    at = len(pairs) // 5
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("held_out", order[:at]), ("train", order[at:])):
        sums = [sum_ for i in chosen for sum_ in dict.fromkeys([pairs[i], pairs[i][::-1]])]
        lines = [json.dumps({"prompt": f"{a}+{b}=", "completion": f"{a + b}"}) for a, b in sums]
        keep_text(folder / f"{name}.jsonl", "\n".join([*lines, ""]))
    return folder


def start_config(data: pathlib.Path, size: str) -> Any:
    """From scratch, on worked sums, until some answers are right."""
    import ptft_jax as pt

    demo = size == "demo"
    config = pt.recipe(f"pretrain/text:{data}")
    config.model.update(**({"layers": 3, "width": 128} if demo else {"layers": 1, "width": 32, "heads": 2}))
    config.model.max_length = 64
    config.data.update(source=f"jsonl:{data / 'train.jsonl'}", length=64, batch_size=16)
    config.optimizer.update(learning_rate=3e-3 if demo else 1e-2, warmup_steps=10)
    config.training.steps = 240 if demo else 60
    config.select.patience = 0
    _measure(config, data, config.training.steps)
    return config


def config_of(name: str, start: pathlib.Path, data: pathlib.Path, seed: int, size: str) -> Any:
    """The second stage: by examples, or by rewards of its own answers."""
    import ptft_jax as pt

    demo = size == "demo"
    updates = 80 if demo else 3
    config = pt.recipe(f"feedback/grpo:jsonl:{data / 'train.jsonl'}")
    config.init.from_ = f"{start}@last"
    config.seed = seed
    config.tune.method = "full"
    config.data.update(length=LENGTH, batch_size=ROWS if demo else 32)
    if name == "grpo":
        config.objective.policy.update(samples=8, max_new_tokens=4)
        config.training.steps = updates
    else:
        config.objective.name = "causal_lm"
        config.training.steps = equal_steps(updates)
    config.eval.parent_data = False
    config.optimizer.update(learning_rate=1e-3 if name == "sft" else 5e-5, warmup_steps=5)
    _measure(config, data, config.training.steps)
    return config


def equal_steps(updates: int) -> int:
    """Steps on as many positions, whose products of matrices are those of so many steps on answers that the model wrote first."""
    return round(updates * (WRITING + LEARNING) / LEARNING)


def _measure(config: Any, data: pathlib.Path, steps: int) -> None:
    config.eval.update(every=max(steps // 6, 1), test=False)
    config.eval.answers.update(
        source=f"jsonl:{data / 'held_out.jsonl'}", verifiers=("exact",), records=400, max_new_tokens=4
    )


def results_of(
    start: dict[str, Any], summaries: Mapping[str, Sequence[dict[str, Any]]], curves: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """{"start": share of exact answers, "ways": {name: {"steps", "exact": by seed, "seconds", "curves"}}, "claims", "seconds"}."""
    ways = {
        name: {
            "steps": runs[0]["step"],
            "exact": [run["last"][EXACT] for run in runs],
            "seconds": statistics.median(run["seconds"] for run in runs),
            "curves": curves[name],
        }
        for name, runs in summaries.items()
    }
    seconds = start["seconds"] + sum(run["seconds"] for runs in summaries.values() for run in runs)
    results = {"start": start["last"][EXACT], "ways": ways, "seconds": seconds}
    return {**results, "claims": claims(results)}


def claims(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A difference counts as shown where it is at least three times the larger standard deviation over seeds."""
    before, (sft, grpo) = results["start"], (results["ways"][name]["exact"] for name in LABELS)
    return [
        _difference("rewards raise the share of exact answers above the start's", [before] * len(grpo), grpo),
        _difference("more examples raise it above the start's", [before] * len(sft), sft),
        _difference("at equal compute rewards raise it more than examples do", sft, grpo),
    ]


def _difference(claim: str, smaller: Sequence[float], larger: Sequence[float]) -> dict[str, Any]:
    gap = statistics.mean(larger) - statistics.mean(smaller)
    spread = max(statistics.stdev(larger), statistics.stdev(smaller))
    told = f"{statistics.mean(larger):.1%} against {statistics.mean(smaller):.1%}, spread {spread:.1%}"
    return {"claim": claim, "measured": told, "shown": gap > 0 and gap >= 3 * spread}


def curve(name: str, rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    """[compute, share of exact answers] at each evaluation; compute is forward passes of the model over a batch."""
    each = (WRITING + LEARNING if name == "grpo" else LEARNING) / WRITING
    return [[row["step"] * each, row[EXACT]] for row in rows if row["kind"] == "eval" and EXACT in row]


def write(experiment: Any, start: dict[str, Any], summaries: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """results.json, report.html, and the tables on the terminal."""
    from experiments.transfer_report import footer
    from ptft_jax import environment
    from ptft_jax.reporting import plots
    from ptft_jax.reporting.page import Page
    from ptft_jax.runs.files import write_json
    from ptft_jax.runs.workdir import Workdir

    logs = {
        name: [Workdir(experiment.workdir(f"{name}-seed{seed}")).read_metrics() for seed, _ in enumerate(runs)]
        for name, runs in summaries.items()
    }
    results = results_of(start, summaries, {name: [curve(name, log) for log in logs[name]] for name in logs})
    results["environment"] = environment.describe()
    write_json(experiment.folder / "results.json", results)
    rows = [
        {
            "way": "the start",
            "steps": start["step"],
            "exact answers": f"{results['start']:.1%}",
            "seconds": start["seconds"],
        }
    ]
    rows += [
        {
            "way": LABELS[name],
            "steps": way["steps"],
            "exact answers": f"{statistics.mean(way['exact']):.1%} ± {statistics.stdev(way['exact']):.1%}",
            "seconds": way["seconds"],
        }
        for name, way in results["ways"].items()
    ]
    experiment.reporter.table("sums that were not trained on", rows)
    experiment.reporter.table(
        "claims", [{**claim, "shown": "yes" if claim["shown"] else "no"} for claim in results["claims"]]
    )
    page = Page(
        "Does learning from rewards add to learning from examples?",
        f"A GPT of {start['parameters']['trainable']:,} parameters that had learned some addition went on with more worked sums, or was told only "
        f"whether its own answers are right (GRPO), at equal compute, with {len(summaries['grpo'])} seeds each; ± is the standard deviation over them. "
        "Measured on sums of pairs of numbers that no run has seen.",
    )
    page.table(rows)
    page.heading("Claims")
    page.text("Shown means: at least three times the spread over seeds. What is not shown is a result, too.")
    page.table(results["claims"], prose=True)
    colors = plots.palette(LABELS.values())
    page.figure(
        plots.curves(
            {LABELS[name]: way["curves"] for name, way in results["ways"].items()},
            title="Held-out sums",
            x="compute (forward passes over a batch)",
            y="share of exact answers",
            level=("the start", results["start"]),
            colors=colors,
        )
    )
    rewards = [[(row["step"], row["reward"]) for row in log if "reward" in row] for log in logs["grpo"]]
    page.figure(
        plots.curves(
            {LABELS["grpo"]: rewards},
            title="What was rewarded",
            x="step",
            y="mean reward of sampled answers",
            colors=colors,
        )
    )
    page.write(experiment.folder / "report.html", footer(results))
    print(f"report: {experiment.folder / 'report.html'}")


if __name__ == "__main__":
    launch(define, main)
