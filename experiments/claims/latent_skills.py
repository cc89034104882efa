"""Tuning brings out what texts taught."""

from .. import answers
from ..verdicts import Claim, Measured, Part, more


def criterion(measured: Measured) -> list[Part]:
    before, after = (measured[way]["sums in questions"] for way in ("base", "sums"))
    return [more("right sums", before, after, 0.2)]


CLAIM = Claim(
    said="Tuning brings out what texts taught",
    question="are sums that texts told answered as questions, before and after tuning on other sums?",
    experiment=answers,
    criterion=criterion,
    shows="sums in questions",
)
