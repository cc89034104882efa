"""Objectives that predict the next token."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ptft_jax.objectives.token_loss import TokenLoss


@dataclasses.dataclass(frozen=True)
class CausalLM(TokenLoss):
    """Cross-entropy of the next token."""

    chained: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class PrefixLM(TokenLoss):
    """Cross-entropy of the next token after a prefix whose tokens attend to each other in both directions (Raffel et al.
    2020, section 3.2.1)."""

    chained: ClassVar[bool] = True
