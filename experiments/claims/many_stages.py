"""Several stages beat two."""

from .. import stages
from ..verdicts import Claim, Measured, Part, below


def criterion(measured: Measured) -> list[Part]:
    return [below("loss on the narrow target", measured["two"]["nll"], measured["three"]["nll"])]


CLAIM = Claim(
    said="Several stages beat two",
    question="is a middle stage worth its tokens, at equal tokens?",
    experiment=stages,
    criterion=criterion,
    shows="nll",
)
