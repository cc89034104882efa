"""From sources to a folder of shards and a manifest that says what became of every record.

Two passes. Workers read, tokenize, filter and sketch chunks of records and leave a file for each; this process then
knows a digest, a sketch and the sizes of every record, decides which repeat others, and copies the kept examples from
the chunks' files into shards. Which engine does the first pass, with how many workers and in chunks of which size,
changes nothing that is written.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

from ptft_jax import __version__, environment
from ptft_jax.data import cache, formats, jsons, survey, token_folder, whole_folders
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.prepare import gathering, places
from ptft_jax.data.prepare.chunks import Chunk, Plan, Task
from ptft_jax.data.prepare.engines import Engine
from ptft_jax.data.prepare.gathering import Gathered
from ptft_jax.data.prepare.overlap import Runs
from ptft_jax.data.prepare.settings import FORM, SPLITS, Settings
from ptft_jax.data.prepare.table import Table, losses
from ptft_jax.data.token_folder import MANIFEST
from ptft_jax.data.tokenize import Formatted, Opened
from ptft_jax.errors import UserError, few, listed
from ptft_jax.pairing import PICTURED

CHUNK = 1024  # records a task
_BATCH = 256  # evaluation texts whose words are looked at together

Sources = dict[str, list[Opened]]  # split -> its sources


def prepare(
    settings: Settings,
    tokenizer: tok.Tokenizer,
    out: pathlib.Path,
    engine: Engine,
    *,
    work: str = "",
    chunk: int = CHUNK,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], bool]:
    """Prepares `out`, which is there at the end as a whole or not at all.

    Args:
      work: folder for the workers' files, also a URL of fsspec; '' = beside `out`.
      chunk: records a task.
      say: told what is being done.

    Returns:
      The manifest; whether it was there already, made with the same settings of the same sources.

    Raises:
      UserError: bad input; `out` holds something else, or another process is preparing it; a split of which nothing
        is kept.
    """
    sources, facts = _opened(settings)
    evaluation = _evaluation(settings)
    identity = _identity(settings, sources, evaluation, tokenizer)
    if not out.exists():
        with whole_folders.partial(out, "preparing") as folder:
            if not out.exists():  # nor made since by another process
                name = f"prepare-{cache.digest(str(out.absolute()))}"
                _clear_but(folder, name)
                place = f"{work.rstrip('/')}/{name}" if work else str(folder / name)
                manifest = identity | _prepare(
                    settings, sources, evaluation, tokenizer, folder, engine, place, chunk, say
                )
                manifest = jsons.with_checksum({**manifest, **facts})
                (folder / MANIFEST).write_text(
                    json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
                )
                folder.rename(out)
                return manifest, False
    return _existing(out, identity), True


def _opened(settings: Settings) -> tuple[Sources, dict[str, Any]]:
    """The sources, and the part of the manifest that says of which files they are, what lies beside them, and how many
    records of train stand in what is held out (unless deduplication takes these out)."""
    formatted = {reference: Formatted.of(reference, settings.broken, settings.kinds) for reference in settings.sources}
    for reference, one in formatted.items():
        if one.format.kind in PICTURED:
            raise UserError(
                f"{reference}: images are not prepared: training decodes them once, and keeps their pixels in the cache"
            )
    splits = [split for split in SPLITS if split in settings.splits]
    opened = {r: {split: one.opened(split, settings.held_out) for split in splits} for r, one in formatted.items()}
    sources = {split: [opened[reference][split] for reference in settings.sources] for split in splits}
    parts = {r: {split: found.records for split, found in group.items()} for r, group in opened.items()}
    facts = {r: survey.facts_of(one, parts[r], settings.held_out) for r, one in formatted.items()}
    if settings.deduplicate == "none":
        for reference, leaks in survey.leaking(parts, facts, settings.sources).items():
            facts[reference]["leaks"] = {**leaks.noted(), "dropped": False}
    noted = {"sources": token_folder.noted({r: one.source for r, one in formatted.items()}), "surveyed": facts}
    kinds = {opened.format.kind: opened for group in sources.values() for opened in group}
    if len(kinds) > 1:
        found = listed(f"{o.reference}: {o.format.describe()}" for o in kinds.values())
        raise UserError(f"--source: the sources hold data of several kinds; prepare them one by one:{found}")
    classes = {opened.format.classes: opened for group in sources.values() for opened in group}
    if len(classes) > 1:
        found = listed(f"{o.reference}: {few(names) or 'numbers'}" for names, o in classes.items())
        raise UserError(
            f"--source: the sources number their classes differently; name the same with classes=A,B:{found}"
        )
    return sources, noted


def _evaluation(settings: Settings) -> list[Opened]:
    """The evaluation sets that what is trained on is compared with."""
    if not settings.overlap_with or "train" not in settings.splits:
        return []
    splits = SPLITS if settings.overlap_split == "all" else (settings.overlap_split,)
    return [
        Opened.of(reference, split, held_out=settings.held_out, broken=settings.broken, kinds=settings.kinds)
        for reference in settings.overlap_with
        for split in splits
    ]


def _identity(
    settings: Settings, sources: Sources, evaluation: list[Opened], tokenizer: tok.Tokenizer
) -> dict[str, Any]:
    """The part of the manifest that decides the rest."""
    fingerprints = {split: {o.reference: o.records.fingerprint for o in group} for split, group in sources.items()}
    every = [o for group in sources.values() for o in group]
    encoders = [
        formats.encoder(o.format, tokenizer, template=settings.template, train_on=settings.train_on) for o in every
    ]
    return {
        "form": FORM,
        "kind": every[0].format.kind,
        "classes": list(every[0].format.classes),
        "format": " | ".join(dict.fromkeys(o.format.describe() for o in every)),
        "encoding": cache.digest(*(part for e in encoders for part in e.identity)),
        "tokenizer": tok.fingerprint(tokenizer),
        "tokenizer_files": sorted(tokenizer.files()),
        "vocab_size": tokenizer.vocab_size,
        "settings": settings.noted(),
        "fingerprints": fingerprints,
        "evaluation_fingerprints": {f"{o.reference} {o.split}": o.records.fingerprint for o in evaluation},
    }


def _existing(out: pathlib.Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a folder that is there. Raises UserError unless it was made from the same."""
    if not (out / MANIFEST).is_file():
        raise UserError(f"--out={out}: exists, and is no prepared folder (no {MANIFEST}); name another")
    manifest = jsons.table((out / MANIFEST).read_bytes(), str(out / MANIFEST))
    changed = whole_folders.differences(manifest, identity)
    if changed:
        raise UserError(f"--out={out}: exists, prepared differently; delete it or name another:{listed(changed)}")
    return manifest


def _clear_but(folder: pathlib.Path, name: str) -> None:
    """Deletes what a process that was killed left in a folder, but for the entry of this name."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != name:
            shutil.rmtree(path)
        elif path.name != name:
            path.unlink()


def _prepare(
    settings: Settings,
    sources: Sources,
    evaluation: list[Opened],
    tokenizer: tok.Tokenizer,
    folder: pathlib.Path,
    engine: Engine,
    work: str,
    chunk: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Fills the folder; returns the part of the manifest that says what came of it."""
    for name, data in tokenizer.files().items():
        (folder / name).write_bytes(data)
    runs = _runs(settings, evaluation, tokenizer, say) if evaluation else None
    fingerprints = {(o.reference, split): o.records.fingerprint for split, group in sources.items() for o in group}
    made = Plan(settings, tokenizer.files(), tokenizer.origin, runs, fingerprints, chunk, _made_by())
    if not places.exists(made.path(work)):
        places.clear(work)  # another plan of a process that was killed; of this one what it had done is taken
    plan = made.save(work)
    tasks = list(_tasks(sources, made.parts(work), chunk))
    local = folder / "gathered"
    local.mkdir()
    try:
        gathered = Gathered(local, settings)
        for n, task in enumerate(engine.run(plan, tasks)):
            gathered.add(task, Chunk.read(task))
            say(f"read {n + 1} of {len(tasks)} chunks")
        say("looking for repeats")
        figures = gathered.finish(sum(len(o.records) for o in sources.get("train", ())))
        table = Table(sources, gathered)
        splits = {}
        for split in sources:
            say(f"writing {split}")
            splits[split] = table.split(split)
            kept = gathering.is_kept(gathered.reasons[table.span(split)])
            if not kept.any():
                raise UserError(f"nothing of the {split} split is kept:{listed(losses(splits[split]))}")
            chunks = (Chunk.read(task) for task in tasks if task.split == split)
            shards = gathering.write_shards(
                folder / split, kept, chunks, shards=settings.shards, vocab_size=tokenizer.vocab_size
            )
            names = [shard.pop("name") for shard in shards]
            splits[split] |= {"shards": names, "contents": dict(zip(names, shards))}
    finally:
        shutil.rmtree(local)
        places.clear(work)
    manifest: dict[str, Any] = {"splits": splits}
    if all(o.format.declared for group in sources.values() for o in group):
        manifest["classes_declared"] = True  # their order is not the alphabet's
    if figures:
        manifest["near_duplicates"] = figures
    if runs:
        manifest["overlap"] = {
            "texts": runs.texts,
            "runs": sum(map(len, runs.hashes.values())),
            "texts_too_short_to_compare": runs.unchecked,
        }
    return manifest


def _runs(settings: Settings, evaluation: list[Opened], tokenizer: tok.Tokenizer, say: Callable[[str], None]) -> Runs:
    def batches() -> Iterator[list[str]]:
        for opened in evaluation:
            say(f"reading {opened.reference}")
            # Only its texts are asked for; what a template makes of them does not matter.
            encoder = formats.encoder(opened.format, tokenizer)
            for first in range(0, len(opened.records), _BATCH):
                which = range(first, min(first + _BATCH, len(opened.records)))
                texts = [encoder.texts(opened.records[i], opened.records.where(i)) for i in which]
                yield ["\n\n".join(parts) for parts in texts]

    return Runs.of(batches(), settings.overlap_words)


def _made_by() -> tuple[str, ...]:
    found = environment.versions()
    packages = ("numpy", "tokenizers", "tiktoken", "sentencepiece")
    return (__version__, unicodedata.unidata_version, *(f"{name} {found[name]}" for name in packages))


def _tasks(sources: Sources, work: str, chunk: int) -> Iterator[Task]:
    number = 0
    for split, group in sources.items():
        for opened in group:
            count = len(opened.records)
            for first in range(0, count, chunk):
                last = min(first + chunk, count)
                yield Task(opened.reference, split, first, last, f"{work}/chunk-{number:08d}")
                number += 1
