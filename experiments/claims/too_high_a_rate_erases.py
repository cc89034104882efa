"""Too high a rate erases."""

from .. import rates
from ..verdicts import Claim, Measured, Part, rising


def criterion(measured: Measured) -> list[Part]:
    old = [measured[way]["old"] for way in rates.LABELS]
    return [rising("loss on what it knew, by the rate", old)]


CLAIM = Claim(
    said="Too high a rate erases",
    question="what does a rate of fine-tuning make a model forget?",
    experiment=rates,
    criterion=criterion,
    shows="old",
)
