"""One foundation has many specialists."""

from .. import specialists
from ..verdicts import Claim, Measured, Part, at_least


def criterion(measured: Measured) -> list[Part]:
    return [
        at_least("recall of the worst of twelve, as a share of that by full tuning", specialists.worst(measured), 0.9)
    ]


CLAIM = Claim(
    said="One foundation has many specialists",
    question="does each of twelve adapters on one base learn nine tenths of what full tuning does?",
    experiment=specialists,
    criterion=criterion,
    shows="recall",
)
