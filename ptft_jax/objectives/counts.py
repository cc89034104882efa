"""How often each class is named rightly: counts that add up over batches, devices and micro-batches, and F1 by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BY_CLASS, CONFUSION = "by_class", "confusion"  # names of the tables
F1 = ("f1_macro", "f1_weighted")  # names of what is made of them
MOST = 100  # classes of which there is a table with a column for each; of more it would not be read


def tables(logits_BC: jax.Array, targets_B: jax.Array, weights_B: jax.Array) -> dict[str, jax.Array]:
    """Counts of the rows of a batch that weigh something, float32.

    Returns:
      BY_CLASS [3, C]: how many rows of each class were named so, are of it, and were named so rightly or not. CONFUSION [C, C],
      where there are at most `MOST` classes: how many rows of class i were named j.
    """
    count = logits_BC.shape[-1]
    counted_B = (weights_B > 0).astype(jnp.float32)
    named_B = jnp.argmax(logits_BC, axis=-1)

    def by_class(classes_B: jax.Array, rows_B: jax.Array) -> jax.Array:
        return jnp.zeros(count, jnp.float32).at[classes_B].add(rows_B)

    right_B = jnp.where(named_B == targets_B, counted_B, 0.0)
    found = {
        BY_CLASS: jnp.stack(
            [by_class(targets_B, right_B), by_class(targets_B, counted_B), by_class(named_B, counted_B)]
        )
    }
    if count <= MOST:
        found[CONFUSION] = jnp.zeros((count, count), jnp.float32).at[targets_B, named_B].add(counted_B)
    return found


def f1(by_class: np.ndarray) -> dict[str, float]:
    """F1 of `BY_CLASS` counts [3, C], the harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN) of a class.

    Returns:
      "f1_macro": the mean over the classes that some row has or was given, as scikit-learn's `f1_score(average="macro")`;
      "f1_weighted": over all rows, that of the row's class. NaN of no rows.
    """
    right, there, named = np.asarray(by_class, np.float64)
    seen = there + named > 0
    each = 2 * right[seen] / (there + named)[seen]
    rows = there[seen]
    if not rows.sum():
        return dict.fromkeys(F1, float("nan"))
    return {"f1_macro": float(each.mean()), "f1_weighted": float((each * rows).sum() / rows.sum())}


def shown(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """A CONFUSION table for JSON: "classes" in the order of their numbers (their numbers where they have no names), and "counts",
    a list for each class of how many of its rows were given each class."""
    classes = [names[n] if n < len(names) else str(n) for n in range(len(confusion))]
    return {"classes": classes, "counts": [[int(count) for count in row] for row in confusion]}
