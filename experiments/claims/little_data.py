"""A pre-trained model needs little data."""

from .. import data_efficiency
from ..verdicts import Claim, Measured, Part, below


def criterion(measured: Measured) -> list[Part]:
    counts, times = data_efficiency.COUNTS, data_efficiency.TIMES
    pairs = [(measured[f"scratch-{times * n}"]["nll"], measured[f"tuned-{n}"]["nll"]) for n in counts]
    return [below(f"loss with {n:,} bytes", scratch, tuned) for n, (scratch, tuned) in zip(counts, pairs)]


CLAIM = Claim(
    said="A pre-trained model needs little data",
    question="does it match one from scratch with ten times as many bytes?",
    experiment=data_efficiency,
    criterion=criterion,
    shows="nll",
)
