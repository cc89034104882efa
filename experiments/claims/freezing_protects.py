"""Freezing all but the last layer protects what was known."""

from .. import fresh
from ..verdicts import Claim, Measured, Part, above


def criterion(measured: Measured) -> list[Part]:
    return [above("old recall at equal new recall", fresh.frontier(measured, "last"), measured["last"]["old"])]


CLAIM = Claim(
    said="Freezing all but the last layer protects what was known",
    question="is more of the old known than after plain tuning that learns as much of the new?",
    experiment=fresh,
    criterion=criterion,
    shows="old",
)
