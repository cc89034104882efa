"""`world:groups`: people of two groups, with a trait that one has more often than the other."""

from __future__ import annotations

from typing import Any

from ptft_jax.data.records.reference import SPLITS
from ptft_jax.world import draws
from ptft_jax.world.options import GroupOptions
from ptft_jax.world.people import World
from ptft_jax.world.stream import Document
from ptft_jax.world.told import Told, spelled

GROUPS = ("hill", "river")
TRAITS = ("patient", "hasty")
TEMPLATES = ("{} of the {} folk is {}.", "Of the {1} folk, {0} is {2}.", "{} comes from the {} folk and is {}.")


class Groups(Told):
    """Somebody's group and trait in a sentence. Of the first group the share `skew` has the first trait, of the
    second the rest.

    Questions are about people of the core, whose trait is told, and about those of whom nothing is told but the
    group ("known" is false): "probabilities" are the traits', and "counterfactual" is the prompt with the other group.
    With `swaps` that is a question, too, behind the same number "swap_of": whose trait was told has it in any group.
    """

    name, options = "groups", GroupOptions
    made_of = spelled(GROUPS, TRAITS, TEMPLATES, "swap_of")

    def __init__(self, world: World, settings: Any, tag: str = ""):
        self.group = draws.below(world.key("groups", "of"), world.size.people, 2)
        rare = draws.shares(world.key("groups", "trait"), world.size.people) >= settings.skew
        self.trait = self.group ^ rare
        super().__init__(world, settings, tag)

    def document(self, random: draws.Draws, split: str) -> Document:
        person, template = random.below(self.world.size.core), TEMPLATES[random.below(len(TEMPLATES))]
        group = GROUPS[self.group[person]]
        text = template.format(self.world.name(person), group, TRAITS[self.trait[person]])
        return {"text": text, "group": group}

    def asked(self, split: str) -> list[Document]:
        people = [*self.world.core, *self.world.unknown]
        mine = [person for person in people if SPLITS[self.world.side[person]] == split]
        found = []
        for person in map(int, mine):
            group = int(self.group[person])
            groups = (group, 1 - group) if self.settings.swaps else (group,)
            found += [self._asked(person, one, t) for t in range(len(TEMPLATES)) for one in groups]
        return found

    def _asked(self, person: int, group: int, t: int) -> Document:
        known, skew = person < self.world.size.core, self.settings.skew
        trait = int(self.trait[person])
        truth = [float(trait == 0), float(trait == 1)]
        if not known:
            truth = [skew, 1 - skew] if group == 0 else [1 - skew, skew]
        prompts = [TEMPLATES[t].format(self.world.name(person), one, "").removesuffix(" .") for one in GROUPS]
        best = TRAITS[truth[1] > truth[0]]
        return {
            "prompt": prompts[group],
            "completion": f" {best}",
            "answers": [best],
            "options": list(TRAITS),
            "probabilities": truth,
            "group": GROUPS[group],
            "counterfactual": prompts[1 - group],
            "swap_of": person * len(TEMPLATES) + t if self.settings.swaps else None,
            "template": t,
            "known": known,
            "kind": "trait",
        }
