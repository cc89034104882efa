"""Learning from rewards adds to learning from examples."""

from .. import arithmetic_rl
from ..verdicts import Claim, Measured, Part, above


def criterion(measured: Measured) -> list[Part]:
    start, grpo = (measured[way]["exact answers"] for way in ("start", "grpo"))
    return [above("exact answers", start, grpo)]


CLAIM = Claim(
    said="Learning from rewards adds to learning from examples",
    question="are more answers exact after rewards, at equal compute?",
    experiment=arithmetic_rl,
    criterion=criterion,
    shows="exact answers",
)
