"""Holding on to what mattered (EWC) keeps earlier eras."""

from .. import continual
from ..verdicts import Claim, Measured, Part, more


def criterion(measured: Measured) -> list[Part]:
    naive, strong = (measured[way]["backward"] for way in ("naive", "strong"))
    return [more("backward transfer", naive, strong, continual.GAIN)]


CLAIM = Claim(
    said="Holding on to what mattered (EWC) keeps earlier eras",
    question="what is left of an era after the next ones?",
    experiment=continual,
    criterion=criterion,
    shows="at the end",
)
