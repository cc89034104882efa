"""How cost grows with what is on disk: runs that are listed, text that is prepared. Each measurement is a process of its own."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import commands, data_size

RUNS = (10, 100, 1000)
MEGABYTES = (10, 100, 1000)
_RUN = ("config.json", "summary.json", "metrics.jsonl", "lineage.json")  # what a listing looks at
_LISTED, _PREPARE = ("-m", "ptft_jax.cli", "runs"), ("-m", "ptft_jax.cli", "data", "prepare")


def runs(*, tiny: bool = False) -> dict[str, Any]:
    """{"points": {line: [{"x", "seconds", "bytes"}]}} of `ptft runs` over so many folders of finished runs, the first time and with an
    index: from the command to its end, and the peak of its memory."""
    points: dict[str, list[dict[str, Any]]] = {"first listing": [], "later listing": []}
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        one = _trained(place)
        for count in RUNS[:1] if tiny else RUNS:
            for number in range(count):
                (target := place / str(count) / f"run{number}").mkdir(parents=True)
                for path in (one / part for part in _RUN):
                    if path.exists():
                        shutil.copy(path, target)
            for line in points:
                listed = (*_LISTED, f"--folder={place / str(count)}")
                points[line].append({"x": count, **_commanded(listed, place / f"cache{count}")})
    return {"points": points}


def _trained(place: pathlib.Path) -> pathlib.Path:
    """A finished run of some steps."""
    (place / "text.txt").write_text("To be, or not to be, that is the question.\n" * 400, encoding="utf-8")
    config = {"data.source": f"text:{place / 'text.txt'}", "tokenizer.kind": "byte", "training.steps": 20, "log.every": 1,
              "model.layers": 1, "model.width": 16, "model.heads": 2, "data.length": 16, "model.max_length": 16}  # fmt: skip
    settings = (f"--config.{name}={value}" for name, value in config.items())
    command = ("-m", "ptft_jax.train", "--config=pretrain/text:notes", f"--workdir={place / 'one'}", *settings)
    _commanded(command, place / "cache")
    return place / "one"


def corpus(*, tiny: bool = False) -> dict[str, Any]:
    """{"points": {line: [{"x", "seconds", "bytes"}]}} of so many megabytes of text in one file: tokenized as bytes at the first start of a run,
    found in the cache at a later one, and `ptft data prepare`. "bytes": the largest of peaks of the process and its workers."""
    points: dict[str, list[dict[str, Any]]] = {"first start": [], "later start": [], "ptft data prepare": []}
    for megabytes in (1, 2) if tiny else MEGABYTES:
        with tempfile.TemporaryDirectory() as name:
            place = pathlib.Path(name)
            data_size.make_text(place / "text.txt", megabytes)
            source = f"text:{place / 'text.txt'}"
            for line in ("first start", "later start"):
                found = data_size.measure(data_size.OURS.format(reference=source, kind="byte"), place / "cache")
                peak = max(found["megabytes"], found["worker_megabytes"]) * 1e6
                points[line].append({"x": megabytes, "seconds": found["ids"], "bytes": peak})
            words = (*_PREPARE, "--tokenizer=byte", f"--source={source}", f"--out={place / 'out'}")
            points["ptft data prepare"].append({"x": megabytes, **_commanded(words, place / "other")})
    return {"points": points}


def _commanded(words: Sequence[str], cache: pathlib.Path) -> dict[str, float]:
    """Seconds of a command from outside, and the peak of resident memory of the largest of its processes."""
    _, seconds, peak = commands.run(words, cache)
    return {"seconds": seconds, "bytes": peak}
