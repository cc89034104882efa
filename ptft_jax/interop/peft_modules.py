"""Which modules of a Hugging Face model PEFT adapts, linear ones and tables of vectors, and which of our layers they are."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.interop.names import Tensor

ROOT = "base_model.model."


@dataclasses.dataclass(frozen=True)
class Module:
    """A linear module of theirs, in every layer that has it, and our layers that it holds (several where it is fused); or
    an embedding, whose inputs are the rows of its table.

    Attributes:
      template: its name, with {layer} to fill in where it is repeated.
      layers: of ours by path, in the order of the name map, each with the rows of their output that are its own.
      size_in, size_out: of their module; the rows and the width of a table.
      depth: how many of it there are, 0 for one that is not repeated.
      transposed: whether their weight is [in, out], as GPT-2's.
      table: whether it is an embedding.
    """

    template: str
    layers: Mapping[str, np.ndarray]
    size_in: int
    size_out: int
    depth: int
    transposed: bool
    table: bool = False

    @property
    def suffix(self) -> str:
        """The name within a layer, or the whole name where it is not repeated."""
        return self.template.split("{layer}.")[-1]

    def name(self, layer: int) -> str:
        return self.template.format(layer=layer)

    def stack(self, entries: Sequence[np.ndarray]) -> np.ndarray:
        """One array for all layers from one a layer."""
        return np.stack(entries) if self.depth else entries[0]


def modules(names: Sequence[Tensor], shapes: Mapping[str, Any], *, tables: bool = False) -> dict[str, Module]:
    """Every linear module by its template, from a name map and the flat parameters (or their shapes) of a plain model;
    with `tables` its embeddings, too.

    Experts and patches are none.
    """
    kernels: dict[str, list[Tensor]] = {}
    for tensor in names:
        linear = tensor.ours.endswith("/kernel") and tensor.layout in ("same", "transposed")
        if linear and "{expert}" not in tensor.theirs and tensor.ours in shapes:
            kernels.setdefault(tensor.theirs.removesuffix(".weight"), []).append(tensor)
    found = {}
    for template, tensors in kernels.items():
        layers = {}
        for tensor in tensors:
            size = shapes[tensor.ours].shape[-1]
            layers[tensor.ours.removesuffix("/kernel")] = np.arange(size) if tensor.part is None else tensor.part.rows
        first = shapes[tensors[0].ours].shape
        size_out = 1 + max(int(rows.max()) for rows in layers.values())
        depth = first[0] if tensors[0].stacked else 0
        found[template] = Module(template, layers, first[-2], size_out, depth, tensors[0].layout == "same")
    for tensor in names:
        if tables and tensor.ours.endswith("/embedding") and tensor.layout == "same" and tensor.ours in shapes:
            template, (rows, width) = tensor.theirs.removesuffix(".weight"), shapes[tensor.ours].shape
            path = tensor.ours.removesuffix("/embedding")
            found[template] = Module(template, {path: np.arange(width)}, rows, width, 0, False, table=True)
    return found


def named(found: Mapping[str, Module]) -> Iterator[tuple[str, Module, int]]:
    """Every (name, module, layer) of a model."""
    for module in found.values():
        for layer in range(module.depth or 1):
            yield module.name(layer), module, layer


def selected(config: Mapping[str, Any], name: str, module: Module, layer: int) -> bool:
    """Whether an adapter's config says that the module of this name is adapted, by PEFT's rules: `target_modules` is a
    regular expression on the whole name, "all-linear", or a list of names or ends of names; `exclude_modules` and,
    for ends of names, `layers_to_transform` take some away."""
    target, exclude = config.get("target_modules"), config.get("exclude_modules")
    if exclude and _listed(exclude, name):
        return False
    if target == "all-linear":
        return bool(module.depth) and not any(path.endswith("/router") for path in module.layers)
    if not _listed(target, name):
        return False
    only = config.get("layers_to_transform")
    if isinstance(target, str) or name in target or only is None or only == []:
        return True
    patterns = config.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    in_stack = not patterns or any(re.search(rf"(^|\.){p}\.{layer}\.", name) for p in patterns)
    return bool(module.depth) and in_stack and layer in ([only] if isinstance(only, int) else only)


def _listed(patterns: str | Sequence[str], name: str) -> bool:
    if isinstance(patterns, str):
        return bool(re.fullmatch(patterns, name))
    return name in patterns or any(name.endswith("." + end) for end in patterns)


def by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """A module's value in `rank_pattern` or `alpha_pattern`: of the first key that matches the end of its name."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def targets(chosen: Sequence[Module], every: Mapping[str, Module]) -> dict[str, list[str]]:
    """What `target_modules` must list for each chosen module and no other: the end of its name where that is its own
    among all modules, else its name in every layer."""
    found = {}
    for module in chosen:
        others = [m for m in every.values() if m is not module]
        shared = any(m.template.endswith(module.suffix) for m in others)
        names = [module.name(layer) for layer in range(module.depth or 1)]
        found[module.template] = names if shared else [module.suffix]
    return found
