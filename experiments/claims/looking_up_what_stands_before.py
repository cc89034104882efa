"""What stands before is looked up."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_least


def criterion(measured: Measured) -> list[Part]:
    chance = 1 / 50
    return [at_least("right values", measured["base"]["what a key had"], chance + 0.5)]


CLAIM = Claim(
    said="What stands before is looked up",
    question="is the value of a key repeated that stood a few words before, of pairs that were in no text?",
    experiment=knowledge,
    criterion=criterion,
    shows="what a key had",
)
