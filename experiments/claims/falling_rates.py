"""A rate that falls ends lower."""

from .. import schedules
from ..verdicts import Claim, Measured, Part, below


def criterion(measured: Measured) -> list[Part]:
    constant = measured["constant"]["nll"]
    return [below(f"loss at the end, {shape}", constant, measured[shape]["nll"]) for shape in schedules.SHAPES[1:]]


CLAIM = Claim(
    said="A rate that falls ends lower",
    question="does it matter along which schedule the same tokens are read?",
    experiment=schedules,
    criterion=criterion,
    shows="nll",
)
