"""A tone is tuned, and facts stay."""

from .. import answers
from ..verdicts import Claim, Measured, Part, at_least, at_most


def criterion(measured: Measured) -> list[Part]:
    plain, polite, terse = (measured[way] for way in ("plain", "polite", "terse"))
    lost = [a - b for a, b in zip(plain["right answers"], polite["right answers, whatever the tone"])]
    tones = [
        at_least(f"in the tone, {name}", way["in the tone"], 0.95)
        for name, way in (("polite", polite), ("terse", terse))
    ]
    return [*tones, at_most("right answers lost by politeness", lost, 0.02)]


CLAIM = Claim(
    said="A tone is tuned, and facts stay",
    question="do 95% of answers have the tone, and are at most 2 points of facts lost?",
    experiment=answers,
    criterion=criterion,
    shows="in the tone",
)
