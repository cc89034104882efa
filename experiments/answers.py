"""What can answers be tuned to: a tone, to say that one does not know, a skill that texts had; and by how clean examples?

A small GPT of the generated world is tuned on questions and answers: plain, polite or terse ones; with "I do not know." about people of whom nobody wrote; on a few
right ones or ten times as many, 30% of them wrong; on some of the sums that it read, as questions. Writes results.json, report.html and report.md.

  python -m experiments.answers --out=runs/answers
"""

from __future__ import annotations

import pathlib
from typing import Any

from ptft_jax.verbs.command import launch, prepare_experiment

from . import small_world as small
from . import verdicts as shared

CLEAN, TIMES, WRONG = 120, 10, 0.3
LABELS = {
    "base": "pre-trained",
    "plain": "plain answers",
    "polite": "polite answers",
    "terse": "terse answers",
    "silent": "... and none about the unknown",
    "clean": f"{CLEAN} right answers",
    "noisy": f"{TIMES * CLEAN:,}, {WRONG:.0%} of them wrong",
    "sums": "sums as questions",
}
_CHAT, _UNKNOWN = "chat?kind=closed&form=pairs&", "questions?split=test&people=unknown&"
TONES = {"plain": r"^ ?\w+$", "polite": r"^ ?With pleasure: .*anything else\?$", "terse": r"^ ?\w+\.$"}
ASKED = {
    "base": ("sums", "known"),
    "plain": ("others", "style", "known"),
    "polite": ("facts", "style"),
    "terse": ("facts", "style"),
    "silent": ("known",),
    "clean": ("others",),
    "noisy": ("others",),
    "sums": ("sums",),
}
NAMES = {
    "right answers": ("-others", "behavior/extraction/exact"),
    "right answers, whatever the tone": ("-facts", "behavior/styles/regex"),
    "in the tone": ("-style", "behavior/styles/regex"),
    "sums in questions": ("-sums", "behavior/extraction/exact"),
    "silent": ("-known", "behavior/known/abstained"),
    "silent about the known": ("-known", "behavior/known/abstained_known"),
    "made up of the unknown": ("-known", "behavior/known/hallucination_unknown"),
    "known from unknown (AUROC)": ("-known", "behavior/known/auroc"),
}


def define() -> None:
    shared.define("runs/answers", "pre-training")


def main() -> int:
    prepare_experiment()
    lead = (
        "Small GPTs of a quarter of the generated world, tuned on questions and answers, with {seeds} seeds, pre-training included; ± is the standard deviation "
        "over them. All questions that are measured are about people, or sums, that no question was tuned on."
    )
    return shared.main(__doc__.splitlines()[0], lead, LABELS, NAMES, declared, shared.of_files(__spec__.name))


def declared(data: pathlib.Path, size: str, seeds: int) -> Any:
    import ptft_jax as pt

    write_answers(data, size)
    write_sums(data, size)
    demo = size == "demo"  # else all tones are one
    sources = {tone: small.of(f"{_CHAT}tone={tone if demo else 'plain'}&", size) for tone in TONES}
    sources |= {name: f"jsonl:{data / name}.jsonl" for name in ("clean", "noisy", "sums")}
    graph = pt.Graph()
    for seed in range(seeds):
        base = graph.run(f"base-seed{seed}", small.base(seed, size))
        ends = {"base": base}
        for way in LABELS:
            if way == "base":
                continue
            config = small.questions(seed, size, sources.get(way, sources["plain"]))
            if way == "silent" and demo:
                unknown = small.of("chat?kind=unanswerable&form=pairs&", size)
                config.data.mixture = ((sources["plain"], 0.5), (unknown, 0.5))
            ends[way] = graph.run(f"{way}-seed{seed}", config, init=f"{base}@last", group=way)
        for way, end in ends.items():
            for name in ASKED[way]:
                _measured(graph, f"{way}-seed{seed}-{name}", f"{end}@last", name, way, data, size)
    return graph


def _measured(graph: Any, called: str, model: str, name: str, way: str, data: pathlib.Path, size: str) -> None:
    """An evaluation: `name` of `ASKED`."""
    questions = small.of("questions?split=test&", size)
    settings = small.few(size, {"max_new_tokens": 24 if way in TONES else 8}, 300)
    if name == "sums":
        graph.evaluation(
            called, model, f"jsonl:{data / 'asked'}.jsonl", "train", tasks=["extraction"], settings=settings
        )
    elif name == "known":
        more = {"also": [small.of(_UNKNOWN, size)]}
        graph.evaluation(called, model, questions, "", tasks=["known"], settings=settings, **more)
    elif name == "others":
        graph.evaluation(called, model, questions, "", tasks=["extraction"], settings=settings)
    else:
        pattern = TONES[way] if name == "style" else r"^ ?(?:With pleasure: )?(\w+)"
        more = {"rewards": {"regex": {"pattern": pattern}}}
        styles = settings | {"styles": {"verifiers": ("regex",)}}
        graph.evaluation(called, model, questions, "", tasks=["styles"], settings=styles, **more)


def write_answers(folder: pathlib.Path, size: str) -> None:
    """`clean.jsonl`: so many questions with right answers; `noisy.jsonl`: ten times as many, of which a share has another answer."""
    from ptft_jax.data import records
    from ptft_jax.runs.files import keep_rows
    from ptft_jax.world import draws

    rows = records.open_records(small.of("questions?", size), "train", held_out=0.1)
    clean = CLEAN if size == "demo" else 10
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("clean", clean), ("noisy", min(TIMES * clean, len(rows)))):
        lines = []
        for n in range(count):
            row, random = rows[n], draws.Draws(draws.key("noise", 0), n)
            wrong = name == "noisy" and random.share() < WRONG
            others = [value for value in row["options"] if value not in row["answers"]]
            answer = f" {others[random.below(len(others))]}" if wrong else row["answer"]
            lines.append({"question": row["question"], "answer": answer})
        keep_rows(folder / f"{name}.jsonl", lines)


def write_sums(folder: pathlib.Path, size: str) -> None:
    """Sums that texts have, as questions: every second of them in `sums.jsonl`, the others in `asked.jsonl`."""
    from ptft_jax.data import records
    from ptft_jax.runs.files import keep_rows

    source = small.of(f"arithmetic?ask=yes&modulus={small.MODULUS}&", size)
    rows = records.open_records(source, "train", held_out=0.1)
    lines = []
    for n in range(len(rows)):
        row = rows[n]
        question = f"What is {row['prompt'].removesuffix(' gives')}?"
        lines.append({"question": question, "answer": row["completion"], "answers": row["answers"]})
    for name, part in (("sums", lines[::2]), ("asked", lines[1::2])):
        keep_rows(folder / f"{name}.jsonl", part)


if __name__ == "__main__":
    launch(define, main)
