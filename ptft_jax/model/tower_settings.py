"""What `config.model.tower` says of a model of text that reads images: the settings of its ViT. Needs no JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax.config.declare import fields_of
from ptft_jax.config.field import hashable
from ptft_jax.model import spec as specs

_NAMES = tuple(name for name in specs.STRUCTURE if name not in specs.HEAD)
_NEEDED = ("max_length", "layers", "width", "heads", "image_size", "patch_size")


def of(fields: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """`model.tower` of a model of images, by the structural fields of its `config.model`: those that are not as they are by default."""
    known = fields_of(specs.ModelSpec)
    changed = (n for n in _NAMES if n in _NEEDED or hashable(fields[n]) != hashable(known[n].default))
    return tuple((name, hashable(fields[name])) for name in changed)


def settings(tower: Any) -> dict[str, Any]:
    """All settings of the ViT that `model.tower` describes, as `config.model` has them."""
    return {**{name: f.default for name, f in fields_of(specs.ModelSpec).items()}, "head": "vector", **dict(tower)}


def positions(model: Mapping[str, Any]) -> int:
    """How many positions of a row an image takes, of `config.model`; 0 without a tower."""
    return count(model["tower"], model["projector_merge"]) if model["tower"] else 0


def count(tower: Any, merge: int) -> int:
    """How many vectors an image becomes: patches, of which `merge` in a row and as many such rows are one."""
    own = dict(tower)
    return (own["image_size"] // own["patch_size"] // merge) ** 2


def contradictions(m: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """As `ptft_jax.model.spec.contradictions`, of the settings of a tower."""
    if not m["tower"]:
        return []
    pairs = all(isinstance(v, (list, tuple)) and len(v) == 2 for v in m["tower"])
    names = {name for name, _ in m["tower"]} if pairs else set()
    if not {*_NEEDED} <= names <= {*_NAMES}:
        odd = ", ".join(map(repr, sorted({*map(str, names)} - {*_NAMES})))
        hint = f", and none of {odd}" if odd else ""
        return [("tower", m["tower"], f"pairs of settings of a model of images, among them {', '.join(_NEEDED)}{hint}")]
    own = settings(m["tower"])
    wrong = [f"{name} = {value!r}, expected {expected}" for name, value, expected in specs.contradictions(own)]
    writes = not m["image_size"] and m["head"] == "lm" and m["causal"]
    rows = [
        (bool(own["image_size"]), "tower", "settings of a model of images (image_size above 0)"),
        (not own["experts"] and not own["tower"], "tower", "a plain model of images, without experts"),
        (not own["mup_base_width"], "tower", "a model of images without muP (mup_base_width)"),
        (not wrong, "tower", f"settings that go together: {'; '.join(wrong)}"),
        (writes, "tower", "() of a model that does not write texts (model.head='lm', model.causal=True)"),
        (not m["mup_base_width"], "mup_base_width", "0 where model.tower is given"),
        (m["tower_skip"] < own["layers"], "tower_skip", f"less than its {own['layers']} blocks"),
    ]
    if all(good for good, *_ in rows):
        grid, taken = own["image_size"] // own["patch_size"], positions(m)
        divides = grid % m["projector_merge"] == 0
        rows.append((divides, "projector_merge", f"a number that divides {grid}, the tower's patches in a row"))
        rows.append((taken < m["max_length"], "max_length", f"more than {taken}, the positions of an image"))
    return [(name, m[name], expected) for good, name, expected in rows if not good]
