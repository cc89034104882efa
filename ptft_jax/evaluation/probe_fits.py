"""Classifiers of vectors: closed-form least squares, logistic regression with and without attention over tokens, nearest neighbors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ptft_jax.retrieval.dense import nearest

STRENGTHS = tuple(2.0**n for n in range(-10, 21, 2))  # of the ridge's penalty
_TEMPERATURE = 0.07  # of cosines
_STEPS, _SMALL = 1000, 1e-6


def standardized(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both less the mean of the first, over its deviation, per feature (the last axis)."""
    axes = tuple(range(train.ndim - 1))
    mean, deviation = train.mean(axis=axes, dtype=np.float64), train.std(axis=axes, dtype=np.float64)
    deviation = np.where(deviation > 1e-6, deviation, 1.0)
    return tuple(((x - mean) / deviation).astype(np.float32) for x in (train, test))


def ridge(
    train_ND: np.ndarray,
    classes_N: np.ndarray,
    test_MD: np.ndarray,
    count: int,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[np.ndarray, float]:
    """(scores float64 [M, count], strength): least squares on one-hot classes with an L2 penalty and an intercept without one, in closed form
    (few-shot linear regression; Dosovitskiy et al. 2020, section 4.1). Of the strengths that one is chosen whose predictions of each row, learned
    from all others, have the least mean squared error, also in closed form (Allen 1974, "PRESS"); as scikit-learn's `RidgeCV`."""
    x, mean = np.asarray(train_ND, np.float64), np.asarray(train_ND, np.float64).mean(axis=0)
    y = np.eye(count)[classes_N]
    shift = y.mean(axis=0)
    left, singular, right = np.linalg.svd(x - mean, full_matrices=False)
    projected = left.T @ (y - shift)
    best, least = strengths[0], np.inf
    for strength in strengths:
        kept = singular**2 / (singular**2 + strength)
        fitted = (left * kept) @ projected + shift
        own = 1 / len(x) + (left**2) @ kept  # what a row's target weighs in its own prediction
        error = np.mean(np.square((y - fitted) / np.maximum(1 - own, 1e-12)[:, None]))
        if error < least:
            best, least = strength, error
    weights = right.T @ ((singular / (singular**2 + best))[:, None] * projected)
    return (np.asarray(test_MD, np.float64) - mean) @ weights + shift, best


def votes(train_ND: np.ndarray, classes_N: np.ndarray, test_MD: np.ndarray, k: int, count: int) -> np.ndarray:
    """Scores float64 [M, count]: the sum over the k nearest, by cosine, of exp(cosine / 0.07) (Wu et al. 2018, section 3.4; Caron et al.
    2021, "DINO")."""
    scores = np.zeros((len(test_MD), count))
    for row, (which, cosines) in zip(scores, by_cosine(train_ND, test_MD, k)):
        np.add.at(row, classes_N[which], np.exp((cosines.astype(np.float64) - 1) / _TEMPERATURE))
    return scores


def by_cosine(train_ND: np.ndarray, test_MD: np.ndarray, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each of the second the k nearest of the first, by cosine: their numbers and cosines, the nearest first."""
    train, test = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train_ND, test_MD))
    return nearest(test, train, k)


def logistic(train: np.ndarray, classes_N: np.ndarray, test: np.ndarray, count: int) -> np.ndarray:
    """Scores float32 [M, count] of multinomial logistic regression: the least sum of cross-entropies plus half of the squared weights, as
    scikit-learn's `LogisticRegression(C=1)`, by L-BFGS.

    Of vectors [N, D]; or of all tokens of images [N, T, D], of which a learned query takes a weighted mean by a softmax of its products with
    them (Ilse et al. 2018, equation 8, with a linear score): it starts as their plain mean.
    """
    start = {"kernel": jnp.zeros((train.shape[-1], count)), "bias": jnp.zeros((count,))}
    if train.ndim == 3:
        start["query"] = jnp.zeros((train.shape[-1],))
    found = _fitted(start, jnp.asarray(train), jnp.asarray(classes_N))
    return np.asarray(_scores(found, jnp.asarray(test)))


def _scores(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    if "query" in weights:
        share_NT = jax.nn.softmax(x @ weights["query"] / x.shape[-1] ** 0.5)
        x = jnp.einsum("nt,ntd->nd", share_NT, x)
    return x @ weights["kernel"] + weights["bias"]


@jax.jit
def _fitted(start: dict[str, jax.Array], x: jax.Array, classes_N: jax.Array) -> dict[str, jax.Array]:
    def loss(weights: dict[str, jax.Array]) -> jax.Array:
        errors = optax.softmax_cross_entropy_with_integer_labels(_scores(weights, x), classes_N)
        penalty = sum(jnp.sum(jnp.square(v)) for name, v in weights.items() if name != "bias")
        return jnp.mean(errors) + penalty / (2 * len(classes_N))

    solver = optax.lbfgs()
    both = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        weights, state, number, _ = carry
        value, slope = both(weights, state=state)
        change, state = solver.update(slope, state, weights, value=value, grad=slope, value_fn=loss)
        return optax.apply_updates(weights, change), state, number + 1, optax.tree.norm(slope)

    def going_on(carry: tuple[Any, ...]) -> Any:
        return (carry[2] < _STEPS) & (carry[3] > _SMALL)

    return jax.lax.while_loop(going_on, step, (start, solver.init(start), 0, jnp.inf))[0]
