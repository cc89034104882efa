"""A tower for images beside a model of text: what it makes of patches becomes vectors in the place of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from ptft_jax.model import tower_settings
from ptft_jax.model.attention import View
from ptft_jax.model.block import Block
from ptft_jax.model.dot_product import EVERYTHING
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.layers import Linear, Norm
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.vision import ImageEmbed


def tower_spec(spec: ModelSpec) -> ModelSpec:
    """The model of images that `ImageTower` is: that of `model.tower`, computed as the model beside it is."""
    running = {name: getattr(spec, name) for name in ("dtype", "param_dtype", "init_std", "attention")}
    own: Mapping[str, Any] = dict(spec.tower)
    return ModelSpec(**{"vocab_size": 0, **own, **running, "layers": own["layers"] - spec.tower_skip}).resolved


def tower_flops(spec: ModelSpec) -> float:
    """Matrix-multiply FLOPs of one forward pass of the tower and the projector, per image, as `ModelSpec.flops_per_token` counts them."""
    if not spec.tower:
        return 0.0
    own, count = tower_spec(spec), tower_settings.count(spec.tower, spec.projector_merge)
    read = own.width * spec.projector_merge**2
    projector = read * spec.width + (spec.width**2 if spec.projector == "mlp" else 0)
    patches = (own.image_size // own.patch_size) ** 2 * own.patch_size**2 * own.channels * own.width
    return own.flops_per_token(own.max_length) * own.max_length + 2.0 * (count * projector + patches)


class ImageTower(nnx.Module):
    """Pixels to what a ViT makes of each patch, behind its final norm; of one whose last blocks are left out (`tower_skip`) as the stream is there,
    without a norm (Liu et al. 2023, "Visual Instruction Tuning", section 4.1: the features before the last layer)."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = own = tower_spec(spec)
        self.embed = ImageEmbed(own, rngs)
        for number in range(own.layers):
            setattr(self, f"layer_{number}", Block(own, rngs))
        self.norm = None if spec.tower_skip or own.norm_placement == "post" else Norm(own)

    def __call__(self, images_BHWC: jax.Array) -> jax.Array:
        """[B, N, D] of the patches, row by row, without what stands before them; images as `ImageEmbed` takes them."""
        x_BTD = self.embed(Inputs(images_BHWC))
        view = View(EVERYTHING, None)
        for number in range(self.spec.layers):
            x_BTD, _, _ = getattr(self, f"layer_{number}")(x_BTD, view)
        x_BTD = x_BTD if self.norm is None else self.norm(x_BTD)
        return x_BTD[:, self.spec.before_patches :]


class Projector(nnx.Module):
    """What a tower makes of patches to vectors as tokens have: by one matrix (Liu et al. 2023, section 4.1), or by two with a GELU between
    (Liu et al. 2023, "Improved Baselines with Visual Instruction Tuning", section 3.2). With `projector_merge` m, what was made of m x m
    neighbors is laid end to end first, so that there are m^2 times fewer."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        size = dict(spec.tower)["width"] * spec.projector_merge**2
        self.up = Linear(size, spec.width, spec, rngs, bias=True, std=size**-0.5) if spec.projector == "mlp" else None
        size = spec.width if spec.projector == "mlp" else size
        self.down = Linear(size, spec.width, spec, rngs, bias=True, std=spec.init_std)

    def __call__(self, x_BND: jax.Array) -> jax.Array:
        """[B, N / m^2, width]."""
        b, count, width = x_BND.shape
        m, grid = self.spec.projector_merge, round(count**0.5)
        x = x_BND.reshape(b, grid // m, m, grid // m, m, width).swapaxes(2, 3).reshape(b, -1, m * m * width)
        return self.down(x) if self.up is None else self.down(jax.nn.gelu(self.up(x), approximate=False))
