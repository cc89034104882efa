"""Measures what runs do with questions whose answers are known, before and after in one table, and prints JSON.

ptft behavior --run=runs/tuned --tasks=recall,known --data=jsonl:questions.jsonl --out=behavior.html
ptft behavior --run=hf:FOLDER --adapter=FOLDER --tasks=options,calibration --data=jsonl:questions.jsonl

A run alone is measured beside its parent, and a model with --adapter beside itself without; --noparent measures it alone. Settings of tasks are
given as --set=groups.level=0.9, see docs/behavior.md.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from absl import flags

from ptft_jax.config.tree import TREE
from ptft_jax.errors import UserError, nearest
from ptft_jax.verbs import answered
from ptft_jax.verbs.command import (
    define_compared,
    define_number,
    define_plugins,
    launch,
    prepare_jax,
    say,
    say_chosen,
)


def define() -> None:
    define_plugins()
    define_compared()
    flags.DEFINE_list("tasks", [], "What is measured: recall,options,known,...; '' = as the run's config has it.")
    flags.DEFINE_multi_string(
        "data",
        [],
        "Questions, as config.eval.behavior.source; may be given more than once; none = as the run's config has it.",
    )
    flags.DEFINE_enum(
        "split",
        "",
        ["", "train", "validation", "test"],
        "Which part of them; '' = all, and of several splits validation.",
    )
    flags.DEFINE_string("template", "", "Chat template by name; '' = as the run has it.")
    define_number("records", None, TREE["eval"]["behavior"]["records"], "Use only the first so many; 0 = all.")
    define_number(
        "max_new_tokens", None, TREE["eval"]["behavior"]["max_new_tokens"], "Tokens of an answer that is written."
    )
    define_number("batch_size", 0, TREE["eval"]["batch_size"], "Rows at a time; 0 = as the run has it, else 16.")
    flags.DEFINE_multi_string(
        "set", [], "[TASK.]SETTING=VALUE, as config.eval.behavior; may be given more than once.", short_name=None
    )
    flags.DEFINE_multi_string("rewards", [], "NAME.SETTING=VALUE of a verifier of styles, as config.rewards.")
    flags.DEFINE_string(
        "out", "", "An HTML file with tables and pictures; all figures, curves among them, go to a JSON file beside it."
    )
    flags.DEFINE_string("questions_out", "", "A file for what each run says to each question, as JSON lines.")


def main() -> None:
    args = flags.FLAGS
    references, wanted = _runs(), _settings()
    page, out = None, None
    if args.out:
        from ptft_jax.reporting import behavior_page as page  # needs an extra: said before anything is computed
        from ptft_jax.runs import places

        out = places.local(args.out, f"--out={args.out}")
    for name in ("out", "questions_out"):
        if getattr(args, name) and not pathlib.Path(getattr(args, name)).absolute().parent.is_dir():
            raise UserError(f"--{name}={getattr(args, name)}: there is no such folder")
    prepare_jax()
    from ptft_jax.evaluation import before_after
    from ptft_jax.reporting import side_by_side

    rows: list[dict[str, Any]] = []
    found = before_after.compare(
        references,
        next(iter(args.data), ""),
        args.tasks,
        args.split,
        parent=args.parent,
        adapter=args.adapter,
        dtype=args.dtype,
        ignore=args.ignore,
        rows=rows if args.questions_out else None,
        say=say,
        loaded=lambda loaded: say_chosen(loaded.source),
        settings=wanted,
        rewards=answered.settings(args.rewards, args.plugins),
        batch_size=args.batch_size,
        plugins=args.plugins,
        **({"template": args.template} if args.template else {}),
    )
    if args.questions_out:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        pathlib.Path(args.questions_out).write_text(text, encoding="utf-8")
    for line in side_by_side.lines(found["runs"]):
        say(line)
    runs = [{name: value for name, value in run.items() if name != "details"} for run in found["runs"]]
    print(json.dumps({**found, "runs": runs}, indent=1, ensure_ascii=False))
    if page is not None and out is not None:
        page.write(found, out)
        say(f"report: {out}")


def _runs() -> list[str]:
    args = flags.FLAGS
    if not args.run:
        raise UserError("--run is missing: a workdir, e.g. --run=runs/base@best, or hf:FOLDER, or gguf:FILE")
    if twice := [name for name in args.run if args.run.count(name) > 1]:
        raise UserError(f"--run={twice[0]} is given twice")
    if args.adapter and len(args.run) > 1:
        raise UserError("--adapter is put onto one model: give one --run")
    return args.run


def _settings() -> dict[str, Any]:
    """What --set and its like say of `config.eval.behavior`. Raises UserError."""
    args, own = flags.FLAGS, TREE["eval"]["behavior"]
    found: dict[str, Any] = {"also": tuple(args.data[1:])} if args.data else {}
    found |= {name: getattr(args, name) for name in ("records", "max_new_tokens") if getattr(args, name) is not None}
    for text in args.set:
        path, equals, value = text.partition("=")
        task, dot, setting = path.partition(".")
        if not equals or (task not in own and not args.plugins) or (dot and not isinstance(own.get(task, {}), dict)):
            raise UserError(
                f"--set={text}: expected [TASK.]SETTING=VALUE, such as groups.level=0.9{nearest(task, own)}"
            )
        if path in ("tasks", "source", "also"):
            raise UserError(f"--set={text}: give --{'tasks' if path == 'tasks' else 'data'}")
        declared = own.get(task)
        if dot:
            declared = declared.get(setting) if isinstance(declared, dict) else None
        kind = type(getattr(declared, "default", None))
        read: Any = value if kind is str else answered.read_value(value)
        if kind is tuple:
            read = tuple(filter(None, value.split(",")))
        if dot:
            found.setdefault(task, {})[setting] = read
        else:
            found[task] = read
    return found


if __name__ == "__main__":
    launch(define, main)
