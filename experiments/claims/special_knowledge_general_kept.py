"""Special knowledge is learned with replay, and general knowledge kept."""

from .. import fresh
from ..verdicts import Claim, Measured, Part, at_least, at_most


def criterion(measured: Measured) -> list[Part]:
    base, replay = measured["base"], measured["replay"]
    lost = [before - after for before, after in zip(base["old"], replay["old"])]
    return [at_least("new recall", replay["new"], 0.9), at_most("old recall lost", lost, 0.05)]


CLAIM = Claim(
    said="Special knowledge is learned with replay, and general knowledge kept",
    question="are nine of ten new facts known, and at most 5 points of the old ones lost?",
    experiment=fresh,
    criterion=criterion,
    shows="new",
)
