"""One transformer for many families: NNX modules describe it, pure functions of a plain dict of arrays run it.

`Transformer` is static and hashable. Its parameters are a nested dict with readable paths, layers stacked on a
leading axis: `embed/tokens/embedding`, `blocks/attention/query/kernel` [L, in, out], `final_norm/scale`, ...
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.errors import UserError
from ptft_jax.model import found, heads, rotary
from ptft_jax.model import stacks as stacking
from ptft_jax.model.adapt import Adapt
from ptft_jax.model.attention import Cache, View
from ptft_jax.model.block import Block
from ptft_jax.model.dot_product import Seen
from ptft_jax.model.embeddings import TokenEmbed
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.layers import PerRow, Projecting, dropout
from ptft_jax.model.layout import Layout
from ptft_jax.model.moe import MoE, Routing
from ptft_jax.model.quantized import Quantization, known_after
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.texts import TextTower
from ptft_jax.model.trunk import Trunk
from ptft_jax.model.vision import PixelDecoder

Params = dict[str, Any]
# Of a block, the streams before and behind it [B, T, D], its view and `PerRow`: what of it is kept.
Keep = Callable[[Block, jax.Array, jax.Array, View, PerRow], jax.Array]


def _made(prefix: Callable[[], tuple[jax.Array, jax.Array]] | None) -> tuple[jax.Array, jax.Array] | None:
    return None if prefix is None else prefix()


def _stream(block: Block, before: jax.Array, after: jax.Array, view: View, per_row: PerRow) -> jax.Array:
    return after


def _attention_weights(block: Block, before: jax.Array, after: jax.Array, view: View, per_row: PerRow) -> jax.Array:
    return block.attention_weights(before, view, per_row)


def _pure(module: nnx.Module) -> Params:
    return nnx.to_pure_dict(nnx.split(module)[1])


REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
}


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The model as pure functions. Two with equal fields are equal, so compiled programs are shared.

    Attributes:
      spec: sizes and choices.
      adapt: what fills `adapter` and `prefix` slots, or None; what it adds has its parameters in the same dict.
      constrain: None, or what pins how activations and parameters are spread over a mesh.
      value_head: whether it has a head for values beside that for tokens (`ptft_jax.model.heads.value`).
    """

    spec: ModelSpec
    adapt: Adapt | None = None
    constrain: Layout | None = None
    value_head: bool = False

    @property
    def virtual_tokens(self) -> int:
        """How many learned vectors the adapter places before the tokens of a row (prompt tuning); their ids follow the
        vocabulary's. `hidden` does so itself, callers of `decode` write the ids."""
        return 0 if self.adapt is None else self.adapt.virtual_tokens

    @property
    def prefix_length(self) -> int:
        """How many keys the adapter places before those of a row in every layer (prefix tuning). They take the first
        positions, and the row's come after them."""
        return 0 if self.adapt is None else self.adapt.prefix_length

    @property
    def max_tokens(self) -> int:
        """The longest row, in tokens: `max_length` less the positions that the adapter takes."""
        return self.spec.max_length - self.virtual_tokens - self.prefix_length

    @property
    def one_text_a_row(self) -> str:
        """Why rows must not be packed, or "": learned vectors before the tokens (`virtual_tokens`) serve several texts of a
        row only where what they become does not depend on what follows, nor on how far away a text is."""
        if not self.virtual_tokens or (self.spec.causal and not self.spec.window):
            return ""
        return "a sliding window" if self.spec.causal else "attention in both directions"

    @property
    def several(self) -> bool:
        """Whether rows have adapters of their own."""
        return self.adapt is not None and bool(self.adapt.names)

    @property
    def reads_neighbors(self) -> bool:
        """Whether it reads what was found for each chunk of a row (`Inputs.neighbors`)."""
        return self.adapt is not None and self.adapt.reads_neighbors

    @property
    def quantization(self) -> Quantization | None:
        """How the kernels of the base are kept; None = as they are."""
        return None if self.adapt is None else self.adapt.quantization

    def _make(self, part: type, prefix: str, key: jax.Array, base: Params | None = None) -> nnx.Module:
        # Adapters draw from their own stream: the base is initialized alike with and without them.
        rngs = nnx.Rngs(params=key, adapter=jax.random.fold_in(key, 1))
        module = part(self.spec.resolved, rngs)
        if base is not None:
            nnx.update(module, jax.tree.map(lambda new, old: new.astype(old.dtype), base, _pure(module)))
        if self.adapt is not None:
            self.adapt(module, prefix, rngs)
        if self.value_head and isinstance(module, Trunk):  # no base has it, and nothing adapts it
            module.value_head = nnx.data(heads.value(self.spec.resolved, rngs))
        if self.context_parts > 1:
            for _, layer in nnx.iter_modules(module):
                if isinstance(layer, Projecting):
                    layer.flat = False
        return module

    def _init_part(self, part: type, prefix: str, key: jax.Array, base: Params | None = None) -> Params:
        return _pure(self._make(part, prefix, key, base))

    @functools.cached_property
    def _definitions(self) -> tuple[nnx.GraphDef[Any], nnx.GraphDef[Any]]:
        def define(part: type, prefix: str) -> nnx.GraphDef[Any]:
            return nnx.split(nnx.eval_shape(lambda: self._make(part, prefix, jax.random.key(0))))[0]

        return define(Trunk, ""), define(Block, "blocks/")

    def init(self, key: jax.Array, base: Params | None = None) -> Params:
        """Random parameters: normal with `init_std`, residual projections smaller by sqrt(2 * layers), as in GPT-2
        (Radford et al. 2019, section 2.3). Traceable, so it can be compiled with sharded outputs.

        Args:
          base: whole parameters of the model without adapters, to take instead of random ones. Adapters are made for
            these (some start from what they adapt).
        """
        trunk_key, blocks_key = jax.random.split(key)
        trunk = None if base is None else {k: v for k, v in base.items() if k != "blocks"}
        params = self._init_part(Trunk, "", trunk_key, trunk)
        keys = jax.random.split(blocks_key, self.spec.layers)
        blocks = None if base is None else base["blocks"]
        params["blocks"] = jax.vmap(functools.partial(self._init_part, Block, "blocks/"))(keys, blocks)
        return params

    def shapes(self) -> Params:
        """The parameters' shapes and dtypes, without making them."""
        return jax.tree.map(lambda form: form, self._shapes)  # a tree of the caller's own

    @functools.cached_property
    def _shapes(self) -> Params:
        return jax.eval_shape(self.init, jax.eval_shape(lambda: jax.random.key(0)))

    @property
    def context_parts(self) -> int:
        """Among how many devices the positions of a row are divided."""
        return 1 if self.constrain is None else self.constrain.context_parts

    def _trunk(self, params: Params) -> Trunk:
        return nnx.merge(self._definitions[0], self._whole({k: v for k, v in params.items() if k != "blocks"}))

    def _whole(self, params: Params) -> Params:
        """Parameters as they are used."""
        return params if self.constrain is None else self.constrain.whole(params)

    def _pinned(self, x_BTD: jax.Array) -> jax.Array:
        """The stream as it is at block edges."""
        return x_BTD if self.constrain is None else self.constrain(x_BTD)

    def hidden(self, params: Params, inputs: Inputs | jax.Array) -> jax.Array:
        """The last hidden states [B, T, D] in the compute dtype, or those that the head reads; arguments and more as for `run`."""
        return self.run(params, inputs)[0]

    def run(
        self, params: Params, inputs: Inputs | jax.Array, *, routing: bool = False
    ) -> tuple[jax.Array, Routing | None]:
        """The last hidden states, and how experts were used.

        Args:
          params: nested dict; `params["blocks"]` is one stack of layers, or a tuple of consecutive stacks (how a
            partition hands over frozen and trainable layers).
          inputs: what the rows are; an array is `Inputs(array)`.
          routing: whether to say how experts were used.

        Returns:
          [B, T, D] in the compute dtype, of a causal model with a head for classes [B, S, D], those that the head reads
          (`Inputs.reads`); and, of a model with experts where `routing`, `ptft_jax.model.moe.Routing` of its layers
          over all tokens but padding and learned vectors, else None.
        """
        spec, trunk, inputs = self.spec.resolved, self._trunk(params), Inputs.of(inputs)
        read_BS = inputs.read if spec.reads_last else None
        x_BTD, (used, _) = self._through(params, trunk, inputs, routing=routing)
        x_BTD = x_BTD[:, self.virtual_tokens :]
        if read_BS is not None:
            x_BTD = jnp.take_along_axis(x_BTD, read_BS[..., None], axis=1)
        return (x_BTD if trunk.final_norm is None else trunk.final_norm(x_BTD)), used

    def streams(self, params: Params, inputs: Inputs | jax.Array) -> jax.Array:
        """The stream [layers + 1, B, T, D] behind the embedding and behind each block, before the final norm; arguments as for `run`."""
        _, (_, (first, streams)) = self._through(params, self._trunk(params), Inputs.of(inputs), keep=_stream)
        return jnp.concatenate([first[None], streams])[:, :, self.virtual_tokens :]

    def attention_weights(self, params: Params, inputs: Inputs | jax.Array) -> jax.Array:
        """How much each position attends to each, in each layer, the mean over heads: float32 [layers, B, T, T], as
        `ptft_jax.model.attention.Attention.weights` has it; arguments as for `run`. Learned vectors before the row are among the T."""
        _, (_, (_, weights)) = self._through(params, self._trunk(params), Inputs.of(inputs), keep=_attention_weights)
        return weights

    def read_weights(self, params: Params, x_BTD: jax.Array) -> jax.Array:
        """How much of each token's last hidden state the head of a model of images reads, float32 [B, T]: see `heads.Pool.weights`."""
        head = self._trunk(params).head
        assert isinstance(head, heads.ClassHead | heads.VectorHead) and head.pool is not None, (
            "it reads one vector of an image"
        )
        return head.pool.weights(x_BTD)

    def _through(
        self, params: Params, trunk: Trunk, inputs: Inputs, *, routing: bool = False, keep: Keep | None = None
    ) -> tuple[jax.Array, tuple[Routing | None, Any]]:
        """What `_stacks` gives of rows, with their learned vectors; where it is to `keep` something, behind the stream that went in."""
        neighbors = self._neighbors(params, trunk, inputs)
        per_row = PerRow(
            inputs.keys, self._numbers(inputs.adapters), self._counted(inputs) if routing else None, neighbors
        )
        return self._read(params, trunk, inputs, per_row, keep=keep)

    def _neighbors(self, params: Params, trunk: Trunk, inputs: Inputs) -> tuple[jax.Array, jax.Array] | None:
        """What the model, without what reads it, makes of passages that were found, as `PerRow` has it."""
        if not self.reads_neighbors:
            return None
        if inputs.neighbors is None or self.virtual_tokens:
            found.refuse(self.virtual_tokens)
        y, _ = self._read(params, trunk, found.passages(inputs.neighbors), PerRow(None, None))
        return found.states(inputs.neighbors, y if trunk.final_norm is None else trunk.final_norm(y))

    def _read(
        self, params: Params, trunk: Trunk, inputs: Inputs, per_row: PerRow, *, keep: Keep | None = None
    ) -> tuple[jax.Array, tuple[Routing | None, Any]]:
        """As `_through`, by what is each row's own."""
        spec = self.spec.resolved
        inputs = self._placed(inputs)
        x_BTD = self._pinned(dropout(trunk.embedded(inputs), spec.dropout, per_row, 0))
        seen = Seen(
            spec.causal,
            shared=0 if self.one_text_a_row else self.virtual_tokens,
            segments=None if inputs.segments is None else (inputs.segments, inputs.segments),
            prefix=None if inputs.prefix is None else (inputs.prefix, inputs.prefix),
        )
        views, prefix = self._views(seen, inputs.placed), _made(trunk.prefix)
        y_BTD, (used, kept) = self._stacks(params["blocks"], x_BTD, views, prefix, per_row=per_row, keep=keep)
        return y_BTD, (used, None if keep is None else (x_BTD, kept))

    def _counted(self, inputs: Inputs) -> jax.Array:
        """Which positions, bool [B, T] with the learned prompt's, hold something of the input."""
        if self.spec.image_size:
            return jnp.ones(self._of_image(inputs), bool)
        counted_BT = jnp.ones(inputs.values.shape, bool) if inputs.segments is None else inputs.segments > 0
        return jnp.pad(counted_BT, ((0, 0), (self.virtual_tokens, 0)))

    def _of_image(self, inputs: Inputs) -> tuple[int, int]:
        """(B, T) of what becomes of images."""
        hidden = 0
        if inputs.visible is not None:
            hidden = (self.spec.image_size // self.spec.patch_size) ** 2 - inputs.visible.shape[1]
        return inputs.values.shape[0], self.spec.max_length - hidden

    def _placed(self, inputs: Inputs) -> Inputs:
        """The rows with positions, behind what the adapter places before them."""
        if self.spec.image_size:  # where patches are is told by the embedding alone
            return inputs._replace(positions=jnp.zeros(self._of_image(inputs), jnp.int32))
        if inputs.positions is None:
            shape = inputs.values.shape
            inputs = inputs._replace(positions=jnp.broadcast_to(jnp.arange(shape[1]), shape))
        if self.virtual_tokens:
            inputs = self._prompted(inputs)
        return inputs._replace(positions=inputs.placed + self.prefix_length)

    def _prompted(self, inputs: Inputs) -> Inputs:
        """The rows behind the learned prompt.

        One prompt serves all segments of a packed row: what a causal model makes of it does not depend on what comes
        after it, so each segment sees what it would see with a prompt of its own. For that it is not part of a prefix
        that is seen in both directions: it sees itself causally, and the prefix sees it. Of models that need whole rows
        (`one_text_a_row`), it is part of the one segment that they have.
        """
        spec, count = self.spec, self.virtual_tokens
        segments, prefix, types, noise = inputs.segments, inputs.prefix, inputs.types, inputs.noise

        def behind(first: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], count)), x], axis=1)

        order, zeros = jnp.arange(count), jnp.zeros((count,), jnp.int32)
        if segments is not None:
            zero = jnp.zeros((1, 1), jnp.int32)
            segments = behind(segments.max(axis=1, keepdims=True) if self.one_text_a_row else zero, segments)
        return inputs._replace(
            values=behind(spec.vocab_size + order, inputs.values),
            positions=behind(order, inputs.placed + count),
            segments=segments,
            prefix=None if prefix is None else behind(zeros.astype(bool), prefix),
            types=None if types is None else behind(zeros, types),
            noise=None if noise is None else jnp.pad(noise, ((0, 0), (count, 0), (0, 0))),
        )

    def logits(self, params: Params, x_BTD: jax.Array) -> jax.Array:
        """Hidden states to float32 scores: of tokens [B, T, V], or of classes [B, classes] from the first position that it is given."""
        return self._trunk(params).scores(x_BTD, self.spec.logit_cap)

    def pixels(self, params: Params, x_BTD: jax.Array, visible_BK: jax.Array) -> jax.Array:
        """Hidden states of the visible patches to what all patches are predicted to be, float32 [B, N, pixels of one], of a model with
        `head` "pixels"."""
        head = self._trunk(params).head
        assert isinstance(head, PixelDecoder), "the model was built with a head for pixels"
        return head(x_BTD, visible_BK)

    def texts(self, params: Params, tokens_BT: jax.Array, last_B: jax.Array) -> jax.Array:
        """The vectors of texts, float32 [B, size of an image's], of a model with `text_layers`; arguments as of `TextTower`."""
        return self._texts(params)(tokens_BT, last_B)

    def pair_scale(self, params: Params) -> tuple[jax.Array, jax.Array]:
        """What the cosine of an image and a text is multiplied by, and what is added, float32 [] each."""
        tower = self._texts(params)
        bias = jnp.zeros((), jnp.float32) if tower.bias is None else tower.bias[...].astype(jnp.float32)[0]
        return jnp.exp(tower.scale[...].astype(jnp.float32)[0]), bias

    def _texts(self, params: Params) -> TextTower:
        head = self._trunk(params).head
        assert isinstance(head, heads.VectorHead) and head.texts is not None, (
            "the model was built with a tower for texts"
        )
        return head.texts

    def values(self, params: Params, x_BTD: jax.Array) -> jax.Array:
        """Hidden states to what the rest of each text is worth, float32 [B, T], of a model with `value_head`."""
        head = self._trunk(params).value_head
        assert head is not None, "the model was built with a value head"
        return head(x_BTD)[..., 0]

    def next_logits(self, params: Params, x_BTD: jax.Array) -> jax.Array:
        """As `logits`, in a loop over tokens."""
        trunk = self._trunk(self._known_after(x_BTD, {k: v for k, v in params.items() if k != "blocks"}))
        if isinstance(trunk.embed, TokenEmbed):
            trunk.embed.tokens.few = True
        return trunk.scores(x_BTD, self.spec.logit_cap)

    def _known_after(self, x: jax.Array, params: Any) -> Any:
        """Parameters of which a quantized base's kernels are made dense where they are multiplied with x, and not before."""
        return params if self.quantization is None else known_after(x, params)

    def __call__(self, params: Params, inputs: Inputs | jax.Array) -> jax.Array:
        """Tokens (or images) to float32 logits, as `logits` gives them; `inputs` as for `run`."""
        return self.logits(params, self.hidden(params, inputs))

    def collapsed(self, params: Params) -> tuple[Transformer, Params]:
        """A model and parameters that do the same without what of the adapter only training needs."""
        if self.adapt is None:
            return self, params
        adapt, fewer = self.adapt.collapsed(self._trunk(params), params)
        return dataclasses.replace(self, adapt=adapt), dict(fewer)

    def empty_cache(self, rows: int, slots: int) -> tuple[Cache, ...]:
        """For each layer zeroed keys and values, each [B * K, S, H] in the compute dtype."""
        spec = self.spec.resolved
        shape, dtype = (rows * spec.kv_heads, slots, spec.head_dim), jnp.dtype(spec.dtype)
        return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(spec.layers))

    def decode(
        self,
        params: Params,
        inputs: Inputs,
        allowed_BTS: jax.Array,
        cache: tuple[Cache, ...],
        start: int | jax.Array,
    ) -> tuple[jax.Array, tuple[Cache, ...]]:
        """As `extend`, but for the logits of the last token [B, V]."""
        x_BTD, cache = self.extend(params, inputs, allowed_BTS, cache, start)
        return self.next_logits(params, x_BTD[:, -1:])[:, 0], cache

    def extend(
        self,
        params: Params,
        inputs: Inputs,
        allowed_BTS: jax.Array,
        cache: tuple[Cache, ...],
        start: int | jax.Array,
    ) -> tuple[jax.Array, tuple[Cache, ...]]:
        """Runs T new tokens against a cache: (their last hidden states [B, T, D], new cache).

        Layers run one after another, whatever `spec.scan` says: a scan would copy each layer's part of the stack, and of the
        cache, for every token. `apart` gives parameters of which no part is copied.

        Args:
          inputs: the tokens with their positions, and where rows have adapters of their own, or images among the tokens, these.
          allowed_BTS: which of the S slots each may see.
          start: the slot of the first new token, of all rows or [B].
        """
        if self.reads_neighbors:
            found.refuse(self.virtual_tokens)
        trunk, inputs = self._trunk(params), inputs._replace(positions=inputs.placed + self.prefix_length)
        x_BTD = trunk.embedded(inputs)
        views = self._views(Seen(causal=False, listed=allowed_BTS, first=start), inputs.placed)
        per_row, prefix = PerRow(None, self._numbers(inputs.adapters)), _made(trunk.prefix)
        new = []

        @jax.jit  # where nothing else is compiled around it, as a scan's body is
        def run(layer: Any, x: jax.Array, view: View, kept: Cache) -> tuple[jax.Array, Cache]:
            y, kept, _ = nnx.merge(self._definitions[1], self._known_after(x, layer))(x, view, kept, start, per_row)
            return self._pinned(y), kept

        for i, layer in enumerate(stacking.layers(params["blocks"])):
            own = jax.tree.map(lambda a, i=i: a[i], prefix)
            view = views[self.spec.kinds[i]]._replace(prefix=own)
            x_BTD, kept = run(layer, x_BTD, view, cache[i])
            new.append(kept)
        return (x_BTD if trunk.final_norm is None else trunk.final_norm(x_BTD)), tuple(new)

    def _views(self, seen: Seen, positions_BT: jax.Array) -> dict[str, View]:
        """What each kind of layer attends to."""
        spec = self.spec.resolved
        if self.prefix_length:
            seen = dataclasses.replace(seen, before=self.prefix_length, positions=positions_BT)

        def view(kind: str) -> View:
            rotation = rotary.tables(spec, positions_BT, kind) if spec.positions == "rotary" else None
            return View(dataclasses.replace(seen, window=spec.window if kind == "sliding" else 0), rotation)

        return {kind: view(kind) for kind in sorted(set(spec.kinds))}

    def _numbers(self, adapters_B: jax.Array | None) -> jax.Array | None:
        if (adapters_B is None) == self.several:
            raise UserError(
                "tune.adapters: " + ("which row has which adapter is not said" if self.several else "the model has one")
            )
        return adapters_B

    def _stacks(
        self,
        stacks: Any,
        x_BTD: jax.Array,
        views: dict[str, View],
        prefix: tuple[jax.Array, jax.Array] | None = None,
        *,
        per_row: PerRow,
        keep: Keep | None = None,
    ) -> tuple[jax.Array, tuple[Routing | None, Any]]:
        """Runs consecutive stacks of layers, scanned or unrolled; a frozen first stack costs no backward pass. Returns the stream;
        how experts were used, None where there are none; and what is to be kept [layers, ...] of each layer."""
        kinds = self.spec.kinds

        def runner(view_of: Callable[[jax.Array], View], number: int) -> Callable[[jax.Array, Any], Any]:
            def layer(x: jax.Array, part: Any) -> tuple[jax.Array, Any]:
                params, prefix, index = part
                keys = per_row.keys
                if keys is not None:
                    keys = jax.vmap(lambda k: jax.random.fold_in(k, 1 + index))(keys)
                own, view = per_row._replace(keys=keys), view_of(index)._replace(prefix=prefix)
                block = nnx.merge(self._definitions[1], self._whole(params))
                if self.constrain is not None:
                    block.attention.spread = self.constrain.heads
                    if self.context_parts > 1 and x.shape[1] % self.context_parts == 0:
                        block.attention.around, block.attention.parts = self.constrain.around, self.context_parts
                    elif self.context_parts == 1 and self.constrain.platform == "tpu":
                        block.attention.around = self.constrain.around
                    if isinstance(block.mlp, MoE):
                        block.mlp.spread, block.mlp.parts = self.constrain.experts, self.constrain.expert_parts
                y, _, used = block(x, view, per_row=own)
                y = self._pinned(y)
                return y, (used, None if keep is None else keep(block, x, y, view, own))

            if self.spec.remat == "none" or number >= (self.spec.remat_layers or self.spec.layers):
                return layer
            return jax.checkpoint(layer, policy=REMAT[self.spec.remat], prevent_cse=not self.spec.scan)

        done, made = 0, []
        for stack in stacking.cut(stacks, self.spec.remat_layers):
            size = stacking.depth(stack)
            own = jax.tree.map(lambda a, done=done, size=size: a[done : done + size], prefix)
            parts = (stack, own, jnp.arange(done, done + size))
            if self.spec.scan:
                x_BTD, new = jax.lax.scan(runner(stacking.chooser(views, kinds, done, size), done), x_BTD, parts)
            else:
                rows = []
                for i in range(size):
                    layer = runner(stacking.chooser(views, kinds, done + i, 1), done + i)
                    x_BTD, row = layer(x_BTD, jax.tree.map(lambda a, i=i: a[i], parts))
                    rows.append(row)
                new = jax.tree.map(lambda *a: jnp.stack(a), *rows)
            done += size
            made.append(new)
        return x_BTD, jax.tree.map(lambda *a: jnp.concatenate(a), *made)
