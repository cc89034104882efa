"""Adapters (LoRA) forget less."""

from .. import fresh
from ..verdicts import Claim, Measured, Part, above


def criterion(measured: Measured) -> list[Part]:
    return [above("old recall at equal new recall", fresh.frontier(measured, "lora"), measured["lora"]["old"])]


CLAIM = Claim(
    said="Adapters (LoRA) forget less",
    question="is more of the old known than after plain tuning that learns as much of the new?",
    experiment=fresh,
    criterion=criterion,
    shows="old",
)
