"""Principles in the texts beat examples alone."""

from .. import constitution
from ..verdicts import Claim, Measured, Part, below


def criterion(measured: Measured) -> list[Part]:
    last, ground = (measured[way]["violations"] for way in ("examples", "tags"))
    return [below("violations", last, ground)]


CLAIM = Claim(
    said="Principles in the texts beat examples alone",
    question="do tagged texts leave fewer violations than a last layer of examples?",
    experiment=constitution,
    criterion=criterion,
    shows="violations",
)
