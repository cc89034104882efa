"""The models that are combined: whole parameters read a leaf at a time, and checks that they are of one kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ptft_jax.adapters.base import LayerMethod, is_added
from ptft_jax.adapters.composed import Composed
from ptft_jax.errors import UserError, listed
from ptft_jax.model.heads import PER_CLASS
from ptft_jax.model.spec import HEAD, VALUES
from ptft_jax.parallel.sharding import on_one_device
from ptft_jax.params import fingerprint, finite
from ptft_jax.params.partition import join, source_of
from ptft_jax.params.rules import flatten, matches, unflatten
from ptft_jax.runs import checkpoint, identity
from ptft_jax.runs import source as restore
from ptft_jax.runs.lineage import parted, place
from ptft_jax.runs.parent import Parent
from ptft_jax.runs.workdir import Workdir


class Leaves:
    """Parameters by path. Subclasses know their `shapes` and read one leaf at a time; what was read is remembered by its
    checksum, so that the fingerprint of all costs no second reading. All are finite: a leaf that is not is a UserError."""

    shapes: Mapping[str, jax.ShapeDtypeStruct]

    def __init__(self, name: str) -> None:
        """`name`: whose they are, for messages."""
        self.name = name
        self._sums: dict[str, str] = {}

    def read(self, path: str) -> np.ndarray:
        raise NotImplementedError

    def __getitem__(self, path: str) -> np.ndarray:
        array = self.read(path)
        if path not in self._sums:
            # A comparison hides a NaN (TIES keeps what is above a threshold), and a sum hands it on.
            finite.refuse({path: array}, self.name)
            self._sums |= fingerprint.checksums({path: array})
        return array

    def fingerprint(self) -> str:
        """As `restore.parameters_fingerprint` of all."""
        for path in self.shapes:
            if path not in self._sums:
                self[path]
        return fingerprint.fingerprint(self._sums)


class Held(Leaves):
    """Leaves that are in memory."""

    def __init__(self, params: Mapping[str, Any], name: str = ""):
        super().__init__(name)
        self.arrays = {path: np.asarray(array) for path, array in flatten(params).items()}
        self.shapes = {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in self.arrays.items()}

    def read(self, path: str) -> np.ndarray:
        return self.arrays[path]


class Stored(Leaves):
    """The leaves that a checkpoint holds, each read when it is asked for; averages where they were kept."""

    def __init__(self, source: restore.Source, weights: str = "auto"):
        super().__init__(source.name)
        self.source, self._parts = source, {}
        try:
            checkpoint.check_files(source.workdir, source.step, contents=True)
            flat = flatten(checkpoint.shapes(source.workdir, source.step))
            self._items = {path: ("params", leaf) for path, leaf in flat.items()}
            if "ema" in source.meta["checksums"] and weights != "raw":
                averaged = flatten(checkpoint.shapes(source.workdir, source.step, "ema"))
                self._items |= {path: ("ema", leaf) for path, leaf in averaged.items()}
        except checkpoint.Damaged as e:
            raise self._damaged(e) from e
        without = (*source.left_out, VALUES)
        kept = {p: leaf for p, (_, leaf) in self._items.items() if not matches(without, source_of(p))}
        if source.which is not None:  # of several adapters in one leaf [L, N, ...], one
            kept = {p: _without(leaf, 1) if is_added(p) else leaf for p, leaf in kept.items()}
        self.shapes = flatten(join(unflatten(kept)))
        for path in kept:
            self._parts.setdefault(source_of(path), []).append(path)

    def read(self, path: str) -> np.ndarray:
        source, found = self.source, {}
        try:
            for stored in self._parts[path]:
                name, leaf = self._items[stored]
                found[stored] = checkpoint.read_leaf(source.workdir, source.step, name, stored, leaf, source.meta)
        except checkpoint.Damaged as e:
            raise self._damaged(e) from e
        parts = sorted(found.items(), key=lambda item: int(item[0].partition("[")[2].partition(":")[0] or 0))
        array = np.concatenate([a for _, a in parts]) if len(parts) > 1 else parts[0][1]
        return array[:, source.which] if source.which is not None and is_added(path) else array

    def _damaged(self, error: Exception) -> UserError:
        workdir, step = self.source.workdir, self.source.step
        return restore.damaged("checkpoint", f"{workdir}@{step}", workdir, step, error)


def _without(leaf: jax.ShapeDtypeStruct, axis: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*leaf.shape[:axis], *leaf.shape[axis + 1 :]), leaf.dtype)


class Folded(Leaves):
    """A base with what an adapter run stored, all of it the adapter's, merged into it, layer by layer."""

    def __init__(self, base: Leaves, stored: Stored, method: Any):
        super().__init__(stored.name)
        self._base, self._method = base, method
        self._own = {path: stored[path] for path in stored.shapes}
        self.shapes = base.shapes

    def read(self, path: str) -> np.ndarray:
        layer = path.rpartition("/")[0]
        added = {p: a for p, a in self._own.items() if p.startswith(f"{layer}/adapter/")}
        if not added:
            return self._base[path]
        whole = {p: self._base[p] for p in self.shapes if p.rpartition("/")[0] == layer}
        return np.asarray(flatten(self._method.merge(unflatten({**whole, **added})))[path])


class Reordered(Leaves):
    """Leaves whose classes are in another order. The fingerprint is that of the model as it is stored."""

    def __init__(self, leaves: Leaves, order: Sequence[int]):
        super().__init__(leaves.name)
        self._leaves, self._order, self.shapes = leaves, list(order), leaves.shapes

    def read(self, path: str) -> np.ndarray:
        array = self._leaves[path]
        return array[..., self._order] if matches(PER_CLASS, path) else array

    def fingerprint(self) -> str:
        return self._leaves.fingerprint()


def _by_layer(method: Any) -> bool:
    """Whether a method folds each layer by what lies in that layer alone."""
    if isinstance(method, Composed):
        return all(map(_by_layer, method.methods))
    return isinstance(method, LayerMethod) and type(method).merge is LayerMethod.merge


@dataclasses.dataclass
class Model:
    """One of the models that are combined: where it is from, and its plain parameters."""

    source: Parent
    leaves: Leaves
    note: str = ""  # what was done to it to be combined
    merged: str = ""  # of a run whose adapter was merged, what names it (`restore.merged_fingerprint`)

    def fingerprint(self) -> str:
        """Of its parameters, or of what they were merged from."""
        return self.merged or self.leaves.fingerprint()

    def is_among(self, fingerprints: Collection[str]) -> bool:
        """Whether it has one of these fingerprints. Earlier versions had those of merged numbers."""
        return self.merged in fingerprints or self.leaves.fingerprint() in fingerprints

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def reference(self) -> str:
        """How it can be found again, with its step."""
        if self.imported:
            return self.source.reference
        return self.source.reference + self.source.name.removeprefix(str(self.source.workdir))

    @property
    def imported(self) -> bool:
        return not isinstance(self.source, restore.Source)

    def entry(self) -> dict[str, Any]:
        """Of the lineage of what is made of it."""
        return self.source.lineage(self.fingerprint())[0]

    def behind(self) -> list[dict[str, Any]]:
        """Its own lineage, nearest first."""
        return self.source.lineage("")[1:]


class Reader:
    """Opens models, and reads a base that several adapters share once."""

    def __init__(self, ignore: Sequence[str] = (), say: Callable[[str], None] = lambda _: None):
        """`say` is told which checkpoint a run's name alone stands for."""
        self._ignore, self._bases, self._say = tuple(ignore), {}, say

    def run(self, reference: str, field: str = "--run") -> Parent:
        """What a reference names: a finished run, a checkpoint that is named by its step, or imported weights.

        Raises:
          UserError: no such model, or a run that was not carried out to its end.
        """
        imported = restore.is_reference(reference)
        source = restore.find(reference, field, self._ignore if imported else ())
        named = not imported and parted(reference)[0].endswith(f"@{source.step}")
        if not imported and not named and not Workdir(source.workdir).is_finished:
            raise UserError(
                f"{field}={reference}: the run has not finished. Its own command continues it; "
                f"{source.workdir}@{source.step} means this checkpoint of it as it is"
            )
        if said := restore.said(source):
            self._say(said)
        return source

    def open(
        self, source: Parent, dtype: str = "float32", weights: str = "auto", merge_into: str = "", **head: Any
    ) -> Model:
        """The plain parameters of a source, adapters merged; into what of a quantized base, says `merge_into`.

        Raises:
          UserError: an adapter that cannot be merged, a damaged checkpoint, a base that is missing or another.
        """
        if not isinstance(source, restore.Source):
            return Model(source, Held(jax.device_get(source.parameters(on_one_device, dtype, **head)), source.name))
        method = source.adapter
        if method is not None and not method.mergeable:
            raise UserError(
                f"{source.name} is a run with tune.method={source.config.tune.method!r}, which cannot be merged into the "
                "parameters of a plain model, so there is nothing to combine"
            )
        if source.quantization and not merge_into:
            raise UserError(
                f"{source.name} was trained on a base in {source.quantization.format}: first write a plain model of it by ptft export "
                "--to=hf, and combine that as hf:FOLDER: for task vectors with --merge_into=original, so that the vector is what was "
                "learned and not the rounding of the base, too; for soups and interpolations with --merge_into=dequantized, which "
                "has the logits that it was trained to"
            )
        if method is None:
            return Model(source, Stored(source, weights))
        stored = Stored(source, weights)
        if source.meta.get("base") and _by_layer(method) and all(map(is_added, stored.shapes)):
            folded = Folded(self._base_of(source), stored, method)
            return Model(source, folded, merged=restore.merged_fingerprint(source, weights, merge_into))
        whole = source.parameters(on_one_device, weights=weights, merge_into=merge_into)
        merged = restore.merged_fingerprint(source, weights, merge_into)
        return Model(source, Held(jax.device_get(whole), source.name), merged=merged)

    def _base_of(self, source: restore.Source) -> Held:
        base = source.meta["base"]
        key = (base["fingerprint"], source.config.model.param_dtype)
        if key not in self._bases:
            held = jax.device_get(restore.base_parameters(source, on_one_device))
            self._bases[key] = Held(held, f"the base of {source.name}")
        return self._bases[key]

    def parent(self, child: Parent, reference: str = "") -> Model:
        """The model that a child was fine-tuned from, checked by its fingerprint: its parent, or what `reference` names.

        Raises:
          UserError: it has none, it is not where it was, or it is another model.
        """
        if not isinstance(child, restore.Source):
            if not reference:
                raise UserError(f"--base is missing: what {child.name} was fine-tuned from is not known")
            return self.open(self.run(reference, "--base"))
        # What it went on from with its optimizer is an earlier part of itself.
        chain, init = [entry for entry in child.lineage("")[1:] if not entry.get("optimizer")], child.config.init
        if not reference and (not init.from_ or (init.optimizer and not chain)):
            raise UserError(f"--base is missing: {child.name} did not start from another model")
        start = place(chain[0]) if chain else init.from_
        try:
            theirs = init.ignore if not self._ignore and restore.is_reference(reference or start) else self._ignore
            source = restore.find(reference or start, "--base", theirs, init.fresh, plugins=child.config.plugins)
        except UserError as e:
            if reference:
                raise
            raise UserError(f"the parent of {child.name} is not where it was; --base says where it is now: {e}") from e
        model = child.config.as_dict()["model"]
        head = {name: model[name] for name in HEAD}
        head["wide"] = chain[0].get("wide", ()) if chain else ()
        found = self.open(source, child.config.model.param_dtype, init.weights, init.merge_into, **head)
        known = {entry["fingerprint"] for entry in chain if entry.get("fingerprint")}
        if known and not found.is_among(known):
            raise UserError(
                f"--base: {found.name} has the fingerprint {found.fingerprint()}, but {child.name} was fine-tuned "
                f"from {start}, with {chain[0].get('fingerprint', '')}: it is another model"
            )
        return found


def notes(models: Sequence[Model]) -> list[str]:
    """What there is to say of models: what was done to them, and that what is made of different dtypes has the wider."""
    said = [model.note for model in models if model.note]
    kept = {
        model.name: ", ".join(sorted({str(leaf.dtype) for leaf in model.leaves.shapes.values()})) for model in models
    }
    if len(set(kept.values())) < 2:
        return said
    return [
        *said,
        f"the wider dtype of each leaf is kept: {'; '.join(f'{name} has {theirs}' for name, theirs in kept.items())}",
    ]


def alike(models: Sequence[Model]) -> list[Model]:
    """The models, with the classes of their heads in the order of the first's. Raises UserError where they differ in what
    `ptft_jax.runs.identity.check` looks at, or in their leaves, saying in what."""
    first, *others = models
    mine, out = identity.of(first.source), [first]
    for other in others:
        theirs = identity.of(other.source)
        identity.check_structures(mine, theirs)
        if changed := checkpoint.compare(unflatten(other.leaves.shapes), unflatten(first.leaves.shapes)):
            raise UserError(
                f"{other.name} and {first.name} are different models and cannot be combined:{listed(changed, 20)}"
            )
        order = identity.check(mine, theirs)
        if order is not None:
            note = (
                f"the head of {other.name}, whose classes are {', '.join(theirs.classes.names)}, was put in the order of "
                f"{first.name}: {', '.join(mine.classes.names)}"
            )
            other = Model(other.source, Reordered(other.leaves, order), note, other.merged)
        out.append(other)
    return out


def check_one_base(base: Model, children: Sequence[Model]) -> None:
    """Raises UserError where a child was not fine-tuned from the base, or from what came of it."""
    strangers = []
    for child in children:
        known = [entry for entry in child.behind() if entry.get("fingerprint")]
        if not child.imported and not base.is_among({entry["fingerprint"] for entry in known}):
            started = f"{place(known[0])}, {known[0]['fingerprint']}" if known else "random parameters"
            strangers.append(f"{child.name} started from {started}")
    if strangers:
        raise UserError(
            f"a task vector is what fine-tuning added to one base, here {base.name} with the fingerprint {base.fingerprint()}; "
            f"but:{listed(strangers)}"
        )
