"""Lets a run answer prompts, improves its answers by principles, and writes what can be learned from.

python -m ptft_jax.verbs.feedback --run=runs/base --data=jsonl:prompts.jsonl --principles=principles.toml --out=feedback/one
python -m ptft_jax.verbs.feedback --run=runs/base --data=jsonl:prompts.jsonl --samples=2 --prefer=judge --out=feedback/two \\
  --rewards=judge.run=runs/judge --rewards=judge.rubric_file=rubric.txt

The folder has revised.jsonl (prompts and completions, to be fine-tuned on) and pairs.jsonl (for objective.name=dpo, reward and others),
each where it has rows; feedback.jsonl, with all that was written; and feedback.json, the counts that are printed.
"""

from __future__ import annotations

import json
import shutil

from absl import flags

from ptft_jax.config.field import natural, positive
from ptft_jax.errors import UserError
from ptft_jax.runs import places
from ptft_jax.verbs import answered
from ptft_jax.verbs.command import define_number, define_source, launch, load_source, say, say_chosen
from ptft_jax.verbs.generate import define_sampling, sampling_options


def define() -> None:
    define_source()
    flags.DEFINE_string("data", "", "A data source of prompts, with answers or of texts (?format=text&text=COLUMN).")
    flags.DEFINE_enum("split", "", ["", "train", "validation", "test"], "Which part of the data; '' = all.")
    flags.DEFINE_string("out", None, "The folder to write.")
    flags.DEFINE_string("principles", "", "A file of principles, .toml or .json (docs/principles.md).")
    flags.DEFINE_string("prefer", "", "The verifier that tells two answers apart: judge, reward_model, exact, ...")
    flags.DEFINE_multi_string(
        "rewards",
        [],
        "NAME.SETTING=VALUE of the verifier of --prefer, as config.rewards; may be given more than once.",
    )
    define_number("samples", 1, positive(1, ""), "Answers to each prompt; the first is paired with each other one.")
    define_number("records", 0, natural(0, ""), "Use only the first so many records; 0 = all.")
    flags.DEFINE_string(
        "refusal", "", "A pattern of Python's re that answers have that refuse: their share is printed."
    )
    flags.DEFINE_string("template", "", "Chat template by name; '' = as configured.")
    define_sampling(64, "Tokens of an answer, a critique or a revision; those that do not end are not learned from.")


def main() -> None:
    args = flags.FLAGS
    for name, example in (("data", "jsonl:prompts.jsonl"), ("out", "feedback/one")):
        if not getattr(args, name):
            raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    out = places.local(args.out, f"--out={args.out}").expanduser()
    rewards = answered.settings(args.rewards, args.plugins)
    from ptft_jax.feedback import journal, making
    from ptft_jax.feedback import made as folder

    folder.check_out(out)
    loaded = load_source()
    options = sampling_options(args)
    seed = options.pop("seed")
    names = ("principles", "prefer", "samples", "records", "refusal", "template", "max_new_tokens", "plugins")
    options |= {name: getattr(args, name) for name in names}
    found = making.prepared(loaded, args.data, args.split, rewards=rewards, **options)
    for note in found.notes:
        say(note)
    parts = journal.beside(out)
    if parts.is_dir():
        say(f"{parts}: what an earlier launch has written there of the same is not made again")
    made = found.made(seed, parts)
    made.write(out)
    shutil.rmtree(parts, ignore_errors=True)
    say_chosen(loaded.source)
    print(json.dumps({**made.facts, "out": str(out)}, indent=1))


if __name__ == "__main__":
    launch(define, main)
