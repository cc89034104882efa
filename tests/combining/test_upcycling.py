"""A mixture of experts of a dense model begins with its logits, and goes on as a run."""

import jax
import numpy as np
import pytest

from ptft_jax.combining.combine import combine
from ptft_jax.errors import UserError
from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading
from ptft_jax.runs.workdir import Workdir
from tests.helpers import quiet_train, tiny_config

pytestmark = pytest.mark.heavy

GATED = dict(
    model__gated=True, model__activation="silu", model__biases=(), training__steps=0, optimizer__warmup_steps=0
)


@pytest.fixture(scope="module")
def dense(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    config = tiny_config(text_file, **GATED)
    config.eval.update(test=False, tokens=64)
    quiet_train(config, folder / "gated")
    quiet_train(tiny_config(text_file, training__steps=0, optimizer__warmup_steps=0), folder / "plain")
    return folder


def logits(run, tokens):
    loaded = loading.load(str(run))
    return np.asarray(jax.jit(loaded.model)(loaded.params, tokens)), flatten(loaded.params)


def test_it_begins_as_the_dense_model(text_file, dense, tmp_path):
    """Each expert is the MLP, and each token has the dense model's logits whichever it is sent to; training moves experts apart."""
    done = combine("upcycle", [str(dense / "gated")], tmp_path / "experts", experts=4, seed=3)
    tokens = np.random.default_rng(0).integers(0, 64, (4, 16)).astype(np.int32)
    expected, one = logits(dense / "gated", tokens)
    found, several = logits(tmp_path / "experts", tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for name in ("gate", "up", "down"):
        kernels = several[f"blocks/mlp/experts/{name}/kernel"]
        assert kernels.shape[1] == 4
        for expert in range(4):
            np.testing.assert_array_equal(kernels[:, expert], one[f"blocks/mlp/{name}/kernel"])
    router = np.asarray(several["blocks/mlp/router/kernel"])
    assert router.std() > 0 and done["experts"] == 4 and done["seed"] == 3
    assert Workdir(tmp_path / "experts").read_lineage()[0]["workdir"] == str((dense / "gated").absolute())
    config = tiny_config(text_file, training__steps=2, optimizer__warmup_steps=0, init__from_=str(tmp_path / "experts"))
    config.eval.update(test=False, tokens=64)
    config.tune.train = "all"
    quiet_train(config, tmp_path / "child")
    _, after = logits(tmp_path / "child", tokens)
    up = np.asarray(after["blocks/mlp/experts/up/kernel"])
    assert not np.array_equal(up[:, 0], up[:, 1]), "experts that get other tokens become others"


@pytest.mark.parametrize(
    "run, options, said",
    [
        ("gated", {}, "--experts is missing: how many experts --method=upcycle makes"),
        ("gated", {"experts": 0}, "--experts = 0"),
        ("gated", {"experts": 2, "experts_per_token": 3}, "--experts_per_token=3: expected at most --experts=2"),
        ("plain", {"experts": 2}, "plain@0 has MLPs that are not gated"),
        ("gated", {"experts": 2, "rank": 2}, "--rank is set, but --method=upcycle does not read it"),
    ],
)
def test_bad_input(dense, tmp_path, run, options, said):
    with pytest.raises(UserError, match=said):
        combine("upcycle", [str(dense / run)], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
