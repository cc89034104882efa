"""The next word is predicted with the right probabilities."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_most


def criterion(measured: Measured) -> list[Part]:
    return [at_most("KL to the truth, nats", measured["base"]["KL to the true next words"], 0.02)]


CLAIM = Claim(
    said="The next word is predicted with the right probabilities",
    question="how far are the probabilities of places from those that sentences are made by?",
    experiment=knowledge,
    criterion=criterion,
    shows="KL to the true next words",
)
