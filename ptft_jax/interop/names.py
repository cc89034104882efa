"""How our parameters are named and laid out by others: the form of the name maps that `families` holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.params.rules import STACK

Model = Mapping[str, Any]  # the structural fields of `config.model` with `vocab_size`, every size filled in


@dataclasses.dataclass(frozen=True)
class Part:
    """Which rows of a fused tensor's output axis are ours: start + stride * r + arange(size) for r in range(repeats).

    GPT-NeoX keeps a head's query, key and value together: the keys of h heads of size s are Part(s, s, 3 * s, h).
    """

    start: int
    size: int
    stride: int = 0
    repeats: int = 1

    @property
    def rows(self) -> np.ndarray:
        """int [size * repeats]: the rows, in our order."""
        starts = self.start + self.stride * np.arange(self.repeats)
        return (starts[:, None] + np.arange(self.size)).reshape(-1)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of our leaves as another library keeps it.

    Attributes:
      ours: path of our leaf. Below `blocks/` theirs is one tensor a layer; with {expert} also one an expert.
      theirs: name of their tensor, with {layer} and {expert} to fill in.
      layout: how an array of theirs becomes ours:
        "same"; "transposed" [out, in] -> [in, out]; "row" [1, 1, D] -> [D]; "rows" [1, N, D] -> [N, D];
        "number" [] -> [1];
        "patches" a convolution [D, C, P, P] -> the kernel [P * P * C, D] of flattened patches.
      part: which rows of theirs (output axis, before the layout is changed) are ours, None for all of them.
    """

    ours: str
    theirs: str
    layout: str = "same"
    part: Part | None = None

    @property
    def stacked(self) -> bool:
        return self.ours.startswith(STACK + "/")

    @property
    def lead(self) -> int:
        """How many leading axes of ours are filled one tensor of theirs at a time: layers, experts."""
        return self.stacked + ("{expert}" in self.theirs)

    @property
    def output_axis(self) -> int:
        """The axis of their tensor that `part` cuts: the first of a [out, in] weight or a bias, the last of Conv1D's."""
        return -1 if self.layout == "same" else 0

    def name(self, layer: int = 0, expert: int = 0) -> str:
        """Their name for one layer and expert."""
        return self.theirs.format(layer=layer, expert=expert)


class Group(NamedTuple):
    """What one of their tensors is made of: entries of the map (several where it is fused), and which layer and expert."""

    tensors: list[Tensor]
    at: tuple[int, ...]


def groups(tensors: Iterable[Tensor], model: Model) -> dict[str, Group]:
    """Every tensor of theirs that a model has, by its name."""
    found: dict[str, Group] = {}
    for tensor in tensors:
        for at in np.ndindex(*(model["layers"], model["experts"])[: tensor.lead]):
            found.setdefault(tensor.name(*at), Group([], at)).tensors.append(tensor)
    return found


def linear(ours: str, theirs: str, bias: bool, part: Part | None = None, layout: str = "transposed") -> list[Tensor]:
    """The kernel of a linear layer, and its bias where it has one."""
    found = [Tensor(f"{ours}/kernel", f"{theirs}.weight", layout, part)]
    return [*found, Tensor(f"{ours}/bias", f"{theirs}.bias", "same", part)] if bias else found


def norm(ours: str, theirs: str, bias: bool) -> list[Tensor]:
    """The scale of a norm, and its bias where it has one."""
    found = [Tensor(f"{ours}/scale", f"{theirs}.weight")]
    return [*found, Tensor(f"{ours}/bias", f"{theirs}.bias")] if bias else found
