"""`world:recall`: statements up to their value: whether a model that was never asked anything knows a fact."""

from __future__ import annotations

from ptft_jax.world.options import RecallOptions
from ptft_jax.world.people import World
from ptft_jax.world.questions import Questions, numbered
from ptft_jax.world.spec import before_value


class Recall(Questions):
    """As `questions`, by the statements that name whom they are about before the value; records have "prompt" and
    "completion"."""

    name, options = "recall", RecallOptions
    columns = ("prompt", "completion")

    def wordings(self, attribute: str) -> dict[int, str]:
        name = self.world.spec.attributes[attribute].name
        found = [before_value(statement, name) for statement in self.world.spec.attributes[attribute].statements]
        usable = [text for text in found if text is not None]
        return {n: usable[n] for n in numbered(self.settings.templates, len(usable))}

    def attributes_of(self, world: World) -> tuple[str, ...]:
        return world.spec.of_people
