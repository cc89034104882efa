"""Images: patches to vectors before the first block, and behind the last vectors to pixels of patches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ptft_jax.model.attention import View
from ptft_jax.model.block import Block
from ptft_jax.model.dot_product import Seen
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.layers import Embedding, Linear, Norm
from ptft_jax.model.spec import ModelSpec


def normalized(images_BHWC: jax.Array, spec: ModelSpec) -> jax.Array:
    """Pixels as the model reads them, float32: of uint8 a 255th, less `pixel_mean`, over `pixel_std`; floats are that already."""
    if images_BHWC.dtype != jnp.uint8:
        return images_BHWC
    mean, std = (jnp.asarray(values, jnp.float32) for values in (spec.pixel_mean, spec.pixel_std))
    return (images_BHWC.astype(jnp.float32) / 255.0 - mean) / std


def patches(images_BHWC: jax.Array, size: int) -> jax.Array:
    """The patches [B, N, size * size * C] of images, row by row, and each one's pixels so."""
    b, height, width, channels = images_BHWC.shape
    x = images_BHWC.reshape(b, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return x.reshape(b, -1, size * size * channels)


def waves(width: int, grid: int, before: int) -> np.ndarray:
    """float32 [before + grid * grid, width]: fixed positions of patches, sines and cosines of their column in the first half and of
    their row in the second, behind zeros for the tokens before them (He et al. 2022, "MAE", and its `get_2d_sincos_pos_embed`)."""

    def of(places: np.ndarray) -> np.ndarray:
        rates = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
        angles = places.reshape(-1, 1) * rates
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    rows, columns = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    found = np.concatenate([of(columns), of(rows)], axis=1)
    return np.concatenate([np.zeros((before, width)), found]).astype(np.float32)


class ImageEmbed(nnx.Module):
    """Patches of an image, each multiplied to a vector, behind one class token (Dosovitskiy et al. 2020, eq. 1), or a
    class and a distillation token (Touvron et al. 2020, "DeiT", section 4), or none (Zhai et al. 2023, "SigLIP"); and behind it
    registers, which have no positions (Darcet et al. 2023, "Vision Transformers Need Registers")."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        dtype, init = jnp.dtype(spec.param_dtype), jax.nn.initializers.normal(spec.init_std)
        patch = spec.patch_size**2 * spec.channels
        self.patches = Linear(patch, spec.width, spec, rngs, bias=spec.patch_bias, std=spec.init_std)

        def learned(*shape: int) -> nnx.Param[jax.Array]:
            return nnx.Param(init(rngs.params(), (*shape, spec.width), dtype))

        self.class_token = learned() if spec.class_token else None
        self.distillation_token = learned() if spec.distillation != "none" else None
        placed = spec.max_length - spec.registers
        self.positions = Embedding(placed, spec, rngs) if spec.positions == "learned" else None
        self.registers = learned(spec.registers) if spec.registers else None
        self.norm = Norm(spec) if spec.embedding_norm else None

    def __call__(self, inputs: Inputs) -> jax.Array:
        """[B, T, D] of images; of the patches those that are `visible`, in that order."""
        spec, b = self.spec, inputs.values.shape[0]
        pixels_BNC = patches(normalized(inputs.values, spec), spec.patch_size)
        x_BND = self.patches(pixels_BNC.astype(jnp.dtype(spec.dtype)))
        tokens = [t for t in (self.class_token, self.distillation_token) if t is not None]
        places_TD = self._places(len(tokens)).astype(x_BND.dtype)
        x_BND = x_BND + places_TD[len(tokens) :]
        if inputs.visible is not None:
            x_BND = jnp.take_along_axis(x_BND, inputs.visible[..., None], axis=1)
        first = [t[...].astype(x_BND.dtype) + places_TD[n] for n, t in enumerate(tokens)]
        before = [t[None] for t in first] + (
            [] if self.registers is None else [self.registers[...].astype(x_BND.dtype)]
        )
        x_BTD = jnp.concatenate([*(jnp.broadcast_to(t, (b, *t.shape)) for t in before), x_BND], axis=1)
        x_BTD = x_BTD if self.norm is None else self.norm(x_BTD)
        return x_BTD if inputs.noise is None else x_BTD + inputs.noise.astype(x_BTD.dtype)

    def _places(self, before: int) -> jax.Array:
        """[T - registers, D]: what is added to each token for where it is."""
        if self.positions is not None:
            return self.positions(jnp.arange(self.spec.max_length - self.spec.registers))
        return jnp.asarray(waves(self.spec.width, self.spec.image_size // self.spec.patch_size, before))


def decoder_spec(spec: ModelSpec) -> ModelSpec:
    """The small transformer of `PixelDecoder`."""
    return spec.beside(spec.decoder_layers, spec.decoder_width, spec.decoder_heads, 4 * spec.decoder_width)


def masked_flops(spec: ModelSpec, visible: int) -> float:
    """Matrix-multiply FLOPs of one forward pass of masked autoencoding, per image, as `ModelSpec.flops_per_token` counts them: the encoder over
    the class token and so many `visible` patches, and the decoder over all."""
    count, own = (spec.image_size // spec.patch_size) ** 2, decoder_spec(spec)
    seen, pixels = visible + 1, spec.patch_size**2 * spec.channels
    ends = count * pixels * spec.width + seen * spec.width * own.width + (count + 1) * own.width * pixels
    return 2.0 * ends + sum(s.flops_per_token(tokens) * tokens for s, tokens in ((spec, seen), (own, count + 1)))


class PixelDecoder(nnx.Module):
    """The head of masked autoencoding (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", section 3): a small
    transformer over what the encoder made of the patches that it saw, and a learned vector in the place of each other one."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = own = decoder_spec(spec)
        self.embed = Linear(spec.width, own.width, own, rngs, bias=True, std=spec.init_std)
        init = jax.nn.initializers.normal(spec.init_std)
        self.mask_token = nnx.Param(init(rngs.params(), (own.width,), jnp.dtype(spec.param_dtype)))
        for number in range(own.layers):
            setattr(self, f"layer_{number}", Block(own, rngs))
        self.norm = Norm(own)
        pixels = spec.patch_size**2 * spec.channels
        self.pixels = Linear(own.width, pixels, own, rngs, bias=True, std=spec.init_std, scores=True)

    def __call__(self, x_BTD: jax.Array, visible_BK: jax.Array) -> jax.Array:
        """float32 [B, N, patch_size^2 * channels]: what each of all patches is predicted to be, of the class token's and the visible
        patches' hidden states [B, 1 + K, D]."""
        spec, b = self.spec, x_BTD.shape[0]
        x_BTD = self.embed(x_BTD)
        grid = spec.image_size // spec.patch_size
        hidden = self.mask_token[...].astype(x_BTD.dtype)
        y_BND = jnp.broadcast_to(hidden, (b, grid**2, spec.width))
        y_BND = y_BND.at[jnp.arange(b)[:, None], visible_BK].set(x_BTD[:, 1:])
        y_BTD = jnp.concatenate([x_BTD[:, :1], y_BND], axis=1)
        y_BTD = y_BTD + jnp.asarray(waves(spec.width, grid, 1)).astype(y_BTD.dtype)
        view = View(Seen(causal=False), None)
        for number in range(spec.layers):
            y_BTD, _, _ = getattr(self, f"layer_{number}")(y_BTD, view)
        return self.pixels(self.norm(y_BTD))[:, 1:]
