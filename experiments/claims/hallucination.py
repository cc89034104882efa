"""Models make things up about whom nobody wrote."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_least, below


def criterion(measured: Measured) -> list[Part]:
    base, asked = measured["base"], measured["asked"]
    sure = "known from unknown (AUROC)"
    return [
        at_least("made up of the unknown", asked["made up of the unknown"], 0.9),
        below("known from unknown (AUROC)", base[sure], asked[sure]),
    ]


CLAIM = Claim(
    said="Models make things up about whom nobody wrote",
    question="are the unknown answered, and does tuning blur who is known?",
    experiment=knowledge,
    criterion=criterion,
    shows="known from unknown (AUROC)",
)
