"""What is split of a transformer along the positions of a row.

The axis `context` has a part of the positions of each row on each device, in order: of the stream, of what every layer makes of it, and of logits and
losses. Attention is a ring (`ptft_jax.model.ring`); all else is of each position alone. Batches, a few numbers per position, are whole on
each device, and parameters lie as they would without the axis.
"""

from __future__ import annotations

from jax.sharding import Mesh

from ptft_jax.errors import UserError
from ptft_jax.model.layout import CONTEXT
from ptft_jax.model.transformer import Transformer


def check(model: Transformer, length: int, mesh: Mesh, field: str = "") -> None:
    """Raises UserError where rows of a model do not divide along the axis context, with the nearest number that does, or what it reads is not
    in parts.

    Args:
      length: of its rows, in tokens.
      field: the setting of what is added to the model, "" = nothing is.
    """
    size, spec = mesh.shape[CONTEXT], model.spec
    if size == 1:
        return
    where = f"config.parallel.context = {size}"
    if spec.image_size:
        raise UserError(f"{where}: rows of patches (model.image_size) are not divided by position: expected 1")
    if spec.experts:
        raise UserError(
            f"{where}: a mixture of experts (model.experts = {spec.experts}) takes the tokens of whole rows: expected 1, and "
            "parallel.expert in its place"
        )
    if spec.attention == "cudnn":
        raise UserError(
            f"config.model.attention = 'cudnn': with parallel.context = {size} keys come in parts, which go around a ring of its own: "
            "expected 'auto'"
        )
    if model.virtual_tokens or model.prefix_length or model.reads_neighbors:
        what = "passages that were found" if model.reads_neighbors else "learned vectors before those of the row"
        raise UserError(f"{where}: config.{field} adds {what}, which are not in parts: expected parallel.context=1")
    if length % size:
        fitting = (n for n in range(1, mesh.size + 1) if mesh.size % n == 0 and length % n == 0)
        near = min(fitting, key=lambda n: (abs(n - size), n))
        raise UserError(
            f"{where}: rows have data.length = {length} tokens: not a multiple of it; nearest that fits: {near}"
        )
