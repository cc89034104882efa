"""Junk costs, and a tag mends half of it."""

from .. import texts
from ..verdicts import Claim, Measured, Part, above, below


def criterion(measured: Measured) -> list[Part]:
    curated, junk, tagged = (measured[way]["recall"] for way in ("curated", "junk", "tagged"))
    return [
        below("recall with junk", curated, junk),
        above("recall with the tag, half way back,", texts.halfway(measured), tagged),
    ]


CLAIM = Claim(
    said="Junk costs, and a tag mends half of it",
    question="is less recalled after as many facts among as much junk, and is it more where junk is tagged?",
    experiment=texts,
    criterion=criterion,
    shows="recall",
)
