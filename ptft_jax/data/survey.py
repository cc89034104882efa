"""What the sources of a run are: their splits, what lies beside these, and what of train is held out as well."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.data import leaks, records, token_folder
from ptft_jax.data.options import DataOptions
from ptft_jax.data.records.table import stand_ins
from ptft_jax.data.tokenize import Formatted, Opened
from ptft_jax.errors import UserError

_SHOWN = 8  # of a list, on the screen
_EXAMPLES = 3  # of a list that is counted by reason
Parts = Mapping[str, Any]  # split -> records


@dataclasses.dataclass(frozen=True)
class Surveyed:
    """A source of a run.

    Attributes:
      train: its train split, without what leaks and is to be dropped; None of tokens that are prepared.
      facts: for data.json: "splits", "index", "left_out_files", "empty_files", "changed", "leaks".
    """

    train: Opened | None
    facts: dict[str, Any]


def survey(
    trained: Sequence[str], measured: Sequence[str], data: DataOptions, learns: Sequence[str] = ()
) -> dict[str, Surveyed]:
    """All sources of a run, opened, by reference.

    Args:
      trained, measured: references of what is trained on, and of what is validated and tested.
      data: settings, as `config.data`.
      learns: kinds of data that are learned from, as of `formats.choose`.

    Raises:
      UserError: what is wrong with one; leaks, where `data.leaks` is "raise", or is "drop" and they are prepared.
    """
    parts: dict[str, Parts] = {}
    facts: dict[str, dict[str, Any]] = {}
    trains: dict[str, Opened] = {}
    for reference in dict.fromkeys([*trained, *measured]):
        parsed = records.parse(reference, data.tables.sources)
        if parsed.kind == token_folder.KIND:
            folder = pathlib.Path(parsed.name)
            kept = {split: token_folder.kept(folder, split) for split in records.SPLITS}
            parts[reference] = {split: found for split, found in kept.items() if found is not None}
            facts[reference] = prepared_facts(folder)
            continue
        source = Formatted.of(reference, data.broken, data.tables.sources, learns=learns)
        opened = {split: source.opened(split, data.held_out) for split in records.SPLITS}
        parts[reference] = {split: one.records for split, one in opened.items()}
        facts[reference] = facts_of(source, parts[reference], data.held_out)
        trains[reference] = opened["train"]
    found = leaking(parts, facts, trained)
    if data.leaks == "raise":
        leaks.refuse(found)
    dropped = data.leaks == "drop"
    for reference, one in found.items():
        facts[reference]["leaks"] = {**one.noted(), "dropped": dropped}
        if dropped and reference not in trains:
            raise UserError(
                f"config.data.leaks = 'drop': {reference} is prepared, and {len(one.records):,} of its records stand in "
                "validation or test data: ptft data prepare --deduplicate=exact leaves those out of which it has both; "
                f"first:\n  {one.first[0]}"
            )
        if dropped:
            train = trains[reference]
            if len(one.records) == len(train.records):
                raise UserError(
                    f"config.data.leaks = 'drop': all {len(train.records):,} records of {reference} stand in validation or "
                    f"test data, and nothing is left to train on; first:\n  {one.first[0]}"
                )
            trains[reference] = dataclasses.replace(train, records=train.records.without(one.records))
    return {reference: Surveyed(trains.get(reference), facts[reference]) for reference in parts}


def leaking(
    parts: Mapping[str, Parts], facts: Mapping[str, dict[str, Any]], trained: Sequence[str]
) -> dict[str, leaks.Leaks]:
    """The leaks of each source that has any.

    Args:
      parts: reference -> split -> records.
      facts: of `facts_of`, by reference.
      trained: whose train splits are trained on.
    """
    held = [
        leaks.Held(reference, split, found, _apart(facts, reference, split))
        for reference, splits in parts.items()
        for split, found in splits.items()
        if split != "train"
    ]
    found = {r: leaks.find(r, parts[r]["train"], held) for r in dict.fromkeys(trained) if "train" in parts[r]}
    return {reference: one for reference, one in found.items() if len(one.records)}


def _apart(facts: Mapping[str, Any], reference: str, split: str) -> frozenset[str]:
    """The sources that have no text of such a split in train: those that are divided in the same way, if it holds nothing
    but what falls to it."""
    made = facts[reference]["splits"][split]
    if made.get("by") != "text" or "stand_ins" in made:
        return frozenset()
    splits = {name: found["splits"] for name, found in facts.items()}
    alike = (name for name, x in splits.items() if x.get(split, {}).get("by") == "text")
    return frozenset(name for name in alike if "stand_ins" not in splits[name].get("train", {}))


def facts_of(source: Formatted, parts: Parts, held_out: float) -> dict[str, Any]:
    """What is to be known of a source, some of whose splits these are: "splits" (of each "records", and "of", what it is, or
    "held_out", "by" its "text" or the last "lines", and "stand_ins", records that fell to another), "left_out_files" and
    "empty_files" (of each "count" and "first"), and of a source that is read with passages "index": what they are of."""
    by_text = [split for split in parts if source.source.divides(split, held_out)]
    splits: dict[str, Any] = {}
    for split, found in parts.items():
        entry = splits[split] = {"records": len(found)}
        if split in source.source.own:
            entry["of"] = source.source.described[split]
        else:
            entry |= {"held_out": held_out, "by": "text" if split in by_text else "lines"}
        first = found.keys(range(1))  # where one stands in, all of the split do
        falls = {s for s in by_text if not stand_ins(first, s, held_out)}
        if (split in by_text and split not in falls) or (split == "train" and falls):
            entry["stand_ins"] = len(found)
    facts: dict[str, Any] = {"splits": splits}
    if index := getattr(source.source, "index", None):
        facts["index"] = index
    left_out, empty = source.source.left_out, sorted({name for found in parts.values() for name in found.empty})
    if left_out.count:
        facts["left_out_files"] = {"count": left_out.count, "reasons": left_out.reasons, "first": left_out.first}
    if empty:
        facts["empty_files"] = {"count": len(empty), "first": empty[: left_out.MOST]}
    return facts


def prepared_facts(folder: pathlib.Path) -> dict[str, Any]:
    """As `facts_of`, of a prepared folder; "changed" names what its sources no longer are."""
    manifest = token_folder.manifest(folder)
    splits = {}
    for split, found in manifest["splits"].items():
        count = sum(source["kept"]["records"] for source in found["sources"])
        splits[split] = {"records": count, "of": f"{len(found['shards'])} prepared shards"}
    changed = token_folder.changed(manifest)
    return {"splits": splits, **({"changed": changed} if changed else {})}


def lines(facts: Mapping[str, Any], kept: str = "trained on all the same (data.leaks='say')") -> list[str]:
    """What a source's facts say, a line each, for people; `kept`: what becomes of leaks that are not dropped."""
    found = []
    if splits := facts.get("splits"):
        found.append("; ".join(_split_line(split, entry) for split, entry in splits.items()))
    for name, words in (("left_out_files", "not read"), ("empty_files", "without a record")):
        if name in facts:
            by_reason = _counted(facts[name])
            first = facts[name]["first"][: _EXAMPLES if by_reason else None]
            found.append(f"{facts[name]['count']:,} {words}: {by_reason}{_few(first, facts[name]['count'])}")
    if changed := facts.get("changed"):
        found.append(
            f"what it was prepared from has changed since: {_few(changed, len(changed))}; ptft data prepare with another "
            "--out makes it of what is there now"
        )
    if skipped := facts.get("skipped"):
        found.append(f"{skipped:,} records are left out (data.broken='skip'): {_few(facts['left_out'], skipped)}")
    if leak := facts.get("leaks"):
        done = "left out (data.leaks='drop')" if leak["dropped"] else kept
        found.append(
            f"{leak['records']:,} records of train stand in validation or test data, {leak['texts']:,} by their text, "
            f"{leak['ids']:,} by their id, and are {done}: {_few(leak['first'], leak['records'])}"
        )
    return found


def _counted(facts: Mapping[str, Any]) -> str:
    """How many files were left out for which reason, where they are too many to be listed."""
    if facts["count"] <= _SHOWN or "reasons" not in facts:
        return ""
    most = sorted(facts["reasons"].items(), key=lambda one: (-one[1], one[0]))
    return f"{_few([f'{count:,} {reason}' for reason, count in most], len(most))}; the first: "


def _few(items: Sequence[str], count: int) -> str:
    shown = items[:_SHOWN]
    more = [f"and {count - len(shown):,} more"] if count > len(shown) else []
    return "; ".join([*shown, *more])


def _split_line(split: str, entry: Mapping[str, Any]) -> str:
    count = f"{split} {entry['records']:,}"
    if "of" in entry:
        return f"{count} ({entry['of']})"
    if "stand_ins" in entry:
        return f"{count} (stands in: of so few none falls to data.held_out={entry['held_out']:g})"
    how = "last lines" if entry["by"] == "lines" else "held out"
    return f"{count} ({how}, data.held_out={entry['held_out']:g})"
