"""Continues a text with a run's model.

python -m ptft_jax.verbs.generate --run=runs/base@best --prompt="**HAMLET**" --temperature=0.8 --top_p=0.95

A prompt is plain text, whatever it spells: with --control_tokens, control (special) tokens that it spells are these. In a prompt
and a stop text '\\n' stands for a newline, and '\\\\n' for a backslash and an n.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from ptft_jax.config.field import natural, positive, share
from ptft_jax.config.tree import TREE
from ptft_jax.errors import UserError
from ptft_jax.verbs.command import define_number, define_source, launch, load_source, say_chosen


def define() -> None:
    define_source()
    flags.DEFINE_multi_string(
        "prompt",
        [],
        "Plain text to continue; may be given more than once. '\\n' stands for a newline, '\\\\n' for a backslash and an n.",
    )
    flags.DEFINE_multi_string(
        "image", [], "Of a model that reads images: a file, for all prompts, or one for each --prompt, in their order."
    )
    flags.DEFINE_bool(
        "control_tokens", False, "Control (special) tokens that a --prompt spells are these tokens, not plain text."
    )
    flags.DEFINE_multi_string(
        "use_adapter", [], "Of a run with several adapters: which one continues each --prompt, in their order."
    )
    define_sampling(None, "Tokens to add at most; 64, or as many as the model has room for, where it is not given.")
    flags.DEFINE_string(
        "draft",
        None,
        "A smaller model with the same tokenizer, as --run names one: it guesses tokens, which the model checks several at once. "
        "The text is the same, and sooner there.",
    )
    define_number(
        "draft_tokens", None, positive(1, ""), "Tokens that --draft guesses at a time; 4 where it is not given."
    )
    define_number(
        "lookup",
        0,
        natural(0, ""),
        "Guess so many tokens at a time without a draft: those that followed the text's last ones where they stood before; 0 = none.",
    )
    flags.DEFINE_bool("json", False, "Print JSON lines instead of text.")


def define_sampling(max_new_tokens: int | None, meaning: str) -> None:
    """The flags of every verb that lets a model write; `max_new_tokens` is that flag's default."""
    settings = TREE["samples"]
    define_number("max_new_tokens", max_new_tokens, settings["max_new_tokens"], meaning)
    define_number("temperature", 0.8, settings["temperature"], "0 = always the likeliest token.")
    define_number(
        "top_k", 0, natural(0, ""), "Sample from the k likeliest, of equally likely ones the lowest ids; 0 = all."
    )
    define_number("top_p", 1.0, settings["top_p"], "Sample from the likeliest tokens of this mass.")
    define_number("min_p", 0.0, share(0.0, "", small=True), "Drop tokens less likely than this share of the likeliest.")
    flags.DEFINE_multi_string(
        "stop",
        [],
        "End where this text appears, or, of the text of a control token, at that token; may be given more than once.",
    )
    define_number(
        "seed",
        0,
        TREE["seed"],
        "Of the sampling: what is drawn follows from it and from the number of the prompt or turn.",
    )


def sampling_options(args: Any) -> dict[str, Any]:
    """What `define_sampling`'s flags say, as options of `ptft_jax.evaluation.samples`."""
    from ptft_jax.model.decode import Sampling

    return {
        "sampling": Sampling(args.temperature, args.top_k, args.top_p, args.min_p),
        "seed": args.seed,
        "stop": [unescaped(text) for text in args.stop],
    }


def unescaped(text: str) -> str:
    """A flag's text, where '\\n' stands for a newline. Of backslashes before an n each pair stands for one; all others are
    themselves."""

    def one(found: re.Match[str]) -> str:
        pairs, odd = divmod(len(found[1]), 2)
        return "\\" * pairs + ("\n" if odd else "n")

    return re.sub(r"(\\+)n", one, text)


def streamer(before: str = "") -> Callable[[str], None]:
    """A function that is called with a growing text and prints what is new of it, the first time after `before`."""
    shown, started = 0, False

    def show(text: str) -> None:
        nonlocal shown, started
        if not started:
            sys.stdout.write(before)
            started = True
        if len(text) > shown:
            sys.stdout.write(text[shown:])
            sys.stdout.flush()
            shown = len(text)

    return show


def load_draft(reference: str | None) -> Any:
    """The model that --draft names; None where it names none. Raises UserError."""
    if reference is None:
        return None
    from ptft_jax.runs import loading

    args = flags.FLAGS
    return loading.load(reference, field="--draft", dtype=args.dtype, ignore=args.ignore, plugins=args.plugins)


def main() -> None:
    args = flags.FLAGS
    if not args.prompt:
        raise UserError("--prompt is missing: the text to continue")
    from ptft_jax.evaluation.samples import MAX_NEW_TOKENS, generate

    loaded = load_source(together=bool(args.use_adapter))
    draft = load_draft(args.draft)
    prompts = [unescaped(text) for text in args.prompt]
    streaming = len(prompts) == 1 and not args.json
    show = streamer(prompts[0])
    rows = generate(
        loaded,
        prompts,
        max_new_tokens=args.max_new_tokens,
        control_tokens=args.control_tokens,
        use_adapter=args.use_adapter,
        draft=draft,
        draft_tokens=args.draft_tokens,
        lookup=args.lookup,
        release=True,
        images=args.image,
        on_text=(lambda _, text: show(text)) if streaming else None,
        **sampling_options(args),
    )
    for row in rows:
        if args.json:
            print(json.dumps(row._asdict(), ensure_ascii=False))
        elif streaming:
            show(row.text)
            print()
        else:
            print(row.prompt + row.text, end="\n---\n")
    full = [row.tokens for row in rows if row.reason == "full"]
    if full and args.max_new_tokens is None:
        most = loaded.model.spec.max_length
        print(
            f"(the model sees at most {most} tokens, its prompt included: {min(full)} new ones here, not {MAX_NEW_TOKENS})",
            file=sys.stderr,
            flush=True,
        )
    say_chosen(loaded.source)


if __name__ == "__main__":
    launch(define, main)
