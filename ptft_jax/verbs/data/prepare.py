"""Tokenizes, filters and deduplicates sources into shards, and says what became of every record.

ptft data prepare --source=jsonl:articles.jsonl.gz --tokenizer=runs/base --out=prepared --shards=8
ptft data prepare --source='hf:dump?text=body' --source=text:notes --tokenizer=byte --out=prepared \\
  --quality=basic --deduplicate=near --exclude_overlap_with=jsonl:evaluation.jsonl

The folder is read by the source tokens:FOLDER. Length and quality rules hold for every split; records are lost as
repeats, as leaks (what repeats a validation or test record) and for overlap in the train split alone. The folder appears
when it is complete; prepared once more with the same settings from the same data, nothing is done.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from ptft_jax.config.field import natural, positive
from ptft_jax.config.tree import TREE
from ptft_jax.data import overview
from ptft_jax.errors import UserError
from ptft_jax.runs import places
from ptft_jax.verbs.command import define_number, define_plugins, launch


def define() -> None:
    flags.DEFINE_multi_string("source", [], "KIND:NAME[?OPTION=VALUE&...]; several may be given, in order.")
    flags.DEFINE_string(
        "tokenizer", None, "byte, a tokenizer's file or folder, a run's workdir, or hf: or gguf: weights."
    )
    flags.DEFINE_string("out", None, "The folder to make.")
    flags.DEFINE_list("split", ["train", "validation", "test"], "Which splits, joined by commas.")
    define_number(
        "shards", 1, positive(1, ""), "Shards a split, of as equal a number of examples as can be; at most one each."
    )
    flags.DEFINE_string("template", "", "Chat template by name; '' = the tokenizer's own.")
    flags.DEFINE_string(
        "train_on", "assistant", "Which tokens of conversations have loss: assistant, last, all, or roles."
    )
    define_number(
        "held_out",
        0.1,
        TREE["data"]["held_out"],
        "Share of the records for each of validation and test that a source lacks.",
    )
    flags.DEFINE_enum("broken", "raise", ["raise", "skip"], "Records that cannot be read.")
    _define_filters()
    define_number("workers", 0, natural(0, ""), "Processes; 0 = as many as processors (beam: those of its runner).")
    flags.DEFINE_enum("engine", "processes", ["processes", "beam"], "Who does the work; the result is the same.")
    flags.DEFINE_string("beam_runner", "DirectRunner", "Beam's runner.")
    flags.DEFINE_multi_string("beam_option", [], "NAME=VALUE for Beam's pipeline; several may be given.")
    define_plugins()
    flags.DEFINE_string("work", "", "Folder or URL for workers' files, reached by all of them; '' = beside --out.")


def _define_filters() -> None:
    for unit, of in (("tokens", "an example"), ("characters", "a record's text")):
        define_number(f"min_{unit}", 0, natural(0, ""), f"Fewest {unit} of {of}.")
        define_number(f"max_{unit}", 0, natural(0, ""), f"Most {unit} of {of}; 0 = no limit.")
    flags.DEFINE_enum("quality", "none", ["none", "basic"], "Rules that hold in every language.")
    flags.DEFINE_string("quality_rules", "", "Other limits, RULE=NUMBER or RULE=off, joined by commas.")
    flags.DEFINE_enum("deduplicate", "none", ["none", "exact", "near"], "Which repeats, and leaks, are lost.")
    define_number("near_threshold", 0.8, natural(0.8, ""), "Jaccard similarity of near-duplicates.")
    define_number("near_words", 5, natural(5, ""), "Words of the n-grams that are compared.")
    define_number(
        "near_bands", 20, natural(20, ""), "MinHash: bands, one of which two records must share to be compared."
    )
    define_number("near_rows", 6, natural(6, ""), "MinHash: hash functions a band.")
    flags.DEFINE_multi_string(
        "exclude_overlap_with", [], "A source that models are evaluated on; several may be given."
    )
    flags.DEFINE_enum("overlap_split", "all", ["all", "train", "validation", "test"], "Which part of those sources.")
    define_number("overlap_words", 13, natural(13, ""), "Words in a run that must not be shared.")
    flags.DEFINE_enum("overlap", "drop", ["drop", "list"], "Records that overlap: lost, or kept and listed.")


def main() -> None:
    args = flags.FLAGS
    from rich.console import Console

    from ptft_jax.data import survey
    from ptft_jax.data.prepare import engines, shard_writing, table
    from ptft_jax.reporting.progress import as_table

    settings = _settings(args)
    if not args.out:
        raise UserError("--out is missing: the folder to make")
    if not args.tokenizer:
        raise UserError(
            "--tokenizer is missing: byte, a tokenizer's file or folder, a run's workdir, hf:... or gguf:..."
        )
    if args.engine == "beam":
        engine: engines.Engine = engines.Beam(args.beam_runner, tuple(args.beam_option), args.workers)
    elif args.beam_option or args.beam_runner != "DirectRunner":
        raise UserError("--beam_runner and --beam_option are for --engine=beam")
    else:
        engine = engines.Processes(args.workers)
    out = pathlib.Path(os.path.abspath(places.local(args.out, f"--out={args.out}").expanduser()))
    work = args.work if "://" in args.work or not args.work else os.path.abspath(args.work)
    manifest, there = shard_writing.prepare(settings, _tokenizer(args.tokenizer), out, engine, work=work, say=_saying())
    screen = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    screen.print(f"{manifest['kind']}: {manifest['format']}")
    kept = "kept (--deduplicate=exact takes out those by text)"
    for n, source in enumerate(settings.sources, 1):
        screen.print("\n     ".join([f"  {n}  {source}", *survey.lines(manifest["surveyed"][source], kept)]))
    screen.print(as_table("what became of the records", table.rows(manifest)))
    for split, facts in manifest["splits"].items():
        if count := sum(shard.get("empty_answers", 0) for shard in facts["contents"].values()):
            screen.print(f"{split}: {overview.empty_answers({'empty_answers': count})}")
    for name in ("near_duplicates", "overlap"):
        if name in manifest:
            screen.print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in manifest[name].items()))
    screen.print(f"{'there already' if there else 'prepared'}: tokens:{args.out}")


def _settings(args: Any) -> Any:
    from ptft_jax.data.prepare import settings
    from ptft_jax.data.prepare.minhash import Near

    unknown = [split for split in args.split if split not in settings.SPLITS]
    if unknown or not args.split:
        raise UserError(f"--split={','.join(args.split)}: expected some of {', '.join(settings.SPLITS)}")
    sizes = ("min_tokens", "max_tokens", "min_characters", "max_characters")
    return settings.Settings(
        sources=tuple(args.source),
        plugins=tuple(dict.fromkeys(args.plugins)),
        splits=tuple(split for split in settings.SPLITS if split in args.split),
        quality=settings.quality_limits(args.quality, args.quality_rules),
        near=Near(args.near_threshold, args.near_words, args.near_bands, args.near_rows),
        overlap_with=tuple(args.exclude_overlap_with),
        **{name: getattr(args, name) for name in ("held_out", "broken", "template", "train_on", "shards", *sizes)},
        **{name: getattr(args, name) for name in ("deduplicate", "overlap_split", "overlap_words", "overlap")},
    )


def _tokenizer(name: str) -> Any:
    from ptft_jax.data import tokenizers as tok

    if name == "byte":
        return tok.ByteTokenizer()
    if name.startswith(("hf:", "gguf:")):
        from ptft_jax.runs import source as restore

        return restore.find(name, "--tokenizer").tokenizer
    return tok.from_file(pathlib.Path(name).expanduser())


def _saying(every: float = 5.0) -> Callable[[str], None]:
    """Prints what is being done to stderr, at most once in so many seconds."""
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    return say


if __name__ == "__main__":
    launch(define, main)
