"""Says what data are made of: lengths, use of the vocabulary, what has loss, repeats, the mixture, and a row length.

ptft data stats --config=configs/pretrain/shakespeare.py:tiny
ptft data stats --data=jsonl:chat.jsonl --template=chatml --tokenizer=runs/base --json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from ptft_jax.data import filling, overview, source_splits, survey, trained_on
from ptft_jax.verbs.command import launch
from ptft_jax.verbs.data import selected


def define() -> None:
    selected.define()
    flags.DEFINE_enum("split", "train", ["train", "validation", "test"], "Which part of the data.")
    flags.DEFINE_bool("json", False, "Print JSON instead of tables.")


def main() -> None:
    args = flags.FLAGS
    from rich.console import Console

    from ptft_jax.data import pipeline
    from ptft_jax.reporting.progress import as_table
    from ptft_jax.verbs.data import statistics

    chosen = selected.load()
    c, data = chosen.config, chosen.config.data
    weighted = trained_on.weighted(data) if args.split == "train" else ((data.source, 1.0),)
    learns = chosen.builder.kinds
    parts = [
        source_splits.tokenized(data, reference, args.split, chosen.tokenizer, learns=learns)
        for reference, _ in weighted
    ]
    if chosen.builder.pictured:
        return _of_images(
            parts,
            data.images,
            {reference: one.facts for reference, one in pipeline.surveyed(data, learns).items()},
        )
    row_lengths = {p.reference: statistics.rows_by_length(p, chosen.builder, chosen.longest) for p in parts}
    report = {
        "lengths": [statistics.lengths(part) for part in parts],
        "content": [statistics.content(part, chosen.tokenizer) for part in parts],
        "control_tokens": {p.reference: statistics.special(p, chosen.tokenizer) for p in parts},
        "formats": {p.reference: p.description for p in parts},
        "sources": {reference: one.facts for reference, one in pipeline.surveyed(data, learns).items()},
        "skipped": {p.reference: p.skipped.first for p in parts if p.skipped.count},
        "empty_answers": {p.reference: found for p in parts if (found := filling.empty_of(p))["empty_answers"]},
        "row_lengths": row_lengths,
        "suggested": {
            p.reference: statistics.suggestion(
                row_lengths[p.reference], filling.packed_how(data.packing, p, chosen.builder), chosen.longest
            )
            for p in parts
        },
    }
    if args.split == "train" and data.mixture:
        options = {"steps": c.training.steps, "epochs": c.training.epochs, "seed": c.seed, "head": chosen.head}
        found = pipeline.training(data, chosen.tokenizer, chosen.builder, **options)
        report["mixture"], report["mixture_steps"] = found.table, found.steps
    if args.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return
    out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    for reference, description in report["formats"].items():
        out.print("\n  ".join([f"{reference}: {description}", *survey.lines(report["sources"].get(reference, {}))]))
    for name, title in (("lengths", "tokens per example"), ("content", "content")):
        out.print(as_table(title, _turned(report[name])))
    if "mixture" in report:
        out.print(
            "\n".join([f"mixture over {report['mixture_steps']:,} steps", *overview.announced(report["mixture"])]),
            markup=False,
        )
        out.print(as_table("", overview.shown(report["mixture"])))
    for reference, rows in report["control_tokens"].items():
        if rows:
            out.print(as_table(f"control tokens of {reference}", rows))
    for reference, rows in report["row_lengths"].items():
        out.print(as_table(f"rows for {reference} (data.length={data.length} now)", list(map(_in_words, rows))))
        found = report["suggested"][reference]
        less = " or less" if found["or_less"] else ""
        out.print(f"suggested: data.length={found['length']}{less} ({found['reason']})\n")
    for reference, found in report["empty_answers"].items():
        out.print(f"{reference}: {overview.empty_answers(found)}")
    for reference, places in report["skipped"].items():
        out.print(f"{reference}: left out:\n  " + "\n  ".join(places))


def _of_images(parts: Sequence[Any], images: Any, facts: dict[str, Any]) -> None:
    """Prints how many images there are of each class, and the mean and spread of their pixels, from 0 to 1 (model.pixel_mean)."""
    from rich.console import Console

    from ptft_jax.reporting.progress import as_table
    from ptft_jax.verbs.data import statistics

    found = {p.reference: statistics.of_images(p, images.size, images.channels) for p in parts}
    if flags.FLAGS.json:
        print(json.dumps({"images": found, "sources": facts}, indent=1, ensure_ascii=False))
        return
    out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    for part in parts:
        one = found[part.reference]
        out.print("\n  ".join([f"{part.reference}: {part.description}", *survey.lines(facts.get(part.reference, {}))]))
        if skipped := part.skipped.first:
            out.print("left out:\n  " + "\n  ".join(skipped))
        out.print(
            f"{one['images']:,} images; pixels from 0 to 1: mean {_each(one['mean'])}, deviation {_each(one['deviation'])}"
        )
        if one["classes"]:
            out.print(
                as_table("images of each class", [{"class": name, "images": n} for name, n in one["classes"].items()])
            )


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _turned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A column a source, which is narrow however many figures there are."""
    names = [row["source"] for row in rows]
    figures = [key for key in rows[0] if key != "source"]
    return [
        {"": key.replace("_", " "), **{n: _figure(key, row.get(key)) for n, row in zip(names, rows)}} for key in figures
    ]


def _in_words(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `statistics.rows_by_length` with headings that say what is counted."""
    names = {
        "fit": "fit whole",
        "tokens_lost": "tokens cut off",
        "packed": "full, packed",
        "unpacked": "full, one a row",
    }
    return {"length": row["length"], **{words: _share(row[name]) for name, words in names.items()}}


def _figure(name: str, value: Any) -> str:
    if isinstance(value, float):
        return _share(value) if name.endswith("share") else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _share(value: float) -> str:
    """A percentage with a decimal; what is above 0 never shown as none."""
    return "<0.1%" if 0 < value < 0.001 else f"{value:.1%}"


if __name__ == "__main__":
    launch(define, main)
