"""A soup is at least as good as its best member."""

from .. import fresh
from ..verdicts import Claim, Measured, Part, at_least


def criterion(measured: Measured) -> list[Part]:
    best = [max(found) for found in zip(*(measured[way]["new"] for way in fresh.MEMBERS))]
    gained = [soup - member for soup, member in zip(measured["soup"]["new"], best)]
    return [at_least("new recall above that of the best member", gained, 0.0)]


CLAIM = Claim(
    said="A soup is at least as good as its best member",
    question="are as many new facts recalled by the mean of several ends as by the best of these?",
    experiment=fresh,
    criterion=criterion,
    shows="new",
)
