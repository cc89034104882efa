"""What goes together: what each objective needs of the model and of the data. The one place that says it; needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import UserError

_BOTH_WAYS = "set model.causal=False, and fine-tune a model that was trained so (objective.name='masked_lm')"


@dataclasses.dataclass(frozen=True)
class Needs:
    """Of one objective.

    Attributes:
      heads: of `config.model.head`.
      causal: whether positions of the model see only what came before them.
      kinds: of `ptft_jax.data.formats.Format.kind`, what it learns from.
      does: what a model that was trained on it does, where it writes no text, for messages.
    """

    heads: tuple[str, ...]
    causal: bool
    kinds: tuple[str, ...]
    does: str = ""


NEEDS: Mapping[str, Needs] = {
    "causal_lm": Needs(("lm",), True, ("text", "answers", "tokens")),
    "prefix_lm": Needs(("lm",), True, ("text", "answers", "tokens")),
    "masked_lm": Needs(("masked_lm", "lm"), False, ("text", "answers", "tokens"), "fills in masked tokens"),
    "span_corruption": Needs(("lm",), True, ("text", "tokens")),
    "classification": Needs(("classes",), False, ("classification",), "names classes"),
}


def check_model(name: str, model: Any) -> None:
    """Raises UserError where a model cannot be trained or measured on the objective `name`.

    Args:
      model: its `ModelSpec`, or `config.model`.
    """
    where, needs = f"config.objective.name = {name!r}", NEEDS[name]
    if model.image_size:
        raise UserError(
            f"{where}: config.model.image_size = {model.image_size!r} makes a model of images, and every data.source is one of "
            "texts: such a model can be imported, exported and combined, not trained or measured; 0 = a model of text"
        )
    if model.head in needs.heads and model.causal == needs.causal:
        return
    if name == "masked_lm" and model.causal:
        raise UserError(f"{where}: the model sees only what came before (model.causal=True); {_BOTH_WAYS}")
    if name == "masked_lm":
        raise UserError(f"{where}: the model has a head for {model.head}; set model.head='masked_lm' (BERT's) or 'lm'")
    if name == "classification" and model.head not in needs.heads:
        raise UserError(f"{where}: the model scores tokens; set model.head='classes' and model.classes")
    if name == "classification":
        raise UserError(
            f"{where}: the classes are read off the first position, which sees nothing of a text in a causal model; "
            f"{_BOTH_WAYS}"
        )
    what = "bidirectional" if not model.causal else f"with a head for {model.head}"
    advice = "set model.causal=True" if not model.causal else "set model.head='lm'"
    masked = ", or objective.name='masked_lm'" if not model.causal and model.head != "classes" else ""
    raise UserError(f"{where}: the model is {what}, and predicts no next token; {advice}{masked}")


def check_kind(kinds: tuple[str, ...], kind: str, source: str, description: str) -> None:
    """Raises UserError where a source of this kind is none of those that an objective learns from; () = any will do."""
    if not kinds or kind in kinds:
        return
    columns = "; choose its columns: KIND:NAME?format=text&text=COLUMN" if "text" in kinds else ""
    others = [name for name, needs in NEEDS.items() if kind in needs.kinds]
    named = f"config.objective.name = {' or '.join(map(repr, others))}" if others else "no config.objective.name"
    raise UserError(
        f"{source}: {description}: the objective learns from {', '.join(kinds)}, not from {kind} ({named} does){columns}"
    )


def check_samples(name: str, prompts: Any) -> None:
    """Raises UserError where `config.samples.prompts` are set for an objective that teaches no model to write."""
    if prompts and NEEDS[name].does:
        raise UserError(
            f"config.samples.prompts: a model of objective.name={name!r} {NEEDS[name].does} and writes no text; leave them "
            "at ()"
        )
