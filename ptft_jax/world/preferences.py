"""`world:preferences`: pairs of answers, of which an oracle prefers one by a reward that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ptft_jax.world import draws
from ptft_jax.world.options import PreferenceOptions
from ptft_jax.world.questions import Questions
from ptft_jax.world.stream import Document
from ptft_jax.world.told import spelled

# The latent reward of an answer: what it has of these.
REWARDS = {"right": 2.0, "polite": 1.0, "long": -0.5}
POLITE, LONG = "With pleasure: ", " So it is, and so it was, and so it will be."


class Preferences(Questions):
    """A question and two answers that differ in being right, polite or long. The oracle prefers the first by
    sigmoid((its reward - the other's) / temperature) (Bradley and Terry 1952), and then says the opposite by the
    share `noise`; at temperature 0 it always prefers the better one. Records have "rewards" of chosen and rejected,
    and "flipped" where the worse one is chosen."""

    name, options = "preferences", PreferenceOptions
    made_of = spelled(REWARDS, POLITE, LONG)

    def record(self, fact: Sequence[int], which: int, random: draws.Draws) -> Document:
        row = super().record(fact, which, random)
        right = row["answers"][0]
        wrong = next((value for value in row["options"] if value != right), right)
        first, second = random.sample(2, 8)
        scored = []
        for bits in (first, second):
            has = {name: bool(bits >> n & 1) for n, name in enumerate(REWARDS)}
            text = f"{POLITE * has['polite']}{right if has['right'] else wrong}.{LONG * has['long']}"
            scored.append((sum(REWARDS[name] for name, there in has.items() if there), text))
        scored.sort(reverse=True)
        gap, temperature = scored[0][0] - scored[1][0], self.settings.temperature
        better = 1.0 if not temperature else 1 / (1 + math.exp(-gap / temperature))
        flipped = (random.share() >= better) ^ (random.share() < self.settings.noise)
        chosen, rejected = scored[::-1] if flipped else scored
        row.pop("answer")
        return {
            "prompt": row.pop("question"),
            "chosen": f" {chosen[1]}",
            "rejected": f" {rejected[1]}",
            "rewards": [chosen[0], rejected[0]],
            "flipped": flipped,
            **row,
        }


def reward(answer: str, right: Sequence[str]) -> float:
    """The latent reward of an answer; `right`: the right ones."""
    text = answer.strip()
    polite, long = text.startswith(POLITE.strip()), text.endswith(LONG.strip())
    said = text.removeprefix(POLITE.strip()).removesuffix(LONG.strip()).strip(" .")
    has = {"right": said in right, "polite": polite, "long": long}
    return sum(REWARDS[name] for name, there in has.items() if there)
