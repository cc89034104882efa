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
    images_BE: jax.Array, texts_BE: jax.Array, images_B2: jax.Array, texts_B2: jax.Array, weights_B: jax.Array
) -> dict[str, jax.Array]:
    """VECTORS: float32 [B, 2 E + 9], of each row its image's vector and its caption's, digests of both (uint32 [B, 2] each, as four numbers that
    float32 can hold), and whether it counts."""
    parts = [(digests >> shift) & 0xFFFF for digests in (images_B2, texts_B2) for shift in (0, 16)]
    counted_B1 = (weights_B > 0).astype(jnp.float32)[:, None]
    digits = [part.astype(jnp.float32) for part in parts]
    return {VECTORS: jnp.concatenate([images_BE, texts_BE, *digits, counted_B1], axis=1)}


def values(rows: np.ndarray) -> dict[str, float]:
    """Recall at k of a VECTORS table: "text_recall_K", the share of different images with a caption of theirs among the K nearest of all different
    captions, by cosine; "image_recall_K", the share of different captions with an image of theirs among the K nearest of all different images. An
    image's captions are those that any row has beside it. What has the same cosine as the right one counts as nearer."""
    rows = np.asarray(rows, np.float32)
    rows = rows[rows[:, -1] > 0]
    size = (rows.shape[1] - 2 * _DIGITS - 1) // 2
    image_digits, text_digits = rows[:, 2 * size : -1 - _DIGITS], rows[:, -1 - _DIGITS : -1]
    images, of_image = _different(rows[:, :size], image_digits)
    texts, of_text = _different(rows[:, size : 2 * size], text_digits)
    ranks = {"text": _nearer(images, texts, of_image, of_text), "image": _nearer(texts, images, of_text, of_image)}
    return {
        f"{of}_recall_{k}": float(np.mean(rank < k)) if len(rank) else float("nan")
        for of, rank in ranks.items()
        for k in _FIRST
    }


def _different(vectors: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vector of each different digest, and of each row which one it has."""
    _, first, which = np.unique(digits, axis=0, return_index=True, return_inverse=True)
    return vectors[first], which.reshape(-1)


def _nearer(queries: np.ndarray, candidates: np.ndarray, query: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """int [N]: how many wrong candidates are at least as near to each query as its nearest right one; pairs that are right as numbers of both."""
    found = []
    for at in range(0, len(queries), _CHUNK):
        scores = queries[at : at + _CHUNK] @ candidates.T
        here = (query >= at) & (query < at + _CHUNK)
        good = np.zeros(scores.shape, bool)
        good[query[here] - at, candidate[here]] = True
        best = np.where(good, scores, -np.inf).max(axis=1, keepdims=True)
        found.append(np.sum(~good & ~(scores < best), axis=1))  # what is not finite finds nothing
    return np.concatenate(found) if found else np.zeros(0, int)
