"""Few parameters are enough."""

from .. import fresh
from ..verdicts import Claim, Measured, Part, at_least, at_most


def criterion(measured: Measured) -> list[Part]:
    full, lora, trainable = measured["rate-0.001"], measured["lora"], "trainable parameters"
    ahead = [few - 0.9 * whole for few, whole in zip(lora["new"], full["new"])]
    shares = [few / whole for few, whole in zip(lora[trainable], full[trainable])]
    return [
        at_least("new recall less nine tenths of that by full tuning", ahead, 0.0),
        at_most("parameters that train, as a share", shares, 0.1),
    ]


CLAIM = Claim(
    said="Few parameters are enough",
    question="does a low-rank adapter learn nine tenths of what full tuning does, with a tenth of the parameters?",
    experiment=fresh,
    criterion=criterion,
    shows="new",
)
