"""Facts are joined that were never told together."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_least


def criterion(measured: Measured) -> list[Part]:
    chance = 1 / 40
    return [at_least("right answers", measured["asked"]["answers in two hops"], chance + 0.5)]


CLAIM = Claim(
    said="Facts are joined that were never told together",
    question="is answered where the headquarters of somebody's employer are?",
    experiment=knowledge,
    criterion=criterion,
    shows="answers in two hops",
)
