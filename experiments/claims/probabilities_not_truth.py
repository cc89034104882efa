"""A model goes on with probabilities, not with truth."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_most


def criterion(measured: Measured) -> list[Part]:
    return [at_most("distance to the shares", measured["base"]["distance to the sources' shares"], 0.05)]


CLAIM = Claim(
    said="A model goes on with probabilities, not with truth",
    question="where sources contradict one another, is each answer as likely as its share of what is said?",
    experiment=knowledge,
    criterion=criterion,
    shows="distance to the sources' shares",
)
