"""Retrieval brings fresh facts, where reading was learned."""

from .. import retrieved
from ..verdicts import Claim, Measured, Part, above, more


def criterion(measured: Measured) -> list[Part]:
    reader, plain = measured["reader"], measured["plain"]
    behind = "later people, behind a passage"
    return [
        more("right answers behind a passage", reader["later people"], reader[behind], 0.5),
        above("right answers behind it, of one that learned to read,", plain[behind], reader[behind]),
    ]


CLAIM = Claim(
    said="Retrieval brings fresh facts, where reading was learned",
    question="are questions about later people answered behind a passage that is found, alone not, and not by a model without texts to read?",
    experiment=retrieved,
    criterion=criterion,
    shows="later people, behind a passage",
)
