"""What a tokenized source is made of: lengths, use of the vocabulary, what has loss, repeats, and rows that fit it."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ptft_jax.data import packing
from ptft_jax.data.builders import Builder
from ptft_jax.data.filling import empty_of
from ptft_jax.data.formats.layouts import SAID
from ptft_jax.data.joined import blocks
from ptft_jax.data.source_splits import Tokens
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.verbs.data.view import text

FITS = 0.99  # share of the examples that the suggested length holds whole
LENGTHS = tuple(2**k for k in range(5, 18))


def lengths(tokens: Tokens) -> dict[str, Any]:
    """Ids a sequence: {"examples", "tokens", "mean", "min", "median", "p90", "p99", "max"}."""
    n = np.diff(tokens.store.offsets)
    names = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}
    quantiles = np.percentile(n, list(names.values()), method="nearest").astype(int) if len(n) else [0] * len(names)
    return {
        "source": tokens.reference,
        "split": tokens.split,
        "examples": len(tokens.store),
        "tokens": int(n.sum()),
        "mean": float(n.mean()) if len(n) else 0.0,
        **{name: int(q) for name, q in zip(names, quantiles)},
    }


def content(tokens: Tokens, tokenizer: Tokenizer) -> dict[str, Any]:
    """How the vocabulary is used: ids that occur, shares of unknown, of control tokens and of what is learned of whole
    examples; and how many sequences repeat an earlier one id by id, and answers are empty."""
    store = tokens.store
    counts = sum(_counts(store.ids, tokenizer.vocab_size), np.zeros(tokenizer.vocab_size, np.int64))
    total = max(len(store.ids), 1)
    unknown = int(counts[tokenizer.unk_id]) if tokenizer.unk_id is not None else 0
    return {
        "source": tokens.reference,
        "vocabulary_used": int(np.count_nonzero(counts)),
        "vocabulary": tokenizer.vocab_size,
        "unknown": unknown,
        "unknown_share": unknown / total,
        "control_share": float(sum(counts[i] for i in tokenizer.special_ids) / total),
        "learned_share": 1.0
        if store.trained is None
        else float(sum(map(np.count_nonzero, blocks(store.trained))) / total),
        "duplicates": duplicates(tokens),
        "empty_answers": empty_of(tokens)["empty_answers"],
    }


def _counts(ids: Any, size: int) -> Iterator[np.ndarray]:
    """int64 [size]: how often each id occurs, of some of the ids after the other."""
    return (np.bincount(block, minlength=size) for block in blocks(ids))


def duplicates(tokens: Tokens) -> int:
    """Sequences equal to an earlier one."""
    store, seen = tokens.store, set()
    for start, stop in zip(store.offsets[:-1], store.offsets[1:]):
        seen.add(hashlib.blake2b(store.ids[start:stop].tobytes(), digest_size=16).digest())
    return len(store.offsets) - 1 - len(seen)


def special(tokens: Tokens, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Control tokens that occur, the most frequent first."""
    among = sum(_counts(tokens.store.ids, tokenizer.vocab_size), np.zeros(tokenizer.vocab_size, np.int64))
    counts = collections.Counter({i: int(among[i]) for i in tokenizer.special_ids})
    return [{"token": text(tokenizer, i), "id": i, "count": n} for i, n in counts.most_common() if n]


def rows_by_length(tokens: Tokens, builder: Builder, most: int = 0) -> list[dict[str, Any]]:
    """What rows of various lengths would hold: the share of examples that fit whole, the share of tokens that cutting
    the others would lose, and how full rows are when packed (best fit), or with one example each; `most`: the longest rows that
    there may be, 0 = any."""
    store, out = tokens.store, []
    n = np.diff(store.offsets)
    if not len(n):
        return out
    for length in [*(n for n in LENGTHS if n < most), most] if most else LENGTHS:
        longest = packing.longest(builder.slots, length)
        fits = float(np.mean(n <= longest))
        options = dict(overlong="truncate", slots=builder.slots, overlap=builder.overlap, seed=0, where=str)
        reports = [packing.plan(store.offsets, length, how=how, **options).report for how in ("best_fit", "none")]
        lost = reports[0].tokens_lost / max(len(store.ids), 1)
        out.append(
            {
                "length": length,
                "fit": fits,
                "tokens_lost": lost,
                "packed": reports[0].efficiency,
                "unpacked": reports[1].efficiency,
            }
        )
        if n.max() <= longest:
            break
    return out


def suggestion(table: list[dict[str, Any]], how: str, most: int = 0) -> dict[str, Any]:
    """A length of rows for the source: {"length", "or_less": whether shorter rows lose nothing, "reason"}.

    Args:
      table: of `rows_by_length`, as is `most`.
      how: of `ptft_jax.data.packing.plan`.
    """
    if not table:
        return {"length": 0, "or_less": False, "reason": "there are no examples"}
    found = next((row for row in table if row["fit"] >= FITS), table[-1])
    fit = f"{found['fit']:.1%} of the examples fit whole"
    if how == "concat":
        reason = f"texts are cut anywhere, and rows are always full (packing=concat); {fit}"
    elif found["fit"] < FITS:
        reason = f"the longest {f'rows of the model, model.max_length={most}' if most else 'tried'}; {fit}"
    elif how == "none":
        reason = f"{fit}; rows are {found['unpacked']:.1%} full (packing=none)"
    else:
        reason = f"{fit}; packed rows are {found['packed']:.1%} full"
    return {"length": found["length"], "or_less": how == "concat", "reason": reason}


def of_images(part: Tokens, size: int, channels: int) -> dict[str, Any]:
    """Of a source of images that are kept `size` high and wide with so many channels: "images"; "classes", how many of each, by name or number; "mean" and "deviation" of all pixels, per channel,
    from 0 to 1."""
    store = part.store
    values = size**2 * channels  # behind which captions are
    ids = (
        store.ids
        if part.kind not in SAID
        else np.concatenate([store.ids[at : at + values] for at in store.offsets[:-1]])
    )
    pixels = ids.reshape(-1, channels)
    counts = np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(channels)])
    levels = np.arange(256) / 255
    mean = (counts * levels).sum(axis=1) / counts.sum(axis=1)
    spread = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1))
    classes = {}
    if store.labels is not None:
        for number, count in enumerate(np.bincount(store.labels)):
            classes[part.classes[number] if number < len(part.classes) else str(number)] = int(count)
    return {"images": len(store), "classes": classes, "mean": mean.tolist(), "deviation": spread.tolist()}
