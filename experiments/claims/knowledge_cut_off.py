"""Nothing is known after the cut-off."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_most, below


def criterion(measured: Measured) -> list[Part]:
    base = measured["base"]
    return [
        at_most("recall after it", base["recall after the cut-off"], 0.06),
        below("recall after it", base["recall"], base["recall after the cut-off"]),
    ]


CLAIM = Claim(
    said="Nothing is known after the cut-off",
    question="are facts recalled that were first written about later?",
    experiment=knowledge,
    criterion=criterion,
    shows="recall after the cut-off",
)
