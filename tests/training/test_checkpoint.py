"""Checkpoints: exact, atomic, verified, ranked."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ptft_jax.errors import UserError
from ptft_jax.runs import state as states
from ptft_jax.runs.checkpoint import named_as
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import checkpoint

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale(-0.1))


def started():
    params = {"a": {"kernel": jax.random.normal(jax.random.key(0), (64, 32)), "bias": jnp.ones(3)}}
    return states.create(params, {}, OPTIMIZER, jax.random.key(5), ema=True)


@jax.jit
def moved(state):
    grads = jax.tree.map(jnp.cos, state.trainable)
    updates, optimizer = OPTIMIZER.update(grads, state.optimizer, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    return dataclasses.replace(state, step=state.step + 1, trainable=trainable, optimizer=optimizer)


def saved(folder, values, keep_best=1):
    """Saves a state for each value, then trains on while the save goes on; returns the states."""
    checkpoints = checkpoint.Checkpoints(folder, keep_latest=2, keep_best=keep_best, mode="min")
    state, kept = started(), []
    for value in values:
        checkpoints.save(state, state.trainable, {"selected": value, "select_mode": "min"}, value)
        kept.append(jax.device_get(state.trainable))
        state = moved(state)
    checkpoints.close()
    return kept


def resumed(folder):
    state = started()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    checkpoints = checkpoint.Checkpoints(folder, keep_latest=2, keep_best=1, mode="min")
    return checkpoints.resume(like, like.trainable)


def test_latest_and_best_are_kept(tmp_path):
    saved(tmp_path, [3.0, 1.0, 2.0, 2.5, None])
    assert Workdir(tmp_path).steps() == [1, 3, 4]
    assert checkpoint.best_step(tmp_path) == 1


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
    kept = saved(tmp_path, [1.0, 2.0, 3.0])
    params, training, others, meta, messages = resumed(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, kept[-1])
    assert int(training["optimizer"][1].count) == 2 == meta["step"] and not messages
    assert jnp.array_equal(jax.random.key_data(training["rng"]), jax.random.key_data(jax.random.key(5)))
    jax.tree.map(np.testing.assert_array_equal, others["ema"], kept[0])


def test_a_flipped_byte_is_found_and_the_step_before_is_used(tmp_path):
    kept = saved(tmp_path, [1.0, 2.0, 3.0])
    _flip(tmp_path / "checkpoints/2/params")
    params, _, _, meta, messages = resumed(tmp_path)
    assert meta["step"] == 1 and "checkpoint 2 is damaged" in messages[0] and "a/kernel" in messages[0]
    jax.tree.map(np.testing.assert_array_equal, params, kept[1])
    assert (tmp_path / "checkpoints-damaged/2").is_dir(), "nothing is deleted"


def _flip(folder: pathlib.Path):
    largest = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


@pytest.mark.parametrize("lost", ["params", "training", "meta"])
def test_a_lost_part_is_found(tmp_path, lost):
    saved(tmp_path, [1.0, 2.0])
    for file in (tmp_path / f"checkpoints/1/{lost}").rglob("*"):
        if file.is_file():
            file.unlink()
    assert resumed(tmp_path)[3]["step"] == 0


def test_nothing_restorable_is_an_error_that_deletes_nothing(tmp_path):
    saved(tmp_path, [1.0])
    _flip(tmp_path / "checkpoints/0/params")
    with pytest.raises(UserError, match="no checkpoint can be restored"):
        resumed(tmp_path)
    assert (tmp_path / "checkpoints-damaged/0").is_dir()


def test_another_shape_lists_every_difference(tmp_path):
    saved(tmp_path, [1.0])
    meta = checkpoint.read_meta(tmp_path, 0)
    like = {
        "a": {"kernel": jax.ShapeDtypeStruct((64, 16), jnp.float32), "scale": jax.ShapeDtypeStruct((3,), jnp.float32)}
    }
    with pytest.raises(UserError) as error:
        checkpoint.read(tmp_path, 0, "params", like, meta)
    for words in ("missing a/scale (3,)", "extra a/bias (3,)", "a/kernel: shape (64, 32), expected (64, 16)"):
        assert words in str(error.value)


def test_a_half_written_step_does_not_count(tmp_path):
    saved(tmp_path, [1.0])
    (tmp_path / "checkpoints/7.orbax-checkpoint-tmp").mkdir()
    assert Workdir(tmp_path).steps() == [0]
    assert resumed(tmp_path)[3]["step"] == 0


@pytest.mark.parametrize(
    "reference, words",
    [
        ("{}/nothing", "no such folder"),
        ("{}", "is not the workdir of a run"),
        ("{}/run@9", "STEP one of 0, 1"),
        ("{}/run@bst", "expected @best, @last or @STEP"),
        ("{}/rum", "did you mean 'run'"),
    ],
)
def test_references_that_lead_nowhere(tmp_path, reference, words):
    saved(tmp_path / "run", [1.0, 2.0])
    (tmp_path / "run/config.json").write_text("{}")
    with pytest.raises(UserError, match=words):
        checkpoint.resolve(reference.format(tmp_path))
    assert checkpoint.resolve(f"{tmp_path}/run@best")[1] == 0
    assert checkpoint.resolve(f"{tmp_path}/run@last")[1] == checkpoint.resolve(f"{tmp_path}/run@latest")[1] == 1
    assert checkpoint.resolve(f"{tmp_path}/run")[1] == 0
    (tmp_path / "run").rename(tmp_path / "run@home")
    assert checkpoint.resolve(f"{tmp_path}/run@home")[1] == 0
    assert checkpoint.resolve(f"{tmp_path}/run@home@last")[1] == 1
    assert checkpoint.resolve(f"{tmp_path}/run@home@0")[1] == 0


@pytest.mark.parametrize(
    "values, mode, bare, chosen",
    [  # by hand: the value of each step, and which step a name alone is
        ([3.0, 1.0, 2.0], "min", "best", (1, "best")),
        ([3.0, 1.0, 2.0], "max", "best", (0, "best")),
        ([1.0, 1.0, 1.0], "min", "best", (0, "best")),
        ([None, None, 2.0], "min", "best", (2, "best")),
        ([None, None, None], "min", "best", (2, "last")),  # nothing was selected
        ([3.0, 1.0, 2.0], "min", "last", (2, "last")),
    ],
)
def test_what_a_runs_name_alone_is(tmp_path, values, mode, bare, chosen):
    with checkpoint.Checkpoints(tmp_path, keep_latest=3, keep_best=1, mode=mode) as checkpoints:
        for step, value in enumerate(values):
            state = dataclasses.replace(started(), step=jnp.asarray(step, jnp.int32))
            checkpoints.save(state, state.trainable, {}, value)
    (tmp_path / "config.json").write_text("{}")
    for asked, expected in (("", chosen), ("@last", (2, "last")), ("@1", (1, "step"))):
        reference = f"{tmp_path}{asked}"
        assert (checkpoint.resolve(reference, bare=bare)[1], named_as(reference, bare)) == expected
