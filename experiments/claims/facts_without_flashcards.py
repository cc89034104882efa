"""Facts are learned without flashcards."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_least


def criterion(measured: Measured) -> list[Part]:
    return [at_least("recall", measured["base"]["recall"], 0.9)]


CLAIM = Claim(
    said="Facts are learned without flashcards",
    question="are facts recalled that texts only told?",
    experiment=knowledge,
    criterion=criterion,
    shows="recall",
)
