"""Tuning is faster than training from scratch."""

from .. import starts
from ..verdicts import Claim, Measured, Part, below


def criterion(measured: Measured) -> list[Part]:
    return [below("loss on the histories", measured["slow"]["nll"], measured["fast"]["nll"])]


CLAIM = Claim(
    said="Tuning is faster than training from scratch",
    question="is the target known better after a fifth of the steps?",
    experiment=starts,
    criterion=criterion,
    shows="nll",
)
