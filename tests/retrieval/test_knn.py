"""Nearest neighbors of states beside brute force: search, probabilities, mixtures, fitted weights; a run that is measured with them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.evaluation import neighbors, standalone
from ptft_jax.retrieval import index, knn
from ptft_jax.runs import loading
from tests.helpers import quiet_train, tiny_config


def stored(folder, keys, targets, name="store"):
    """A datastore of these entries, in parts of 3."""
    starts = range(0, len(keys), 3)
    counts = np.asarray([len(keys[n : n + 3]) for n in starts], np.int64)

    def fill(made, progress):
        part = lambda n: (keys[3 * n : 3 * n + 3], targets[3 * n : 3 * n + 3])  # noqa: E731
        knn.build(made, counts, keys.shape[1], part, 0, lambda done: progress.note(parts=done), every=2)
        return {"run": "runs/x"}

    identity = {
        "form": index.FORM,
        "kind": "knn",
        "corpus": "text:x",
        "fingerprints": {"train": "f"},
        "settings": {"tokenizer": "t"},
    }
    index.made(folder / name, identity, fill)
    return knn.Datastore(str(folder / name), "--knn")


def test_search_and_probabilities_are_those_of_brute_force(tmp_path):
    rng = np.random.default_rng(0)
    keys, states = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(7, 6)).astype(np.float32)
    keys += 100.0  # far from 0, where |k|^2 - 2qk cancels
    states += 100.0
    targets = rng.integers(0, 5, 40).astype(np.int32)
    found = stored(tmp_path, keys, targets).search(states, 9)
    for n, state in enumerate(states):
        far = [math.fsum((float(a) - float(b)) ** 2 for a, b in zip(key, state)) for key in keys]
        order = sorted(range(40), key=far.__getitem__)[:9]
        assert found.targets[n].tolist() == targets[order].tolist()
        np.testing.assert_allclose(found.distances[n], [far[m] for m in order], rtol=1e-4)
        total = sum(math.exp(-far[m] / 2.5) for m in order)
        for token in range(5):
            expected = sum(math.exp(-far[m] / 2.5) for m in order if targets[m] == token) / total
            got = found.probability(np.full(7, token), 2.5)[n]
            assert got == pytest.approx(expected, rel=1e-4, abs=1e-12)
            own = math.log(0.2)
            assert knn.mixed(np.asarray([own]), np.asarray([got]), 0.3)[0] == pytest.approx(
                math.log(0.3 * got + 0.7 * 0.2)
            )
    assert knn.mixed(np.asarray([-2.0]), np.asarray([0.0]), 0.0)[0] == -2.0  # nothing is mixed in


def test_fitted_weights_are_the_best_of_a_grid():
    rng = np.random.default_rng(1)
    distances = rng.random(4000)
    near = rng.random(4000) < np.where(distances < 0.5, 0.9, 0.2)  # the nearer, the more they know
    model, theirs = np.log(rng.uniform(0.2, 0.6, 4000)), np.where(near, 0.9, 0.0)
    found = knn.fitted(model, theirs, distances, 2)
    assert found.borders == pytest.approx([0.5], abs=0.03)
    for n, inside in enumerate((distances < found.borders[0], distances >= found.borders[0])):
        grid = np.linspace(0.001, 0.999, 999)
        best = max(grid, key=lambda w: np.log(w * theirs[inside] + (1 - w) * np.exp(model[inside])).sum())
        assert found.weights[n] == pytest.approx(best, abs=2e-3)
    assert found.weights[0] > found.weights[1]
    np.testing.assert_array_equal(found.of(np.asarray([0.0, 1.0])), found.weights)


@pytest.mark.parametrize(
    ("changed", "says"), [({"tokenizer": "u"}, "states are of other tokenizer than runs/y has, t and not u")]
)
def test_states_of_another_tokenizer(changed, says, tmp_path):
    store = stored(tmp_path, np.ones((4, 2), np.float32), np.ones(4, np.int32))
    with pytest.raises(UserError, match=says):
        store.check(changed, "runs/y", "--knn=store")


@pytest.mark.heavy
def test_a_run_with_its_neighbors(tmp_path):
    text_file = tmp_path / "x.txt"
    text_file.write_text("".join(f"the {('cat', 'dog', 'owl')[n % 3]} sat on mat {n}\n" for n in range(50)))
    quiet_train(tiny_config(text_file, model__layers=1, training__steps=0, optimizer__warmup_steps=0), tmp_path / "run")
    loaded, source = loading.load(tmp_path / "run"), f"text:{text_file}"
    made = lambda name, **more: neighbors.build(loaded, "runs/x", source, "train", tmp_path / name, length=16, **more)  # noqa: E731
    facts, _ = made("store")
    assert made("store")[1] and not made("again")[1]
    assert index.manifest(tmp_path / "again", "")["fingerprint"] == facts["fingerprint"]
    # All entries are neighbors: of equal states, which repeated texts have, it does not matter which are taken.
    options = {"k": facts["entries"], "weight": 0.4, "temperature": 3.0, "length": 16}
    found = neighbors.evaluate(loaded, source, "test", str(tmp_path / "store"), **options)

    # The same, from the model and the rows alone.
    def states(split):
        for batch in standalone.Measurement(loaded, source, split, length=16).batches:
            hidden = loaded.model.hidden(loaded.params, jnp.asarray(batch["inputs"]))
            logits = np.asarray(loaded.model.logits(loaded.params, hidden), np.float64)
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            for row, at in zip(*np.nonzero(batch["weights"])):
                target = int(batch["targets"][row, at])
                yield np.asarray(hidden[row, at], np.float64), target, p[row, at, target]

    kept, total, alone, count = [*states("train")], 0.0, 0.0, 0
    keys, targets = np.stack([key for key, *_ in kept]), np.asarray([target for _, target, _ in kept])
    assert facts["entries"] == len(keys)
    for state, target, p in states("test"):
        far = np.square(keys - state).sum(1)
        weights = np.exp(-(far - far.min()) / 3.0)
        total -= np.log(0.4 * weights[targets == target].sum() / weights.sum() + 0.6 * p)
        alone, count = alone - np.log(p), count + 1
    assert found["nll"] == pytest.approx(total / count, rel=1e-4) and found["nll_without"] == pytest.approx(
        alone / count, rel=1e-4
    )
    assert found["nll"] < found["nll_without"]  # it has learned little, and the text repeats itself
    tuned = neighbors.evaluate(loaded, source, "test", str(tmp_path / "store"), **options, tune="validation", buckets=2)
    assert len(tuned["weights"]) == 2 and tuned["nll"] != found["nll"]

    with pytest.raises(UserError, match=r"the index is of what is measured \(train\): each token would find itself"):
        neighbors.evaluate(loaded, source, "train", str(tmp_path / "store"), **options)
    with pytest.raises(UserError, match="--knn_tune=test: weights that are fitted on what is measured"):
        neighbors.evaluate(loaded, source, "test", str(tmp_path / "store"), **options, tune="test")
    with pytest.raises(UserError, match=f"--knn_k=99999: the index .* has {len(keys):,} entries"):
        neighbors.evaluate(loaded, source, "test", str(tmp_path / "store"), **options | {"k": 99999})
    moved = dataclasses.replace(loaded, params=jax.tree.map(lambda a: a + 1, loaded.params))
    with pytest.raises(UserError, match="its states are of other parameters than"):
        neighbors.evaluate(moved, source, "test", str(tmp_path / "store"), **options)
