"""A better base makes better children."""

from .. import starts
from ..verdicts import Claim, Measured, Part, at_least


def criterion(measured: Measured) -> list[Part]:
    return [at_least("rank correlation of the losses of bases and children", starts.correlations(measured), 0.9)]


CLAIM = Claim(
    said="A better base makes better children",
    question="does the loss after the same tuning follow the base's own?",
    experiment=starts,
    criterion=criterion,
    shows="nll",
)
