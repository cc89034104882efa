"""The settings of the mesh, and of what lies where on it."""

from __future__ import annotations

from typing import Any

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import natural, one_of, positive, rules


def _tactic(value: Any) -> str:
    named = isinstance(value, tuple) and all(name is None or isinstance(name, str) for name in value)
    return "" if named or isinstance(value, str) else "expected 'fsdp', 'replicate' or a tuple of None and mesh axes"


class ParallelOptions(Options):
    """`config.parallel`: how devices divide rows and parameters."""

    replica: int = declared(natural(0, "devices that copy the parameters; 0 = all / fsdp"))
    fsdp: int = declared(positive(1, "devices that split the parameters"))
    rules: tuple[tuple[str, str | tuple[str | None, ...]], ...] = declared(
        rules(((".*", "fsdp"),), "((pattern, tactic), ...): fsdp, replicate, or a tuple of mesh axes", _tactic)
    )
    compile: str = declared(one_of("jit", "one program over the mesh, or the same step per device", "jit", "pmap"))
