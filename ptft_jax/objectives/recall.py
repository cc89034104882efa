"""How often what belongs together is found among all of a set: of whole sets, since a part has other candidates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

VECTORS = "vectors"  # name of a table whose rows are put one after the other
_FIRST = (1, 5, 10)
NAMES = tuple(f"{of}_recall_{k}" for of in ("text", "image") for k in _FIRST)
_CHUNK = 512  # queries whose scores are held at once
_DIGITS = 4  # numbers of a digest


def tables(
    images_BE: jax.Array, texts_BE: jax.Array, digests_B2: jax.Array, weights_B: jax.Array
) -> dict[str, jax.Array]:
    """VECTORS: float32 [B, 2 E + 5], of each row its image's vector and its caption's, a digest of the caption (uint32 [2], as four numbers that
    float32 can hold), and whether it counts."""
    parts = [(digests_B2 >> shift) & 0xFFFF for shift in (0, 16)]
    digits_B4 = jnp.concatenate(parts, axis=1).astype(jnp.float32)
    counted_B1 = (weights_B > 0).astype(jnp.float32)[:, None]
    return {VECTORS: jnp.concatenate([images_BE, texts_BE, digits_B4, counted_B1], axis=1)}


def values(rows: np.ndarray) -> dict[str, float]:
    """Recall at k of a VECTORS table: "text_recall_K", the share of images whose caption is among the K nearest of all different captions, by
    cosine; "image_recall_K", the share of different captions with an image of theirs among the K nearest. What has the same cosine as the right
    one counts as nearer."""
    rows = np.asarray(rows, np.float32)
    rows = rows[rows[:, -1] > 0]
    size = (rows.shape[1] - _DIGITS - 1) // 2
    images, texts, digits = rows[:, :size], rows[:, size : 2 * size], rows[:, 2 * size : -1]
    _, first, which = np.unique(digits, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    captions = texts[first]
    of_images = _nearer(images, captions, which[:, None] == np.arange(len(first)))
    of_captions = _nearer(captions, images, np.arange(len(first))[:, None] == which)
    ranks = {"text": of_images, "image": of_captions}
    return {
        f"{of}_recall_{k}": float(np.mean(rank < k)) if len(rank) else float("nan")
        for of, rank in ranks.items()
        for k in _FIRST
    }


def _nearer(queries: np.ndarray, candidates: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int [N]: how many wrong candidates are at least as near to each query as its nearest right one."""
    found = []
    for at in range(0, len(queries), _CHUNK):
        scores, good = queries[at : at + _CHUNK] @ candidates.T, right[at : at + _CHUNK]
        best = np.where(good, scores, -np.inf).max(axis=1, keepdims=True)
        found.append(np.sum(~good & ~(scores < best), axis=1))  # what is not finite finds nothing
    return np.concatenate(found) if found else np.zeros(0, int)
