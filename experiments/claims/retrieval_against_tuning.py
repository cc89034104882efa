"""Fresh facts come better by retrieval than by tuning."""

from .. import retrieved
from ..verdicts import Claim, Measured, Part, above


def criterion(measured: Measured) -> list[Part]:
    tuned, found = measured["tuned"]["later people"], measured["reader"]["later people, behind a passage"]
    return [above("right answers", tuned, found)]


CLAIM = Claim(
    said="Fresh facts come better by retrieval than by tuning",
    question="are more questions about later people answered behind a passage than after tuning on texts about them?",
    experiment=retrieved,
    criterion=criterion,
    shows="later people",
)
