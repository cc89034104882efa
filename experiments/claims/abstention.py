"""Examples teach a model to say that it does not know."""

from .. import answers
from ..verdicts import Claim, Measured, Part, at_most


def criterion(measured: Measured) -> list[Part]:
    silent = measured["silent"]
    return [
        at_most("made up of the unknown", silent["made up of the unknown"], 0.1),
        at_most("silent about the known", silent["silent about the known"], 0.1),
    ]


CLAIM = Claim(
    said="Examples teach a model to say that it does not know",
    question="is nothing made up about people of whom nobody wrote, and little withheld about others?",
    experiment=answers,
    criterion=criterion,
    shows="made up of the unknown",
)
