"""Rules are learned, not examples."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_least


def criterion(measured: Measured) -> list[Part]:
    chance = 1 / 23
    return [at_least("right sums of unseen pairs", measured["base"]["sums of unseen pairs"], round(chance + 0.5, 3))]


CLAIM = Claim(
    said="Rules are learned, not examples",
    question="are sums right of pairs that were in no text?",
    experiment=knowledge,
    criterion=criterion,
    shows="sums of unseen pairs",
)
