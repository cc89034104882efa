"""A style follows its tag."""

from .. import texts
from ..verdicts import Claim, Measured, Part, at_least


def criterion(measured: Measured) -> list[Part]:
    return [at_least("tags that are followed", measured["told"]["registers by their tags"], 0.95)]


CLAIM = Claim(
    said="A style follows its tag",
    question="is what follows a tag in the register that it names, and in another one behind another tag?",
    experiment=texts,
    criterion=criterion,
    shows="registers by their tags",
)
