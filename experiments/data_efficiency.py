"""How much less data does a pre-trained model need?

Small GPTs learn from so many bytes of Shakespeare's histories: from one that was pre-trained on the other plays, and from scratch on ten times as
many bytes. And they learn from so many labelled rows to tell lines of the histories from those of which the letters of words were shuffled: from the same base, and
from scratch on ten times as many rows. Each run is measured where its validation loss was lowest, on other histories. Writes results.json, report.html and report.md.

  python -m experiments.data_efficiency --out=runs/data_efficiency
"""

from __future__ import annotations

import json
import pathlib
import random
import statistics
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import plays
from . import verdicts as shared
from .verdicts import Measured, above, below, claim

COUNTS, TIMES = (2_000, 8_000, 32_000), 10
STARTS = {"tuned": "pre-trained", "scratch": "from scratch"}
SIZES = {**{f"tuned-{n}": n for n in COUNTS}, **{f"scratch-{TIMES * n}": TIMES * n for n in COUNTS}}
ROWS = (100, 400, 1600)  # labelled
LABELLED = {**{f"labelled-tuned-{n}": n for n in ROWS}, **{f"labelled-scratch-{TIMES * n}": TIMES * n for n in ROWS}}
STEPS, RATE = 400, 1e-3  # of all that learn from labelled rows
LABELS = {
    **{way: f"{STARTS[way.partition('-')[0]]}, {count:,} bytes" for way, count in SIZES.items()},
    **{way: f"{STARTS[way.split('-')[1]]}, {count:,} labelled rows" for way, count in LABELLED.items()},
}
NAMES = {"nll": ("-test", "nll"), "accuracy": ("-right", "accuracy")}
CLASSES = ("shuffled", "written")
_LONG, _OTHERS = 56, 1000  # letters of a row; rows of the validation and of the test data


def define() -> None:
    shared.define("runs/data_efficiency", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of bytes that were pre-trained on Shakespeare's other plays, or not, learn from some bytes of his histories, with {seeds} seeds; "
        "± is the standard deviation over them. nll: nats per byte of held-out histories, at the step that was best on others. accuracy: share of lines of held-out "
        "histories of which is told whether the letters of their words were shuffled, learned from labelled rows."
    )
    return shared.main(
        "How much less data does a pre-trained model need?", lead, LABELS, NAMES, declared, claims, figures
    )


def claims(measured: Measured) -> list[dict[str, str]]:
    rows = []
    for count in COUNTS:
        tuned, scratch = measured[f"tuned-{count}"]["nll"], measured[f"scratch-{TIMES * count}"]["nll"]
        rows.append(
            claim(
                f"pre-trained with {count:,} bytes: as good as from scratch with ten times as many",
                below("nll", scratch, tuned),
            )
        )
    for count in ROWS:
        tuned, scratch = (
            measured[f"labelled-{way}"]["accuracy"] for way in (f"tuned-{count}", f"scratch-{TIMES * count}")
        )
        rows.append(
            claim(
                f"pre-trained with {count:,} labelled rows: as good as from scratch with ten times as many",
                above("accuracy", scratch, tuned),
            )
        )
    return rows


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    demo, graph = size == "demo", pt.Graph()
    sources = write_rows(data, size)
    for seed in range(seeds):
        base = graph.run(f"base-seed{seed}", plays.base(seed, demo))
        for way, count in SIZES.items():
            if way.startswith("tuned"):
                config, start = plays.tuning(3e-4, seed, demo, tokens=count), f"{base}@last"
            else:
                config, start = plays.base(seed, demo), ""
                config.data.update(source=plays.SPECIAL, train_tokens=count if demo else 4000)
            if demo:  # few bytes are soon known by heart
                config.eval.every = 5 if start else 40
            run = graph.run(f"{way}-seed{seed}", config, init=start, group=way)
            graph.evaluation(f"{way}-seed{seed}-test", f"{run}@best", plays.SPECIAL, "test", tokens=config.eval.tokens)
        for way, count in LABELLED.items():
            start = f"{base}@last" if "tuned" in way else ""
            config = labelling(seed, demo, sources[count], bool(start))
            run = graph.run(f"{way}-seed{seed}", config, init=start, group=way)
            graph.evaluation(f"{way}-seed{seed}-right", f"{run}@best", sources["test"], "train")
    return graph


def labelling(seed: int, demo: bool, source: str, tuned: bool) -> Any:
    """A run on labelled rows: as many steps with as many rows, from the base or from scratch."""
    config = plays.tuning(RATE, seed, demo, tokens=0) if tuned else plays.base(seed, demo)
    config.objective.name = "classification"
    config.model.update(head="classes", classes=len(CLASSES))
    config.init.fresh = ("head/.*",) if tuned else ()
    config.data.source = source
    if tuned:  # whose texts have no classes
        config.eval.parent_data = False
    if demo:
        config.training.steps, config.optimizer.learning_rate = STEPS, RATE
        config.optimizer.warmup_steps = STEPS // 10
        config.eval.update(every=STEPS // 20, tokens=0)
    return config


def write_rows(folder: pathlib.Path, size: str) -> dict[Any, str]:
    """Labelled rows: lines of the histories, every second of them with the letters of each word shuffled. Training data of so many rows, the fewer the
    beginning of the more; all have one validation split. Returns their sources by the number of their rows, and "test", of other histories."""
    from ptft_jax.data import records
    from ptft_jax.runs.files import keep_text

    folder.mkdir(parents=True, exist_ok=True)
    others = _OTHERS if size == "demo" else 20
    counts = sorted(set(LABELLED.values()))
    most = {"train": counts[-1], "validation": others, "test": others}
    lines = dict[str, list[str]]()
    for number, (split, count) in enumerate(most.items()):
        rows = records.open_records(plays.SPECIAL, split, held_out=0.1)
        found = labelled(" ".join(rows[n]["text"] for n in range(len(rows))), random.Random(number))
        if len(found) < count:
            raise RuntimeError(f"{split}: {len(found)} rows, {count} are needed")
        lines[split] = found[:count]
    files = {"looked-at": lines["validation"], "asked": lines["test"], **{f"{n}": lines["train"][:n] for n in counts}}
    for name, chosen in files.items():
        keep_text(folder / f"rows-{name}.jsonl", "\n".join([*chosen, ""]))
    named = f"classes={','.join(CLASSES)}"
    found = {n: f"jsonl:{folder}?{named}&train=rows-{n}.jsonl&validation=rows-looked-at.jsonl" for n in counts}
    return {**found, "test": f"jsonl:{folder / 'rows-asked.jsonl'}?{named}"}


def labelled(text: str, draw: random.Random) -> list[str]:
    """Rows of JSON of a text: words side by side up to `_LONG` letters, in an order that is drawn, every second of them shuffled."""
    words, pieces = text.split(), [""]
    for word in words:
        longer = f"{pieces[-1]} {word}".strip()
        pieces[-1:] = [longer] if len(longer) <= _LONG else [pieces[-1], word[:_LONG]]
    draw.shuffle(pieces)
    rows = []
    for number, piece in enumerate(pieces):
        if number % 2:
            piece = " ".join("".join(draw.sample(word, len(word))) for word in piece.split())
        rows.append(json.dumps({"text": piece, "label": CLASSES[1 - number % 2]}))
    return rows


def figures(measured: Measured) -> list[str]:
    from ptft_jax.reporting import plots

    lines = {
        said: [
            [(count, statistics.mean(measured[way]["nll"])) for way, count in SIZES.items() if way.startswith(start)]
        ]
        for start, said in STARTS.items()
    }
    right = {
        said: [
            [
                (count, statistics.mean(measured[way]["accuracy"]))
                for way, count in LABELLED.items()
                if f"-{start}-" in way
            ]
        ]
        for start, said in STARTS.items()
    }
    return [
        plots.curves(lines, title="Loss by data", x="bytes of the histories", y="nll", log=True),
        plots.curves(right, title="What is told right, by labelled rows", x="labelled rows", y="accuracy", log=True),
    ]


graph = shared.graph(declared)

if __name__ == "__main__":
    launch(define, main)
