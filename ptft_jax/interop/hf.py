"""Import of weights: checked against the name map first, then streamed tensor by tensor into their shardings."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.errors import UserError, listed
from ptft_jax.interop import layouts
from ptft_jax.interop.archive import Archive
from ptft_jax.interop.names import Model, Tensor, groups
from ptft_jax.params.rules import flatten, matches, refuse_idle, unflatten

# Tables that older files hold beside the parameters, and that are computed here.
_BUFFERS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias|position_ids)")

_NEAR = 0.01  # half-precision's rounding of what is computed here


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which tensor of an archive becomes which part of our parameters; everything is known to fit.

    Attributes:
      names: the archive's own name of every expected tensor.
      tensors: the entries of the name map, by our path.
      fresh: our paths that rules say to initialize instead.
    """

    archive: Archive
    model: Model
    names: dict[str, str]
    tensors: dict[str, Tensor]
    fresh: tuple[str, ...]

    def load(self, shapes: Any, layout: Callable[[str, tuple[int, ...]], jax.sharding.Sharding]) -> dict[str, Any]:
        """The parameters in the dtypes of `shapes`, each array made in its sharding; without those in `fresh`.

        One tensor is in memory at a time beside what is already placed, and of it each process reads what its devices
        hold.
        """
        flat = flatten(shapes)
        out = {}
        for path, tensor in self.tensors.items():
            leaf = flat[path]
            out[path] = self._fill(tensor, leaf, layout(path, leaf.shape))
        return unflatten({path: out[path] for path in flat if path in out})

    def _fill(self, tensor: Tensor, leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        entries = tensor.lead
        if not entries:
            return self._piece(tensor, leaf.shape, leaf.dtype, sharding, ())
        inner = sharding
        if isinstance(sharding, jax.sharding.NamedSharding):
            inner = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[entries:]))
        array = jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=sharding)()
        put = _setter(sharding)
        for at in np.ndindex(*leaf.shape[:entries]):
            array = put(array, self._piece(tensor, leaf.shape[entries:], leaf.dtype, inner, at), at)
            array.block_until_ready()  # or the host reads ahead of the devices, and pieces pile up
        return array

    def _piece(self, tensor, shape, dtype, sharding, at: tuple[int, ...]) -> jax.Array:
        name = self.names[tensor.name(*at)]

        def part(index: tuple[slice, ...]) -> np.ndarray:
            full = tuple(slice(*s.indices(n)) for s, n in zip(index, shape))
            found = layouts.read(tensor, name, full, self.archive.read)
            with np.errstate(over="ignore"):
                cast = np.ascontiguousarray(found.astype(dtype))
            if found.dtype.itemsize > cast.dtype.itemsize and not np.isfinite(cast).all() and np.isfinite(found).all():
                raise UserError(f"{self.archive.reference}: {name} has values that {np.dtype(dtype).name} cannot hold")
            return cast

        return jax.make_array_from_callback(tuple(shape), sharding, part)


@functools.cache
def _setter(sharding: jax.sharding.Sharding) -> Callable[..., jax.Array]:
    def put(array, piece, at):
        starts = [*at, *[0] * piece.ndim]
        return jax.lax.dynamic_update_slice(array, piece.reshape((1,) * len(at) + piece.shape), starts)

    return jax.jit(put, donate_argnums=0, out_shardings=sharding)


def plan(
    archive: Archive,
    family: Any,
    model: Model,
    shapes: Any,
    *,
    ignore: Sequence[str] = (),
    fresh: Sequence[str] = (),
    own: Model | None = None,
) -> Plan:
    """Checks an archive against the model before anything is read.

    Args:
      shapes: the parameters as ShapeDtypeStructs, of a plain model of `model`.
      ignore: patterns of the archive's names that may be left out (`init.ignore`).
      fresh: patterns of our paths that may be missing and are then initialized (`init.fresh`).
      own: the model that the archive holds, where `model` differs from it in what is `fresh`: what stands in the place of that may
        be left over.

    Raises:
      UserError: every missing, unmapped or mis-shaped tensor, listed; a pattern that matches nothing.
    """
    flat = flatten(shapes)
    entries = family.tensors(model)
    have = archive.shapes()
    expected = {name: group.tensors for name, group in groups(entries, model).items()}
    ties = family.ties(model)
    names = _find(have, expected, family.prefix, ties)
    refuse_idle(fresh, flat, "init.fresh", "parameter")
    new = tuple(path for path in flat if matches(fresh, path))
    unread = {
        tensor.ours for tensor in entries if matches(fresh, tensor.ours)
    }  # some may be none of ours: a new head has other parts
    wanted = {name: rows for name, rows in expected.items() if any(t.ours not in unread for t in rows)}
    problems = [f"missing  {name}" for name in wanted if name not in names]
    problems += _misshapen(wanted, names, have, flat, model)

    refuse_idle(ignore, have, "init.ignore", "tensor")
    gone = _given_up(family, own, model, fresh) if own is not None else set()
    spare = [
        name for name in have if name not in set(names.values()) and _known_as(name, gone, family.prefix) not in gone
    ]
    unused = re.compile(getattr(family, "unused", "(?!)"))  # what such files hold, and no model of ours has
    idle = {name for name in spare if _BUFFERS.fullmatch(name) or unused.fullmatch(name)}
    left = [name for name in spare if name not in idle and not matches(ignore, name)]
    fixed = family.constants(own or model) if hasattr(family, "constants") else {}
    for name in [name for name in left if _known_as(name, fixed, family.prefix) in fixed]:
        left.remove(name)
        known = fixed[_known_as(name, fixed, family.prefix)]
        if have[name] != known.shape or np.abs(archive.read(name).astype(np.float32) - known).max() > _NEAR:
            problems.append(f"other    {name} holds other numbers than the fixed ones that are computed here")
    copies = {_known_as(name, {*ties, *ties.values()}, family.prefix): name for name in left}
    for copy, original in ties.items():
        if copy in copies and original in names:
            left.remove(copies[copy])
            if not _equal(archive, copies[copy], names[original]):
                problems.append(f"untied   {copies[copy]} differs from {names[original]}, to which config.json ties it")
    problems += [f"unmapped {name} {have[name]}" for name in left]
    if problems:
        raise UserError(
            f"{archive.reference} does not fit {family.model_type}:{listed(_by_layer(problems), 1000)}\n"
            "A tensor that is not needed is left out by init.ignore, a parameter that is missing made by init.fresh (patterns)"
        )
    tensors = {tensor.ours: tensor for tensor in entries if tensor.ours not in unread}
    return Plan(archive, model, {n: names[n] for n in wanted}, tensors, new)


def _given_up(family: Any, own: Model, model: Model, fresh: Sequence[str]) -> set[str]:
    """Their names of what the archive's own model has and `fresh` takes the place of: a head of another kind, and its ties."""
    held = groups(family.tensors(own), own)
    gone = {name for name, group in held.items() if all(matches(fresh, tensor.ours) for tensor in group.tensors)}
    return gone | (family.ties(own).keys() - family.ties(model).keys())


def _by_layer(lines: Sequence[str]) -> list[str]:
    """The lines, those that differ in numbers of layers (and experts) alone as one, with which they are."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for line in lines:
        numbers = re.findall(r"(?<=\.)\d+(?=\.)", line)
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", line), []).append((line, ".".join(numbers)))
    out = []
    for shape, members in groups.items():
        if len(members) < 4:
            out += [line for line, _ in members]
        else:
            out.append(f"{shape}  * = {', '.join(numbers for _, numbers in members)}")
    return out


def _known_as(name: str, expected: Any, prefix: str) -> str:
    """An archive's name as the name map writes it: files of a bare model lack its prefix, BERT's first have old names."""
    modern = re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{'weight' if m[1] == 'gamma' else 'bias'}", name)
    return prefix + modern if modern not in expected and prefix + modern in expected else modern


def _find(have: Any, expected: Any, prefix: str, ties: dict[str, str]) -> dict[str, str]:
    """The archive's name of every expected tensor that it has."""
    known = {_known_as(name, expected, prefix): name for name in have}
    found = {name: known[name] for name in expected if name in known}
    for copy, original in ties.items():  # some files keep the tied head and not the embedding
        if original in expected and original not in found and copy in known:
            found[original] = known[copy]
    return found


def _misshapen(wanted: dict[str, list[Tensor]], names, have, flat, model: Model) -> list[str]:
    problems = []
    for name, tensors in wanted.items():
        shape = layouts.their_whole_shape(tensors, flat, model)
        if name in names and have[names[name]] != shape:
            ours = ", ".join(t.ours for t in tensors)
            problems.append(f"shape    {names[name]} {have[names[name]]}, expected {shape} for {ours}")
    return problems


def _equal(archive: Archive, a: str, b: str) -> bool:
    shapes = archive.shapes()
    if shapes[a] != shapes[b]:
        return False
    step = max(1, 2**24 // max(1, int(np.prod(shapes[a][1:]))))  # some rows at a time
    cuts = [(slice(i, min(i + step, shapes[a][0])),) for i in range(0, shapes[a][0], step)]
    return all(np.array_equal(archive.read(a, cut), archive.read(b, cut)) for cut in cuts)
