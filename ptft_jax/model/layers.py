"""The layers a transformer is built from, as Flax NNX modules.

A module here is only a description: `ptft_jax.model.transformer` splits it into a static definition and a plain
dict of arrays. Arrays are made in `param_dtype` and computed with in `dtype`, whatever they are kept in (`ptft_jax.params.precision`
says what a run keeps in what).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.model.quantized import recomputed
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.turned import Turned, behind

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # Hendrycks & Gimpel 2016, section 2
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


class PerRow(NamedTuple):
    """What is a row's own: its dropout `keys` [B] (None = no dropout), the number of its adapter, `adapters` int [B] (None = the
    model has one for all), which of its tokens are `counted` [B, T] where experts say how they were used (None = they
    do not), and what was found for its chunks, `neighbors`: states [B, U, S, D], and which of them there are, bool [B, U, S] (None =
    nothing was looked up)."""

    keys: jax.Array | None
    adapters: jax.Array | None
    counted: jax.Array | None = None
    neighbors: tuple[jax.Array, jax.Array] | None = None


def again(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function of arrays, of whose steps the backward pass keeps nothing: it takes them again from the arguments. For what is cheap
    beside reading it from memory.

    A scan over layers writes to memory whatever is kept. Of unrolled layers, a compiler would find both passes to take the same
    steps and keep what they give: on CPUs it may, on accelerators, where memory is what such steps wait for, a barrier forbids it.
    """

    @jax.custom_vjp
    def run(*arguments: jax.Array | None) -> jax.Array:
        return function(*arguments)

    def forward(*arguments: jax.Array | None) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
        return function(*arguments), arguments

    def backward(arguments: tuple[jax.Array | None, ...], slope: jax.Array) -> tuple[jax.Array | None, ...]:
        kept = jax.lax.platform_dependent(arguments, cpu=lambda a: a, default=jax.lax.optimization_barrier)
        return jax.vjp(function, *kept)[1](slope)

    run.defvjp(forward, backward)
    return run


def project(
    x: jax.Array, kernel: jax.Array | Turned, dtype: jnp.dtype | None = None, *, flat: bool = True
) -> jax.Array:
    """x [..., in] @ kernel [in, out] -> [..., out], in `dtype` (None: theirs).

    Where `flat`, rows and positions are one axis meanwhile, so that the gradient of the kernel is a product of two matrices, and no contraction
    over two axes, for which compilers for CPUs need up to three times as long. Of positions that are divided among devices an axis
    that is joined with that of the rows would have every device take the products of all (`Projecting`).
    """

    def run(x: jax.Array, kernel: jax.Array | Turned) -> jax.Array:
        if isinstance(kernel, Turned):
            return behind(x.reshape(-1, x.shape[-1]), kernel, dtype).reshape(*x.shape[:-1], kernel.size_out)
        if not flat:
            return jnp.dot(x, kernel, preferred_element_type=dtype)
        y = jnp.dot(x.reshape(-1, x.shape[-1]), kernel, preferred_element_type=dtype)
        return y.reshape(*x.shape[:-1], kernel.shape[-1])

    return jax.checkpoint(run, prevent_cse=False)(x, kernel)  # what is kept is x, once for all layers that read it


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def scores(x: jax.Array, kernel: jax.Array | Turned, flat: bool = True) -> jax.Array:
    """x @ kernel in float32; `flat` as of `project`. The products of its gradient are of numbers in their own dtype, as those of other layers are:
    with float32 among them they would take several times as long on accelerators."""
    return project(x, kernel, jnp.dtype(jnp.float32), flat=flat)


def _scores_forward(
    x: jax.Array, kernel: jax.Array | Turned, flat: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array | Turned]]:
    return scores(x, kernel, flat), (x, kernel)


def _scores_backward(
    flat: bool, kept: tuple[jax.Array, jax.Array | Turned], slope: jax.Array
) -> tuple[jax.Array, jax.Array | Turned]:
    x, kernel = kept
    _, pull = jax.vjp(functools.partial(project, flat=flat), x, kernel)
    return pull(slope.astype(x.dtype))


scores.defvjp(_scores_forward, _scores_backward)


class Projecting(nnx.Module):
    """What multiplies activations [B, T, ...] with kernels.

    Attributes:
      flat: of `project`; a transformer over devices that have parts of the same rows sets it to False.
    """

    flat: bool = True

    def project(self, x: jax.Array, kernel: jax.Array | Turned) -> jax.Array:
        """x [..., in] @ kernel [in, out], in their dtype."""
        return project(x, kernel, flat=self.flat)

    def scored(self, x: jax.Array, kernel: jax.Array | Turned) -> jax.Array:
        """The same in float32 (`scores`)."""
        return scores(x, kernel, self.flat)


class Linear(Projecting):
    """y = x @ kernel (+ bias). `kernel` [in, out], `bias` [out].

    `adapter` is the one place where fine-tuning methods change a layer: a module called with this layer and its input
    that returns the output, by way of `plain` or not. It is empty (None) unless `ptft_jax.adapters` fills it. `kernel` may
    be a `ptft_jax.model.quantized.QuantizedKernel`, or hold a `ptft_jax.model.turned.Turned`. `out` is the dtype of what it puts out: float32 of scores (`scores`), which
    decide losses by their differences; else that of its arithmetic, `dtype`. Adapters put out the same.
    """

    def __init__(
        self,
        size_in: int,
        size_out: int,
        spec: ModelSpec,
        rngs: nnx.Rngs,
        *,
        bias: bool,
        std: float,
        scores: bool = False,
    ):
        init = jax.nn.initializers.normal(std)
        self.dtype = jnp.dtype(spec.dtype)
        self.out = jnp.dtype(jnp.float32) if scores else self.dtype
        self.kernel = nnx.Param(init(rngs.params(), (size_in, size_out), jnp.dtype(spec.param_dtype)))
        self.bias = nnx.Param(jnp.zeros((size_out,), jnp.dtype(spec.param_dtype))) if bias else None
        self.adapter: Callable[[Linear, jax.Array, PerRow | None], jax.Array] | None = None

    def __call__(self, x: jax.Array, rows: PerRow | None = None) -> jax.Array:
        """x [..., in] -> [..., out]; `rows` is for adapters that drop, or that differ by row."""

        def run(x: jax.Array, rows: PerRow | None) -> jax.Array:
            return self.plain(x) if self.adapter is None else self.adapter(self, x, rows)

        return recomputed(self.kernel, run)(x, rows)

    def plain(self, x: jax.Array) -> jax.Array:
        """The layer without its adapter."""
        y = self.product(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...].astype(self.out)

    def product(self, x: jax.Array, kernel: jax.Array | Turned) -> jax.Array:
        """x @ kernel [..., out] as the layer's own product is made: of numbers in `dtype`, put out in `out`."""
        kernel = kernel.astype(self.dtype)
        return self.project(x, kernel) if self.out == self.dtype else self.scored(x, kernel)


class Norm(nnx.Module):
    """Layer norm (Ba et al. 2016) or RMS norm (Zhang & Sennrich 2019) over the last axis, computed in float32.

    `scale` [size], kept as its difference from one where `spec.norm` is "rms_plus_one" (Gemma).
    """

    def __init__(self, spec: ModelSpec, size: int = 0):
        self.kind, self.eps = spec.norm, spec.norm_eps
        dtype, shape = jnp.dtype(spec.param_dtype), (size or spec.width,)
        self.scale = nnx.Param(jnp.zeros(shape, dtype) if self.kind == "rms_plus_one" else jnp.ones(shape, dtype))
        with_bias = self.kind == "layer" and "norm" in spec.biases
        self.bias = nnx.Param(jnp.zeros(shape, dtype)) if with_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        return again(self._normed)(x, self.scale[...], None if self.bias is None else self.bias[...])

    def _normed(self, x: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
        y, scale = x.astype(jnp.float32), scale.astype(jnp.float32)
        if self.kind == "layer":
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        y = y * (1.0 + scale if self.kind == "rms_plus_one" else scale)
        if bias is not None:
            y = y + bias.astype(jnp.float32)
        return y.astype(x.dtype)


class Scale(nnx.Module):
    """A learned factor per feature (Touvron et al. 2021, "Going deeper with Image Transformers", equation 4). `scale` [D]."""

    def __init__(self, spec: ModelSpec):
        self.scale = nnx.Param(jnp.full((spec.width,), spec.layer_scale, jnp.dtype(spec.param_dtype)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.scale[...].astype(x.dtype)


class TableAdapter(Protocol):
    """What fills `Embedding.adapter`."""

    def rows(self, table: Embedding, ids: jax.Array) -> jax.Array: ...

    def scores(self, table: Embedding, x_BTD: jax.Array) -> jax.Array: ...


class Embedding(Projecting):
    """A table of vectors. `embedding` [rows, D].

    `adapter` is the place of fine-tuning methods that change the table: a module with `rows(table, ids)` in place of
    `plain` and `scores(table, x)` in place of `plain_scores`, called with this module as `table`. It is empty (None) unless
    `ptft_jax.adapters` fills it. `few`: there are scores of a few rows, those of a step of decoding (`ptft_jax.model.turned`).
    """

    def __init__(self, rows: int, spec: ModelSpec, rngs: nnx.Rngs):
        init = jax.nn.initializers.normal(spec.init_std)
        self.dtype = jnp.dtype(spec.dtype)
        self.embedding = nnx.Param(init(rngs.params(), (rows, spec.width), jnp.dtype(spec.param_dtype)))
        self.adapter: TableAdapter | None = None
        self.few = False
        self.output_ratio = spec.width_ratio

    def __call__(self, ids: jax.Array) -> jax.Array:
        """The vectors [..., D] of ids int [...]."""
        return self.plain(ids) if self.adapter is None else self.adapter.rows(self, ids)

    def plain(self, ids: jax.Array) -> jax.Array:
        """The vectors without the adapter."""
        return jnp.take(self.embedding[...], ids, axis=0).astype(self.dtype)

    def scores(self, x_BTD: jax.Array) -> jax.Array:
        """x times every row, float32 [B, T, rows]: what a tied head makes of the table (Press & Wolf 2016)."""
        y = self.plain_scores(x_BTD) if self.adapter is None else self.adapter.scores(self, x_BTD)
        return y if self.output_ratio == 1 else y / self.output_ratio  # of muP: see ModelSpec.output_std

    def plain_scores(self, x_BTD: jax.Array) -> jax.Array:
        """The scores without the adapter."""
        table = self.embedding[...].astype(x_BTD.dtype)
        return self.scored(x_BTD, Turned(table) if self.few else table.T)


# What fills the `adapter` of attention and MLP, see `ptft_jax.model.block.Block`.
SublayerAdapter = Callable[[nnx.Module, jax.Array, jax.Array, jax.Array, PerRow | None], jax.Array]


class MLP(nnx.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when gated (SwiGLU with act = silu).

    `adapter` is a place of fine-tuning methods, see `ptft_jax.model.block.Block`.
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        residual_std = spec.hidden_std / (2 * spec.layers) ** 0.5
        self.activation = spec.activation
        bias = "mlp" in spec.biases
        self.gate = (
            Linear(spec.width, spec.mlp_width, spec, rngs, bias=bias, std=spec.hidden_std) if spec.gated else None
        )
        self.up = Linear(spec.width, spec.mlp_width, spec, rngs, bias=bias, std=spec.hidden_std)
        self.down = Linear(spec.mlp_width, spec.width, spec, rngs, bias=bias, std=residual_std)
        self.adapter: SublayerAdapter | None = None

    def __call__(self, x: jax.Array, per_row: PerRow | None = None) -> jax.Array:
        act = ACTIVATIONS[self.activation]
        if self.gate is None:
            h = again(act)(self.up(x, per_row))
        else:
            h = again(lambda gate, up: act(gate) * up)(self.gate(x, per_row), self.up(x, per_row))
        return self.down(h, per_row)


def soft_cap(x: jax.Array, cap: float) -> jax.Array:
    """cap * tanh(x / cap), which keeps |x| below `cap` (Gemma 2, section 2); 0 = x itself."""
    return cap * jnp.tanh(x / cap) if cap else x


def dropout(x: jax.Array, rate: float, rows: PerRow | None, site: int) -> jax.Array:
    """Zeroes entries of x [B, ...] with probability `rate` and scales up the rest; off where there are no keys.

    Every row draws from its own key [B], so a row's mask does not depend on which rows share its micro-batch or
    device. `site` tells apart several uses within one layer.
    """
    if rows is None or rows.keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, site), 1.0 - rate, x.shape[1:]))(rows.keys)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)
