"""Grammar is learned without rules."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_least


def criterion(measured: Measured) -> list[Part]:
    return [at_least("right forms", measured["base"]["agreement"], 0.95)]


CLAIM = Claim(
    said="Grammar is learned without rules",
    question="does a verb agree with a noun that it was never beside?",
    experiment=knowledge,
    criterion=criterion,
    shows="agreement",
)
