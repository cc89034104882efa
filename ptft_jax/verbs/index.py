"""Makes an index: of passages that are looked up (bm25, dense), or of what a run has read (knn).

ptft index --corpus=jsonl:documents.jsonl --kind=bm25 --out=indexes/documents
ptft index --corpus='world:passages?distractors=100' --kind=dense --run=runs/encoder --out=indexes/people
ptft index --corpus=text:notes --kind=knn --run=runs/base --out=indexes/notes

The folder appears when it is complete; given again, the same command does nothing, and another one is refused. One that was killed goes on where
it was. See docs/retrieval.md.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from absl import flags

from ptft_jax.config.field import natural, positive, whole_share
from ptft_jax.errors import UserError
from ptft_jax.retrieval.options import POOLINGS
from ptft_jax.verbs.command import SOURCES, define_number, define_plugins, launch, prepare_jax, say, say_chosen

_OF = {
    "k1": ("bm25",), "b": ("bm25",), "words": ("bm25", "dense"), "run": ("dense", "knn"), "pooling": ("dense",), "length": ("knn",),
}  # fmt: skip


def define() -> None:
    define_plugins()
    flags.DEFINE_string("corpus", "", "KIND:NAME[?OPTION=VALUE&...]: texts, as config.data.source.")
    flags.DEFINE_enum("split", "", ["", "train", "validation", "test"], "Which part of it; '' = all that it holds.")
    flags.DEFINE_enum(
        "kind", "bm25", ["bm25", "dense", "knn"], "By words, by vectors of --run, or of its states and what came next."
    )
    flags.DEFINE_string("out", "", "The folder to make.")
    define_number(
        "words", 0, natural(0, ""), "Documents are cut into passages of so many words; 0 = each is a passage."
    )
    define_number(
        "k1", None, positive(1.5, ""), "Of bm25: how soon more of the same word counts no more. 1.5 where not given."
    )
    define_number(
        "b", None, whole_share(0.75, ""), "Of bm25: how much the length of a passage counts. 0.75 where not given."
    )
    flags.DEFINE_string("run", "", f"Of dense and knn: what makes the vectors. {SOURCES}")
    flags.DEFINE_enum(
        "pooling", None, POOLINGS, "Of dense: what of a text's states is its vector; as the run was trained, else mean."
    )
    define_number("length", 0, natural(0, ""), "Of knn: tokens per row; 0 = as the run has it.")


def main() -> None:
    args = flags.FLAGS
    for name in ("corpus", "out"):
        if not getattr(args, name):
            raise UserError(f"--{name} is missing: {flags.FLAGS[name].help}")
    for name, kinds in _OF.items():
        if getattr(args, name) not in (None, "", 0) and args.kind not in kinds:
            raise UserError(f"--{name} is of an index of kind {' or '.join(kinds)}, and this is --kind={args.kind}")
    from ptft_jax.config import plugins
    from ptft_jax.retrieval import index
    from ptft_jax.retrieval.passages import Corpus
    from ptft_jax.runs import places
    from ptft_jax.runs import source as restore

    out = pathlib.Path(os.path.abspath(places.local(args.out, f"--out={args.out}").expanduser()))
    if args.kind == "knn":
        facts, there = _states(out)
        what = f"{facts['entries']:,} tokens"
    else:
        corpus = Corpus(args.corpus, args.split, args.words, plugins.tables(tuple(args.plugins)).sources)
        options: dict[str, Any] = {name: getattr(args, name) for name in ("k1", "b") if getattr(args, name) is not None}
        if args.kind == "dense":
            run = args.run if restore.is_reference(args.run) else os.path.abspath(os.path.expanduser(args.run))
            options |= {"run": run, "encoder": _encoder()}
        facts, there = index.build(out, args.kind, corpus, words=args.words, say=say, **options)
        what = f"{facts['passages']:,} passages"
    print(f"{'there already' if there else 'made'}: {args.out}: {facts['kind']}, {what}")


def _states(out: pathlib.Path) -> tuple[dict[str, Any], bool]:
    args, loaded = flags.FLAGS, _loaded()
    from ptft_jax.evaluation import neighbors

    options = {"length": args.length, "plugins": args.plugins}
    return neighbors.build(loaded, args.run, args.corpus, args.split, out, say, **options)


def _loaded() -> Any:
    args = flags.FLAGS
    if not args.run:
        raise UserError(f"--run is missing: what makes the vectors of an index of kind {args.kind}")
    prepare_jax()
    from ptft_jax.runs import loading

    loaded = loading.load(args.run, field="--run", plugins=args.plugins)
    say_chosen(loaded.source)
    return loaded


def _encoder() -> Any:
    loaded = _loaded()
    from ptft_jax.retrieval.dense import Encoder

    objective = loaded.source.config.objective
    trained = objective.pooling if objective.name == "contrastive" else POOLINGS[0]
    return Encoder(loaded, flags.FLAGS.pooling or trained)


if __name__ == "__main__":
    launch(define, main)
