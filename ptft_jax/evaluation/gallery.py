"""Images beside what a run makes of them, for its report: its most confident mistakes, and hidden patches beside what it predicts."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data.pictures import decoding
from ptft_jax.data.rows import Rows
from ptft_jax.model.vision import normalized, patches
from ptft_jax.objectives.base import Batch
from ptft_jax.objectives.masked_images import patch_statistics

_GREY = 127  # in the place of what is hidden


def rows(
    objective: Any,
    model: Any,
    params: Any,
    batches: Iterable[Rows],
    classes: Sequence[str],
    count: int,
    check: Callable[[], None] = lambda: None,
    copied: jax.sharding.Sharding | None = None,
    tokenizer: Any = None,
) -> list[dict[str, Any]]:
    """What is shown of a set of images.

    Args:
      objective, model, params: of a run on images.
      batches: of the set.
      classes: names.
      tokenizer: of captions.
      count: mistakes at most, and as many of the first images; of masked images, those.
      check: is called between batches, and may raise to end it.
      copied: where what is read comes to; needed where this is one of several processes, which all have to call this with the same batches.

    Returns:
      Rows with "kind" ("mistake" or "example": "class", "named", "probability", "image"; "hidden": "image", "seen", "made"), and the "number" of the
      image in the set; of captions these are in the place of classes, and each is chosen among those of its batch; images in base 64, as `ptft_jax.data.pictures.decoding.decoded` reads them.
    """
    if model.spec.head == "pixels":
        predicted = jax.jit(lambda params, batch: _made(objective, model, params, batch), out_shardings=copied)
        found = _hidden(model.spec, functools.partial(predicted, params), batches, count, check)
    elif model.spec.head == "classes":
        named = jax.jit(
            lambda params, batch: jax.nn.softmax(model.logits(params, objective.hidden(model, params, batch))),
            out_shardings=copied,
        )
        told = functools.partial(_classes, classes)
        found = _named(functools.partial(named, params), batches, told, count, check)
    elif model.spec.head == "vector" and model.spec.text_layers:
        chosen = jax.jit(lambda params, batch: objective.chosen(model, params, batch), out_shardings=copied)
        told = functools.partial(_captions, tokenizer)
        found = _named(functools.partial(chosen, params), batches, told, count, check)
    else:
        return []
    return list(found)


def _packed(image: np.ndarray) -> str:
    """uint8 [H, W, C] as JSON holds it: what `ptft_jax.data.pictures.decoding.decoded` reads, in base 64."""
    return base64.b64encode(decoding.packed(image)).decode("ascii")


def _named(
    probabilities: Callable[[Rows], jax.Array],
    batches: Iterable[Rows],
    told: Callable[[Rows], tuple[list[str], Callable[[int], str]]],
    count: int,
    check: Callable[[], None],
) -> Iterator[dict[str, Any]]:
    """`told`: of a batch what each row is, and what a number of `probabilities` stands for."""
    mistakes: list[tuple[float, dict[str, Any]]] = []
    examples: list[dict[str, Any]] = []
    number = 0
    for batch in batches:
        check()
        found_BC = np.asarray(probabilities(batch))
        right_B, name = told(batch)
        for n in np.flatnonzero(batch["weights"] > 0):
            number_named = int(found_BC[n].argmax())
            named, right, sure = name(number_named), right_B[n], float(found_BC[n, number_named])
            row = {
                "number": number,
                "class": right,
                "named": named,
                "probability": sure,
            }
            number += 1
            if len(examples) < count:
                examples.append({"kind": "example", **row, "image": _packed(batch["inputs"][n])})
            if named != right and (len(mistakes) < count or sure > mistakes[-1][0]):
                mistakes.append((sure, {"kind": "mistake", **row, "image": _packed(batch["inputs"][n])}))
                mistakes = sorted(mistakes, key=lambda one: -one[0])[:count]
    yield from (row for _, row in mistakes)
    yield from examples


def _classes(classes: Sequence[str], batch: Rows) -> tuple[list[str], Callable[[int], str]]:
    return [_name(int(n), classes) for n in batch["targets"]], lambda number: _name(number, classes)


def _captions(tokenizer: Any, batch: Rows) -> tuple[list[str], Callable[[int], str]]:
    texts = [tokenizer.decode(ids[: int(end)].tolist()) for ids, end in zip(batch["captions"], batch["ends"])]
    return texts, texts.__getitem__


def _name(number: int, classes: Sequence[str]) -> str:
    return classes[number] if number < len(classes) else str(number)


def _hidden(
    spec: Any, predicted: Callable[[Rows], jax.Array], batches: Iterable[Rows], count: int, check: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    number = 0
    for batch in batches:
        check()
        if number >= count:
            return
        made = np.asarray(predicted(batch))
        for n in np.flatnonzero(batch["weights"] > 0)[: count - number]:
            seen = np.zeros(len(made[n]), bool)
            seen[batch["visible"][n]] = True
            image = batch["inputs"][n]
            parts = np.asarray(patches(image[None], spec.patch_size))[0]
            shown, filled = (np.where(seen[:, None], parts, other) for other in (_GREY, made[n]))
            pictures = {name: _joined(value, spec) for name, value in (("seen", shown), ("made", filled))}
            yield {"kind": "hidden", "number": number, "image": _packed(image)} | {
                k: _packed(v) for k, v in pictures.items()
            }
            number += 1


def _made(objective: Any, model: Any, params: Any, batch: Batch) -> jax.Array:
    """uint8 [B, N, pixels of a patch]: what all patches are predicted to be, with the mean and deviation of the true ones where the model
    predicts pixels without them."""
    spec = model.spec
    found_BNC = model.pixels(params, objective.hidden(model, params, batch), batch["visible"])
    if objective.normalize_patches:
        mean, deviation = patch_statistics(
            patches(normalized(jnp.asarray(batch["inputs"]), spec), spec.patch_size).astype(jnp.float32)
        )
        found_BNC = found_BNC * deviation + mean
    mean, deviation = (jnp.asarray(v, jnp.float32) for v in (spec.pixel_mean, spec.pixel_std))
    levels = found_BNC.reshape(*found_BNC.shape[:2], -1, spec.channels) * deviation + mean
    return jnp.clip(jnp.rint(levels * 255), 0, 255).astype(jnp.uint8).reshape(found_BNC.shape)


def _joined(parts_NC: np.ndarray, spec: Any) -> np.ndarray:
    """The image [size, size, channels] of its patches: the inverse of `ptft_jax.model.vision.patches`."""
    grid, size = spec.image_size // spec.patch_size, spec.patch_size
    x = parts_NC.reshape(grid, grid, size, size, spec.channels).swapaxes(1, 2)
    return x.reshape(spec.image_size, spec.image_size, spec.channels).astype(np.uint8)
