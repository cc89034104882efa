"""`world:contradictions`: sources that say different things of the same, each so often."""

from __future__ import annotations

from typing import Any

from ptft_jax.errors import UserError
from ptft_jax.world import draws
from ptft_jax.world.options import ContradictionOptions
from ptft_jax.world.people import World
from ptft_jax.world.stream import Document
from ptft_jax.world.told import Told, spelled

WHICH = ("old", "new", "great", "little", "high", "low", "long", "round", "lost", "quiet")
THINGS = ("tower", "castle", "palace", "statue", "fountain", "temple")
COLORS = ("red", "blue", "green", "white", "black", "yellow", "brown", "gray", "purple", "orange", "pink", "golden")
TEMPLATES = ("The {} is {}.", "The color of the {} is {}.", "They say that the {} is {}.")
SOURCES = ("Herald", "Courier")


class Contradictions(Told):
    """Sixty buildings, each of one color by a share p of the documents, of another by the rest. p is one of
    `shares`, in turn.

    Questions have the two colors as "options", and "probabilities" and "shares" p and 1 - p. With `sources` the one is
    always said by the Herald, the other by the Courier, and each is asked for: nothing is contradicted, "shares" is None.
    """

    name, options = "contradictions", ContradictionOptions
    made_of = spelled(WHICH, THINGS, COLORS, TEMPLATES, SOURCES, "shares")

    def __init__(self, world: World, settings: Any, tag: str = ""):
        self.shares = _shares(settings.shares)
        self.subjects = [f"{which} {thing}" for which in WHICH for thing in THINGS]
        key = world.key("contradictions", "colors")
        self.colors = [draws.Draws(key, n).sample(2, len(COLORS)) for n in range(len(self.subjects))]
        super().__init__(world, settings, tag)

    def document(self, random: draws.Draws, split: str) -> Document:
        said = [self._said(random) for _ in range(self.settings.sentences)]
        return {"text": " ".join(said)}

    def _said(self, random: draws.Draws) -> str:
        n = random.below(len(self.subjects))
        other = int(random.share() >= self.shares[n % len(self.shares)])
        template = TEMPLATES[random.below(len(TEMPLATES))]
        return self._by(other) + template.format(self.subjects[n], COLORS[self.colors[n][other]])

    def _by(self, other: int) -> str:
        return f"{SOURCES[other]}: " if self.settings.sources else ""

    def asked(self, split: str) -> list[Document]:
        found = []
        for n, subject in enumerate(self.subjects):
            share, colors = self.shares[n % len(self.shares)], [COLORS[color] for color in self.colors[n]]
            for t, template in enumerate(TEMPLATES):
                for other in range(2 if self.settings.sources else 1):
                    prompt = self._by(other) + template.format(subject, "").removesuffix(" .")
                    truth = [1.0 - other, float(other)] if self.settings.sources else [share, round(1 - share, 12)]
                    best = colors[truth[1] > truth[0]]
                    found.append(
                        {
                            "prompt": prompt,
                            "completion": f" {best}",
                            "answers": [best],
                            "options": colors,
                            "probabilities": truth,
                            "shares": None if self.settings.sources else truth,
                            "kind": SOURCES[other] if self.settings.sources else f"share {share:g}",
                            "template": t,
                        }
                    )
        return found


def _shares(text: str) -> list[float]:
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0.5 <= one <= 1 for one in found):
        raise UserError(f"shares={text}: expected numbers from 0.5 to 1, joined by commas")
    return found
