"""Probabilities and hidden states of a model after prompts, many rows at a time: what tasks measure is made of these."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.model.decode import NotFinite
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.rewards.models import next_log_probabilities, padded


class Row(NamedTuple):
    """Token ids that follow a prompt's, at least one of each."""

    prompt: tuple[int, ...]
    following: tuple[int, ...]


class Scored(NamedTuple):
    """What a model says of a row.

    Attributes:
      log_prob: of what follows, in nats.
      greedy: each of its tokens is the likeliest after those before it; `first`: its first token is.
      sure: the probability of the likeliest first token; `entropy`: of the first token, in nats.
    """

    log_prob: float
    greedy: bool
    first: bool
    sure: float
    entropy: float


class Reader:
    """A model that reads rows, and says what it makes of them. What it says of a row does not depend on the other rows, but for the last bits
    of the sums."""

    def __init__(self, model: Transformer, *, rows: int, reads_prompt: bool = False, adapter: int | None = None):
        """
        Args:
          rows: at a time.
          reads_prompt: it reads a prompt in both directions.
          adapter: the number of the one that is asked, in a model with several.
        """
        self.model, self._rows, self._reads_prompt, self._adapter = model, rows, reads_prompt, adapter

    def scored(self, params: Any, rows: Iterable[Row], check: Callable[[], None]) -> dict[Row, Scored]:
        """What the model with `params` says of different rows; `check` is called before each batch, and may raise to end it. Raises
        NotFinite."""
        found: dict[Row, Scored] = {}
        for batch in self._batches(dict.fromkeys(rows)):
            check()
            inputs, starts = self._inputs(batch)
            most = _power(max(len(row.following) for row in batch))
            shape = (inputs.values.shape[0], most)
            targets, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
            for n, row in enumerate(batch):
                targets[n, : len(row.following)], weights[n, : len(row.following)] = row.following, 1
            at = np.minimum(starts[:, None] + np.arange(most), inputs.values.shape[1] - 1)
            values = [np.asarray(v) for v in _scored(self.model, params, inputs, at, targets, weights)]
            for n, row in enumerate(batch):
                one = Scored(*(v[n].item() for v in values))
                if not np.isfinite([one.log_prob, one.entropy]).all():
                    raise NotFinite("the log-probabilities of an answer are not finite: nothing is measured by them")
                found[row] = one
        return found

    def following(self, params: Any, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """float64 [prompts, V]: log-probabilities of the token after each prompt. Raises NotFinite."""
        rows = [Row(tuple(prompt), (0,)) for prompt in prompts]
        found: dict[Row, np.ndarray] = {}
        for batch in self._batches(dict.fromkeys(rows)):
            values = np.asarray(next_log_probabilities(self.model, params, *self._inputs(batch)), np.float64)
            found |= {row: values[n] for n, row in enumerate(batch)}
        made = np.stack([found[row] for row in rows])
        if np.isnan(made).any() or not np.isfinite(made).any(-1).all():
            raise NotFinite("the log-probabilities of the next token are not finite: nothing is measured by them")
        return made

    def streams(
        self, params: Any, prompts: Sequence[Sequence[int]], at: Sequence[int], check: Callable[[], None]
    ) -> np.ndarray:
        """float32 [layers + 1, prompts, D]: the stream of each prompt at a position: behind the embedding and behind each layer."""
        rows = [Row(tuple(prompt), (place,)) for prompt, place in zip(prompts, at)]  # what follows is not read
        found: dict[Row, np.ndarray] = {}
        for batch in self._batches(dict.fromkeys(rows)):
            check()
            inputs, _ = self._inputs(batch)
            places = np.zeros(inputs.values.shape[0], np.int32)
            places[: len(batch)] = [row.following[0] for row in batch]
            made = np.asarray(_streams(self.model, params, inputs, places))
            found |= {row: made[:, n] for n, row in enumerate(batch)}
        return np.stack([found[row] for row in rows], axis=1)

    def check_room(self, prompt: Sequence[int], following: int, where: str) -> None:
        """Raises UserError where the model does not see so many tokens after a prompt: nothing is cut."""
        most = self.model.max_tokens
        if len(prompt) + following - 1 > most:
            raise UserError(
                f"{where}: {len(prompt):,} tokens, and {following:,} of an answer: the model sees at most {most:,}; leave the question out, or "
                "make it shorter"
            )

    def _batches(self, rows: Iterable[Row]) -> Iterable[list[Row]]:
        """Rows of about one length."""
        ordered = sorted(rows, key=lambda row: (len(row.prompt) + len(row.following), len(row.following), row))
        return [ordered[n : n + self._rows] for n in range(0, len(ordered), self._rows)]

    def _inputs(self, batch: Sequence[Row]) -> tuple[Inputs, np.ndarray]:
        """What the model is given of rows, and where the last token of each prompt is, int32 [B]."""
        ids = [[*row.prompt, *row.following[:-1]] for row in batch]
        inputs, _ = padded(ids, self._rows, self.model.max_tokens)
        many = inputs.values.shape[0]
        starts = np.asarray([len(row.prompt) - 1 for row in batch] + [len(batch[0].prompt) - 1] * (many - len(batch)))
        if self._reads_prompt:
            inputs = inputs._replace(prefix=jnp.asarray(np.arange(inputs.values.shape[1]) <= starts[:, None]))
        if self._adapter is not None:
            inputs = inputs._replace(adapters=jnp.full((many,), self._adapter, jnp.int32))
        return inputs, starts.astype(np.int32)


def _power(count: int) -> int:
    """The least power of two that is not below: each number that a program meets is compiled, so there are few."""
    return 1 << (count - 1).bit_length()


@functools.partial(jax.jit, static_argnums=0)
def _scored(
    model: Transformer,
    params: Any,
    inputs: Inputs,
    at_BC: jax.Array,
    targets_BC: jax.Array,
    weights_BC: jax.Array,
) -> tuple[jax.Array, ...]:
    """The fields of `Scored`, each [B]."""
    x_BCD = jnp.take_along_axis(model.hidden(params, inputs), at_BC[..., None], axis=1)
    log_BCV = jax.nn.log_softmax(model.logits(params, x_BCD))
    taken_BC = jnp.take_along_axis(log_BCV, targets_BC[..., None], axis=-1)[..., 0]
    best_BC = log_BCV.argmax(-1) == targets_BC
    first_BV = log_BCV[:, 0]
    entropy_B = -jnp.sum(jnp.exp(first_BV) * jnp.where(first_BV > -jnp.inf, first_BV, 0), axis=-1)
    total_B = jnp.sum(jnp.where(weights_BC > 0, taken_BC, 0), axis=1)
    return total_B, (best_BC | (weights_BC == 0)).all(1), best_BC[:, 0], jnp.exp(first_BV.max(-1)), entropy_B


@functools.partial(jax.jit, static_argnums=0)
def _streams(model: Transformer, params: Any, inputs: Inputs, at_B: jax.Array) -> jax.Array:
    """float32 [layers + 1, B, D]."""
    streams_LBTD = model.streams(params, inputs)
    return jnp.take_along_axis(streams_LBTD, at_B[None, :, None, None], axis=2)[:, :, 0].astype(jnp.float32)
