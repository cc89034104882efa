"""The settings of images."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import Field, mass, natural, one_of, share, whole_share


class ImageOptions(Options):
    """`config.data.images`: how an image becomes the pixels that are kept."""

    size: int = declared(
        natural(
            0,
            "height and width that images are kept with, in pixels; 0 = model.image_size; above it, random crops have more to choose from",
        )
    )
    channels: int = declared(natural(0, "1 = grey, 3 = colors; 0 = model.channels"))
    caption_length: int = declared(
        natural(
            0, "most tokens of a caption, with its ends; 0 = model.text_length, or what an image leaves of data.length"
        )
    )
    fit: str = declared(
        one_of(
            "crop",
            "what becomes of images that are not square: their middle is cut out (crop), they are squeezed (stretch), or framed "
            "with the background (pad)",
            *("crop", "stretch", "pad"),
        )
    )
    background: int = declared(
        Field(255, "grey level behind what is transparent, and around what is framed", valid=lambda v: 0 <= v <= 255, expected="a value from 0 to 255")
    )  # fmt: skip


class AugmentOptions(Options):
    """`config.data.augment`: how the images of training are varied, each time that they are drawn."""

    crop: float = declared(
        mass(
            1.0,
            "least share of an image's area that is cut out at random and made as large as the model reads; 1 = all, always",
        )
    )
    crop_ratio: float = declared(
        Field(4 / 3, "most that such a part is wider than high, or higher than wide, by a factor", valid=lambda v: v >= 1, expected="a value of 1 or more")
    )  # fmt: skip
    shift: int = declared(
        natural(0, "pixels by which an image is moved at most, up or down and left or right; edges are repeated")
    )
    turn: float = declared(
        Field(0.0, "most degrees by which an image is turned, either way; edges are repeated", valid=lambda v: 0 <= v <= 180, expected="a value from 0 to 180")
    )  # fmt: skip
    scale: float = declared(
        natural(0.0, "most by which an image is made larger or smaller, as a share, in height and width apart")
    )
    flip: float = declared(whole_share(0.0, "how often an image is mirrored, left to right"))
    color: float = declared(share(0.0, "most by which brightness, contrast and saturation are changed, as a share"))
    operations: int = declared(
        natural(0, "RandAugment: how many operations, drawn at random, are done one after the other")
    )
    magnitude: float = declared(
        Field(
            9.0, "RandAugment: how strong operations are", valid=lambda v: 0 <= v <= 10, expected="a value from 0 to 10"
        )
    )
    erase: float = declared(
        whole_share(0.0, "how often a rectangle, of 2% to a third of the area, is replaced by noise")
    )
    mixup: float = declared(
        natural(
            0.0,
            "of classification: alpha of the Beta distribution of the share that an image has in its mean with another; 0 = none",
        )
    )
    cutmix: float = declared(
        natural(
            0.0,
            "of classification: alpha of the distribution of the share that an image keeps when a rectangle of another is put in; 0 = none",
        )
    )
