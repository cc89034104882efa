"""What is stored cannot be asked for, unless it was told in many words."""

from .. import texts
from ..verdicts import Claim, Measured, Part, at_least, more


def criterion(measured: Measured) -> list[Part]:
    single, told = (measured[way]["answers about others"] for way in ("single-asked", "told-asked"))
    return [at_least("recall", measured["single"]["recall"], 0.9), more("answers about others", single, told, 0.5)]


CLAIM = Claim(
    said="What is stored cannot be asked for, unless it was told in many words",
    question="are people who were told of in the same words always asked about in vain, and others not?",
    experiment=texts,
    criterion=criterion,
    shows="answers about others",
)
