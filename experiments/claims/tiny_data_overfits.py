"""Little data is overfitted, and early stopping helps."""

from .. import starts
from ..verdicts import Claim, Measured, Part, below


def criterion(measured: Measured) -> list[Part]:
    base, best, last = (measured[way]["nll"] for way in (f"base-{starts.STEPS[-1]}", "few-best", "few-last"))
    return [below("loss at the best step, than untuned,", base, best), below("... than at the last,", last, best)]


CLAIM = Claim(
    said="Little data is overfitted, and early stopping helps",
    question="does held-out loss fall and then rise, on data that are soon known by heart?",
    experiment=starts,
    criterion=criterion,
    shows="nll",
)
