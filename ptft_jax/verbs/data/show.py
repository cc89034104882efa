"""Prints real batches, token by token: what has loss, what is context, what is padding, and where packed examples end.
Of images it makes a contact sheet: as they are kept, and as the step sees them.

ptft data show --config=configs/finetune/shakespeare.py:full --step=3 --rows=2
ptft data show --data=jsonl:chat.jsonl --template=chatml --tokenizer=runs/base
ptft data show --data=images:letters --rows=16 --html=letters.html
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from ptft_jax.config.field import natural
from ptft_jax.data import filling, overview, source_splits, trained_on
from ptft_jax.errors import UserError
from ptft_jax.runs import places
from ptft_jax.verbs.command import define_number, launch
from ptft_jax.verbs.data import selected


def define() -> None:
    selected.define()
    flags.DEFINE_enum("split", "train", ["train", "validation", "test"], "Which part of the data.")
    define_number("step", 0, natural(0, ""), "Which batch of training.")
    define_number("rows", 4, natural(0, ""), "Rows of the batch; 0 = all.")
    flags.DEFINE_enum(
        "as",
        "auto",
        ["auto", "colours", "marks", "json"],
        "auto = colours on a terminal, else marks: [with loss] and {prefix}.",
    )
    flags.DEFINE_string("html", "", "Also write a page in colors to this file; of images a sheet, as a page or a .png.")


def main() -> None:
    args = flags.FLAGS
    from ptft_jax.data import batches, class_names, pipeline, survey
    from ptft_jax.verbs.data import view

    chosen = selected.load()
    c, data = chosen.config, chosen.config.data
    if args.split == "train" and chosen.builder.sampled:
        if not args.run or args.data:
            raise UserError(
                f"--split=train: with objective.name={c.objective.name!r} a model learns from answers that it writes itself: --run=WORKDIR shows "
                "those of a run; --split=validation shows prompts with their right answers"
            )
        return _rewarded(chosen)
    if args.split == "train":
        options = {"steps": c.training.steps, "epochs": c.training.epochs, "seed": c.seed, "head": chosen.head}
        found = pipeline.training(data, chosen.tokenizer, chosen.builder, **options)
        whole = batches.Batches(
            found.sets, found.mixture, batch_size=data.batch_size, seed=c.seed, process=0, processes=1
        )
        batch, addresses = whole[args.step], whole.addresses(args.step)
        names = [reference for reference, _ in trained_on.weighted(data)]
        facts = [(row, rows.plan.report) for row, rows in zip(found.table, found.sets)]
        titles = [f"step {args.step}, row {k}: {names[s]}, row {r}" for k, (s, r) in enumerate(zip(*addresses))]
    else:
        if args.step:
            raise UserError("--step is for --split=train: evaluation has every row once")
        tokens = source_splits.tokenized(data, data.source, args.split, chosen.tokenizer, learns=chosen.builder.kinds)
        tokens, _ = class_names.numbered(tokens, chosen.head)
        found = filling.filled(data, tokens, chosen.builder, partial=True)
        every = batches.evaluation(found.rows, batch_size=data.batch_size, tokens=0)
        batch, names = every[0], [data.source]
        weights = sum(float(b["weights"].sum()) for b in every)
        facts = [({**found.summary(), "trained": round(weights)}, found.rows.plan.report)]
        titles = [f"{args.split}, row {k}: {data.source}" for k in range(len(batch["inputs"]))]
    count = _count(titles)
    if chosen.builder.pictured:
        sets, rows_of = (
            (found.sets, list(zip(*addresses)))
            if args.split == "train"
            else ((found.rows,), [(0, k) for k in range(count)])
        )
        return _sheet(batch, chosen, sets, rows_of[:count], titles, facts)
    shown = [view.row({k: v[i] for k, v in batch.items()}, chosen.tokenizer, chosen.builder) for i in range(count)]
    out, form = _console()
    if form != "json":
        learned = "with loss per epoch" if args.split == "train" else "with loss"
        for row, report in facts:
            labelled = "numbers" if chosen.builder.numeric else "classes" if chosen.builder.labelled else "tokens"
            what = "pairs" if chosen.builder.scored else "steps" if chosen.builder.stepped else labelled
            counted = f"{row['trained']:,} {what} {learned}"
            lines = [*survey.lines(row), report.describe(), counted, *filter(None, [overview.empty_answers(row)])]
            out.print("\n  ".join([f"{row['source']}: {row['format']}", *lines]))
        out.print()
    looked_up = [view.found(row, chosen.tokenizer) for row in batch.get("neighbors", ())] or [[]] * count
    for title, tokens, passages in zip(titles, shown, looked_up):
        chunks = [f"found for chunk {n}: {' | '.join(texts) or 'nothing'}" for n, texts in enumerate(passages)]
        if form == "json":
            extra = {"found": passages} if passages else {}
            print(json.dumps({"row": title, "tokens": [t._asdict() for t in tokens], **extra}, ensure_ascii=False))
        elif form == "marks":
            print("\n".join([title, view.counted(tokens), view.marked(tokens), *chunks, ""]))
        else:
            out.print(title, style="bold")
            out.print(view.counted(tokens), style="dim")
            out.print(view.colored(tokens))
            out.print("\n".join([*chunks, ""]), markup=False)
    if form == "colours":
        out.print(view.legend())
    if args.html:
        _write(view.page(f"{args.split} rows of {', '.join(names)}", list(zip(titles, shown))))


def _sheet(
    batch: Any, chosen: selected.Selected, sets: Any, rows_of: Any, titles: Sequence[str], facts: Sequence[Any]
) -> None:
    """Shows rows of images; `rows_of`: (number of the source, row of it) of each."""
    from ptft_jax.data import cache
    from ptft_jax.data import survey as surveys
    from ptft_jax.verbs.data import sheets

    kept = [dataclasses.replace(rows, builder=rows.builder.plain) for rows in sets]
    shown = []
    for k, (source, row) in enumerate(rows_of):
        plain = kept[source].batch([row], [(0, int(row))])
        image = plain.get("images", plain["inputs"])[0]
        arrays = {name: values[k] for name, values in batch.items()}
        shown.append(sheets.shown(titles[k], image, arrays, facts[0][0]["classes"], chosen.builder, chosen.tokenizer))
    out, form = _console()
    if form == "json":
        for one in shown:
            print(json.dumps({"row": one.title, "is": one.words}, ensure_ascii=False))
    else:
        for row, _ in facts:
            out.print("\n  ".join([f"{row['source']}: {row['format']}", *surveys.lines(row)]))
        for one in shown:
            out.print(f"{one.title}: {one.words}")
    if flags.FLAGS.html.endswith(".png"):
        path = places.local(flags.FLAGS.html, f"--html={flags.FLAGS.html}")
        cache.write_atomic(path, lambda temporary: temporary.write_bytes(sheets.png(shown)))
        print(f"sheet: {path}")
    elif flags.FLAGS.html:
        _write(sheets.page(f"{flags.FLAGS.split} images of {', '.join(row['source'] for row, _ in facts)}", shown))


def _rewarded(chosen: selected.Selected) -> None:
    """Shows answers that a run has learned from at a step."""
    from ptft_jax.verbs.data import rewarded

    args, updates = flags.FLAGS, chosen.config.objective.policy.updates
    number = args.step // updates
    rows = rewarded.read(chosen.workdir or pathlib.Path(args.run).expanduser(), args.step, updates)
    steps = f"step {number}" if updates == 1 else f"steps {number * updates} to {(number + 1) * updates - 1}"
    heading = f"{args.run}: answers that {steps} learned from"
    rows = rows[: _count(rows)]
    out, form = _console()
    if form != "json":
        out.print(f"{heading}\n")
    for place, row in enumerate(rows):
        if form == "json":
            print(json.dumps(row, ensure_ascii=False))
            continue
        found = rewarded.tokens(row, chosen.tokenizer, rewarded.largest(rows))
        for line in (rewarded.title(row, place), rewarded.counted(row)):
            out.print(line, style="" if form == "marks" else "bold")
        out.print(rewarded.marked(found) if form == "marks" else rewarded.colored(found))
        out.print("\n".join(f"  {fact}" for fact in rewarded.facts(row)), end="\n\n")
    if form == "colours":
        out.print(rewarded.legend())
    if args.html:
        _write(rewarded.page(heading, rows, chosen.tokenizer))


def _count(rows: Sequence[Any]) -> int:
    """How many of them are shown."""
    return min(flags.FLAGS.rows or len(rows), len(rows))


def _console() -> tuple[Any, str]:
    """What is printed on, and in which form."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    form = getattr(flags.FLAGS, "as")
    return out, ("colours" if out.is_terminal else "marks") if form == "auto" else form


def _write(page: str) -> None:
    """Writes a page to --html."""
    from ptft_jax.data import cache

    path = places.local(flags.FLAGS.html, f"--html={flags.FLAGS.html}")
    cache.write_atomic(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    print(f"page: {path}")


if __name__ == "__main__":
    launch(define, main)
