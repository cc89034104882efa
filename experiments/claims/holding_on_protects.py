"""Being held near the start (EWC, L2-SP) protects what was known."""

from .. import fresh
from ..verdicts import Claim, Measured, Part, above


def criterion(measured: Measured) -> list[Part]:
    return [
        above(
            f"old recall by {fresh.LABELS[way]} at equal new recall",
            fresh.frontier(measured, way),
            measured[way]["old"],
        )
        for way in ("ewc", "l2_sp")
    ]


CLAIM = Claim(
    said="Being held near the start (EWC, L2-SP) protects what was known",
    question="is more of the old known than after plain tuning that learns as much of the new?",
    experiment=fresh,
    criterion=criterion,
    shows="old",
)
