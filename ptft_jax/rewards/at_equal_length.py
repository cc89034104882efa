"""How often answers are better than others to the same prompts, also where longer ones had no advantage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_STEPS = 100  # of Newton's method


def rates(ahead: np.ndarray, longer: np.ndarray) -> dict[str, Any]:
    """The shares of answers that are better, float: "win_rate", where as good as the other is half; "length_controlled", see there; and counts;
    None of no answers.

    Args:
      ahead: float [n], the score less the other's.
      longer: float [n], the length less the other's.
    """
    wins = 0.5 * (1 + np.sign(ahead))
    return {
        "win_rate": float(wins.mean()) if len(wins) else None,
        "length_controlled": length_controlled(wins, longer) if len(wins) else None,
        "wins": int((ahead > 0).sum()),
        "ties": int((ahead == 0).sum()),
        "losses": int((ahead < 0).sum()),
    }


def length_controlled(wins: np.ndarray, longer: np.ndarray, deviation: float = 3.0) -> float:
    """The win rate as it would be were all answers as long as the others (Dubois et al. 2024, "Length-Controlled AlpacaEval", section 3):
    sigmoid(theta) of the logistic regression of wins on theta + phi tanh(difference of lengths / its standard deviation). The paper's third
    term, how hard a prompt is, needs many models that answered it, and is left out.

    Args:
      wins: float [n], 1, 1/2 or 0.
      longer: float [n], differences of lengths.
      deviation: of the normal prior of phi, which holds it finite where length alone tells wins from losses.
    """
    rate = float(np.mean(wins))
    spread = float(np.std(longer, ddof=1)) if len(longer) > 1 else 0.0
    if not spread or rate in (0.0, 1.0):
        return rate
    x = np.stack([np.ones(len(wins)), np.tanh(longer / spread)], axis=1)
    held = np.array([0.0, deviation**-2])

    def cost(found: np.ndarray) -> float:
        z = x @ found
        return float(np.sum(np.logaddexp(0, z) - wins * z) + held @ found**2 / 2)

    found = np.array([math.log(rate / (1 - rate)), 0.0])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(x @ found)))
        slope = x.T @ (p - wins) + held * found
        if np.abs(slope).max() < 1e-10 * len(wins):
            break
        step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + np.diag(held), slope)
        while cost(found - step) > cost(found) and np.abs(step).max() > 1e-12:
            step = step / 2
        found = found - step
    return float(1 / (1 + np.exp(-found[0])))
