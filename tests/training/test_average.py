"""The average of parameters: a mean of those that a run went through, with nothing left of its start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.model.transformer import Transformer
from ptft_jax.optim import optimizers
from ptft_jax.params.partition import Partition
from ptft_jax.runs import loading
from ptft_jax.runs import state as states
from ptft_jax.runs.files import read_rows
from ptft_jax.training.step import Step, newest
from tests.helpers import EVERYTHING, OBJECTIVE, SPEC, optimizer_config, quiet_train, random_batch, tiny_config


@pytest.mark.parametrize("decay", [1e-6, 0.5, 0.999, 0.99999])
def test_the_share_of_the_newest(decay):
    counts = np.array([1, 2, 3, 10, 1000, 10**7])
    shares = jax.vmap(lambda n: newest(decay, n))(jnp.asarray(counts, jnp.int32))
    np.testing.assert_allclose(shares, (1 - decay) / (1 - decay ** np.float64(counts)), rtol=1e-6)
    assert shares[0] == pytest.approx(1.0, abs=1e-6) and np.all(shares <= 1)


@pytest.mark.parametrize("decay", [0.5, pytest.param(0.999, marks=pytest.mark.slow)])
def test_a_step_keeps_the_weighted_mean_of_all_parameters_so_far(decay):
    model = Transformer(dataclasses.replace(SPEC, layers=1))
    partition = Partition.of(model.shapes(), EVERYTHING)
    chain = optimizers.build(optimizer_config(), lambda _: 0.05, partition)
    step = Step(model, OBJECTIVE, partition, chain, ema_decay=decay)
    make = lambda k: states.create(*partition.split(model.init(k)), chain, k, ema=True)  # noqa: E731
    state, train = jax.jit(make)(jax.random.key(0)), jax.jit(step.train)
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.trainable)
    seen = []
    for number in range(6):
        state, _ = train(state, random_batch(number))
        seen.append(jax.device_get(state.trainable))
        weights = decay ** np.arange(len(seen))[::-1].astype(np.float64)
        expected = jax.tree.map(lambda *leaves, w=weights: np.tensordot(w / w.sum(), np.stack(leaves), 1), *seen)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), state.ema, expected)


@pytest.mark.heavy
def test_both_are_measured_and_both_can_be_loaded(text_file, tmp_path):
    """With a decay whose horizon is a hundred times the run."""
    config = tiny_config(text_file, training__ema_decay=0.999, eval__every=0, data__packing="concat")
    summary = quiet_train(config, tmp_path / "run")
    last = [row for row in read_rows(tmp_path / "run/metrics.jsonl") if row["kind"] == "eval"][-1]
    for weights, prefix in (("ema", ""), ("auto", ""), ("raw", "raw_")):
        loaded = loading.load(f"{tmp_path}/run@12", weights=weights)
        found = evaluate(loaded, "", "validation", tokens=512, batch_size=8)
        for name in ("nll", "accuracy", "bits_per_byte"):
            assert last[f"validation/{prefix}{name}"] == pytest.approx(found[name], abs=1e-5)
    first = next(row for row in read_rows(tmp_path / "run/metrics.jsonl") if row["kind"] == "eval")
    assert first["validation/nll"] == first["validation/raw_nll"]
    # The mean of all parameters is not where the run began: most of what the last ones learned is in it.
    gained = first["validation/nll"] - last["validation/nll"]
    assert gained > 0.4 * (first["validation/nll"] - last["validation/raw_nll"]) > 0.1
    assert (
        summary["after"].keys() >= {"validation/nll", "validation/raw_nll"} and "test/raw_nll" not in summary["after"]
    )


def test_without_an_average_there_is_one_measure(text_file, tmp_path):
    config = tiny_config(text_file, training__steps=0, optimizer__warmup_steps=0)
    summary = quiet_train(config, tmp_path / "run")
    assert not any("raw" in name for name in summary["after"])
