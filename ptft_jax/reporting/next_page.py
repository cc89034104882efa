"""The page of `ptft next`: the next words of several runs side by side."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from ptft_jax.reporting import plots
from ptft_jax.reporting.page import Page


def write(found: Mapping[str, Mapping[str, Any]], top: int, out: pathlib.Path) -> None:
    """Writes the page. `found`: {text: {run: `ptft_jax.evaluation.next_words.NextWords`}}; the `top` words of each run are shown of all."""
    runs = next(iter(found.values()))
    page = Page(
        "The next word",
        f"What {', '.join(runs)} expect next." if len(runs) > 1 else f"What {next(iter(runs))} expects next.",
    )
    for text, of_runs in found.items():
        page.heading(text or "(a new text)")
        best: dict[str, float] = {}
        for words in of_runs.values():
            for word, p in words.words[:top]:
                best[word] = max(best.get(word, 0.0), p)
        order = sorted(best, key=lambda word: (-best[word], word))
        known = {name: dict(words.words) for name, words in of_runs.items()}
        shown = {name: {word: have.get(word, 0.0) for word in order} for name, have in known.items()}
        page.figure(plots.bars(shown, title="Probability of the next word", x="", y="probability"))
        page.table([{"word": word, **{name: shown[name][word] for name in shown}} for word in order])
        for name, words in of_runs.items():
            page.text(
                f"{name}: {sum(p for word, p in words.words if word not in best):.4f} other words, {words.open:.4f} open, after "
                f"{words.looked_at:,} beginnings of words."
            )
    page.write(out, footer="Words are whole: the product over their tokens, and over what ends them.")
