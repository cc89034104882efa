"""What is split of a transformer also where it is used.

The axis `expert` has some of the experts of a mixture on each device. The axis `tensor` splits layers (Shoeybi et al. 2019, "Megatron-LM", section 3): of attention the heads, of the MLP the
hidden units, of tables and readout the vocabulary. What splits by what a layer puts out needs no exchange before it, what splits by
what a layer reads is added up behind it: one sum for attention and one for the MLP in each pass.

What methods add to a layer is split as the layer is, where a leaf has the axis; all else is whole on every device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from ptft_jax.errors import UserError
from ptft_jax.params.rules import STACK, flatten

_OUT = r"(blocks/)?(attention/(query|key|value)|mlp/(experts/)?(gate|up))/"  # layers split by what they put out
_IN = r"(blocks/)?(attention/out|mlp/(experts/)?down)/"  # by what they read
_ADDED = r"adapter/((lora|start)_b|general_b|right|vera_b|magnitude|block)"  # leaves with the axis of what a layer puts out last
_READ = r"adapter/((lora|start)_a|left)"  # with that of what it reads next to last

# (pattern of whole paths, axes of which the first that divides is split, from the last)
AXES: tuple[tuple[str, tuple[int, ...]], ...] = (
    (rf"{_OUT}(kernel|kernel/codes|bias|{_ADDED})", (-1,)),
    (rf"{_OUT}kernel/scales", (-2,)),
    (rf"{_IN}(kernel|kernel/codes|{_READ})", (-2,)),
    (rf"{_IN}kernel/scales", (-1,)),
    (r"embed/tokens/(embedding|adapter/lora_a)", (-2, -1)),
    (r"head/(scores/)?kernel", (-1, -2)),
    (r"head/(scores/)?kernel/codes", (-1,)),
    (r"head/(scores/)?kernel/scales", (-2,)),
    (rf"head/(scores/)?({_ADDED}|bias)", (-1,)),
)


def expert_axis(path: str, shape: Sequence[int], size: int) -> int | None:
    """As `axis_of`, of experts: all that one has is where it is."""
    if size == 1 or not re.match(r"(blocks/)?mlp/experts/", path):
        return None
    axis = int(path.startswith(STACK))
    return axis if shape[axis] % size == 0 else None


def axis_of(path: str, shape: Sequence[int], size: int) -> int | None:
    """The axis, counted from the front, along which a leaf is split over `size` devices; None = it is whole on each.

    Args:
      path: of a parameter; of one layer's also without "blocks/".
    """
    if size == 1:
        return None
    for pattern, axes in AXES:
        if re.fullmatch(pattern, path):
            return next((len(shape) + axis for axis in axes if -axis <= len(shape) and shape[axis] % size == 0), None)
    return None


class _Split(NamedTuple):
    """Something that the axis divides: a leaf with it, what it is in words, and the lengths of which one has to divide; `copied`: a length
    that divides the axis will do, too, and is then copied."""

    path: str
    what: str
    lengths: tuple[int, ...]
    copied: bool = False

    def fits(self, size: int) -> bool:
        return any(n % size == 0 or (self.copied and size % n == 0) for n in self.lengths)


def check(spec: Any, shapes: Mapping[str, Any], mesh: Mesh) -> None:
    """Raises UserError where a model does not divide along the axes expert and tensor, with the leaf and the nearest number that does.

    Args:
      spec: of the model, resolved.
      shapes: of its parameters.
    """
    flat = flatten(shapes)
    if mesh.shape["expert"] > 1 and not spec.experts:
        raise UserError(
            f"config.parallel.expert = {mesh.shape['expert']}: the model has no experts (model.experts): expected 1"
        )
    experts = [_Split("blocks/mlp/experts", f"{spec.experts} experts (model.experts)", (spec.experts,))]
    for axis, parts in (("expert", experts), ("tensor", _parts(spec, flat))):
        size = mesh.shape[axis]
        wrong = next((part for part in parts if not part.fits(size)), None)
        if wrong is not None:
            fitting = (n for n in range(1, mesh.size + 1) if mesh.size % n == 0 and all(p.fits(n) for p in parts))
            near = min(fitting, key=lambda n: (abs(n - size), n))
            raise UserError(
                f"config.parallel.{axis} = {size}: {wrong.path} has {wrong.what}: not a multiple of it; nearest that fits: {near}"
            )


def _parts(spec: Any, flat: Mapping[str, Any]) -> list[_Split]:
    heads, kv, hidden = spec.heads, spec.kv_heads, (spec.mlp_width,)
    found = [
        _Split("blocks/attention/query/kernel", f"{heads} heads (model.heads)", (heads,)),
        _Split("blocks/attention/key/kernel", f"{kv} heads (model.kv_heads)", (kv,), copied=True),
        *(
            _Split(f"blocks/mlp/{layer}/kernel", f"{spec.mlp_width} hidden units (model.mlp_width)", hidden)
            for layer in ("up", "experts/up")
        ),
    ]
    for path in ("embed/tokens/embedding", "head/kernel", "head/scores/kernel"):
        if path in flat:
            shape = tuple(flat[path].shape)
            found.append(_Split(path, f"{shape[0]} x {shape[1]} numbers (model.vocab_size, model.width)", shape))
    return [part for part in found if part.path in flat]
