"""What a run will take before one like it was finished: arithmetic of its config. Nothing is compiled, and no data are read."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.model.spec import ModelSpec, wordless

if TYPE_CHECKING:
    from ptft_jax.parallel.leaves import Leaf

MEASURED, SCALED, ARITHMETIC = "runs like it", "other runs", "arithmetic"
SAID = {
    MEASURED: "those of finished runs like it, by their steps",
    SCALED: "time as of finished runs of other models, by their operations; memory by arithmetic",
    ARITHMETIC: "time at least that of its matrix products on this machine; memory by arithmetic",
}
_FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run takes, by arithmetic.

    Attributes:
      flops: of the matrix products of all its steps, a backward pass as two forward ones, as `model_flops` of summaries has them.
      peak_bytes: of a step on each device.
      product: the largest product of a block: [tokens, width] x [width, hidden], and its dtype.
    """

    flops: float
    peak_bytes: int
    product: tuple[int, int, int, str]


def vocabulary(config: configs.Section, parent: int | None) -> int | None:
    """Rows of the token table, 0 of a model of images without texts; None where nobody knows them before data or files are read.

    Args:
      parent: those of the run that it starts from, or whose tokenizer it has; None where they are not known or there is none.
    """
    if config.model.vocab_size or wordless(config.model):
        return int(config.model.vocab_size)
    kind, more = config.tokenizer.kind, len(config.tokenizer.add)
    if kind == "byte" or (kind == "auto" and not config.init.from_):
        return int(tok.ByteTokenizer().vocab_size) + more
    if kind in ("bpe", "words"):
        return int(config.tokenizer.vocab_size) + more
    return None if parent is None else parent + more


def of(config: configs.Section, rows: int) -> Estimate | None:
    """The estimate of a run whose config has the sizes of its parent, and so many rows of the token table; None where its settings
    cannot be built before it begins.

    Memory is that of the state as it will be (parameters, optimizer, averages), exactly; gradients, as large as what trains; and what a forward
    pass keeps for the backward one: per token and block 8 numbers per unit of width and 2 per hidden unit (3 where it is gated), and the scores and
    weights of attention (Korthikanti et al. 2022, "Reducing Activation Recomputation", equation 1, without the masks of dropout), and the logits twice; of texts beside images likewise.
    """
    from ptft_jax.parallel import mesh as meshes
    from ptft_jax.parallel.leaves import of_state
    from ptft_jax.training import outcome
    from ptft_jax.training.trainer import Trainer

    try:
        trainer = Trainer(config, vocab_size=rows, encode=lambda _: [0])
    except UserError:  # which the run itself says, or which its parent settles
        return None
    spec, c = trainer.model.spec.resolved, trainer.config
    leaves = of_state(trainer.state_like)
    trains = sum(leaf.bytes for leaf in leaves if leaf.path.startswith("trainable/"))
    positions = c.data.length + trainer.model.virtual_tokens
    each = -(-c.data.batch_size // (c.training.micro_batches * meshes.row_groups(trainer.mesh)))  # rows of a device
    tokens = each * -(-positions // trainer.mesh.shape["context"])
    buffers = 2 if c.training.micro_batches > 1 else 1  # the sum over micro-batches beside those of one
    flops = 3 * outcome.row_flops(c, spec, positions) * c.data.batch_size * c.training.steps
    kept = _kept(spec, tokens, positions, c.objective.chunk) + _kept_of_texts(spec, each)
    if c.tables.objectives[c.objective.name].tower:
        kept += _kept_of_images(spec, each)
    peak = _peak(leaves, c.optimizer.memory, kept) + buffers * trains
    return Estimate(flops, int(peak), (tokens, spec.width, spec.mlp_width, spec.dtype))


def _peak(leaves: Sequence[Leaf], memory: str, kept: float) -> float:
    """Bytes of the state and of what a forward pass keeps. The optimizer's state of the host is on the device for the update alone, when the
    rest is gone."""
    moved = sum(leaf.bytes for leaf in leaves if leaf.path.startswith("optimizer/")) if memory == "host" else 0
    return sum(leaf.bytes for leaf in leaves) - moved + max(kept, moved)


def _kept(spec: ModelSpec, tokens: int, positions: int, chunk: int) -> float:
    """Bytes of what a forward pass of so many tokens keeps on the device."""
    scored = spec.vocab_size if spec.head in ("lm", "masked_lm") else 1
    logits = 2 * (min(chunk, tokens) if chunk else tokens) * scored * _FLOAT32
    return _kept_of_blocks(spec, tokens, positions) + logits


def _kept_of_texts(spec: ModelSpec, texts: int) -> float:
    """Bytes of what a forward pass of so many texts keeps in the tower that they have beside images, whose blocks are never computed again."""
    if not spec.text_layers:
        return 0.0
    from ptft_jax.model.texts import text_spec

    own = dataclasses.replace(text_spec(spec), remat="none")
    return _kept_of_blocks(own, texts * own.max_length, own.max_length)


def _kept_of_images(spec: ModelSpec, images: int) -> float:
    """Bytes of what a forward pass of so many images keeps in the tower beside a model of text, whose blocks are never computed again."""
    from ptft_jax.model.vision_tower import tower_spec

    own = tower_spec(spec)
    return _kept_of_blocks(own, images * own.max_length, own.max_length)


def _kept_of_blocks(spec: ModelSpec, tokens: int, positions: int) -> float:
    size = 2 if spec.dtype == "bfloat16" else _FLOAT32
    block = 8 * spec.width + (3 if spec.gated else 2) * spec.mlp_width
    block += 0 if spec.attention == "cudnn" else 2 * spec.heads * positions  # scores
    if spec.remat == "none":
        return size * tokens * spec.layers * block
    # Of products that go to the host only the block's own input is left.
    least = 5 * spec.width + spec.mlp_width if spec.remat == "dots" else spec.width
    some = min(spec.remat_layers or spec.layers, spec.layers)
    again = block  # of the one that is computed again
    return size * tokens * (some * least + (spec.layers - some) * block + again)


def rate(summaries: Sequence[Mapping[str, Any]]) -> float | None:
    """Operations per second of finished runs, all together; None where none tells."""
    known = [(s["model_flops"], s["seconds"]) for s in summaries if s.get("model_flops") and s.get("seconds")]
    return sum(flops for flops, _ in known) / sum(seconds for _, seconds in known) if known else None


class Speeds:
    """Operations per second that this machine reaches in a product of a given form, each measured once, in some hundredths of a second."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, str], float] = {}

    def of(self, product: tuple[int, int, int, str]) -> float:
        """[N, M] x [M, K] in a dtype on all devices that one process has: (N, M, K, dtype)."""
        if product not in self._known:
            self._known[product] = _measured(*product)
        return self._known[product]


def _measured(rows: int, inner: int, columns: int, dtype: str) -> float:
    import jax
    import jax.numpy as jnp

    left, right = jnp.ones((rows, inner), dtype), jnp.ones((inner, columns), dtype)
    multiply = jax.jit(jnp.dot)
    multiply(left, right).block_until_ready()
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        multiply(left, right).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * rows * inner * columns / best * jax.local_device_count()
