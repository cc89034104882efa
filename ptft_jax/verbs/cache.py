"""Shows what the data cache holds, or clears it: tokenized data, indexes, copies, tokenizers, downloads, compiled programs.

ptft cache
ptft cache --clear --kind=stores,decompressed --unused_days=30 --dry_run
python -m ptft_jax.verbs.cache --json

The cache is where $PTFT_CACHE says, else in ~/.cache/ptft_jax. $PTFT_CACHE_SIZE (such as 20GB) is its bound: what was used least
recently goes when something is added. What a running process uses is never deleted; all else is made again where it is needed.
"""

from __future__ import annotations

import datetime
import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from ptft_jax.data import cache, cache_entries
from ptft_jax.data.cache_entries import KINDS, Entry
from ptft_jax.errors import UserError, few, nearest
from ptft_jax.verbs.command import define_number, launch

_FEW = 20  # entries of a kind that have a row each unasked


def define() -> None:
    flags.DEFINE_bool("clear", False, "Delete what is shown, but what running processes use.")
    flags.DEFINE_list(
        "kind", [], f"Only these kinds, joined by commas: {', '.join(KINDS)}. Every entry then has a row."
    )
    from ptft_jax.config import field as fields

    define_number("unused_days", None, fields.natural(0.0, ""), "Only what was not used for so many days.")
    flags.DEFINE_bool("dry_run", False, "With --clear: say what would be deleted, and delete nothing.")
    flags.DEFINE_bool("json", False, "Print JSON, with every entry.")


def main() -> None:
    args = flags.FLAGS
    for kind in args.kind:
        if kind not in KINDS:
            raise UserError(f"--kind={kind}: no kind of entry{nearest(kind, KINDS)}; they are {few(KINDS, 20)}")
    if args.dry_run and not args.clear:
        raise UserError("--dry_run says what --clear would delete: give both, or neither to see what is there")
    bound, root = cache.bound(), cache.root()
    found = cache_entries.entries(root, args.kind)
    if args.unused_days is not None:
        before = time.time() - args.unused_days * 86_400
        found = [entry for entry in found if entry.last_used <= before]
    if args.clear:
        _clear(found)
    elif args.json:
        print(_json({"cache": str(root), "bound": bound, "bytes": _bytes(found), "entries": list(map(_facts, found))}))
    else:
        _print_table(found)
        print(f"{_counted(found)} in {root}; bound: {size(bound) if bound else 'none'} (${cache.BOUND})")


def _clear(found: Sequence[Entry]) -> None:
    args, root = flags.FLAGS, cache.root()
    if args.dry_run:
        gone = [entry for entry in found if entry.state in ("", cache_entries.LEFT)]
        stay = [entry for entry in found if entry not in gone]
    else:
        gone, stay = cache_entries.remove(root, found)
    if args.json:
        facts = {"cache": str(root), "dry_run": args.dry_run, "bytes": _bytes(gone)}
        print(_json({**facts, "removed": list(map(_facts, gone)), "kept": list(map(_facts, stay))}))
        return
    _print_table(gone)
    print(f"{'would remove' if args.dry_run else 'removed'} {_counted(gone)} of {root}")
    for state, kept in _grouped(stay, lambda entry: entry.state):
        print(f"kept {_counted(kept)}: {state}")


def _print_table(found: Sequence[Entry]) -> None:
    """A row for each entry of kinds that were asked for, and of those that processes hold; where these are many, and of others, one
    for all."""
    if not found:
        return
    from ptft_jax.reporting.progress import print_table

    rows = []
    for kind, group in _grouped(found, lambda entry: entry.kind):
        each = kind in flags.FLAGS.kind or (KINDS[kind].held and len(group) <= _FEW)
        rows += [_row([entry], entry.made_from or entry.name) for entry in group] if each else [_row(group)]
    if not any(row["state"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "state"} for row in rows]
    print_table(rows)


def _row(group: Sequence[Entry], what: str = "") -> dict[str, Any]:
    kind = group[0].kind
    return {
        "kind": kind,
        "made from": what or f"{len(group):,}: {KINDS[kind].meaning}",
        "size": size(_bytes(group)),
        "last used": _time(max(entry.last_used for entry in group)).strftime("%Y-%m-%d %H:%M"),
        "state": ", ".join(sorted({entry.state for entry in group} - {""})),
    }


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "path": str(entry.path),
        "made_from": entry.made_from,
        "bytes": entry.bytes,
        "last_used": _time(entry.last_used).isoformat(timespec="seconds"),
        "state": entry.state,
    }


def _grouped(found: Sequence[Entry], key: Any) -> list[tuple[str, list[Entry]]]:
    return [(name, list(group)) for name, group in itertools.groupby(sorted(found, key=key), key)]


def _counted(found: Sequence[Entry]) -> str:
    return f"{len(found):,} {'entry' if len(found) == 1 else 'entries'}, {size(_bytes(found))}"


def _bytes(found: Sequence[Entry]) -> int:
    return sum(entry.bytes for entry in found)


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds).astimezone()


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def size(count: int) -> str:
    """Bytes for people: 1.2 GB."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{count:,} {units[0]}" if units[0] == "bytes" else f"{value:.3g} {units[0]}"


if __name__ == "__main__":
    launch(define, main)
