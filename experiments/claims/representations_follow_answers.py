"""What can be read off the representation of a name follows what is answered."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, above


def criterion(measured: Measured) -> list[Part]:
    return [
        above(f"{what}, tuned", measured["base"][what], measured["asked"][what])
        for what in ("read off the name", "read off the question")
    ]


CLAIM = Claim(
    said="What can be read off the representation of a name follows what is answered",
    question="does a linear probe find a fact at the name where questions are answered, and not where they are not?",
    experiment=knowledge,
    criterion=criterion,
    shows="read off the name",
)
