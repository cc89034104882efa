"""What became of every record, as the manifest and the screen show it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptft_jax.data.prepare.chunks import LISTED, MOST
from ptft_jax.data.prepare.duplicates import REASONS as REPEATS
from ptft_jax.data.prepare.gathering import ALL_REASONS, Gathered, is_kept
from ptft_jax.data.tokenize import Opened

LISTED_NAME = "overlap_listed"


class Table:
    """Counts, by source, of what was kept and of what was lost for which reason."""

    def __init__(self, sources: dict[str, list[Opened]], gathered: Gathered):
        self._sources, self._gathered = sources, gathered
        self._opened = [(split, opened) for split, group in sources.items() for opened in group]
        self._starts = np.cumsum([0, *(len(opened.records) for _, opened in self._opened)])

    def span(self, split: str) -> slice:
        """The records of a split among all."""
        mine = [n for n, (s, _) in enumerate(self._opened) if s == split]
        return slice(int(self._starts[mine[0]]), int(self._starts[mine[-1] + 1]))

    def where(self, record: int) -> str:
        """The place of a record, by its index among all."""
        n = int(np.searchsorted(self._starts, record, "right")) - 1
        return self._opened[n][1].records.where(record - int(self._starts[n]))

    def split(self, split: str) -> dict[str, Any]:
        """{"sources": [{"source", "first", "in", "kept", "lost", ...}]}: sums of records, characters and tokens. `first` is
        the index of the source's first record among those of the split, as in the shards' origins.

        Raises:
          AssertionError: records are unaccounted for.
        """
        start = self.span(split).start
        rows = []
        for n, (of, opened) in enumerate(self._opened):
            if of == split:
                first, last = int(self._starts[n]), int(self._starts[n + 1])
                rows.append({"source": opened.reference, "first": first - start, **self._source(opened, first, last)})
        return {"sources": rows}

    def _source(self, opened: Opened, first: int, last: int) -> dict[str, Any]:
        gathered, skipped = self._gathered, opened.records.skipped
        reasons = gathered.reasons[first:last]
        lost: dict[str, Any] = {}
        if skipped.count:
            lost["broken"] = {"records": skipped.count, "examples": list(skipped.first[:MOST])}
        for number, name in enumerate(ALL_REASONS):
            if (chosen := reasons == number).any():
                lost[name] = self._chosen(chosen, first)
        row = {
            "records": len(reasons) + skipped.count,
            "kept": self._sums(is_kept(reasons), first),
            "lost": lost,
        }
        if (chosen := reasons == LISTED).any():
            row[LISTED_NAME] = self._chosen(chosen, first)
        assert row["records"] == row["kept"]["records"] + sum(x["records"] for x in lost.values()), row
        return row

    def _chosen(self, chosen: np.ndarray, first: int) -> dict[str, Any]:
        records = np.flatnonzero(chosen)[:MOST] + first
        return {
            **self._sums(chosen, first),
            "examples": [f"{self.where(i)}: {self._why(i)}" for i in map(int, records)],
        }

    def _sums(self, chosen: np.ndarray, first: int) -> dict[str, int]:
        which = slice(first, first + len(chosen))
        return {
            "records": int(np.count_nonzero(chosen)),
            "characters": int(self._gathered.characters[which][chosen].sum()),
            "tokens": int(self._gathered.tokens[which][chosen].sum()),
        }

    def _why(self, record: int) -> str:
        gathered = self._gathered
        reason = int(gathered.reasons[record])
        if reason >= 0 and ALL_REASONS[reason] in REPEATS:
            return f"{gathered.likeness(record)} {self.where(int(gathered.like[record]))}"
        if reason == LISTED and record not in gathered.details:  # the first were lost as repeats
            return "a run of words is in an evaluation text"
        return gathered.details[record]


def losses(split: dict[str, Any]) -> list[str]:
    """ "SOURCE: REASON: RECORDS" of everything that a split lost."""
    return [f"{s['source']}: {name}: {x['records']} records" for s in split["sources"] for name, x in s["lost"].items()]


def rows(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for what each split kept of each source and for each loss, for a table on the screen; sources by number, from
    1, in the order of the settings."""
    out = []
    numbers = {source: n for n, source in enumerate(manifest["settings"]["sources"], 1)}
    for split, found in manifest["splits"].items():
        for source in found["sources"]:
            named = {"split": split, "source": numbers[source["source"]]}
            parts = {"kept": source["kept"], **{f"lost: {k}": v for k, v in source["lost"].items()}}
            if LISTED_NAME in source:
                parts["kept, but overlaps"] = source[LISTED_NAME]
            for name, sums in parts.items():
                share = sums["records"] / max(source["records"], 1)
                out.append(
                    {
                        **named,
                        "what": name,
                        "records": sums["records"],
                        "share": f"{share:.1%}",
                        "characters": sums.get("characters", "?"),
                        "tokens": sums.get("tokens", "?"),
                    }
                )
    return out
