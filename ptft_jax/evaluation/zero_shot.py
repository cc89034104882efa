"""Classes that a model of images and texts knows by their names alone: nothing is learned from labelled images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data import batches, class_names, filling, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.pictures import ClassedPictures, Pictures, padded, padding_of
from ptft_jax.data.rows import RowSet
from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs
from ptft_jax.objectives.contrastive import unit

NAME = "prompts"
PROMPTS = ("a photo of a {}.",)


def evaluate(loaded: Any, data: Any, split: str, prompts: Sequence[str], batch_size: int) -> dict[str, Any]:
    """How many images of a split have the highest cosine with their class's prompt among those of all classes, of several prompts with the mean
    of their vectors (Radford et al. 2021, "CLIP", section 3.1.4): {"examples", "probe/prompts": accuracy}.

    Args:
      loaded: a run, or imported weights, with a tower for texts.
      data: of the config.
      prompts: texts with {} in the place of a name.

    Raises:
      UserError: a model without such a tower, a prompt without {} or too long, classes without names.
    """
    spec = loaded.model.spec
    if not spec.text_layers:
        raise UserError(f"--probe=prompts: {loaded.source.name} has no tower for texts (model.text_layers = 0)")
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise UserError(f"--probe_prompts={prompt}: expected a text with one {{}}, where the name of a class goes")
    rows, head = rows_of(spec, data, split, class_names.NEW)
    if not head.names:
        raise UserError(
            f"--probe=prompts: {data.source}: its classes have numbers, and no names: give them by classes=A,B,... in its options"
        )
    classes_CE = _of_classes(loaded, head.names, prompts)
    right = []
    for batch in batches.evaluation(rows, batch_size=batch_size, tokens=0):
        named = np.asarray(_scores(loaded.model, loaded.params, batch["inputs"], classes_CE)).argmax(axis=1)
        right.append((named == batch["targets"])[batch["weights"] > 0])
    found = np.concatenate(right)
    return {"examples": len(found), f"probe/{NAME}": float(np.mean(found))}


def rows_of(spec: Any, data: Any, split: str, head: class_names.Head) -> tuple[RowSet, class_names.Head]:
    """The images of a split with their classes, by the numbers of a head. Raises UserError where they have none."""
    builder = ClassedPictures.of_images(None, spec, data)
    tokens = source_splits.tokenized(data, data.source, split, tok.ByteTokenizer(), Pictures.kinds)
    if tokens.kind not in builder.kinds:
        raise UserError(
            f"--probe: {data.source}: {tokens.description}: probes learn classes, and these images have none"
        )
    tokens, head = class_names.numbered(tokens, head)
    return filling.filled(data, tokens, builder, partial=True).rows, head


def _of_classes(loaded: Any, names: Sequence[str], prompts: Sequence[str]) -> jax.Array:
    """float32 [C, E], of length 1."""
    tokenizer, length = loaded.tokenizer, loaded.model.spec.text_length
    padding = padding_of(tokenizer, loaded.model.spec.text_causal)
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    rows = []
    for text, ids in zip(texts, tokenizer.encode_all(texts, special=False)):
        whole = np.asarray([*tokenizer.prefix_ids, *ids, tokenizer.end_id], np.int32)
        if len(whole) > length:
            raise UserError(
                f"--probe_prompts: {text!r} has {len(whole)} tokens with its ends: expected at most model.text_length {length}"
            )
        rows.append(padded(whole, length, padding))
    captions, ends = (np.stack(values) for values in zip(*rows))
    vectors = unit(jax.jit(loaded.model.texts)(loaded.params, captions, ends))
    return unit(vectors.reshape(len(names), len(prompts), -1).mean(axis=1))


@functools.partial(jax.jit, static_argnums=0)
def _scores(model: Any, params: Any, images: jax.Array, classes_CE: jax.Array) -> jax.Array:
    vectors_BE = unit(model.logits(params, model.hidden(params, Inputs(images))))
    return jnp.einsum("be,ce->bc", vectors_BE, classes_CE, precision=jax.lax.Precision.HIGHEST)
