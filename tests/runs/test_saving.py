"""Checkpoints on disk: what counts as saved, what is damage and what is not, and that nothing is ever lost by going on."""

import dataclasses
import errno
import json
import pathlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from ptft_jax.errors import UserError
from ptft_jax.runs import checkpoint, pins, saving
from ptft_jax.runs import state as states
from ptft_jax.runs.saving import Checkpoints
from ptft_jax.runs.workdir import Workdir

ADAM = optax.scale_by_adam()


def started(optimizer=ADAM, dtype=jnp.float32):
    params = {"a": {"kernel": jnp.arange(24, dtype=dtype).reshape(4, 6), "bias": jnp.ones(3, dtype)}}
    return states.create(params, {}, optimizer, jax.random.key(5), ema=False)


def at(step):
    """A state of its own for every step."""
    state = started()
    moved = jax.tree.map(lambda a: a + step, state.trainable)
    return dataclasses.replace(state, step=jnp.asarray(step, jnp.int32), trainable=moved)


def opened(folder, latest=1, best=1, mode="min"):
    return Checkpoints(folder, keep_latest=latest, keep_best=best, mode=mode)


def save(checkpoints, step, value=None, best=None):
    state = at(step)
    best = [None, -1, 0] if best is None else [value, best, 0]
    checkpoints.save(state, state.trainable, {"best": best, "metrics": {} if value is None else {"x": value}}, value)


def resumed(checkpoints, state=None):
    state = state or started()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    return checkpoints.resume(like, like.trainable)


def listing(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("mode, values", [("min", [3.0, 1.0, 1.0, 2.0]), ("max", [0.5, 1.0, 1.0, 1.0])])
def test_of_equal_values_the_recorded_best_stays(tmp_path, mode, values):
    with opened(tmp_path, mode=mode) as checkpoints:
        for step, value in enumerate(values):
            save(checkpoints, step, value, best=0 if step == 0 else 1)
    assert Workdir(tmp_path).steps() == [1, 3]
    assert checkpoint.best_step(tmp_path) == 1


def test_the_rule_holds_over_any_number_of_launches(tmp_path):
    for launch in range(6):
        with opened(tmp_path) as checkpoints:
            save(checkpoints, 2 * launch, 10.0 - launch, best=2 * launch)
            save(checkpoints, 2 * launch + 1)
        assert Workdir(tmp_path).steps() == [2 * launch, 2 * launch + 1]


def test_what_an_earlier_launch_left_is_removed_when_the_next_one_starts(tmp_path):
    with opened(tmp_path, latest=5) as checkpoints:
        for step in range(5):
            save(checkpoints, step)
    (tmp_path / "checkpoints/9.orbax-checkpoint-tmp/params").mkdir(parents=True)
    (tmp_path / "checkpoints/3.removing/params").mkdir(parents=True)
    opened(tmp_path).close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["4"]


@pytest.mark.parametrize("name", ["lr[0.1]", "a*b?", "[!x]", "{a,b}", "ü b", "@best", "x#1"])
def test_any_folder_name_will_do(tmp_path, name):
    folder = tmp_path / name / "run"
    with opened(folder) as checkpoints:
        save(checkpoints, 3)
    found = resumed(opened(folder))
    np.testing.assert_array_equal(found.params["a"]["kernel"], np.arange(24).reshape(4, 6) + 3)
    assert not (folder / "checkpoints-damaged").exists()


def test_a_save_counts_only_when_what_was_written_is_there(tmp_path, monkeypatch):
    with opened(tmp_path, latest=3) as checkpoints:
        save(checkpoints, 0)
    merge = "orbax.checkpoint._src.serialization.ocdbt_utils.merge_ocdbt_per_process_files"
    with monkeypatch.context() as patch:

        async def nothing(*_, **__):
            pass

        patch.setattr(merge, nothing)
        checkpoints = opened(tmp_path, latest=3)
        save(checkpoints, 1)
        with pytest.raises(UserError, match="saving failed"):
            checkpoints.wait()
    assert Workdir(tmp_path).steps() == [0] and resumed(opened(tmp_path)).meta["step"] == 0


def _files(folder):
    return [p for p in sorted(folder.rglob("*")) if p.is_file()]


@pytest.mark.parametrize("how", ["cut", "flipped", "missing", "emptied", "longer"])
@pytest.mark.parametrize("part", ["params", "training"])
def test_any_damaged_file_of_arrays_is_damage_or_does_no_harm(tmp_path, how, part):
    """Whatever file it is: either the state comes back bit for bit, or the step is set aside and the one before is used."""
    with opened(tmp_path, latest=2) as checkpoints:
        save(checkpoints, 0)
        save(checkpoints, 1)
    folder = tmp_path / "checkpoints/1"
    untouched = {p: p.read_bytes() for p in _files(folder)}
    found = 0
    for file in _files(folder / part):
        data = bytearray(untouched[file])
        if not data:
            continue
        data[len(data) // 2] ^= 0x10
        new = {"cut": data[: len(data) // 2], "flipped": data, "emptied": b"", "longer": untouched[file] + b"x"}
        file.unlink() if how == "missing" else file.write_bytes(new[how])
        with opened(tmp_path, latest=2) as checkpoints:
            back = resumed(checkpoints)
        step = back.meta["step"]
        np.testing.assert_array_equal(back.params["a"]["kernel"], np.arange(24).reshape(4, 6) + step)
        if step == 0:
            found += 1
            assert "checkpoint 1 is damaged" in back.messages[0] and str(file.name) in back.messages[0]
            (tmp_path / "checkpoints-damaged/1").rename(folder)
        file.write_bytes(untouched[file])
    assert found or how in ("flipped",)  # a flipped bit may lie where nothing is read
    if part == "params" or how != "flipped":
        assert found


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes"),
        OSError(5, "I/O error"),
    ],
)
def test_other_failures_end_the_launch_and_change_nothing(tmp_path, monkeypatch, error):
    with opened(tmp_path, latest=2) as checkpoints:
        save(checkpoints, 0)
        save(checkpoints, 1)
    before = listing(tmp_path)

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", fails)
    for _ in range(2):  # also at the next launch
        with opened(tmp_path, latest=2) as checkpoints, pytest.raises(UserError) as found:
            resumed(checkpoints)
        assert "checkpoints/1" in str(found.value) and "Nothing was changed" in str(found.value)
        assert listing(tmp_path) == before
    memory = not isinstance(error, OSError)
    assert ("not enough memory" in str(found.value)) == memory


@pytest.mark.parametrize(
    "other, words",
    [
        (started(optax.scale_by_lion()), ["extra optimizer/nu/a/kernel (4, 6)"]),
        (started(optax.chain(optax.trace(0.9))), ["missing optimizer/0/trace/a/kernel (4, 6)"]),
        (started(dtype=jnp.bfloat16), ["a/kernel: dtype float32, expected bfloat16"]),
    ],
)
def test_another_form_is_no_damage(tmp_path, other, words):
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 4)
    before = listing(tmp_path)
    with opened(tmp_path) as checkpoints, pytest.raises(UserError) as error:
        resumed(checkpoints, other)
    for text in (*words, "was saved in another form than this run has", "nothing was changed"):
        assert text in str(error.value)
    assert listing(tmp_path) == before


def test_a_run_that_had_checkpoints_never_begins_again_unasked(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert resumed(checkpoints) is None
        save(checkpoints, 7)
    moved = tmp_path / "elsewhere"
    (tmp_path / "checkpoints/7").rename(moved)
    for _ in range(2):
        with opened(tmp_path) as checkpoints, pytest.raises(UserError, match="the last of step 7") as error:
            resumed(checkpoints)
    assert "progress.json" in str(error.value)
    (tmp_path / "progress.json").unlink()  # as the message says
    with opened(tmp_path) as checkpoints:
        assert resumed(checkpoints) is None


def test_after_all_were_damaged_the_next_launch_does_not_begin_again(tmp_path):
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 7)
    for file in _files(tmp_path / "checkpoints/7/params"):
        file.write_bytes(b"")
    with opened(tmp_path) as checkpoints, pytest.raises(UserError, match="no checkpoint can be restored"):
        resumed(checkpoints)
    with opened(tmp_path) as checkpoints, pytest.raises(UserError, match="damaged ones are in .*checkpoints-damaged"):
        resumed(checkpoints)


def test_what_is_found_out_about_a_step_later_is_added_to_it(tmp_path):
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 5)
        checkpoints.wait()
        before = checkpoint.read_meta(tmp_path, 5)
        save(checkpoints, 5, 0.5, best=5)
        save(checkpoints, 6)
    after = checkpoint.read_meta(tmp_path, 5)
    assert (before["selected"], after["selected"], after["best"]) == (None, 0.5, [0.5, 5, 0])
    assert before["checksums"] == after["checksums"] and Workdir(tmp_path).steps() == [5, 6]
    with opened(tmp_path) as checkpoints:  # nothing new does not take away what is known
        save(checkpoints, 5)
    assert checkpoint.read_meta(tmp_path, 5)["selected"] == 0.5


def test_a_step_that_others_refer_to_stays(tmp_path):
    run, child = tmp_path / "run", tmp_path / "child"
    with opened(run) as checkpoints:
        save(checkpoints, 1)
        checkpoints.wait()
        assert pins.keep(run, 1, child)
        reader = pins.reading(run, 1)
        for step in (2, 3):
            save(checkpoints, step)
            checkpoints.wait()
        assert Workdir(run).steps() == [1, 3]
        pins.release(reader)
        pins.keep(run, 1, child)  # said twice, kept once
        save(checkpoints, 4)
    assert Workdir(run).steps() == [1, 4], "the child stays"
    [file] = (run / "references").iterdir()
    assert json.loads(file.read_text())["relative"] == "../child"
    file.unlink()
    opened(run).close()
    assert Workdir(run).steps() == [4]


@pytest.mark.heavy
def test_reading_while_the_run_goes_on_never_finds_damage(tmp_path):
    """A reader that takes the newest step again and again, while the run saves and removes."""
    stop, problems, loads = threading.Event(), [], 0

    def go_on():
        with opened(tmp_path) as checkpoints:
            step = 1
            while not stop.is_set():
                save(checkpoints, step)
                step += 1

    with opened(tmp_path) as checkpoints:
        save(checkpoints, 0)
    (tmp_path / "config.json").write_text("{}")
    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        while loads < 60:
            _, step = checkpoint.resolve(str(tmp_path))
            pin = pins.reading(tmp_path, step)
            try:
                meta = checkpoint.read_meta(tmp_path, step)
                like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), checkpoint.shapes(tmp_path, step))
                params = checkpoint.read(tmp_path, step, "params", like, meta)
                assert params["a"]["bias"][0] == 1 + step
                loads += 1
            except checkpoint.Gone:
                pass  # removed between the two first lines: taken again
            except (checkpoint.Damaged, UserError) as e:
                problems.append(e)
                break
            finally:
                pins.release(pin)
    finally:
        stop.set()
        writer.join()
    assert not problems and loads == 60


def test_what_was_pending_and_is_done_is_known_without_a_measurement(tmp_path):
    with opened(tmp_path) as checkpoints:
        for pending in (True, False):
            state = at(1)
            checkpoints.save(state, state.trainable, {"best": [None, -1, 0], "metrics": {}, "pending": pending}, None)
            checkpoints.wait()
    assert checkpoint.read_meta(tmp_path, 1)["pending"] is False


def test_checkpoints_of_earlier_versions_have_no_record_of_files(tmp_path):
    with opened(tmp_path, latest=2) as checkpoints:
        save(checkpoints, 0)
        save(checkpoints, 1)
    for step in (0, 1):
        Workdir(tmp_path).checkpoint(step).manifest.unlink()
    assert resumed(opened(tmp_path, latest=2)).meta["step"] == 1
    for file in _files(tmp_path / "checkpoints/1/params"):
        if file.parent.name == "d":
            file.unlink()
    assert resumed(opened(tmp_path, latest=2)).meta["step"] == 0
    assert (pathlib.Path(tmp_path) / "checkpoints-damaged/1").is_dir()


def test_a_changed_digit_in_what_is_known_of_a_step_is_damage(tmp_path):
    """It is JSON as before, and says that the state is another one."""
    with opened(tmp_path, latest=2) as checkpoints:
        save(checkpoints, 10)
        save(checkpoints, 11, 0.5, best=11)
    file = tmp_path / "checkpoints/11/meta/metadata"
    whole = file.read_text()
    for old, new in (
        ('"step": 11', '"step": 15'),
        ('"selected": 0.5', '"selected": 0.1'),
        ("[0.5, 11, 0]", "[0.5, 10, 0]"),
    ):
        assert whole.count(old) == 1
        file.write_text(whole.replace(old, new))
        with opened(tmp_path, latest=2) as checkpoints:
            back = resumed(checkpoints)
        assert back.meta["step"] == 10 and "checkpoint 11 is damaged" in back.messages[0]
        (tmp_path / "checkpoints-damaged/11").rename(tmp_path / "checkpoints/11")
    file.write_text(whole)
    assert resumed(opened(tmp_path, latest=2)).meta["step"] == 11


def test_the_best_is_found_where_the_newest_cannot_be_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with opened(tmp_path, latest=9, mode="max") as checkpoints:
        for step, value in enumerate([0.1, 0.9, 0.5, 0.7]):
            save(checkpoints, step, value, best=min(step, 1))
    (tmp_path / "checkpoints/3/meta/metadata").write_text("{")
    assert checkpoint.resolve(f"{tmp_path}@best")[1] == 1


def test_nothing_is_removed_for_a_newest_step_that_is_damaged(tmp_path):
    """A launch that is to keep fewer, be it asked to or because the one before was killed while it removed."""
    with opened(tmp_path, latest=3) as checkpoints:
        for step in range(3):
            save(checkpoints, step)
    for file in _files(tmp_path / "checkpoints/2/params"):
        file.write_bytes(b"")
    with opened(tmp_path) as checkpoints:
        assert resumed(checkpoints).meta["step"] == 1
        save(checkpoints, 5)
    assert Workdir(tmp_path).steps() == [5]


def test_what_is_to_go_makes_the_space_for_what_is_written(tmp_path, monkeypatch):
    """A disk on which nothing can be written as long as three checkpoints are there."""
    with opened(tmp_path, latest=3) as checkpoints:
        for step in range(3):
            save(checkpoints, step)
    write = saving.cache.write_atomic

    def full(path, fill):
        if len(Workdir(tmp_path).steps()) > 2:
            raise UserError(f"{path}: no space")
        write(path, fill)

    monkeypatch.setattr(saving.cache, "write_atomic", full)
    opened(tmp_path, latest=2).close()
    assert Workdir(tmp_path).steps() == [1, 2]


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_a_damaged_progress_is_named(tmp_path, text):
    (tmp_path / "progress.json").write_text(text)
    with opened(tmp_path) as checkpoints, pytest.raises(UserError, match=r"progress\.json: is damaged"):
        resumed(checkpoints)


def test_only_what_is_in_the_cache_is_told_where_another_cache_may_be(tmp_path, monkeypatch):
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "cache"))

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    for folder, hint in (("cache", True), ("run", False)):
        with pytest.raises(UserError, match="cannot be written: No space left on device") as error:
            saving.cache.write_atomic(tmp_path / folder / "x.json", full)
        assert ("PTFT_CACHE" in str(error.value)) == hint
