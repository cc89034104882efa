"""Parameters of a model of images for images of another size, or for patches of another size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.errors import UserError

PATCHES, POSITIONS = "embed/patches/kernel", "embed/positions/embedding"
_HIGHEST = jax.lax.Precision.HIGHEST


def resized(
    flat: dict[str, jax.Array],
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    layout: Callable[[str, tuple[int, ...]], jax.sharding.Sharding],
) -> dict[str, jax.Array]:
    """Parameters by path, of a model with other `image_size` and `patch_size`: learned positions are interpolated (`positions`), what patches
    are multiplied by is resampled (`patches`); the rest is as it is.

    Args:
      theirs, ours: fields of `config.model` before and after.
      layout: where each leaf goes.

    Raises:
      UserError: a decoder that predicts the pixels of patches of the former size.
    """
    before, after = (_fields(fields) for fields in (theirs, ours))
    if before == after:
        return flat
    (size, patch, first), (new_size, new_patch, _) = before, after
    changed: dict[str, Callable[[jax.Array], jax.Array]] = {}
    if patch != new_patch:
        if ours["head"] == "pixels" and theirs["head"] == "pixels":
            raise UserError(
                f"config.init.resize: the decoder predicts patches of {patch} pixels, not of {new_patch}: re-initialize it (init.fresh=('head/.*',))"
            )
        changed[PATCHES] = lambda kernel: patches(kernel, patch, new_patch)
    if size // patch != new_size // new_patch and POSITIONS in flat:
        changed[POSITIONS] = lambda table: positions(table, first, new_size // new_patch)
    found = dict(flat)
    for path, change in changed.items():
        shape = jax.eval_shape(change, flat[path]).shape
        found[path] = jax.jit(change, out_shardings=layout(path, shape))(flat[path])
    return found


def _fields(fields: Mapping[str, Any]) -> tuple[int, int, int]:
    """(size of images, of patches, positions before those of the patches)."""
    before = fields["class_token"] + (fields["distillation"] != "none")  # registers have none
    return fields["image_size"], fields["patch_size"], before


def positions(table: jax.Array, first: int, grid: int) -> jax.Array:
    """[first + grid * grid, D] of learned positions [first + N, D]: those of patches interpolated as an image, by cubics (Dosovitskiy et al.
    2020, section 3.2), averaged where there are fewer (antialias), as DINOv2 has it."""
    old = round((table.shape[0] - first) ** 0.5)
    image = table[first:].astype(jnp.float32).reshape(old, old, -1)
    found = jax.image.resize(image, (grid, grid, image.shape[-1]), "cubic", precision=_HIGHEST)
    return jnp.concatenate([table[:first], found.reshape(grid * grid, -1).astype(table.dtype)])


def patches(kernel: jax.Array, old: int, new: int) -> jax.Array:
    """[new * new * C, D] of the kernel [old * old * C, D] of patches, row by row: what gives a patch that was made larger the same vector as
    before (Beyer et al. 2022, "FlexiViT", equations 4 to 6); of one that was made smaller the nearest in the mean."""
    inverse = jnp.asarray(np.linalg.pinv(resize_matrix(old, new)).T, jnp.float32)  # [new^2, old^2]
    by_pixel = kernel.astype(jnp.float32).reshape(old * old, -1)
    return jnp.dot(inverse, by_pixel, precision=_HIGHEST).reshape(-1, kernel.shape[-1]).astype(kernel.dtype)


def resize_matrix(old: int, new: int) -> np.ndarray:
    """float64 [new^2, old^2]: bilinear resizing of images of old x old pixels, flattened, to new x new; averaging where they get smaller."""
    one = _weights(old, new)
    return np.kron(one, one)


def _weights(old: int, new: int) -> np.ndarray:
    """float64 [new, old]: which of `old` pixels make each of `new`, by the triangle filter (as Pillow's BILINEAR)."""
    scale = old / new
    reach = max(scale, 1.0)
    middles = (np.arange(new) + 0.5) * scale
    found = np.maximum(1 - np.abs(np.arange(old) + 0.5 - middles[:, None]) / reach, 0)
    return found / found.sum(axis=1, keepdims=True)
