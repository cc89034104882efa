"""Measures runs by tasks of EleutherAI's lm-evaluation-harness, before and after in one table, and prints JSON; nothing is exported.

ptft lm-eval --run=runs/tuned --tasks=arc_easy,hellaswag --limit=200
ptft lm-eval --run=hf:FOLDER --adapter=FOLDER --tasks=mine --include=tasks

A run alone is measured beside its parent, and a model with --adapter beside itself without; --noparent measures it alone. Tasks of your own
are YAML files of the harness in a folder, --include.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from absl import flags

from ptft_jax.config.field import natural, positive
from ptft_jax.errors import UserError
from ptft_jax.verbs.command import (
    define_compared,
    define_number,
    define_plugins,
    launch,
    prepare_jax,
    say,
    say_chosen,
)

SAID = {
    "cut": "contexts were longer than the {most:,} tokens that it sees, and cut on the left",
    "joined": "continuations were tokenized alone, as a token would reach into them from the context",
}


def define() -> None:
    define_plugins()
    define_compared()
    flags.DEFINE_list("tasks", [], "Names of tasks or groups of the harness, or patterns of names.")
    flags.DEFINE_string("include", "", "A folder with tasks of your own, YAML files.")
    define_number("limit", 0, natural(0, ""), "The first so many documents of each task; 0 = all.")
    define_number("fewshot", None, natural(0, ""), "Examples before each document; none = as the task says.")
    flags.DEFINE_string(
        "apply_chat_template", "", "Ask in a chat template, by its name; 'default' = the model's own; '' = in none."
    )
    flags.DEFINE_string("gen_kwargs", "", "NAME=VALUE,... over the tasks' own generation_kwargs.")
    define_number("batch_size", 16, positive(16, ""), "Rows at a time.")
    define_number("seed", 1234, natural(0, ""), "Of the harness' choice of examples.")
    flags.DEFINE_string("samples_out", "", "A file for what each run was asked and answered, as JSON lines.")


def main() -> None:
    args = flags.FLAGS
    if not args.run:
        raise UserError("--run is missing: a workdir, e.g. --run=runs/base@best, or hf:FOLDER, or gguf:FILE")
    if not args.tasks:
        raise UserError(
            "--tasks is missing: names of tasks of lm-evaluation-harness, e.g. --tasks=arc_easy,lambada_openai"
        )
    if args.adapter and len(args.run) > 1:
        raise UserError("--adapter is put onto one model: give one --run")
    if args.include and not pathlib.Path(args.include).is_dir():
        raise UserError(f"--include={args.include}: there is no such folder")
    if args.samples_out and not pathlib.Path(args.samples_out).absolute().parent.is_dir():
        raise UserError(f"--samples_out={args.samples_out}: there is no such folder")
    prepare_jax()
    from ptft_jax.evaluation import before_after, harness
    from ptft_jax.reporting import side_by_side

    harness.check_tasks(args.tasks, args.include)
    common: dict[str, Any] = {"ignore": args.ignore, "plugins": args.plugins}
    runs: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    for reference, adapter in before_after.ordered(args.run, parent=args.parent, adapter=args.adapter, **common):
        loaded = before_after.opened(reference, adapter, dtype=args.dtype, **common)
        say_chosen(loaded.source)
        rows: list[dict[str, Any]] | None = [] if args.samples_out else None
        found = harness.measure(
            loaded,
            args.tasks,
            include=args.include,
            limit=args.limit,
            fewshot=args.fewshot,
            template=args.apply_chat_template,
            gen_kwargs=args.gen_kwargs,
            seed=args.seed,
            batch_size=args.batch_size,
            rows=rows,
        )
        name = before_after.named(reference, adapter)
        for what, said in SAID.items():
            if found[what]:
                say(f"{name}: {found[what]:,} {said.format(most=loaded.model.max_tokens)}")
        runs.append({"run": name, "step": loaded.source.step, **found})
        asked += [{"run": name, **row} for row in rows or ()]
        del loaded  # its parameters, before the next ones are loaded
    if args.samples_out:
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in asked)
        pathlib.Path(args.samples_out).write_text(text, encoding="utf-8")
    for line in side_by_side.lines(runs):
        say(line)
    print(json.dumps({"tasks": args.tasks, "runs": runs}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    launch(define, main)
