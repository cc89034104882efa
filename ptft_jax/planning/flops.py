"""Operations of a traced program, counted before any compiler has seen it: those of its matrix products, loops as often as they run."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any


def of_jaxpr(jaxpr: Any, share: Fraction = Fraction(1)) -> int:
    """Floating-point operations of all matrix products of a jaxpr, two per multiply-add. Of branches the longest counts; a loop whose
    length is not known counts once (there is none in a training step).

    Args:
      share: of the blocks of its kernels those that are carried out, where the jaxpr does not say it.
    """
    return sum(_of(equation, share) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _of(equation: Any, share: Fraction) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)
    if name == "ragged_dot_general":  # each row of the left meets one group of the right
        form = params["ragged_dot_dimension_numbers"]
        (_, contracted), (_, batched) = form.dot_dimension_numbers
        left, right = (v.aval.shape for v in equation.invars[:2])
        taken = {*contracted, *batched, *form.rhs_group_dimensions}
        return 2 * math.prod(left) * math.prod(n for axis, n in enumerate(right) if axis not in taken)
    if said := re.search(r"(\d+) of (\d+) blocks", str(equation.source_info.name_stack)):  # see `ptft_jax.model.splash`
        share = Fraction(int(said[1]), int(said[2]))
    if name == "pallas_call":  # a kernel, once per block
        return int(share * math.prod(params["grid_mapping"].grid) * of_jaxpr(params["jaxpr"]))
    if name == "cond":
        return max(of_jaxpr(branch, share) for branch in params["branches"])
    times = params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1
    return times * sum(of_jaxpr(inner, share) for inner in _inner(params))


def _inner(params: Any) -> list[Any]:
    """The jaxprs among the parameters of a primitive."""
    found = []
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(one, "eqns") or hasattr(one, "jaxpr"):
                found.append(one)
    return found
