"""Images beside what a run makes of them, for its report: its most confident mistakes, where it looks, and hidden patches beside what it predicts."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data.builders.pictures import partly
from ptft_jax.data.pictures import decoding
from ptft_jax.data.rows import Rows
from ptft_jax.evaluation import attention_maps
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.vision import normalized, patches
from ptft_jax.objectives.base import Batch
from ptft_jax.objectives.masked_images import patch_statistics

_ON_THE_WAY = 4  # images at most that are shown at every evaluation

Told = Callable[[Rows], tuple[list[str], Callable[[int], str]]]


class Gallery:
    """What is shown of the images of one run."""

    def __init__(
        self,
        objective: Any,
        model: Any,
        classes: Sequence[str],
        count: int,
        copied: jax.sharding.Sharding | None = None,
        tokenizer: Any = None,
    ):
        """
        Args:
          objective, model: of a run on images.
          classes: names.
          count: mistakes at most, and as many of the first images; of masked images, those.
          copied: where what is read comes to; needed where this is one of several processes, which all have to call what follows with the same batches.
          tokenizer: of captions.
        """
        self.count, self._objective, self._model, self._classes = count, objective, model, classes
        self._copied, self._tokenizer = copied, tokenizer

    @property
    def shows_progress(self) -> bool:
        """Whether there is something to show at every evaluation: of masked images."""
        return bool(self.count) and self._model.spec.head == "pixels"

    def rows(
        self, params: Any, batches: Iterable[Rows], check: Callable[[], None] = lambda: None
    ) -> list[dict[str, Any]]:
        """What is shown of a set of images.

        Args:
          batches: of the set.
          check: is called between batches, and may raise to end it.

        Returns:
          Rows with "kind" ("mistake" or "example": "class", "named", "probability", "image", and, as `ptft_jax.evaluation.attention_maps.maps`
          has them, "attention" and "rollout"; "hidden": "image", "seen", "made"), and the "number" of the image in the set; of captions these
          are in the place of classes, and each is chosen among those of its batch; images in base 64, as `ptft_jax.data.pictures.decoding.decoded` reads them.
        """
        spec = self._model.spec
        if spec.head == "pixels":
            return [self._restored(*one) for one in self._hidden(params, batches, self.count, check)]
        if spec.head == "classes":
            return self._with_maps(params, self._named(params, batches, self._told_classes, check))
        if spec.head == "vector" and spec.text_layers:
            return self._with_maps(params, self._named(params, batches, self._told_captions, check))
        return []

    def progress(self, params: Any, batches: Iterable[Rows], first: bool) -> list[dict[str, Any]]:
        """What is shown at every evaluation of masked images, of the first few of a set, whose hidden patches are always the same: rows of the
        "kind" "progress" with "number" and "made", at the `first` evaluation also with "image" and "seen"."""
        shown = []
        for one in self._hidden(params, batches, min(self.count, _ON_THE_WAY), lambda: None):
            row = self._restored(*one)
            keys = ("number", "made", *(("image", "seen") if first else ()))
            shown.append({"kind": "progress"} | {key: row[key] for key in keys})
        return shown

    @functools.cached_property
    def _program(self) -> Callable[[Any, Rows], jax.Array]:
        """What the model makes of a batch: pixels of patches, or probabilities."""
        objective, model = self._objective, self._model
        made = {
            "pixels": lambda params, batch: _made(objective, model, params, batch),
            "classes": lambda params, batch: jax.nn.softmax(
                model.logits(params, objective.hidden(model, params, batch))
            ),
            "vector": lambda params, batch: objective.chosen(model, params, batch),
        }[model.spec.head]
        return jax.jit(made, out_shardings=self._copied)

    def _named(
        self, params: Any, batches: Iterable[Rows], told: Told, check: Callable[[], None]
    ) -> list[tuple[dict[str, Any], Inputs]]:
        """Rows without their images, and what the model was given of each; `told`: of a batch what each row is, and what a number of probabilities stands for."""
        mistakes: list[tuple[dict[str, Any], Inputs]] = []
        examples: list[tuple[dict[str, Any], Inputs]] = []
        number = 0
        for batch in batches:
            check()
            found_BC = np.asarray(self._program(params, batch))
            right_B, name = told(batch)
            images: Any = batch["inputs"]
            adapters: Any = batch.get("adapters")
            for n in np.flatnonzero(batch["weights"] > 0):
                chosen, one = int(found_BC[n].argmax()), slice(n, n + 1)
                given = Inputs(images[one], adapters=None if adapters is None else adapters[one])
                named, right, sure = name(chosen), right_B[n], float(found_BC[n, chosen])
                row = {"number": number, "class": right, "named": named, "probability": sure}
                number += 1
                if len(examples) < self.count:
                    examples.append(({"kind": "example", **row}, given))
                if named != right and (len(mistakes) < self.count or sure > mistakes[-1][0]["probability"]):
                    mistakes.append(({"kind": "mistake", **row}, given))
                    mistakes = sorted(mistakes, key=lambda one: -one[0]["probability"])[: self.count]
        return mistakes + examples

    def _with_maps(self, params: Any, found: list[tuple[dict[str, Any], Inputs]]) -> list[dict[str, Any]]:
        maps = jax.jit(functools.partial(attention_maps.maps, self._model), out_shardings=self._copied)
        rows = []
        for row, given in found:  # one by one: the weights of all layers of many would take much memory
            attention, rollout = (np.asarray(weights)[0].tolist() for weights in maps(params, given))
            rows.append(
                {**row, "image": _packed(np.asarray(given.values)[0]), "attention": attention, "rollout": rollout}
            )
        return rows

    def _told_classes(self, batch: Rows) -> tuple[list[str], Callable[[int], str]]:
        def name(number: int) -> str:
            return self._classes[number] if number < len(self._classes) else str(number)

        return [name(int(n)) for n in batch["targets"]], name

    def _told_captions(self, batch: Rows) -> tuple[list[str], Callable[[int], str]]:
        texts = [self._tokenizer.decode(ids[: int(end)].tolist()) for ids, end in zip(batch["captions"], batch["ends"])]
        return texts, texts.__getitem__

    def _hidden(
        self, params: Any, batches: Iterable[Rows], count: int, check: Callable[[], None]
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Of each of the first images its number, its pixels, the patches that are seen, and what all patches are predicted to be."""
        number = 0
        for batch in batches:
            check()
            if number >= count:
                return
            made = np.asarray(self._program(params, batch))
            for n in np.flatnonzero(batch["weights"] > 0)[: count - number]:
                yield number, batch["inputs"][n], batch["visible"][n], made[n]
                number += 1

    def _restored(self, number: int, image: np.ndarray, visible: np.ndarray, made: np.ndarray) -> dict[str, Any]:
        size = self._model.spec.patch_size
        seen, filled = partly(image, visible, size), partly(image, visible, size, _joined(made, self._model.spec))
        pixels = {"image": image, "seen": seen, "made": filled}
        return {"kind": "hidden", "number": number} | {name: _packed(array) for name, array in pixels.items()}


def _packed(image: np.ndarray) -> str:
    """uint8 [H, W, C] as JSON holds it: what `ptft_jax.data.pictures.decoding.decoded` reads, in base 64."""
    return base64.b64encode(decoding.packed(image)).decode("ascii")


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
