"""Says what data are made of: lengths, use of the vocabulary, what is learned, repeats, the mixture, and a row length.

ptft data stats --config=configs/pretrain/shakespeare.py:tiny
ptft data stats --data=jsonl:chat.jsonl --template=chatml --tokenizer=runs/base --json
"""

from __future__ import annotations

import json

from absl import flags

from ptft_jax.data import selected
from ptft_jax.launch import launch


def define() -> None:
    selected.define()
    flags.DEFINE_enum("split", "train", ["train", "validation", "test"], "Which part of the data.")
    flags.DEFINE_bool("json", False, "Print JSON instead of tables.")


def main() -> None:
    args = flags.FLAGS
    from rich.console import Console

    from ptft_jax.data import pipeline, statistics
    from ptft_jax.reporting.progress import as_table, turned

    chosen = selected.load()
    c, data = chosen.config, chosen.config.data
    weighted = pipeline.weighted(data) if args.split == "train" else ((data.source, 1.0),)
    parts = [pipeline.tokenised(data, reference, args.split, chosen.tokenizer) for reference, _ in weighted]
    report = {
        "lengths": [statistics.lengths(part) for part in parts],
        "content": [statistics.content(part, chosen.tokenizer) for part in parts],
        "control_tokens": {p.reference: statistics.special(p, chosen.tokenizer) for p in parts},
        "formats": {p.reference: p.description for p in parts},
        "skipped": {p.reference: p.skipped.first for p in parts if p.skipped.count},
        "row_lengths": {p.reference: statistics.rows_by_length(p, chosen.builder) for p in parts},
        "suggested": {p.reference: statistics.suggestion(p, chosen.builder) for p in parts},
    }
    if args.split == "train" and data.mixture:
        found = pipeline.training(data, chosen.tokenizer, chosen.builder, steps=c.training.steps, seed=c.seed)
        report["mixture"] = pipeline.shown(found.table)
    if args.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return
    out = Console(highlight=False, soft_wrap=True)
    for reference, description in report["formats"].items():
        out.print(f"{reference}: {description}", markup=False)
    for name, title in (("lengths", "tokens an example"), ("content", "content"), ("mixture", "mixture")):
        if report.get(name):
            out.print(as_table(title, turned(report[name], "source")))
    for reference, rows in report["control_tokens"].items():
        if rows:
            out.print(as_table(f"control tokens of {reference}", rows))
    for reference, rows in report["row_lengths"].items():
        out.print(as_table(f"rows for {reference} (data.length={data.length} now)", rows))
        found = report["suggested"][reference]
        out.print(f"suggested: data.length={found['length']} ({found['reason']})\n", markup=False)
    for reference, places in report["skipped"].items():
        out.print(f"{reference}: left out:\n  " + "\n  ".join(places), markup=False)


if __name__ == "__main__":
    launch(define, main)
