"""Objectives that restore a text of which something was taken."""

from __future__ import annotations

import dataclasses

from ptft_jax.objectives.token_loss import TokenLoss


@dataclasses.dataclass(frozen=True)
class MaskedLM(TokenLoss):
    """Cross-entropy of the chosen tokens where they stood, seen from both sides (Devlin et al. 2018, section 3.1)."""


@dataclasses.dataclass(frozen=True)
class SpanCorruption(TokenLoss):
    """Cross-entropy of the spans that were cut out, written after the text without them (Raffel et al. 2020, section
    3.1.4)."""
