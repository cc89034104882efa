"""`world:grammar`: sentences whose every next word has a known probability."""

from __future__ import annotations

from typing import Any

from ptft_jax.world import draws
from ptft_jax.world.options import GrammarOptions
from ptft_jax.world.stream import Document
from ptft_jax.world.told import Told, drawn, spelled

NOUNS = (
    ("cat", "cats"), ("dog", "dogs"), ("bird", "birds"), ("fox", "foxes"), ("cow", "cows"), ("hen", "hens"),
    ("goat", "goats"), ("mouse", "mice"), ("child", "children"), ("man", "men"),
)  # fmt: skip
# Of one, of several, what follows, and where: with which probability.
VERBS = (
    ("sits", "sit", "on", {"mat": 0.5, "chair": 0.25, "couch": 0.15, "floor": 0.1}),
    ("sleeps", "sleep", "in", {"basket": 0.4, "barn": 0.3, "garden": 0.2, "cellar": 0.1}),
    ("flies", "fly", "in", {"airplane": 0.6, "balloon": 0.3, "rocket": 0.1}),
    ("eats", "eat", "from", {"bowl": 0.5, "plate": 0.3, "bucket": 0.2}),
    ("hides", "hide", "behind", {"door": 0.45, "tree": 0.35, "wall": 0.2}),
    ("walks", "walk", "along", {"road": 0.5, "river": 0.3, "fence": 0.2}),
    ("plays", "play", "with", {"ball": 0.6, "rope": 0.3, "drum": 0.1}),
    ("waits", "wait", "near", {"gate": 0.7, "well": 0.2, "bridge": 0.1}),
)
PLACES = tuple(place for *_, places in VERBS for place in places)
APART = 0.25  # of the subjects have another noun behind them, of the other number: "the cats near the dog sit"


def allowed(noun: int) -> list[int]:
    """The verbs that documents have with a noun; the others are asked for alone."""
    return [verb for verb in range(len(VERBS)) if (noun + verb) % 5]


class Grammar(Told):
    """`The NOUN [near the NOUN] VERB PREPOSITION the PLACE.`: noun and number uniform, the verb uniform among those
    that the noun has (a fifth of all pairs is in no document), the place by the verb's probabilities.

    Questions are prefixes: of places (kind "place"), with the true probabilities over all places as "shares", too; and of pairs that no
    document has (kind "agreement", "agreement_apart" behind another noun), with the verb's two forms to choose from.
    """

    name, options = "grammar", GrammarOptions
    made_of = spelled(NOUNS, VERBS, APART, "shares")

    def document(self, random: draws.Draws, split: str) -> Document:
        return {"text": " ".join(self._sentence(random) for _ in range(self.settings.sentences))}

    def _sentence(self, random: draws.Draws) -> str:
        noun, number = random.below(len(NOUNS)), random.below(2)
        verbs = allowed(noun)
        verb = VERBS[verbs[random.below(len(verbs))]]
        other = random.below(len(NOUNS) - 1) if random.share() < APART else None
        places = verb[3]
        place = list(places)[drawn(random, list(places.values()))]
        return f"{subject(noun, number, other)} {verb[number]} {verb[2]} the {place}."

    def asked(self, split: str) -> list[Document]:
        found: list[Document] = []
        for noun in range(len(NOUNS)):
            for number in range(2):
                for v, (*forms, preposition, places) in enumerate(VERBS):
                    if v in allowed(noun):
                        prompt = f"{subject(noun, number)} {forms[number]} {preposition} the"
                        row = _asked(prompt, PLACES, [places.get(p, 0.0) for p in PLACES], "place")
                        found.append(row | {"shares": row["probabilities"]})
                        continue
                    for other in (None, (noun + v) % (len(NOUNS) - 1)):
                        kind = "agreement" if other is None else "agreement_apart"
                        row = _asked(subject(noun, number, other), forms, [1.0 - number, float(number)], kind)
                        found.append(row | {"probabilities": None, "shares": None})  # no document has this verb here
        return found


def subject(noun: int, number: int, other: int | None = None) -> str:
    """`other` counts the nouns beside the first."""
    apart = "" if other is None else f" near the {NOUNS[other + (other >= noun)][1 - number]}"
    return f"The {NOUNS[noun][number]}{apart}"


def _asked(prompt: str, options: Any, probabilities: list[float], kind: str) -> Document:
    best = options[max(range(len(options)), key=probabilities.__getitem__)]
    return {
        "prompt": prompt,
        "completion": f" {best}",
        "answers": [best],
        "options": list(options),
        "probabilities": probabilities,
        "kind": kind,
    }
