"""Opening a source by its reference."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable, Mapping

import numpy as np

from ptft_jax.config.located import located
from ptft_jax.config.sources import RETRIEVED, SOURCES, SourceSpec
from ptft_jax.data.formats import Reading
from ptft_jax.data.records import listing, remote
from ptft_jax.data.records.base import Records, Source
from ptft_jax.data.records.reference import SPLITS, parse, parted
from ptft_jax.data.records.table import limit
from ptft_jax.errors import UserError, nearest


def open_records(
    reference: str, split: str, *, held_out: float, broken: str = "raise", kinds: Mapping[str, SourceSpec] = SOURCES
) -> Records:
    """The records of a split of a source, random-access, whatever the format.

    Opening reads an index of the files, which is made by one pass over each when it is first seen. The records can be
    read by several threads, and be pickled for other processes.

    Args:
      reference: `KIND:NAME[?OPTION=VALUE&...]`, see `ptft_jax.data.records.reference`.
      split: "train", "validation" or "test": the source's own; one that it lacks is a share of its train split.
      held_out: share of what is trained on for each split that the source lacks, see `division`.
      broken: what becomes of records that cannot be read, or repeat the id of another: "raise", or "skip" (they are
        counted and listed in `skipped`).
      kinds: as of `parse`.

    Raises:
      UserError: an unknown source, a missing, empty, broken or unreadable file, too few records to divide.
    """
    source = open_source(reference, broken=broken, kinds=kinds)
    if split not in SPLITS:
        raise source.reference.error(f"split {split!r}: expected one of {', '.join(SPLITS)}{nearest(split, SPLITS)}")
    return source.split(split, held_out)


def open_source(
    reference: str, *, broken: str = "raise", kinds: Mapping[str, SourceSpec] = SOURCES, trains: bool = True
) -> Source:
    """A source with all its splits; nothing is read before one is asked for. Arguments and errors as of `open_records`; `trains`:
    there has to be something to train on."""
    parsed = dataclasses.replace(parse(reference, kinds), trains=trains)
    if broken not in ("raise", "skip"):
        raise parsed.error(f"broken={broken!r}: expected raise or skip")
    if not parsed.spec.source:
        raise parsed.error(f"{parsed.kind} holds tokens, not records")
    return located(RETRIEVED if "retrieve" in parsed.options else parsed.spec.source)(parsed, broken)


def identity(reference: str, kinds: Mapping[str, SourceSpec] = SOURCES) -> Hashable:
    """What two spellings of one source share: `jsonl:a.jsonl` and `jsonl:./a.jsonl`, options in another order."""
    parsed = parse(reference, kinds)
    path = os.path.realpath(os.path.expanduser(parsed.name))
    local = not remote.is_url(parsed.name) and os.path.exists(path)
    return parsed.kind, path if local else parsed.name, tuple(sorted(parsed.options.items()))


def file_names(reference: str, folder: str) -> list[str]:
    """The files of a source of files that was named in a folder, without reading them; [] where it is none, or remote, or of
    a plugin, or can no longer be opened."""
    if parted(reference)[0] not in SOURCES:
        return []
    parsed = parse(reference)
    suffixes = parsed.spec.suffixes
    if not suffixes or remote.is_url(parsed.name):
        return []
    there = dataclasses.replace(parsed, name=os.path.join(folder, os.path.expanduser(parsed.name)))
    try:
        found = listing.find(there, suffixes, by_name=parsed.kind != "text")
    except UserError:
        return []
    return [name for names in found.splits.values() for name in names]


def reopen(
    reference: str,
    split: str,
    held_out: float | None,
    broken: str,
    reading: Reading,
    dropped: np.ndarray | None,
    fingerprint: str,
    spec: SourceSpec,
) -> Records:
    """The records that had this fingerprint, in another process. Raises UserError if they have changed.

    Args:
      held_out: None = all records of the source's own split.
      dropped: indices of records that were left out.
      spec: of the source's kind.
    """
    kind, *_ = parted(reference)
    source = open_source(reference, broken=broken, kinds={kind: spec}, trains=held_out is not None).read_as(reading)
    if held_out is None:
        records = source.whole(split)
        limit(source.reference, split, records)
    else:
        records = source.split(split, held_out)
    if dropped is not None:
        records = records.without(dropped)
    if records.fingerprint != fingerprint:
        raise UserError(f"data source {reference!r}: changed while it was read; start again when nothing writes to it")
    return records
