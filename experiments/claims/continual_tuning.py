"""Replay keeps earlier eras."""

from .. import continual
from ..verdicts import Claim, Measured, Part, more


def criterion(measured: Measured) -> list[Part]:
    naive, replay = (measured[way]["backward"] for way in ("naive", "replay"))
    return [more("backward transfer", naive, replay, continual.GAIN)]


CLAIM = Claim(
    said="Replay keeps earlier eras",
    question="what is left of an era after the next ones?",
    experiment=continual,
    criterion=criterion,
    shows="backward",
)
