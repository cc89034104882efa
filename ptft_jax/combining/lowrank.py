"""Arithmetic of adapters for one base: what several low-rank updates make, as a low-rank update again.

The ways are those of PEFT's `add_weighted_adapter`, by its names. `cat` is the exact weighted sum of the updates, in as
many ranks as they have together; `svd` the nearest to that sum of a given rank (Eckart & Young 1936). `linear`, `ties`,
`dare_linear`, `dare_ties` and `magnitude_prune` work on the factors A and B apart, so the product has terms of one
adapter's A with another's B; with `_svd` they work on the updates themselves, and an SVD gives factors back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.combining import arithmetic
from ptft_jax.params import finite

SVD = "_svd"
_TOO_LARGE = "the combined updates are too large (--weights)"
WAYS = ("cat", "svd", *arithmetic.RULES, *(name + SVD for name in arithmetic.RULES if name != "linear"))


class Update(NamedTuple):
    """scale * a @ b, added to a kernel: `a` [..., in, R], `b` [..., R, out]; leading axes are layers (and experts)."""

    a: np.ndarray
    b: np.ndarray
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[-1]


class Combined(NamedTuple):
    """The result `a` [..., in, R], `b` [..., R, out] float32, to be scaled by 1; the squared length of the whole update,
    and of what did not fit into the rank."""

    a: np.ndarray
    b: np.ndarray
    squared: float = 0.0
    lost: float = 0.0


def rank_of(way: str, ranks: Sequence[int], rank: int = 0) -> int:
    """The rank of the result: the sum for `cat`, `rank` or else the largest with an SVD, and else that of all."""
    if way == "cat":
        return sum(ranks)
    return (rank or max(ranks)) if way.endswith("svd") else ranks[0]


def combine(
    way: str,
    updates: Sequence[Update],
    weights: Sequence[float],
    rank: int,
    *,
    density: float = 1.0,
    sign: str = "total",
    seed: int = 0,
    path: str = "",
) -> Combined:
    """One update of several of one layer.

    Args:
      way: of `WAYS`.
      rank: see `rank_of`.
      density, sign: see `arithmetic`.
      seed, path: of the layer; what is dropped at random is a function of these.

    Raises:
      UserError: the update has numbers beyond float32.
    """
    made = _combined(way, updates, weights, rank, density, sign, seed, path)
    _refuse_too_large(made, path)
    return made


def _refuse_too_large(made: Combined, path: str) -> None:
    """The factors may be finite where their product, which is what they are for, is not."""
    largest = np.abs(_f64(made.a)).max(-2) * np.abs(_f64(made.b)).max(-1)  # [..., R]: no product of rank 1 is larger
    if not largest.sum(-1).max() < np.finfo(np.float32).max:
        finite.refuse({path: _f32(_f64(made.a) @ _f64(made.b))}, _TOO_LARGE)


def _combined(
    way: str,
    updates: Sequence[Update],
    weights: Sequence[float],
    rank: int,
    density: float,
    sign: str,
    seed: int,
    path: str,
) -> Combined:
    draw = lambda one, *place: arithmetic.drop(one, density, seed, path, *place)  # noqa: E731
    if way == "cat":
        return Combined(
            np.concatenate([_f32(w * u.scale * _f64(u.a)) for u, w in zip(updates, weights)], -1),
            np.concatenate([_f32(u.b) for u in updates], -2),
        )
    if way == "svd":
        a = np.concatenate([w * u.scale * _f64(u.a) for u, w in zip(updates, weights)], -1)
        b = np.concatenate([_f64(u.b) for u in updates], -2)
        finite.refuse({f"{path}/lora_a": a, f"{path}/lora_b": b}, _TOO_LARGE)
        return _stacked(a.shape[:-2], lambda at: _truncated_product(a[at], b[at], rank))
    rule = way.removesuffix(SVD)
    if way.endswith(SVD):

        def one(at: tuple[int, ...]) -> Combined:
            whole = [_f32(u.scale * (_f64(u.a[at]) @ _f64(u.b[at]))) for u in updates]
            merged = arithmetic.merge(rule, _pruned(rule, whole, density, draw, *at), weights, sign)
            finite.refuse({path: merged}, _TOO_LARGE)
            return _truncated(*np.linalg.svd(merged, full_matrices=False), rank)

        return _stacked(updates[0].a.shape[:-2], one)
    # A negative weight goes onto one side only, or the signs would cancel.
    products = [w * u.scale for u, w in zip(updates, weights)]
    of_a = [math.copysign(math.sqrt(abs(p)), p) for p in products]
    of_b = [math.sqrt(abs(p)) for p in products]

    def factor(at: tuple[int, ...], arrays: Sequence[np.ndarray], factors: Sequence[float], name: str) -> np.ndarray:
        pruned = _pruned(rule, [_f32(array[at]) for array in arrays], density, draw, name, *at)
        return _f32(arithmetic.merge(rule, pruned, factors, sign))

    return _stacked(
        updates[0].a.shape[:-2],
        lambda at: Combined(
            factor(at, [u.a for u in updates], of_a, "a"), factor(at, [u.b for u in updates], of_b, "b")
        ),
    )


def _pruned(
    rule: str, vectors: Sequence[np.ndarray], density: float, draw: Callable[..., np.ndarray], *place: Any
) -> list[np.ndarray]:
    kind = arithmetic.RULES[rule][0]
    if kind == "magnitude":
        return [arithmetic.trim(one, density) for one in vectors]
    return [draw(one, *place, n) for n, one in enumerate(vectors)] if kind == "random" else list(vectors)


def _truncated_product(a: np.ndarray, b: np.ndarray, rank: int) -> Combined:
    """The SVD of a @ b, [in, K] by [K, out], from that of a matrix of the size of K."""
    (qa, ra), (qb, rb) = np.linalg.qr(a), np.linalg.qr(b.T)
    u, s, v = np.linalg.svd(ra @ rb.T, full_matrices=False)
    return _truncated(qa @ u, s, v @ qb.T, rank)


def _truncated(u: np.ndarray, s: np.ndarray, v: np.ndarray, rank: int) -> Combined:
    """The first `rank` of the singular vectors, the values with those of the outputs; zeros where there are fewer."""
    squared, lost = float((s**2).sum()), float((s[rank:] ** 2).sum())
    a, b = u[:, :rank], s[:rank, None] * v[:rank]
    missing = rank - a.shape[1]
    if missing > 0:
        a, b = np.pad(a, ((0, 0), (0, missing))), np.pad(b, ((0, missing), (0, 0)))
    return Combined(_f32(a), _f32(b), squared, lost)


def _stacked(lead: tuple[int, ...], one: Callable[[tuple[int, ...]], Combined]) -> Combined:
    parts = [one(at) for at in np.ndindex(*lead)]
    a, b = (np.stack([part[i] for part in parts]).reshape(*lead, *parts[0][i].shape) for i in (0, 1))
    return Combined(a, b, sum(part.squared for part in parts), sum(part.lost for part in parts))


def padded(
    updates: Sequence[Update | None], ranks: Sequence[int], shape: Mapping[str, tuple[int, ...]]
) -> list[Update]:
    """The updates, those that an adapter lacks as zeros, so that `cat` gives each layer the same rank.

    Args:
      shape: of the layer's factors, "a" [..., in, any] and "b" [..., any, out].
    """

    def zeros(rank: int) -> Update:
        a, b = (*shape["a"][:-1], rank), (*shape["b"][:-2], rank, shape["b"][-1])
        return Update(np.zeros(a, np.float32), np.zeros(b, np.float32), 1.0)

    return [zeros(rank) if update is None else update for update, rank in zip(updates, ranks)]


def _f64(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def _f32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float32)
