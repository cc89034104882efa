"""Passages that were found for the chunks of rows, as a model reads them (`Inputs.neighbors`, `ptft_jax.adapters.retro`)."""

from __future__ import annotations

from typing import NoReturn

import jax
import jax.numpy as jnp

from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs


def passages(neighbors_BUKN: jax.Array) -> Inputs:
    """Every passage as a row of its own [B * U * K, N], what is no token (-1) as padding."""
    tokens = neighbors_BUKN.reshape(-1, neighbors_BUKN.shape[-1])
    return Inputs(jnp.maximum(tokens, 0), segments=(tokens >= 0).astype(jnp.int32))


def states(neighbors_BUKN: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What was made of `passages`, [B * U * K, N, D], by chunk: [B, U, K * N, D], through which nothing learns; and which of it there is, bool
    [B, U, K * N]."""
    shape = (*neighbors_BUKN.shape[:2], -1)
    return jax.lax.stop_gradient(y).reshape(*shape, y.shape[-1]), (neighbors_BUKN >= 0).reshape(shape)


def refuse(virtual_tokens: int) -> NoReturn:
    """Raises UserError for rows that would silently go without passages, or be read in other chunks."""
    if virtual_tokens:
        raise UserError(
            "config.tune.method: retro reads rows in chunks, and learned vectors before them (prompt, p_tuning) would shift these: leave out one"
        )
    raise UserError(
        "config.tune.method = 'retro': it reads what is found for each chunk of a row, and nothing was looked up: such a model is trained and measured on "
        "rows of data (data.neighbors.index), and neither writes nor answers"
    )
