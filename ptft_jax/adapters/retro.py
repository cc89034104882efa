"""Attention to passages that are found for each chunk of a row (Borgeaud et al. 2022, "Improving Language Models by Retrieving from Trillions of
Tokens", RETRO), as an adapter on a trained model (their section 4.3, RETRO-fitting)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.adapters.base import ADDED, Method, Rules, key_for, place
from ptft_jax.errors import UserError
from ptft_jax.model.attention import Attention
from ptft_jax.model.block import Block
from ptft_jax.model.layers import Norm, PerRow
from ptft_jax.model.spec import ModelSpec
from ptft_jax.params.rules import flatten


class ChunkedCrossAttention(nnx.Module):
    """y + gate * attend(stream, what was found for the chunk before) (section 2.4 and appendix B.1).

    The token at place i of a row of chunks of m tokens reads what was found for chunk floor((i + 1) / m) - 1: the last token of chunk u, and
    all but the last of the next one, what was found for chunk u. So tokens of a chunk are predicted by what was found for the one before, and nothing is read
    that was looked up by a token behind. `query`, `key`, `value` and `out` [D, D]; `gate` [] starts at zero. Where nothing was found nothing is added, whatever
    the gate.
    """

    def __init__(self, spec: ModelSpec, heads: int, key: jax.Array):
        self.heads = heads
        self.norm = Norm(spec)
        dtype, keys = jnp.dtype(spec.param_dtype), jax.random.split(key, 4)
        for name, one in zip(("query", "key", "value", "out"), keys):
            drawn = jax.random.normal(one, (spec.width, spec.width), jnp.float32) * spec.width**-0.5
            setattr(self, name, nnx.Param(drawn.astype(dtype)))
        self.gate = nnx.Param(jnp.zeros((), dtype))

    def __call__(
        self, sublayer: Attention, inputs: jax.Array, y_BTD: jax.Array, x_BTD: jax.Array, rows: PerRow | None
    ) -> jax.Array:
        if rows is None or rows.neighbors is None:  # what was found is read itself
            return y_BTD
        states_BUSD, there_BUS = rows.neighbors
        (b, t, d), chunks = x_BTD.shape, states_BUSD.shape[1]
        shift = t // chunks - 1
        h_BTD = jnp.pad(
            self.norm(x_BTD)[:, shift:], ((0, 0), (0, shift), (0, 0))
        )  # row of chunks, each with its readers
        q = self._projected(h_BTD.reshape(b, chunks, -1, d), self.query)
        k, v = (self._projected(states_BUSD, kernel) for kernel in (self.key, self.value))
        scores = jnp.einsum("butnh,busnh->bunts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        seen = there_BUS[:, :, None, None, :]
        shares = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(jnp.float32).min), axis=-1)
        shares = jnp.where(seen.any(axis=-1, keepdims=True), shares, 0).astype(v.dtype)
        read = jnp.einsum("bunts,busnh->butnh", shares, v).reshape(b, t, d) @ self.out[...].astype(y_BTD.dtype)
        read = jnp.pad(read[:, : t - shift], ((0, 0), (shift, 0), (0, 0)))
        return y_BTD + self.gate[...].astype(y_BTD.dtype) * read

    def _projected(self, x: jax.Array, kernel: nnx.Param[jax.Array]) -> jax.Array:
        y = x @ kernel[...].astype(x.dtype)
        return y.reshape(*y.shape[:-1], self.heads, -1)


@dataclasses.dataclass(frozen=True)
class Retro(Method):
    """Lets layers read passages that were found for the chunks of a row (`config.data.neighbors`), encoded by the frozen base itself.

    Every layer holds an attention and a gate, as all are stacked; those of lower layers stay frozen with a gate of zero.

    Attributes:
      heads: of each attention.
      layers: of how many layers, from the last, they train; 0 = all.
    """

    heads: int
    layers: int

    field: ClassVar[str] = "tune.retro"
    learning_rate: ClassVar[float] = 1e-3
    mergeable: ClassVar[bool] = False
    reads_neighbors: ClassVar[bool] = True  # type: ignore[misc]

    @property
    def rates(self) -> Rules:
        return ((f"blocks[-{self.layers}:]/{ADDED}", 1.0), (ADDED, 0.0)) if self.layers else super().rates

    def refuse_rates(self) -> None:
        """As `Method.refuse_rates`."""
        if self.layers:
            raise UserError(
                f"config.tune.retro.layers = {self.layers}: config.tune.rates says all rates, so it would have no effect; leave it at 0 and "
                f"put ('blocks[-{self.layers}:]/{ADDED}', 1.0) in tune.rates"
            )

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the `adapter` slot of attention."""
        if isinstance(module, Block):
            path = f"{prefix}attention"
            place(module.attention, ChunkedCrossAttention(module.spec, self.heads, key_for(path, rngs)[1]), path, self)

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises UserError where heads do not divide the width, or `layers` are not fewer than the model's."""
        depth, width = flatten(shapes)["blocks/attention/query/kernel"].shape[:2]
        if width % self.heads:
            raise UserError(f"config.tune.retro.heads = {self.heads}: expected a divisor of the model's width, {width}")
        if self.layers >= depth:
            raise UserError(
                f"config.tune.retro.layers = {self.layers}: expected fewer than the model's {depth}, or 0 for all"
            )
