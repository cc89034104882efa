"""Continues a text with a run's model.

python -m ptft_jax.verbs.generate --run=runs/base@best --prompt="**HAMLET**" --temperature=0.8 --top_p=0.95
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from ptft_jax.config.field import natural, share
from ptft_jax.config.tree import TREE
from ptft_jax.errors import UserError
from ptft_jax.verbs.command import define_number, define_source, launch, load_source, say_chosen


def define() -> None:
    define_source()
    flags.DEFINE_multi_string(
        "prompt", [], "Text to continue; may be given more than once. '\\n' stands for a newline."
    )
    flags.DEFINE_multi_string(
        "use_adapter", [], "Of a run with several adapters: which one continues each --prompt, in their order."
    )
    define_sampling(max_new_tokens=64)
    flags.DEFINE_bool("json", False, "Print JSON lines instead of text.")


def define_sampling(max_new_tokens: int) -> None:
    """The flags of every verb that lets a model write; `max_new_tokens` is that flag's default."""
    settings = TREE["samples"]
    define_number("max_new_tokens", max_new_tokens, settings["max_new_tokens"], "Tokens to add at most.")
    define_number("temperature", 0.8, settings["temperature"], "0 = always the likeliest token.")
    define_number("top_k", 0, natural(0, ""), "Sample from the k likeliest; 0 = all.")
    define_number("top_p", 1.0, settings["top_p"], "Sample from the likeliest tokens of this mass.")
    define_number("min_p", 0.0, share(0.0, "", small=True), "Drop tokens less likely than this share of the likeliest.")
    flags.DEFINE_multi_string("stop", [], "End where this text appears; may be given more than once.")
    define_number("seed", 0, TREE["seed"], "Of the sampling.")


def sampling_options(args: Any) -> dict[str, Any]:
    """What `define_sampling`'s flags say, as options of `ptft_jax.evaluation.samples`."""
    from ptft_jax.model.decode import Sampling

    return {
        "sampling": Sampling(args.temperature, args.top_k, args.top_p, args.min_p),
        "seed": args.seed,
        "stop": [unescaped(text) for text in args.stop],
    }


def unescaped(text: str) -> str:
    """A flag's text, where '\\n' stands for a newline."""
    return text.replace("\\n", "\n")


def streamer() -> Callable[[str], None]:
    """A function that is called with a growing text and prints what is new of it."""
    shown = 0

    def show(text: str) -> None:
        nonlocal shown
        if len(text) > shown:
            sys.stdout.write(text[shown:])
            sys.stdout.flush()
            shown = len(text)

    return show


def main() -> None:
    args = flags.FLAGS
    if not args.prompt:
        raise UserError("--prompt is missing: the text to continue")
    from ptft_jax.evaluation.samples import generate

    loaded = load_source(together=bool(args.use_adapter))
    prompts = [unescaped(text) for text in args.prompt]
    streaming = len(prompts) == 1 and not args.json
    show = streamer()
    if streaming:
        sys.stdout.write(prompts[0])
    rows = generate(
        loaded,
        prompts,
        max_new_tokens=args.max_new_tokens,
        use_adapter=args.use_adapter,
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
    say_chosen(loaded.source)


if __name__ == "__main__":
    launch(define, main)
