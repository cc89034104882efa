"""The flags of `ptft eval` that let a model answer the prompts of data, and score what it writes."""

from __future__ import annotations

import ast
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from ptft_jax.config.tree import TREE
from ptft_jax.errors import UserError, nearest
from ptft_jax.verbs import reading
from ptft_jax.verbs.command import define_number, say
from ptft_jax.verbs.generate import unescaped

_NUMBERS = {
    "records": "With --answers: use only the first so many records; 0 = all.",
    "max_new_tokens": "With --answers: tokens of an answer; prompts that leave no room for so many are not asked.",
    "temperature": "With --answers: 0 = always the likeliest token.",
}
_WITH = ("reference", "stop", "rewards", "tools", "answers_out", "against", *_NUMBERS)


def define() -> None:
    """--answers and what goes with it."""
    flags.DEFINE_list(
        "answers",
        [],
        "Also have the model answer the prompts of --data, scored by these verifiers: exact,f1,number,...",
    )
    for name, meaning in _NUMBERS.items():
        define_number(name, None, TREE["eval"]["answers"][name], f"{meaning} As configured where it is not given.")
    flags.DEFINE_string(
        "reference", "", "With --answers: column of the records with the right answer; '' = what is learned."
    )
    flags.DEFINE_multi_string("stop", [], "With --answers: end where this text appears; may be given more than once.")
    flags.DEFINE_multi_string(
        "rewards",
        [],
        "With --answers: NAME.SETTING=VALUE of a verifier, as config.rewards; may be given more than once.",
    )
    define_tools("With --answers: w")
    flags.DEFINE_string(
        "answers_out", "", "With --answers: a file for prompts, answers, references and scores, as JSON lines."
    )
    flags.DEFINE_string(
        "against",
        "",
        "With --answers: how often the answers are better than others, those of a file of --answers_out or the right ones of the data "
        "(reference).",
    )


def asked() -> dict[str, Any]:
    """What the flags ask for, as arguments of `ptft_jax.evaluation.answers.of_loaded`; {} = nothing. Raises UserError for a flag without
    --answers."""
    args = flags.FLAGS
    if not args.answers:
        given = [name for name in _WITH if getattr(args, name) not in (None, "", [])]
        if given:
            raise UserError(
                f"--{given[0]} is for answers: give --answers, with what scores them, of {', '.join(TREE['rewards'])}"
            )
        return {}
    if args.answers_out and not pathlib.Path(args.answers_out).absolute().parent.is_dir():
        raise UserError(f"--answers_out={args.answers_out}: there is no such folder")
    changed = {name: getattr(args, name) for name in _NUMBERS if getattr(args, name) is not None}
    changed |= {"reference": args.reference} if args.reference else {}
    changed |= {"stop": tuple(map(unescaped, args.stop))} if args.stop else {}
    return {
        "verifiers": args.answers,
        "answers": changed,
        "rewards": settings(args.rewards, args.plugins),
        "tools": tool_settings(args.tools),
    }


def settings(texts: Sequence[str], plugins: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What values of --rewards say, {verifier: {setting: value}}; `plugins`: that may have some. Raises UserError."""
    rewards: dict[str, dict[str, Any]] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        verifier, dot, setting = path.partition(".")
        if not (equals and dot and setting):
            raise UserError(f"--rewards={text}: expected VERIFIER.SETTING=VALUE, such as regex.pattern='[0-9]+'")
        if verifier not in TREE["rewards"] and not plugins:
            known = TREE["rewards"]
            raise UserError(
                f"--rewards={text}: no verifier {verifier!r}: expected of {', '.join(known)}{nearest(verifier, known)}"
            )
        default = TREE["rewards"].get(verifier, {}).get(setting)
        rewards.setdefault(verifier, {})[setting] = value if default and default.default == "" else read_value(value)
    return rewards


def define_tools(start: str = "W") -> None:
    """--tools; `start`: how its meaning begins."""
    flags.DEFINE_multi_string(
        "tools",
        [],
        f"{start}hat answers may call, in place of the run's own tools: calculator, ... ('none' = nothing), or SETTING=VALUE, as config.tools; may be "
        "given more than once.",
    )


def tool_settings(texts: Sequence[str]) -> dict[str, Any]:
    """What values of --tools say, {setting: value}."""
    found: dict[str, Any] = {}
    for text in texts:
        setting, equals, value = text.partition("=")
        if equals:
            found[setting] = read_value(value)
        else:
            found["use"] = () if text == "none" else tuple(text.split(","))
    return found


def prepared(loaded: Any, asked: dict[str, Any]) -> Any:
    """The questions, before anything is measured; None where nothing is asked. Says what people should know. Raises UserError."""
    if not asked:
        return None
    from ptft_jax.evaluation.answers import of_loaded
    from ptft_jax.evaluation.win_rate import others

    args = flags.FLAGS
    found = of_loaded(loaded, args.data, args.split, plugins=args.plugins, **asked, **reading.changes())
    if args.against:
        others(args.against, found.questions.tasks)  # what is wrong with them, before anything is measured
    for note in found.notes:
        say(note)
    return found


def answers(loaded: Any, questions: Any) -> dict[str, Any]:
    """The means of the scores; all answers go to --answers_out. How they compare with those of --against."""
    from ptft_jax.evaluation import win_rate

    values, rows = questions.report(loaded.params)
    if against := flags.FLAGS.against:
        tasks = questions.questions.tasks
        found = win_rate.against(win_rate.others(against, tasks), rows, questions.verifiers, tasks)
        values["against"] = {"answers": against, **found}
    if out := flags.FLAGS.answers_out:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        pathlib.Path(out).write_text(text, encoding="utf-8")
    return values


def read_value(text: str) -> Any:
    """A value as Python spells it, or else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
