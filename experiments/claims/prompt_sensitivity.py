"""Answers change with the prompt, less after several wordings."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, below


def criterion(measured: Measured) -> list[Part]:
    one, several = (measured[way]["spread over wordings"] for way in ("one", "asked"))
    return [below("spread over wordings", one, several)]


CLAIM = Claim(
    said="Answers change with the prompt, less after several wordings",
    question="how far do wordings of one question differ?",
    experiment=knowledge,
    criterion=criterion,
    shows="spread over wordings",
)
