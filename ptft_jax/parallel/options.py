"""The settings of the mesh, and of what lies where on it."""

from __future__ import annotations

from typing import Any

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import natural, one_of, rules


def _tactic(value: Any) -> str:
    named = isinstance(value, tuple) and all(name is None or isinstance(name, str) for name in value)
    return "" if named or isinstance(value, str) else "expected 'fsdp', 'replicate' or a tuple of None and mesh axes"


class ParallelOptions(Options):
    """`config.parallel`: how devices divide rows and parameters."""

    replica: int = declared(natural(0, "devices that copy the parameters; 0 = those that the other axes leave"))
    fsdp: int = declared(
        natural(1, "devices that split the parameters, each with rows of its own; 0 = those that are left")
    )
    expert: int = declared(
        natural(1, "devices that split the experts of a mixture, each with rows of its own; 0 = those that are left")
    )
    context: int = declared(
        natural(1, "devices that split the same rows by position (ring attention); 0 = those that are left")
    )
    tensor: int = declared(
        natural(1, "devices that split heads, hidden units and vocabulary of the same rows; 0 = those that are left")
    )
    rules: tuple[tuple[str, str | tuple[str | None, ...]], ...] = declared(
        rules(((".*", "fsdp"),), "((pattern, tactic), ...): fsdp, replicate, or a tuple of mesh axes", _tactic)
    )
    compile: str = declared(one_of("jit", "one program over the mesh, or the same step per device", "jit", "pmap"))
