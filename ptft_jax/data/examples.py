"""An example as a model sees it: token ids, and which of them are learned."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One tokenized example, whole: with what a text starts and ends with, before any cutting or packing.

    Attributes:
      ids: int32 [n].
      trained: bool [n], the ids that are targets of the loss; None = all. The first id of a row is a target of nothing,
        whatever this says.
      label: class of a classification example, or the number, a float, of a regression example; else -1.
      right: the ids, by their places, that end a step which is right, of an answer whose steps have labels.
      empty: the ids, by their places, with which answers that are learned begin and that have nothing but white space and their
        end.
      rejected: the worse answer of a preference pair (`ids` is then the better one), else None.
    """

    ids: np.ndarray
    trained: np.ndarray | None = None
    label: int | float = -1
    rejected: Encoded | None = None
    empty: tuple[int, ...] = ()
    right: tuple[int, ...] = ()

    @property
    def label_bits(self) -> int:
        """The label as stores keep it, int32: a class, or the bits of a float32."""
        return int(np.float32(self.label).view(np.int32)) if self.numeric else int(self.label)

    @property
    def numeric(self) -> bool:
        """Whether the label is a number, and no class."""
        return isinstance(self.label, float)

    @property
    def sequences(self) -> tuple[Encoded, ...]:
        """What is read as a sequence of its own: the example; of a preference pair both answers, the better one first."""
        return (self,) if self.rejected is None else (self, self.rejected)
