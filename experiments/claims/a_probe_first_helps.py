"""A probe first helps where what is asked differs."""

from .. import shifted
from ..verdicts import Claim, Measured, Part, above


def criterion(measured: Measured) -> list[Part]:
    full, first = (measured[way]["other wordings"] for way in ("full", "first"))
    return [above("accuracy on other wordings", full, first)]


CLAIM = Claim(
    said="A probe first helps where what is asked differs",
    question="is the head tuned first, and then all, right more often on other wordings than all from the start?",
    experiment=shifted,
    criterion=criterion,
    shows="other wordings",
)
