"""A very different target gains nothing from the base."""

from .. import starts
from ..verdicts import Claim, Measured, Part, at_most


def criterion(measured: Measured) -> list[Part]:
    return [at_most("share of the loss that is saved", starts.gains(measured), 0.1)]


CLAIM = Claim(
    said="A very different target gains nothing from the base",
    question="what of the loss from scratch is saved by a base, where each letter stands for another?",
    experiment=starts,
    criterion=criterion,
    shows="nll",
)
