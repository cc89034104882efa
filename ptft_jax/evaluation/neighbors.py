"""What a run predicts with the nearest neighbors of its states beside its head, and the datastores for that (`ptft_jax.retrieval.knn`)."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data import token_folder
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import Measurement
from ptft_jax.objectives.base import Batch
from ptft_jax.retrieval import index, knn
from ptft_jax.runs.source import parameters_fingerprint


class Looked(NamedTuple):
    """Tokens that are scored, one after the other.

    Attributes:
      model: float64 [n], log-probabilities by the model.
      nearest: what their states' neighbors are.
      targets, weights: int32, float64 [n].
    """

    model: np.ndarray
    nearest: knn.Neighbors
    targets: np.ndarray
    weights: np.ndarray


def build(
    loaded: Any,
    reference: str,
    source: str,
    split: str,
    out: pathlib.Path,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> tuple[dict[str, Any], bool]:
    """Makes a datastore of all tokens of a source that have loss, as `ptft_jax.retrieval.index.made` makes folders.

    Args:
      loaded, reference: a run (`ptft_jax.runs.loading.load`), and how it was named.
      source, split: as of `ptft_jax.evaluation.standalone.evaluate`; so are `options`.
      say: told what is being done.

    Raises:
      UserError: a run that predicts no next tokens.
    """
    set_ = Measurement(loaded, source, split, **options)
    _check(set_, loaded)
    counts = np.asarray([np.count_nonzero(batch["weights"]) for batch in set_.batches], np.int64)
    identity = {
        "form": index.FORM,
        "kind": "knn",
        "fingerprints": {set_.split: set_.fingerprint},
        "settings": {**_settings(loaded), "length": int(set_.batches[0]["inputs"].shape[1])},
    }
    read = functools.partial(_states, loaded.model, set_.objective)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        batch = set_.batches[n]
        states, _ = jax.device_get(read(loaded.params, batch))
        chosen = batch["weights"] > 0
        return np.asarray(states, np.float32)[chosen], batch["targets"][chosen]

    def fill(folder: pathlib.Path, progress: index.Progress) -> Mapping[str, Any]:
        def at(done: int) -> None:
            progress.note(parts=done)
            say(f"{int(counts[:done].sum()):,} of {int(counts.sum()):,} tokens")

        knn.build(folder, counts, loaded.model.spec.width, part, progress.done.get("parts", 0), at)
        facts: dict[str, Any] = {"corpus": source, "run": reference, "entries": int(counts.sum())}
        return facts | {"sources": token_folder.noted(set_.sources)}

    return index.made(out, identity, fill)


def evaluate(
    loaded: Any,
    source: str,
    split: str,
    folder: str,
    *,
    k: int,
    weight: float,
    temperature: float,
    tune: str = "",
    buckets: int = 4,
    field: str = "--knn",
    **options: Any,
) -> dict[str, Any]:
    """What a run predicts of a source with a datastore beside its head, and without.

    Args:
      source, split, options: as of `ptft_jax.evaluation.standalone.evaluate`.
      folder: of the datastore.
      k, weight, temperature: how many neighbors, their weight, and what squared distances are divided by.
      tune: a split of the source that the weights are fitted on, one for each of `buckets` of distances; "" = `weight`.

    Returns:
      "nll" and "perplexity" with neighbors, "nll_without" and "perplexity_without"; "found": the share of tokens that one of the neighbors
      has; "weight", or "weights" and their "borders".

    Raises:
      UserError: a datastore of another run or tokenizer, or of what is measured; fewer entries than `k`.
    """
    set_ = Measurement(loaded, source, split, **options)
    store = _opened(set_, loaded, folder, k, field)
    fit = None
    if tune:
        if tune == set_.split:
            raise UserError(
                f"{field}_tune={tune}: weights that are fitted on what is measured say nothing: name another split"
            )
        other = Measurement(loaded, source, tune, **options)
        _refuse_itself(other, store, field)
        looked = _looked(other, loaded, store, k)
        neighbors = looked.nearest.probability(looked.targets, temperature)
        fit = knn.fitted(looked.model, neighbors, looked.nearest.distances[:, 0], buckets)
    looked = _looked(set_, loaded, store, k)
    neighbors = looked.nearest.probability(looked.targets, temperature)
    weights = weight if fit is None else fit.of(looked.nearest.distances[:, 0])
    total = float(looked.weights.sum())
    with_, without = (
        -float((values * looked.weights).sum() / total)
        for values in (knn.mixed(looked.model, neighbors, weights), looked.model)
    )
    how = (
        {"weight": weight}
        if fit is None
        else {"weights": fit.weights.tolist(), "borders": fit.borders.tolist(), "tuned_on": tune}
    )
    return {
        "index": str(folder),
        "fingerprint": store.facts["fingerprint"],
        "entries": len(store.keys),
        "nll": with_,
        "nll_without": without,
        "perplexity": float(np.exp(with_)),
        "perplexity_without": float(np.exp(without)),
        "found": float((looked.weights * (neighbors > 0)).sum() / total),
        "k": k,
        "temperature": temperature,
        **how,
    }


def _settings(loaded: Any) -> dict[str, Any]:
    """What decides states, beside what is read."""
    return {
        "parameters": parameters_fingerprint(loaded.params),
        "tokenizer": tok.fingerprint(loaded.tokenizer),
        "objective": loaded.source.config.objective.name,
    }


def _check(set_: Measurement, loaded: Any) -> None:
    if not set_.objective.chained:
        raise UserError(
            f"--knn: {loaded.source.name} was trained on objective.name = {loaded.source.config.objective.name!r}: neighbors say which token "
            "comes next, and it predicts none (--objective=causal_lm measures a language model so)"
        )


def _opened(set_: Measurement, loaded: Any, folder: str, k: int, field: str) -> knn.Datastore:
    _check(set_, loaded)
    store = knn.Datastore(folder, field)
    store.check(_settings(loaded), loaded.source.name, f"{field}={folder}")
    if k > len(store.keys):
        raise UserError(f"{field}_k={k}: the index {folder} has {len(store.keys):,} entries: expected at most so many")
    _refuse_itself(set_, store, field)
    return store


def _refuse_itself(set_: Measurement, store: knn.Datastore, field: str) -> None:
    if set_.fingerprint in store.facts["fingerprints"].values():
        raise UserError(
            f"{field}: the index is of what is measured ({set_.split}): each token would find itself. Index what the run was trained on, or "
            "measure another split"
        )


def _looked(set_: Measurement, loaded: Any, store: knn.Datastore, k: int) -> Looked:
    read = functools.partial(_states, loaded.model, set_.objective)
    parts: list[tuple[np.ndarray, ...]] = []
    for batch in set_.batches:
        states, scores = jax.device_get(read(loaded.params, batch))
        chosen = batch["weights"] > 0
        found = store.search(np.asarray(states, np.float32)[chosen], k)
        targets, weights = batch["targets"][chosen], batch["weights"][chosen].astype(np.float64)
        parts.append((np.asarray(scores, np.float64)[chosen], *found, targets, weights))
    model, distances, nearest, targets, weights = (np.concatenate(values) for values in zip(*parts))
    return Looked(model, knn.Neighbors(distances, nearest), targets, weights)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _states(model: Any, objective: Any, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The last hidden states float32 [B, T, D], and the log-probability of each target [B, T]."""
    hidden_BTD = objective.hidden(model, params, batch)
    log_BTV = jax.nn.log_softmax(model.logits(params, hidden_BTD))
    taken_BT = jnp.take_along_axis(log_BTV, batch["targets"][..., None], axis=-1)[..., 0]
    return hidden_BTD.astype(jnp.float32), taken_BT
