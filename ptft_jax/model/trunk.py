"""What a transformer consists of beside the block that is repeated."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

from ptft_jax.model import heads
from ptft_jax.model.embeddings import TokenEmbed
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.layers import Linear, Norm
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.vision import ImageEmbed, PixelDecoder
from ptft_jax.model.vision_tower import ImageTower, Projector


class Trunk(nnx.Module):
    """Everything that is not a repeated block.

    `prefix` is a place of fine-tuning methods, empty (None) unless `ptft_jax.adapters` fills it: a module that gives
    every layer its `View.prefix`, as two arrays with a leading axis of layers.
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.embed = ImageEmbed(spec, rngs) if spec.image_size else TokenEmbed(spec, rngs)
        self.final_norm = None if spec.norm_placement == "post" else Norm(spec)
        self.head = PixelDecoder(spec, rngs) if spec.head == "pixels" else heads.build(spec, rngs)
        self.prefix: Callable[[], tuple[jax.Array, jax.Array]] | None = None
        self.value_head: Linear | None = None
        self.tower = ImageTower(spec, rngs) if spec.tower else None
        self.projector = Projector(spec, rngs) if spec.tower else None

    def embedded(self, inputs: Inputs) -> jax.Array:
        """[B, T, D] of inputs that say their positions: what goes into the first block."""
        if inputs.images is None or self.tower is None or self.projector is None:
            return self.embed(inputs)
        assert isinstance(self.embed, TokenEmbed), "a tower is beside a model of text"
        return self.embed(inputs, self.projector(self.tower(inputs.images)))

    def scores(self, x_BTD: jax.Array, cap: float) -> jax.Array:
        assert not isinstance(self.head, PixelDecoder), "a head for pixels scores nothing"
        tokens = self.embed.tokens if isinstance(self.embed, TokenEmbed) else None
        return heads.score(self.head, x_BTD, tokens, cap)
