"""From their tensors to our arrays and back: slices of one, in the layout of the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.interop.names import Model, Tensor

Read = Callable[[str, tuple[slice, ...]], np.ndarray]


def their_shape(tensor: Tensor, ours: Sequence[int], model: Model) -> tuple[int, ...]:
    """Their shape of what is one array of ours (of one layer and expert); a fused tensor's own rows only."""
    if tensor.layout == "transposed":
        return tuple(reversed(ours))
    if tensor.layout == "row":
        return (1, 1, *ours)
    if tensor.layout == "rows":
        return (1, *ours)
    if tensor.layout == "number":
        return ()
    if tensor.layout == "patches":
        return (ours[1], model["channels"], model["patch_size"], model["patch_size"])
    return tuple(ours)


def their_whole_shape(tensors: Sequence[Tensor], flat: Mapping[str, Any], model: Model) -> tuple[int, ...]:
    """The shape of one of their tensors from all entries it is made of and our flat parameters (or their shapes)."""
    first = tensors[0]
    shape = list(their_shape(first, flat[first.ours].shape[first.lead :], model))
    if first.part is not None:  # a fused tensor has the rows of all its parts
        shape[first.output_axis] = sum(len(t.part.rows) for t in tensors)
    return tuple(shape)


def read(tensor: Tensor, name: str, index: tuple[slice, ...], fetch: Read) -> np.ndarray:
    """The part `index` (in our axes) of our array, from `fetch(name, index in their axes)`."""
    if tensor.layout == "row":
        return fetch(name, ())[0, 0][index]
    if tensor.layout == "rows":
        return fetch(name, ())[0][index]
    if tensor.layout == "number":
        return fetch(name, ()).reshape(1)[index]
    if tensor.layout == "patches":
        kernel = fetch(name, ())
        return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])[index]
    rows = None
    if tensor.part is not None:
        wanted = tensor.part.rows[index[-1]]
        if tensor.part.repeats == 1:
            index = (*index[:-1], slice(int(wanted[0]), int(wanted[-1]) + 1))
        else:
            index, rows = (*index[:-1], slice(None)), wanted
    theirs = index[::-1] if tensor.layout == "transposed" else index
    array = fetch(name, theirs)
    if rows is not None:
        array = np.take(array, rows, axis=tensor.output_axis)
    return array.T if tensor.layout == "transposed" else array


def write(tensor: Tensor, ours: np.ndarray, model: Model) -> np.ndarray:
    """Our array in their layout; of a fused tensor the rows that are ours."""
    if tensor.layout == "patches":
        p, channels = model["patch_size"], model["channels"]
        return ours.reshape(p, p, channels, -1).transpose(3, 2, 0, 1)
    if tensor.layout == "transposed":
        return ours.T
    return ours.reshape(their_shape(tensor, ours.shape, model))
