"""Continues a text with a run's model.

python -m ptft_jax.generate --run=runs/base@best --prompt="**HAMLET**" --temperature=0.8 --top_p=0.95
"""

from __future__ import annotations

import json
import sys

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.launch import launch, prepare_jax


def define() -> None:
    flags.DEFINE_string("run", None, "WORKDIR, WORKDIR@STEP or WORKDIR@best.")
    flags.DEFINE_multi_string(
        "prompt", [], "Text to continue; may be given more than once. '\\n' stands for a newline."
    )
    flags.DEFINE_integer("max_new_tokens", 64, "Tokens to add at most.", lower_bound=1)
    flags.DEFINE_float("temperature", 0.8, "0 = always the likeliest token.", lower_bound=0.0)
    flags.DEFINE_integer("top_k", 0, "Sample from the k likeliest; 0 = all.", lower_bound=0)
    flags.DEFINE_float("top_p", 1.0, "Sample from the likeliest tokens of this mass.", lower_bound=0.0, upper_bound=1.0)
    flags.DEFINE_float("min_p", 0.0, "Drop tokens less likely than this share of the likeliest.", lower_bound=0.0)
    flags.DEFINE_multi_string("stop", [], "End where this text appears; may be given more than once.")
    flags.DEFINE_integer("seed", 0, "Of the sampling.")
    flags.DEFINE_bool("json", False, "Print JSON lines instead of text.")


def main() -> None:
    args = flags.FLAGS
    if not args.run:
        raise UserError("--run is missing: a workdir, e.g. --run=runs/base@best")
    if not args.prompt:
        raise UserError("--prompt is missing: the text to continue")
    prepare_jax()
    from ptft_jax import run
    from ptft_jax.evaluation.samples import continue_texts
    from ptft_jax.model.decode import Sampling

    loaded = run.load(args.run, field="--run")
    prompts = [text.replace("\\n", "\n") for text in args.prompt]
    streaming = len(prompts) == 1 and not args.json
    shown = 0

    def show(_: int, text: str) -> None:
        nonlocal shown
        # A last character that is still incomplete, or the start of a stop text, may change: it waits.
        ready = len(text) - max([len(s) for s in args.stop], default=0)
        if text[:ready].endswith("\ufffd"):
            ready -= 1
        if ready > shown:
            sys.stdout.write(text[shown:ready])
            sys.stdout.flush()
            shown = ready

    if streaming:
        sys.stdout.write(prompts[0])
    rows = continue_texts(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        prompts,
        max_new_tokens=args.max_new_tokens,
        sampling=Sampling(args.temperature, args.top_k, args.top_p, args.min_p),
        seed=args.seed,
        stop=[text.replace("\\n", "\n") for text in args.stop],
        on_text=show if streaming else None,
    )
    for row in rows:
        if args.json:
            print(json.dumps(row._asdict(), ensure_ascii=False))
        elif streaming:
            print(row.text[shown:])
        else:
            print(row.prompt + row.text, end="\n---\n")


if __name__ == "__main__":
    launch(define, main)
