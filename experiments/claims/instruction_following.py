"""Tuning on questions makes a model answer them."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_least, more


def criterion(measured: Measured) -> list[Part]:
    before, after = (measured[way]["answers about others"] for way in ("base", "asked"))
    return [more("right answers", before, after, 0.5), at_least("right answers", after, 0.9)]


CLAIM = Claim(
    said="Tuning on questions makes a model answer them",
    question="are questions about others answered, before and after?",
    experiment=knowledge,
    criterion=criterion,
    shows="answers about others",
)
