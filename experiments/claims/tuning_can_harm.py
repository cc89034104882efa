"""Full tuning can harm what a probe would keep."""

from .. import shifted
from ..verdicts import Claim, Measured, Part, below


def criterion(measured: Measured) -> list[Part]:
    probe, high = (measured[way]["other wordings"] for way in ("probe", "high"))
    return [below("accuracy on other wordings", probe, high)]


CLAIM = Claim(
    said="Full tuning can harm what a probe would keep",
    question="is it right less often than a linear probe where wordings differ from those that were tuned on?",
    experiment=shifted,
    criterion=criterion,
    shows="other wordings",
)
