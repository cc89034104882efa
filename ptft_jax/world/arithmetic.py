"""`world:arithmetic` and `world:lookup`: rules that are right of what no document shows."""

from __future__ import annotations

from typing import Any

from ptft_jax.data.records.reference import SPLITS
from ptft_jax.world import draws
from ptft_jax.world.options import ArithmeticOptions, LookupOptions
from ptft_jax.world.people import World
from ptft_jax.world.stream import Document
from ptft_jax.world.told import Told, sides, spelled

KEYS = (
    "ash", "bay", "cod", "dew", "elm", "fig", "gum", "hay", "ivy", "jay", "kelp", "lime", "moss", "nut", "oak",
    "pine", "reed", "sage", "teak", "yew",
)  # fmt: skip


class Arithmetic(Told):
    """`A plus B gives C.`, C = (A + B) mod the modulus. A fifth of the pairs, in both orders, is in no document of
    train but in those of test, a tenth in those of validation."""

    name, options = "arithmetic", ArithmeticOptions
    made_of = spelled("plus", "gives")

    def __init__(self, world: World, settings: Any, tag: str = ""):
        m = settings.modulus
        pairs = [(a, b) for a in range(m) for b in range(a, m)]
        found = sides(world.key("arithmetic", "pairs", m), len(pairs))
        self.pairs: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
        for side, (a, b) in zip(found, pairs):
            self.pairs[side] += [(a, b)] if a == b else [(a, b), (b, a)]
        super().__init__(world, settings, tag)

    def document(self, random: draws.Draws, split: str) -> Document:
        mine, m = self.pairs[split], self.settings.modulus
        some = [mine[random.below(len(mine))] for _ in range(self.settings.sums)]
        return {"text": " ".join(f"{a} plus {b} gives {(a + b) % m}." for a, b in some)}

    def asked(self, split: str) -> list[Document]:
        m = self.settings.modulus
        options = [str(n) for n in range(m)]
        return [_question(f"{a} plus {b} gives", str((a + b) % m), options, "sum") for a, b in self.pairs[split]]


class Lookup(Told):
    """`KEY VALUE KEY VALUE ... : KEY VALUE.`: which value a key had, a few words before. A fifth of all (key, value)
    is in no document of train."""

    name, options = "lookup", LookupOptions
    made_of = spelled(KEYS)

    def __init__(self, world: World, settings: Any, tag: str = ""):
        many = settings.values
        found = sides(world.key("lookup", "pairs", many), len(KEYS) * many)
        self.values = {
            split: [
                [v for v in range(many) if found[k * many + v] == split] or list(range(many)) for k in range(len(KEYS))
            ]
            for split in SPLITS
        }
        super().__init__(world, settings, tag)

    def document(self, random: draws.Draws, split: str) -> Document:
        prompt, value = self._drawn(random, split)
        return {"text": f"{prompt} {value}."}

    def asked(self, split: str) -> list[Document]:
        key, options = self.key("asked", split), [str(n) for n in range(self.settings.values)]
        drawn = (self._drawn(draws.Draws(key, n), split) for n in range(500))
        return [_question(prompt, value, options, "lookup") for prompt, value in drawn]

    def _drawn(self, random: draws.Draws, split: str) -> tuple[str, str]:
        keys = random.sample(self.settings.pairs, len(KEYS))
        values = [self.values[split][k][random.below(len(self.values[split][k]))] for k in keys]
        asked = random.below(len(keys))
        told = " ".join(f"{KEYS[k]} {v}" for k, v in zip(keys, values))
        return f"{told} : {KEYS[keys[asked]]}", str(values[asked])


def _question(prompt: str, answer: str, options: list[str], kind: str) -> Document:
    return {"prompt": prompt, "completion": f" {answer}", "answers": [answer], "options": options, "kind": kind}
