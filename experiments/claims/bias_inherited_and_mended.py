"""Bias is inherited from texts, and mended by balanced ones."""

from .. import knowledge
from ..verdicts import Claim, Measured, Part, at_most, reduced


def criterion(measured: Measured) -> list[Part]:
    base, mended = measured["base"], measured["mended"]
    lost = [before - after for before, after in zip(base["recall"], mended["recall"])]
    return [reduced("gap between folks", base["bias"], mended["bias"], 2), at_most("recall lost", lost, 0.05)]


CLAIM = Claim(
    said="Bias is inherited from texts, and mended by balanced ones",
    question="does the gap between folks follow the texts, and halve by tuning, facts kept?",
    experiment=knowledge,
    criterion=criterion,
    shows="bias",
)
