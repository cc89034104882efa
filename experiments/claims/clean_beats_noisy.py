"""A few clean examples beat many noisy ones."""

from .. import answers
from ..verdicts import Claim, Measured, Part, above


def criterion(measured: Measured) -> list[Part]:
    return [above("right answers", measured["noisy"]["right answers"], measured["clean"]["right answers"])]


CLAIM = Claim(
    said="A few clean examples beat many noisy ones",
    question="are more answers right after a tenth of the examples, of which none is wrong?",
    experiment=answers,
    criterion=criterion,
    shows="right answers",
)
