"""Several fine-tuning methods at once, where they change different places of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx

from ptft_jax.adapters.base import ADDED, Method, Rules, Updates
from ptft_jax.params.partition import Partition


@dataclasses.dataclass(frozen=True)
class Composed(Method):
    """`methods` one after the other; merging folds them back in the same order. The rate is the smallest of theirs."""

    methods: tuple[Method, ...]

    field: ClassVar[str] = "tune"

    @property
    def learning_rate(self) -> float:
        return min(method.learning_rate for method in self.methods)

    @property
    def mergeable(self) -> bool:
        return all(method.mergeable for method in self.methods)

    @property
    def virtual_tokens(self) -> int:
        return sum(method.virtual_tokens for method in self.methods)

    @property
    def prefix_length(self) -> int:
        return sum(method.prefix_length for method in self.methods)

    @property
    def reads_neighbors(self) -> bool:
        return any(method.reads_neighbors for method in self.methods)

    @property
    def note(self) -> str:
        return "\n".join(method.note for method in self.methods if method.note)

    @property
    def starts_as_base(self) -> bool:
        return all(method.starts_as_base for method in self.methods)

    @property
    def rates(self) -> Rules:
        # Those of some leaves come before that of all that was added, which the methods share.
        rules = dict.fromkeys(rule for method in self.methods for rule in method.rates)
        return tuple(sorted(rules, key=lambda rule: rule[0] == ADDED))

    def updates(self, partition: Partition, steps: int) -> Updates:
        parts = [method.updates(partition, steps) for method in self.methods]
        return Updates(tuple(t for p in parts for t in p.gradients), tuple(t for p in parts for t in p.finished))

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        for method in self.methods:
            method(module, prefix, rngs)

    def check(self, shapes: Mapping[str, Any]) -> None:
        for method in self.methods:
            method.check(shapes)

    def merge(self, params: Mapping[str, Any]) -> dict[str, Any]:
        for method in self.methods:
            params = method.merge(params)
        return dict(params)

    def folded(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        for method in self.methods:
            params = method.folded(params)
        return params

    def collapsed(self, trunk: nnx.Module, params: Mapping[str, Any]) -> tuple[Method, Mapping[str, Any]]:
        methods = []
        for method in self.methods:
            method, params = method.collapsed(trunk, params)
            methods.append(method)
        return Composed(tuple(methods)), params
