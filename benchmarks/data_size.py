"""What data cost by their size: seconds and peak memory of the first start and of a later one.

python -m benchmarks.data_size [--megabytes=100] [--files=20000] [--rows=200000]

A text file of so many megabytes and one of a fourth (tokenized as bytes, and by a BPE whose vocabulary is trained on it first), a
folder of so many small text files, and a file of so many short JSON rows. Every measurement is a process of its own with an
empty cache, or, for a later start, with that of the first. Memory is the peak of resident memory of the process and, apart, of the
largest of its workers. Beside the BPE stands the tokenizers library alone on the same text, line by line, in one process.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import tempfile
from typing import Any

from benchmarks import commands

OURS = """
import json, resource, sys, time
from ptft_jax import config
from ptft_jax.data import pipeline, source_splits
from ptft_jax.data import tokenizers as tok
settings = config.default()
settings.data.source = "{reference}"
settings.tokenizer.update(kind="{kind}", vocab_size=4096)
c = config.check(settings.to_dict())
began = time.perf_counter()
tokenizer = tok.build(c.tokenizer, lambda: source_splits.training_texts(c.data), None)
between = time.perf_counter()
found = source_splits.tokenized(c.data, "{reference}", "train", tokenizer)
print(json.dumps([between - began, time.perf_counter() - between, len(found.store.ids)]))
"""
THEIRS = """
import json, time
import tokenizers
from tokenizers import models, pre_tokenizers, trainers
made = tokenizers.Tokenizer(models.BPE())
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
trainer = trainers.BpeTrainer(vocab_size=4096, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
began = time.perf_counter()
with open("{path}", encoding="utf-8") as lines:
    made.train_from_iterator(lines, trainer)
between, count, held = time.perf_counter(), 0, []
with open("{path}", encoding="utf-8") as lines:
    for line in lines:
        held.append(line)
        if len(held) == 1024:
            count += sum(len(x.ids) for x in made.encode_batch_fast(held))
            held = []
    count += sum(len(x.ids) for x in made.encode_batch_fast(held))
print(json.dumps([between - began, time.perf_counter() - between, count]))
"""
_PEAKS = """
import resource
peaks = [resource.getrusage(who).ru_maxrss / 1000 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps(peaks))
"""


def make_text(path: pathlib.Path, megabytes: float) -> None:
    """Lines of words, some paragraphs long."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1e6:
            file.writelines(
                " ".join(rng.choices(words, k=rng.randint(5, 30))) + rng.choice((".\n", ".\n\n")) for _ in range(5000)
            )


def measure(code: str, cache: pathlib.Path) -> dict[str, Any]:
    """A program in a process of its own: seconds until there is a "vocabulary" and from then until there are "ids", their "count", and
    "megabytes" of resident memory at its peak, of itself and of the largest of its workers ("worker_megabytes")."""
    said, _, _ = commands.run(("-c", code + _PEAKS), cache)
    (vocabulary, ids, count), (own, others) = map(json.loads, said.splitlines()[-2:])
    return {"vocabulary": vocabulary, "ids": ids, "count": count, "megabytes": own, "worker_megabytes": others}


def _print(name: str, found: dict[str, Any]) -> None:
    seconds, memory = f"{found['vocabulary']:7.1f} {found['ids']:7.1f}", f"{found['megabytes']:8.0f}"
    print(f"{name:<42} {seconds} {memory} {found['worker_megabytes']:8.0f}   {found['count']:,} ids", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=200_000)
    args = parser.parse_args()
    print(f"{'':<42} {'vocab s':>7} {'ids s':>7} {'MB':>8} {'worker':>8}")
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        for megabytes in (args.megabytes / 4, args.megabytes):
            path = place / f"{megabytes:g}.txt"
            make_text(path, megabytes)
            for kind in ("byte", "bpe"):
                code = OURS.format(reference=f"text:{path}", kind=kind)
                _print(f"one file of {megabytes:g} MB, {kind}", measure(code, place / f"{kind} {megabytes:g}"))
            _print("  the same, tokenizers alone", measure(THEIRS.format(path=path), place))
        (place / "many").mkdir()
        for number in range(args.files):
            (place / f"many/{number}.txt").write_text(f"text number {number}\n" * 5, encoding="utf-8")
        with open(place / "rows.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": f"row number {number}"}) + "\n" for number in range(args.rows))
        for name, reference in (
            (f"{args.files:,} files", f"text:{place}/many"),
            (f"{args.rows:,} rows", f"jsonl:{place}/rows.jsonl"),
        ):
            for when in ("first start", "later start"):
                _print(f"{name}, {when}", measure(OURS.format(reference=reference, kind="byte"), place / name))


if __name__ == "__main__":
    main()
