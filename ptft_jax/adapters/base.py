"""What fine-tuning methods offer, and what those that change linear layers share: targets, slots, merging."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.model.layers import Embedding, Linear
from ptft_jax.model.moe import ExpertLinear
from ptft_jax.model.quantized import Quantization
from ptft_jax.params.partition import Leaf, Partition
from ptft_jax.params.rules import flatten, matches, regex, unflatten

# The names of the places that methods fill: `adapter` of linear layers, of sublayers and of the token embedding, and
# `prefix` of attention and, for what all layers share of one, of the trunk.
SLOTS = ("adapter", "prefix")
ADDED = f"(.*/)?({'|'.join(SLOTS)})/.*"

# What methods adapt, by the words for it.
KINDS = {Linear: "linear layers", Embedding: "tables of vectors", ExpertLinear: "experts"}

Rules = tuple[tuple[str, float], ...]
Encode = Callable[[str], Iterable[int]]  # a text to token ids


class Updates(NamedTuple):
    """What a method does to its own leaves besides following the gradient, as Optax transformations over the trainable
    tree: on the gradients (before clipping), and on the finished updates (after rate and decay). Those of the second
    kind that take extra arguments get the step's gradients, as they were before all of this, as `gradients`."""

    gradients: tuple[optax.GradientTransformation, ...] = ()
    finished: tuple[optax.GradientTransformation, ...] = ()


class Method:
    """What a run knows of a fine-tuning method: it makes its modules, checks itself against a model, and merges.

    A method is hashable: a frozen dataclass of its settings.

    Attributes:
      field: the section of the config, for messages.
      learning_rate: the peak rate where the config gives none, from published practice (cited where it is set).
      mergeable: whether `merge` can give the parameters of a plain model.
      virtual_tokens: how many learned vectors the method places before the tokens of a row, taking their positions.
      prefix_length: how many keys it places before the row's in every layer; they take positions, too.
      reads_neighbors: whether it reads what was found for each chunk of a row (`ptft_jax.adapters.retro`).
      note: what a run is to say of how it starts, or "".
      starts_as_base: whether the model computes what it would without the method, until something is learned.
      names: of several adapters, of which each row has one (`ptft_jax.adapters.multi_adapter`); () of a single one.
      quantization: how the kernels of the base are kept (`ptft_jax.adapters.quantized`); None = as they are.
      one: of several adapters, the method of one of them; others have no such attribute.
    """

    field: ClassVar[str]
    learning_rate: float
    mergeable: bool = True
    virtual_tokens: int = 0
    prefix_length: int = 0
    reads_neighbors: bool = False
    note: str = ""
    starts_as_base: bool = True
    names: tuple[str, ...] = ()
    quantization: Quantization | None = None
    one: Method

    @property
    def bare(self) -> Method:
        """The method without what it does to its base."""
        return self

    def quantizes(self, path: str) -> bool:
        """Whether it keeps the base's parameter at `path` quantised."""
        return False

    # Of several adapters (`names`); their method says more of each.

    def number(self, name: str, field: str) -> int:
        """Which of them `name` is. Raises UserError, naming `field`, where it is none."""
        raise NotImplementedError

    def pick(self, params: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Whole parameters with one of them."""
        raise NotImplementedError

    @classmethod
    def of(cls, section: Any) -> Method:
        """The method with the settings of its section of `config.tune`, which are its fields."""
        return cls(**section.read_all())

    def refuse_rates(self) -> None:
        """Raises UserError where `config.tune.rates`, which says all rates, would silence a setting of the method."""

    def encoded(self, encode: Encode) -> Method:
        """The method with its texts, where it starts from any, as token ids. Raises UserError for one without tokens."""
        return self

    @property
    def rates(self) -> Rules:
        """Ordered rules of which of the method's leaves train, and at which multiple of the rate."""
        return ((ADDED, 1.0),)

    def updates(self, partition: Partition, steps: int) -> Updates:
        """What is done to the method's leaves in a run of `steps`, beyond the optimizer; by default nothing."""
        return Updates()

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the method's slots below `module`, whose own path is `prefix`."""
        raise NotImplementedError

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises UserError where a plain model with parameters of `shapes` cannot be adapted."""

    def merge(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Whole parameters without the method's leaves, their effect folded into the model's own.

        Raises:
          UserError: that cannot be.
        """
        raise UserError(
            f"config.{self.field}: what this method adds cannot be merged into the parameters of a plain model; use the "
            "run as it is (generate, chat, eval), or its base"
        )

    def folded(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Whole parameters with what of the method can be merged folded into the model's own; the rest of it stays."""
        return self.merge(params) if self.mergeable else params

    def collapsed(self, trunk: nnx.Module, params: Mapping[str, Any]) -> tuple[Method, Mapping[str, Any]]:
        """A method and whole parameters that do the same without networks that only training needs.

        Args:
          trunk: the model's `Trunk`, with its parameters.
          params: whole parameters.
        """
        return self, params


def place(holder: nnx.Module, module: nnx.Module, path: str, method: Method, slot: str = "adapter") -> None:
    """Puts a method's module into an empty slot of `holder`, the module at `path`.

    Raises:
      UserError: another method is there already.
    """
    if getattr(holder, slot) is not None:
        raise UserError(f"config.{method.field}: another method of config.tune.method changes {path} already")
    setattr(holder, slot, nnx.data(module))


def key_for(path: str, rngs: nnx.Rngs) -> tuple[int, jax.Array]:
    """A number of the path's own (see `ptft_jax.model.layers.dropout`) and a random key of its own, so that adding to one
    place leaves the others' start unchanged."""
    site = zlib.crc32(path.encode()) & 0x7FFFFFFF
    return site, jax.random.fold_in(rngs.adapter.key[...], site)


def is_added(path: str) -> bool:
    """Whether a leaf (whole or stored) was added by a method, and is not the model's own."""
    return matches((ADDED,), path)


class LayerMethod(Method):
    """A fine-tuning method that puts one small module into each targeted linear layer.

    Such a method has a field `targets`, and says what goes into a layer (`module`) and how it is folded into the layer's
    own parameters (`fold`); the rest is here. Leaves lie at `LAYER/adapter/NAME`.

    Attributes:
      targets: regular expressions on whole layer paths, such as `blocks/attention/(query|value)`.
      kinds: which of `KINDS` the method adapts; others are not among what `targets` may name.
      fixed: a regular expression on the paths of those of its leaves that stay as they were made, or "".
    """

    targets: tuple[str, ...]
    kinds: ClassVar[tuple[type, ...]] = (Linear,)
    fixed: str = ""

    @property
    def rates(self) -> Rules:
        return (*(((self.fixed, 0.0),) if self.fixed else ()), *super().rates)

    def module(self, layer: Any, path: str, site: int, key: jax.Array) -> nnx.Module:
        """What goes into `layer.adapter`, see there: of a linear layer, called as `(layer, x, rows)` in place of
        `layer.plain(x)`.

        Args:
          site: a number of this layer's own, for `ptft_jax.model.layers.dropout`.
          key: for random initial values; depends on the layer's path alone.
        """
        raise NotImplementedError

    def fold(self, path: str, leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The plain layer's leaves that say the same as `leaves` of an adapted one.

        Args:
          path: of the layer.
          leaves: `kernel` [..., in, out] (of a table: `embedding` [..., rows, D]), where there is one `bias` [..., out],
            and the adapter's own as `adapter/NAME`; those of stacked layers with a leading axis.

        Returns:
          Those of `kernel`, `embedding` and `bias` that change, in float32.
        """
        raise NotImplementedError

    def check_layer(self, path: str, shape: tuple[int, int]) -> None:
        """Raises UserError where a targeted layer with a kernel of `shape` (in, out), or a table of (rows, D), cannot be
        adapted."""

    def __call__(self, module: nnx.Module, prefix: str, rngs: nnx.Rngs) -> None:
        """Fills the `adapter` slot of every targeted layer below `module`, whose own path is `prefix`."""
        for path, layer in nnx.iter_modules(module):
            name = prefix + "/".join(map(str, path))
            if isinstance(layer, self.kinds) and self.targeted(name):
                site, key = key_for(name, rngs)
                place(layer, self.module(layer, name, site, key), name, self)

    def targeted(self, path: str) -> bool:
        """Whether the layer at `path`, which is of `kinds`, is adapted."""
        return matches(self.targets, path)

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises UserError for a target that names no linear layer of a plain model, or one that cannot be adapted."""
        found = layers(shapes)
        for pattern in self.targets:
            for path in matching(pattern, found, f"config.{self.field}.targets", self.kinds):
                self.check_layer(path, found[path].shape[-2:])

    def updates(self, partition: Partition, steps: int) -> Updates:
        """Nothing. Raises UserError where `tune.rates` lets train what is fixed, and where a targeted layer's own kernel or
        table trains beside what was added to it: the two would learn the same thing twice, and the update would not be small.
        Its bias, and other layers, may train."""
        loose = [f.path for f in partition.leaves if f.trains and self.fixed and matches((self.fixed,), f.path)]
        if loose:
            raise UserError(
                f"config.tune.rates: these are fixed, as {self.field} made them:{listed(loose)}\nput ('{self.fixed}', 0.0) "
                "before the rules that let adapters train"
            )
        ours = [
            (f.source.split("/adapter/")[0], f.layers) for f in partition.leaves if f.trains and "/adapter/" in f.source
        ]

        def adapted_too(leaf: Leaf) -> bool:
            layer, _, name = leaf.source.rpartition("/")
            of_layer = name in ("kernel", "embedding") and self.targeted(layer)
            return of_layer and any(path == layer and _meet(layers, leaf.layers) for path, layers in ours)

        both = [leaf.path for leaf in partition.leaves if leaf.trains and adapted_too(leaf)]
        if both:
            raise UserError(
                f"config.tune.rates: these train, and so does what {self.field} adds to them, which is for a frozen base:"
                f"{listed(both)}\nfreeze them (rate 0), or train them alone by tune.method='full'"
            )
        return Updates()

    def merge(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Whole parameters without the adapters' leaves, their effect folded into kernels and biases."""
        flat, found = flatten(params), layers(params)
        merged = dict(flat)
        for layer in (path for path in adapted(flat) if path in found and self.targeted(path)):
            leaves = {p.removeprefix(layer + "/"): a for p, a in flat.items() if p.startswith(layer + "/")}
            for name, array in self.fold(layer, leaves).items():
                merged[f"{layer}/{name}"] = array.astype(leaves[name].dtype)
            for name in leaves:
                if name.startswith("adapter/"):
                    del merged[f"{layer}/{name}"]
        return unflatten(merged)


def _meet(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    """Whether two cuts of the stack have a layer in common; None is all of it."""
    return one is None or other is None or (one[0] < other[1] and other[0] < one[1])


def adapted(flat: Mapping[str, Any]) -> list[str]:
    """Paths of the layers that hold an adapter, from flat parameters."""
    return list(dict.fromkeys(path.split("/adapter/")[0] for path in flat if "/adapter/" in path))


class Layer(NamedTuple):
    """A layer that methods can adapt: of which kind it is, and its kernel or table."""

    kind: type
    shape: tuple[int, ...]


def layers(shapes: Mapping[str, Any]) -> dict[str, Layer]:
    """Every layer of `KINDS` of a plain model by its path, from whole parameters or their shapes."""
    found = {}
    for path, array in flatten(shapes).items():
        parent, _, name = path.rpartition("/")
        if name == "embedding":
            found[parent] = Layer(Embedding, array.shape)
        elif name == "kernel":
            found[parent] = Layer(ExpertLinear if parent.split("/")[-2:-1] == ["experts"] else Linear, array.shape)
    return found


def matching(pattern: str, every: Mapping[str, Layer], field: str, kinds: tuple[type, ...] = (Linear,)) -> list[str]:
    """The layers of some kinds that a target pattern names. Raises UserError where it names none or is no regular
    expression."""
    own = [path for path, layer in every.items() if layer.kind in kinds]
    named = list(filter(regex(pattern, field).fullmatch, every))
    found = [path for path in named if path in own]
    if named and not found:
        raise UserError(
            f"{field}: {pattern!r} names {KINDS[every[named[0]].kind]}, which this method does not adapt:{listed(named, 20)}"
        )
    if not found:
        what = " or ".join(["linear layer", *(KINDS[kind] for kind in kinds if kind is not Linear)])
        tied = regex(pattern, field).fullmatch("head") and "embed/tokens" in every
        hint = " (the head is tied to embed/tokens: lora adapts both by that name)" if tied else nearest(pattern, own)
        raise UserError(f"{field}: {pattern!r} matches no {what}{hint}; layers:{listed(own, 40)}")
    return found


def float32(array: jax.Array) -> jax.Array:
    """The array in the precision that folding computes in."""
    return jnp.asarray(array).astype(jnp.float32)
