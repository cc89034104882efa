"""Do fresh facts come by retrieval or by tuning?

A small GPT of the generated world learns to read as it is pre-trained: beside biographies it has texts about nobody, each of which tells facts that were drawn for
it and then asks for them. It is asked about people who are first written about later: alone, behind the passage that BM25 finds, and after tuning on texts about
them. Another one has no such texts to learn reading from. Writes results.json, report.html and report.md.

  python -m experiments.retrieved --out=runs/retrieved
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import small_world as small
from . import verdicts as shared

SHARE, STEPS, TEXTS, ASKED_OF = 0.5, 800, 12_000, 4  # of the texts about nobody; steps; how many; questions of each
LABELS = {
    "plain": "biographies alone",
    "reader": "... and texts to read",
    "tuned": "the reader, tuned on later texts",
}
ASKED = {"plain": ("alone", "behind"), "reader": ("alone", "behind", "old"), "tuned": ("alone", "old")}
NAMES = {
    "later people": ("-alone", "behavior/recall/accuracy"),
    "later people, behind a passage": ("-behind", "behavior/recall/accuracy"),
    "people of before": ("-old", "behavior/recall/accuracy"),
}


def define() -> None:
    shared.define("runs/retrieved", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of a quarter of the generated world are asked about people who are first written about after what they read, with {seeds} seeds, "
        "pre-training included; ± is the standard deviation over them. Shares of questions whose answer is the likeliest; of people of before: statements."
    )
    return shared.main(__doc__.splitlines()[0], lead, LABELS, NAMES, declared, shared.of_files(__spec__.name))


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    practice, found = write_practice(data, size), index_of(data / "people", size)
    later = "people=later&split=all&"
    sets = {
        "alone": f"questions?{later}",
        "behind": f"retrieval?{later}retrieve={found}&k=1&passage={{text}}%20&",
        "old": "recall?split=all&",
    }
    graph = pt.Graph()
    for seed in range(seeds):
        ends = {}
        for way in ("plain", "reader"):
            config = small.base(seed, size, steps=STEPS)
            if way == "reader":
                texts = tuple((name, (1 - SHARE) * share) for name, share in config.data.mixture)
                config.data.mixture = (*texts, (practice, SHARE))
            ends[way] = graph.run(f"{way}-seed{seed}", config, group=way)
        config = small.questions(seed, size, small.of("biographies?era=5-7&", size))
        config.data.mixture = ((config.data.source, 0.5), (small.of("questions?", size), 0.5))
        config.data.length = 128
        ends["tuned"] = graph.run(f"tuned-seed{seed}", config, init=f"{ends['reader']}@last")
        for way in LABELS:
            for name in ASKED[way]:
                settings = small.few(size, {})
                source = small.of(sets[name], size)
                graph.evaluation(
                    f"{way}-seed{seed}-{name}", f"{ends[way]}@last", source, "", tasks=["recall"], settings=settings
                )
    return graph


def index_of(folder: pathlib.Path, size: str) -> pathlib.Path:
    """An index by words of all passages of the world."""
    from ptft_jax.config.sources import SOURCES
    from ptft_jax.retrieval import index
    from ptft_jax.retrieval.passages import Corpus

    folder.parent.mkdir(parents=True, exist_ok=True)
    index.build(folder, "bm25", Corpus(small.of("passages?", size), "", 0, SOURCES))
    return folder


def write_practice(folder: pathlib.Path, size: str) -> str:
    """Texts about nobody, in the form of passages and of questions: facts that were drawn, then questions about some of them and their answers."""
    from ptft_jax.runs.files import keep_rows
    from ptft_jax.world import draws
    from ptft_jax.world.people import world

    made = world(small.world(size))
    spec, key = made.spec, draws.key("practice", 0)
    rows = []
    for n in range(TEXTS if size == "demo" else 50):
        random = draws.Draws(key, n)
        name = made.name_of(int(made.spare_names[random.below(len(made.spare_names))]))
        told, asked = [], []
        for at in random.order(len(spec.of_people)):
            one = spec.attributes[spec.of_people[at]]
            table = made.tables[one.table]
            value = table[random.below(len(table))]
            statement = one.statements[random.below(len(one.statements))]
            question = one.questions[random.below(len(one.questions) - one.held_out)]
            told.append(statement.format(**{"name": name, one.name: value}))
            asked.append(f"{question.format(name=name)} {value}")
        chosen = [asked[at] for at in random.order(len(asked))[:ASKED_OF]]
        year = made.date(random.below(spec.eras.count))[:4]
        rows.append({"text": f"In {year}: {' '.join(told)} {' '.join(chosen)}"})
    folder.mkdir(parents=True, exist_ok=True)
    keep_rows(folder / "practice.jsonl", rows)
    return f"jsonl:{folder / 'practice.jsonl'}"


if __name__ == "__main__":
    launch(define, main)
