"""What came of the sources of a run, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptft_jax.data import survey as surveys


def announced(table: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of each source, with its number in `shown`: its format, splits, what lies beside them, leaks, empty answers."""
    found = []
    for n, row in enumerate(table, 1):
        found.append(f"  {n}  {row['source']}: {row['format']}")
        found += [f"     {line}" for line in (*surveys.lines(row), *filter(None, [empty_answers(row)]))]
    return found


def empty_answers(row: dict[str, Any]) -> str:
    """A line on the empty answers of a source, by `Filled.summary`; "" where it has none."""
    count, places = row.get("empty_answers", 0), row.get("empty_at", [])
    if not count:
        return ""
    shown = [*places, "..."] if count > len(places) else places
    where = f": {'; '.join(shown)}" if places else ""
    return f"{count:,} of the answers {'is' if count == 1 else 'are'} empty, and trained on as such{where}"


def shown(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns of `TrainingData.table` that fit on a screen, a row a source; what is zero everywhere is left out."""
    counts = {
        "examples": "examples", "tokens": "tokens", "trained": "tokens with loss", "empty_answers": "empty answers",
        "skipped": "skipped", "dropped": "dropped",
        "truncated": "truncated", "split_up": "split", "empty": "empty", "untrainable": "untrainable",
        "incomplete": "incomplete", "equal": "equal pairs",
        "tokens_lost": "tokens lost", "rows": "rows",
    }  # fmt: skip
    some = {name: words for name, words in counts.items() if any(row.get(name) for row in table)}
    return [
        {
            "": n,
            **{words: row.get(name, 0) for name, words in some.items()},
            "full": f"{row['efficiency']:.1%}",
            "share": f"{row['share']:.1%}",
            "epochs": round(row["epochs"], 2),
        }
        for n, row in enumerate(table, 1)
    ]
