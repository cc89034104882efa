"""Low-rank adaptation of linear layers (Hu et al. 2021, "LoRA", eq. 3), of tables of vectors and of experts, and its
published starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import Rules, adapted, float32, layers
from ptft_jax.adapters.lora_embedding import LowRankTable
from ptft_jax.adapters.lora_experts import LowRankExperts
from ptft_jax.adapters.low_rank import LowRankMethod
from ptft_jax.errors import UserError, listed
from ptft_jax.model.layers import Embedding, Linear, PerRow, dropout
from ptft_jax.model.moe import ExpertLinear
from ptft_jax.params.rules import regex

A, B = "adapter/lora_a", "adapter/lora_b"
START_A, START_B = "adapter/start_a", "adapter/start_b"
STARTS = ("pissa", "olora")  # those that begin away from zero


# One matrix at a time, also where layers are made together: where several batches of matrices are decomposed in one program on
# a CPU, they wait for each other's threads, and have been seen never to end (jax 0.10.2).
@jax.custom_batching.sequential_vmap
def singular(kernel: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(u [in, n], values [n], v [n, out]), float32, of a kernel [in, out], n the smaller of its sizes; values fall."""
    return jnp.linalg.svd(float32(kernel), full_matrices=False)


@jax.custom_batching.sequential_vmap
def _triangular(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.linalg.qr(float32(kernel).T)


def initial(lora: Lora, kernel: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(lora_a [in, R], lora_b [R, out]) for a kernel [in, out], by `lora.init`; see `Lora`."""
    (size_in, size_out), rank, dtype = kernel.shape, lora.rank, kernel.dtype
    if lora.init == "pissa":  # the largest singular triplets, each side with the root of the value (eq. 2)
        u, s, v = singular(kernel)
        root = jnp.sqrt(s[:rank] / lora.scale)
        return (u[:, :rank] * root).astype(dtype), (root[:, None] * v[:rank]).astype(dtype)
    if lora.init == "olora":  # Q and R of the kernel as [out, in] (algorithm 1)
        q, r = _triangular(kernel)
        return r[:rank].T.astype(dtype), q[:, :rank].T.astype(dtype)
    if lora.init == "gaussian":
        a = jax.random.normal(key, (size_in, rank), dtype) / rank
    else:
        bound = 1 / math.sqrt(size_in)
        a = jax.random.uniform(key, (size_in, rank), dtype, -bound, bound)
    return a, jnp.zeros((rank, size_out), dtype)


def difference(a: jax.Array, b: jax.Array, start_a: jax.Array, start_b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(left [..., in, 2R], right [..., 2R, out]) whose product is a @ b - start_a @ start_b.

    Taken as a @ (b - start_b) + (a - start_a) @ start_b: exact zeros at the start, and later small changes that are
    not lost between two large products.
    """
    return jnp.concatenate([a, a - start_a], axis=-1), jnp.concatenate([b - start_b, start_b], axis=-2)


class LowRank(nnx.Module):
    """plain(x) + scale * (dropout(x) @ lora_a) @ lora_b, with `lora_a` [in, R] and `lora_b` [R, out].

    Where these do not start at an update of zero, they are kept as they were (`start_a`, `start_b`) and their product
    is taken off: the same function as a base of which it was taken off, which can stay as it is so. Dropout is on the
    input of the difference.
    """

    def __init__(self, layer: Linear, lora: Lora, site: int, key: jax.Array):
        self.scale, self.dropout, self.site = lora.scale, lora.dropout, site
        a, b = initial(lora, layer.kernel[...], key)
        self.lora_a, self.lora_b = nnx.Param(a), nnx.Param(b)
        moved = lora.init in STARTS
        self.start_a, self.start_b = (nnx.Param(a), nnx.Param(b)) if moved else (None, None)

    def factors(self) -> tuple[jax.Array, jax.Array]:
        """(left, right) whose product, scaled, is what the kernel gains."""
        a, b = self.lora_a[...], self.lora_b[...]
        return (a, b) if self.start_a is None else difference(a, b, self.start_a[...], self.start_b[...])

    def update(self, layer: Linear, x: jax.Array) -> jax.Array:
        """scale * x @ left @ right."""
        left, right = self.factors()
        return layer.product(layer.project(x, left.astype(layer.dtype)), right) * self.scale

    def __call__(self, layer: Linear, x: jax.Array, rows: PerRow | None) -> jax.Array:
        return layer.plain(x) + self.update(layer, dropout(x, self.dropout, rows, self.site))


@dataclasses.dataclass(frozen=True)
class Lora(LowRankMethod):
    """Adds low-rank updates to the linear layers, tables and experts whose path matches one of `targets`.

    Attributes:
      rank: R, the rank of each update.
      alpha: the update is scaled by alpha / R.
      rank_stabilized: scale by alpha / sqrt(R) instead (Kalajdzievski 2023, "rsLoRA").
      dropout: rate on the adapter's input; tables have none.
      targets: regular expressions on whole layer paths, such as `blocks/attention/(query|value)`, `embed/tokens` or
        `blocks/mlp/experts/(gate|up|down)`.
      init: what training starts from; tables and experts have the first alone. "uniform", numbers in +-1/sqrt(in) as in
        the authors' code, and "gaussian", standard deviation 1/R, set `lora_a`, with `lora_b` zero. "pissa":
        scale * lora_a @ lora_b is the kernel's best approximation of rank R, which is trained in place of the whole
        (Meng et al. 2024, "PiSSA"). "olora": they are the first R columns and rows of its QR decomposition (Büyükakyüz
        2024, "OLoRA"). With the last two, as with the first two, the model's function is the base's at the start.
      b_ratio: the learning rate of `lora_b` over that of `lora_a` (Hayou et al. 2024, "LoRA+").
    """

    rank: int
    alpha: float
    rank_stabilized: bool
    dropout: float
    targets: tuple[str, ...]
    init: str = "uniform"
    b_ratio: float = 1.0

    field: ClassVar[str] = "tune.lora"

    @property
    def kinds(self) -> tuple[type, ...]:  # type: ignore[override]
        return (Linear, Embedding, ExpertLinear) if self.init == "uniform" else (Linear,)

    @property
    def learning_rate(self) -> float:
        # Dettmers et al. 2023, "QLoRA", table 9 (7B and 13B); the same for GPT-2 in Hu et al. 2021, table 11.
        # PiSSA, whose factors are of the size of weights: Meng et al. 2024, section 5.1.
        return 2e-5 if self.init == "pissa" else 2e-4

    def refuse_rates(self) -> None:
        """As `Method.refuse_rates`."""
        if self.b_ratio != 1:
            raise UserError(
                f"config.tune.lora.b_ratio = {self.b_ratio:g}: config.tune.rates says all rates, so it would have no effect; "
                f"leave it at 1 and put ('.*/adapter/lora_b', {self.b_ratio:g}) first in tune.rates"
            )

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    @property
    def fixed(self) -> str:  # type: ignore[override]
        return f".*/{START_A[:-1]}[ab]" if self.init in STARTS else ""

    @property
    def rates(self) -> Rules:
        faster = ((f".*/{B}", self.b_ratio),) if self.b_ratio != 1 else ()
        return (*faster, *super().rates)

    def module(self, layer: Any, path: str, site: int, key: jax.Array) -> nnx.Module:
        made = {Linear: LowRank, Embedding: LowRankTable, ExpertLinear: LowRankExperts}[type(layer)]
        return made(layer, self, site, key)

    def check(self, shapes: Mapping[str, Any]) -> None:
        """As every method of layers. Also raises UserError for settings of linear layers where a table is adapted."""
        for pattern in self.targets:
            regex(pattern, f"config.{self.field}.targets")
        found = {path: layer.kind for path, layer in layers(shapes).items() if self.targeted(path)}
        if self.init != "uniform" and found and Linear not in found.values():
            raise UserError(
                f"config.tune.lora.init = {self.init!r} is for linear layers, and the targets are others:{listed(found, 20)}\n"
                "leave it at 'uniform'"
            )
        super().check(shapes)
        tables = [path for path, kind in found.items() if kind is Embedding]
        if tables and self.b_ratio != 1:  # of a table, lora_a is the one that starts at zero
            raise UserError(
                f"config.tune.lora.b_ratio = {self.b_ratio:g} is for layers; {tables[0]} among the targets is a table: leave it at 1 "
                "and say the rates of both by tune.rates"
            )
        if self.dropout and len(tables) == len(found):
            raise UserError(
                f"config.tune.lora.dropout = {self.dropout:g} has no effect: the targets are tables, of which nothing is dropped"
            )

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        if self.rank > min(shape):
            raise UserError(f"config.tune.lora.rank: {self.rank} is above the size of {path} {shape}")

    def factors(self, leaves: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a, b = float32(leaves[A]), float32(leaves[B])
        if START_A not in leaves:
            return a, b
        return difference(a, b, float32(leaves[START_A]), float32(leaves[START_B]))


def as_lora(method: LowRankMethod, flat: Mapping[str, Any]) -> tuple[Lora, dict[str, Any]]:
    """An adapter of any method with low-rank updates as one of plain LoRA (or DoRA) that does the same.

    Args:
      flat: whole parameters of the adapted model by path.

    Returns:
      The method, and the parameters with `lora_a` [..., in, n] and `lora_b` [..., n, out] for what `method` added.
    """
    out, found = dict(flat), {}
    for layer in filter(method.targeted, adapted(flat)):
        leaves = {p.removeprefix(layer + "/"): a for p, a in flat.items() if p.startswith(layer + "/")}
        found[layer] = (*method.factors(leaves), leaves["kernel"].dtype)
        for name in leaves:
            if name.startswith("adapter/") and name != "adapter/magnitude":
                del out[f"{layer}/{name}"]
    rank = max((left.shape[-1] for left, *_ in found.values()), default=0)
    for layer, (
        left,
        right,
        dtype,
    ) in found.items():  # of methods whose rank depends on the layer, zeros make up the rest
        lead, rest = [(0, 0)] * (left.ndim - 2), (0, rank - left.shape[-1])
        out[f"{layer}/{A}"] = jnp.pad(left, [*lead, (0, 0), rest]).astype(dtype)
        out[f"{layer}/{B}"] = jnp.pad(right, [*lead, rest, (0, 0)]).astype(dtype)
    plain = method if isinstance(method, Lora) else Lora(rank, 1.0, False, method.dropout, method.targets)
    alpha = method.scale * (math.sqrt(rank) if plain.rank_stabilized else rank)
    return dataclasses.replace(plain, rank=rank, alpha=alpha, init="uniform"), out
