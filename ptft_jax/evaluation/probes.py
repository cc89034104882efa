"""What can be told from the states of a model of images that stays as it is: probes that learn from some labelled images, and are measured on
others."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ptft_jax import config as configs
from ptft_jax.data import batches, class_names
from ptft_jax.data.rows import RowSet
from ptft_jax.errors import UserError, nearest
from ptft_jax.evaluation import probe_fits, zero_shot
from ptft_jax.model.inputs import Inputs
from ptft_jax.params import finite
from ptft_jax.params.rules import flatten

PROBES = ("ridge", "linear", "attention", "knn", zero_shot.NAME)
POOLINGS = ("token", "mean")
_SHOWN, _BESIDE = 12, 8  # images, and neighbors of each
_MOST = 1 << 32  # bytes of states of all tokens, which the attention probe learns from at once


class Labelled(NamedTuple):
    """Images as a model has them.

    Attributes:
      states: float32 [N, D], or [N, T, D] of all their tokens.
      classes: int32 [N].
      rows: what they were made of.
    """

    states: np.ndarray
    classes: np.ndarray
    rows: RowSet

    def some(self, chosen: np.ndarray) -> Labelled:
        return self._replace(states=self.states[chosen], classes=self.classes[chosen])


def evaluate(
    loaded: Any,
    source: str = "",
    split: str = "",
    *,
    probes: Sequence[str],
    shots: Sequence[int] = (0,),
    seed: int = 0,
    pooling: str = "",
    k: int = 20,
    prompts: Sequence[str] = zero_shot.PROMPTS,
    batch_size: int = 64,
    plugins: Sequence[str] = (),
    neighbors: list[dict[str, Any]] | None = None,
    **reading: Any,
) -> dict[str, Any]:
    """How many of a split's images are named rightly by probes that learn from the source's train split.

    Args:
      loaded: a run, or imported weights (`ptft_jax.runs.loading.load`), that reads images, with whatever head.
      source: of images with classes, whichever; "" = the run's own.
      split: that is measured; "" = validation.
      probes: of `PROBES`; see `ptft_jax.evaluation.probe_fits`.
      shots: images of each class that are learned from, for each figure; 0 = all.
      seed: which they are; those of fewer are among those of more.
      pooling: whether the class token's last state is read, or the mean of the patches'; "" = as `model.pooling` has it. The attention
        probe reads all.
      k: neighbors, or all where fewer were learned from.
      neighbors: gets, with the probe knn, some measured images beside those that it learns from and that are nearest: see `_beside`.
      prompts: of the probe "prompts", which learns from nothing: texts with {} in the place of the name of a class.
      reading: other settings of `config.data` than the run's.

    Returns:
      {"data", "split", "examples", "learned_from": of all, "pooling", "probe/PROBE/SHOTS": accuracy, ...,
      "probe/ridge/SHOTS/strength": what the sweep chose, "probe/prompts": accuracy}; SHOTS "all" for 0.

    Raises:
      UserError: a model of texts, data without classes, a class with fewer images than are asked for.
    """
    spec, name = loaded.model.spec, loaded.source.name
    _check(loaded, probes, shots, split)
    finite.refuse(flatten(loaded.params), name, "\nno figure comes of them")
    pooling = pooling or (spec.pooling if spec.pooling in POOLINGS else "mean")
    config = loaded.source.config
    values = config.as_dict()
    values["data"] |= {**reading, **({"source": source} if source else {})}
    values["plugins"] = tuple(dict.fromkeys((*config.plugins, *plugins)))
    data = configs.check(values).data
    split, whole = split or "validation", "attention" in probes
    by_name = {}
    if zero_shot.NAME in probes:
        by_name = zero_shot.evaluate(loaded, data, split, prompts, batch_size)
        probes = [probe for probe in probes if probe != zero_shot.NAME]
    if not probes:
        return {"data": data.source, "split": split, **by_name}
    learned, head = _read(loaded, data, "train", class_names.NEW, batch_size, whole)
    measured, head = _read(loaded, data, split, head, batch_size, whole)
    order = _order(learned.classes, head.names, shots, seed, data.source)
    found: dict[str, Any] = {"data": data.source, "split": split, "examples": len(measured.classes)}
    found |= {"learned_from": len(learned.classes), "pooling": pooling}
    classes = int(max(learned.classes.max(), measured.classes.max())) + 1
    first = spec.before_patches if whole else 1
    if neighbors is not None and "knn" in probes:
        train, test = (_pooled(part.states, "knn", pooling, first) for part in (learned, measured))
        neighbors += _beside(learned, measured, train, test, head.names, k, seed)
    for count in shots:
        some = learned.some(order < (count or len(order)))
        for probe in probes:
            train, test = (_pooled(part.states, probe, pooling, first) for part in (some, measured))
            scores, more = _scores(probe, train, some.classes, test, classes, k)
            at = f"probe/{probe}/{count or 'all'}"
            found[at] = float(np.mean(scores.argmax(axis=1) == measured.classes))
            found |= {f"{at}/{what}": value for what, value in more.items()}
    return found | by_name


def _check(loaded: Any, probes: Sequence[str], shots: Sequence[int], split: str) -> None:
    if not loaded.model.spec.image_size:
        raise UserError(
            f"--probe: {loaded.source.name} reads texts: ptft behavior --tasks=probe measures what its layers tell"
        )
    if loaded.model.several:
        raise UserError(f"--probe: {loaded.source.name} has several adapters; choose one: RUN#NAME")
    for probe in probes:
        if probe not in PROBES:
            raise UserError(f"--probe={probe}: expected of {', '.join(PROBES)}{nearest(probe, PROBES)}")
    if not probes or not shots:
        raise UserError(
            f"--probe: none is named: expected of {', '.join(PROBES)}, and how many images each learns from"
        )
    if any(count < 0 for count in shots):
        raise UserError(f"--probe_shots={min(shots)}: expected counts of images of each class; 0 = all")
    if split == "train":
        raise UserError("--split=train: probes learn from it; measure another split")


def _read(
    loaded: Any, data: Any, split: str, head: class_names.Head, batch_size: int, whole: bool
) -> tuple[Labelled, class_names.Head]:
    """The images of a split; of all their tokens where `whole`, else [N, 2, D]: the class token, and the mean of the patches."""
    spec = loaded.model.spec
    rows, head = zero_shot.rows_of(spec, data, split, head)
    count = len(rows)
    size = 4 * count * spec.max_length * spec.width
    if whole and size > _MOST:
        raise UserError(
            f"--probe=attention: the states of {count:,} images take {size / 2**30:.1f} GiB: expected at most {_MOST >> 30}; leave images out "
            "(examples=N in the options of the source), or train a head alone (docs/images.md)"
        )
    parts = []
    for batch in batches.evaluation(rows, batch_size=batch_size, tokens=0):
        states = _states(loaded.model, loaded.params, batch["inputs"], whole)
        parts.append((np.asarray(states), batch["targets"]))
    states, classes = (np.concatenate(values)[:count] for values in zip(*parts))
    return Labelled(states, classes, rows), head


def _beside(
    learned: Labelled,
    measured: Labelled,
    train: np.ndarray,
    test: np.ndarray,
    names: Sequence[str],
    k: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Measured images, drawn by the seed, in their order: {"number", "class", "image": uint8 [H, W, C], "nearest": the same of each of the
    nearest images that are learned from, the nearest first, with their "cosine"}."""

    def shown(part: Labelled, number: int) -> dict[str, Any]:
        own = int(part.classes[number])
        image = part.rows.batch(np.asarray([number]), [(0, number)])["inputs"][0]
        return {"number": number, "class": names[own] if own < len(names) else str(own), "image": image}

    chosen = np.sort(np.random.default_rng(seed).permutation(len(test))[:_SHOWN])
    found = probe_fits.by_cosine(train, test[chosen], min(k, _BESIDE, len(train)))
    return [
        {
            **shown(measured, int(number)),
            "nearest": [{**shown(learned, int(n)), "cosine": float(cosine)} for n, cosine in zip(*nearest)],
        }
        for number, nearest in zip(chosen, found)
    ]


@functools.partial(jax.jit, static_argnums=(0, 3))
def _states(model: Any, params: Any, images: jax.Array, whole: bool) -> jax.Array:
    states = model.hidden(params, Inputs(images)).astype("float32")
    if whole:
        return states
    return jax.numpy.stack([states[:, 0], states[:, model.spec.before_patches :].mean(axis=1)], axis=1)


def _order(classes: np.ndarray, names: Sequence[str], shots: Sequence[int], seed: int, source: str) -> np.ndarray:
    """int64 [N]: of each image how many of its class come before it, in an order that is drawn."""
    drawn = np.random.default_rng(seed).permutation(len(classes))
    order = np.zeros(len(classes), np.int64)
    for one in np.unique(classes):
        own = drawn[classes[drawn] == one]
        order[own] = np.arange(len(own))
        if len(own) < max(shots):
            raise UserError(
                f"--probe_shots={max(shots)}: {source} has {len(own)} images of the class {names[one] if names else one} to learn from"
            )
    return order


def _pooled(states: np.ndarray, probe: str, pooling: str, first: int) -> np.ndarray:
    """What a probe reads of states: of all tokens the attention probe, else one vector of each image."""
    if probe == "attention":
        return states
    return states[:, 0] if pooling == "token" else states[:, first:].mean(axis=1)


def _scores(
    probe: str, train: np.ndarray, classes: np.ndarray, test: np.ndarray, count: int, k: int
) -> tuple[np.ndarray, dict[str, float]]:
    """(scores [M, count], what else is to be known)."""
    if probe == "knn":
        return probe_fits.votes(train, classes, test, min(k, len(train)), count), {}
    train, test = probe_fits.standardized(train, test)
    if probe == "ridge":
        scores, strength = probe_fits.ridge(train, classes, test, count)
        return scores, {"strength": strength}
    return probe_fits.logistic(train, classes, test, count), {}
