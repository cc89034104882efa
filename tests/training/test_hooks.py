"""Hooks of users: called at their steps, once, also where a run continues; and a run is the same with them."""

import json
import time

import numpy as np
import pytest

from ptft_jax import every
from ptft_jax.errors import UserError
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.runs import checkpoint
from ptft_jax.runs.files import read_rows
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training.hooks import Halted, Moment, checked
from ptft_jax.training.termination import Terminated
from tests.helpers import TIMED, quiet_train, stop_at, tiny_config


def config(text_file, **changes):
    return tiny_config(text_file, training__steps=6, log__every=2, **({"eval__every": 4} | changes))


def sums(workdir):
    return checkpoint.read_meta(workdir, 6)["checksums"]


@pytest.fixture(scope="module")
def plain(text_file, tmp_path_factory):
    """A run without hooks."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    quiet_train(config(text_file), folder)
    return folder


def rows(workdir, *kinds):
    found = [row for row in read_rows(workdir / "metrics.jsonl") if row["kind"] in kinds]
    return [{k: v for k, v in row.items() if k not in TIMED} for row in found]


def test_two_lines_add_one_and_the_run_is_the_same(text_file, tmp_path, plain):
    seen, asked = [], []
    hooks = [(every(2), seen.append), (lambda at: asked.append(at.step), print)]
    quiet_train(config(text_file), tmp_path / "run", hooks=hooks)
    assert [at.step for at in seen] == [2, 4, 6] and asked == [0, 1, 2, 3, 4, 5, 6], "each is asked once a step"
    assert sums(tmp_path / "run") == sums(plain), "bit for bit"
    assert rows(tmp_path / "run", "train", "eval", "test") == rows(plain, "train", "eval", "test")


@pytest.mark.heavy
def test_what_a_hook_is_given(text_file, tmp_path, plain):
    seen = []

    def look(at):
        leaves = [np.asarray(leaf) for leaf in _leaves(at.params)]
        assert int(at.state.step) == at.step and all(np.isfinite(leaf).all() for leaf in leaves)
        at.state.trainable.clear()  # a copy of the dicts: the run keeps its own
        seen.append((at.step, at.first, at.last, at.metrics.get("loss"), at.evaluated.get("validation/nll")))
        at.write({"size": sum(leaf.size for leaf in leaves), "half": np.float32(0.5)})

    quiet_train(
        config(text_file), tmp_path / "run", hooks=[(lambda at: at.first or at.step in (3, 4) or at.last, look)]
    )
    assert [(step, first, last) for step, first, last, *_ in seen] == [
        (0, True, False), (3, False, False), (4, False, False), (6, False, True),
    ]  # fmt: skip
    trained = {row["step"]: row["loss"] for row in rows(plain, "train")}
    evaluated = {row["step"]: row["validation/nll"] for row in rows(plain, "eval")}
    assert seen[0][3] is None and seen[2][3] == trained[4] and seen[3][3] == trained[6]
    assert seen[1][3] > 0, "of a step that is not logged"
    assert [nll for *_, nll in seen] == [evaluated[0], None, evaluated[4], evaluated[6]]
    written = rows(tmp_path / "run", "hook")
    size = json.loads((plain / "summary.json").read_text())["parameters"]["trainable"]
    assert written == [{"step": s, "kind": "hook", "size": size, "half": 0.5} for s in (0, 3, 4, 6)]
    assert sums(tmp_path / "run") == sums(plain)


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


@pytest.mark.heavy
def test_a_step_that_was_done_is_not_done_again(text_file, tmp_path, plain):
    steps = []
    hooks = [(lambda at: True, lambda at: (steps.append(at.step), at.write({"x": at.step})))]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(3, patch)
        stopped = quiet_train(config(text_file), tmp_path / "run", hooks=hooks)
    assert stopped["step"] == 3 and steps == [0, 1, 2, 3]
    before = checkpoint.read_meta(tmp_path / "run", 3)
    summary = quiet_train(config(text_file), tmp_path / "run", hooks=hooks)
    assert steps == [0, 1, 2, 3, 4, 5, 6]
    assert [row["x"] for row in rows(tmp_path / "run", "hook")] == steps, "a row each"
    quiet_train(config(text_file), tmp_path / "run", hooks=hooks)
    assert len(steps) == 7, "a finished run is not run again"
    assert sums(tmp_path / "run") == sums(plain)
    _check_seconds(before, summary)
    times = [row["time"] for row in read_rows(tmp_path / "run/metrics.jsonl")]
    assert times == sorted(times) and abs(times[-1] - time.time()) < 600


@pytest.mark.heavy
def test_what_a_step_measured_is_there_where_its_hooks_were_left_for_later(text_file, tmp_path, monkeypatch):
    """SIGTERM in the evaluation of step 2: the next launch evaluates, and gives the hook of that step what the step measured."""
    losses = {}
    hooks = [(every(2), lambda at: losses.update({at.step: at.metrics["loss"]}))]
    whole = quiet_train(config(text_file, eval__every=2), tmp_path / "whole", hooks=hooks)
    expected, count = dict(losses), [0]
    losses.clear()
    ran = EvalSet.run

    def leaves(self, *args):
        count[0] += 1
        if count[0] == 2:  # after that of step 0
            raise Terminated
        return ran(self, *args)

    monkeypatch.setattr(EvalSet, "run", leaves)
    stopped = quiet_train(config(text_file, eval__every=2), tmp_path / "run", hooks=hooks)
    assert stopped["reason"] == "sigterm" and stopped["step"] == 2 and not losses
    assert checkpoint.read_meta(tmp_path / "run", 2)["pending"]
    quiet_train(config(text_file, eval__every=2), tmp_path / "run", hooks=hooks)
    assert losses == expected and whole["finished"] and len(expected) == 3


@pytest.mark.parametrize("name", ["step", "kind", "time"])
def test_a_row_keeps_its_own_names(name):
    with pytest.raises(UserError, match=f"a hook writes {name!r}: every row has that of its own"):
        Moment(1, first=False, last=False, writer=object()).write({name: 3})


def _check_seconds(before, summary):
    """Of a run of two launches: the parts add up, and go on from where they were."""
    seconds = summary["seconds_by"]
    assert before["seconds"] == pytest.approx(sum(before["seconds_by"].values()))
    assert sum(seconds.values()) == pytest.approx(summary["seconds"]) and min(seconds.values()) >= 0
    assert all(seconds[part] >= before["seconds_by"][part] for part in seconds)
    assert all(
        seconds[part] > 0 for part in ("data", "start", "compile", "steps", "input_wait", "evaluation", "saving")
    )
    assert seconds["import"] == 0.0 and seconds["samples"] < 0.1, "there are no prompts"


@pytest.mark.heavy
def test_what_a_hook_raises_ends_the_run_and_it_continues_from_the_last_save(text_file, tmp_path, plain):
    steps = []

    def fails(at):
        steps.append(at.step)
        at.write({"x": at.step})
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as error:
        quiet_train(config(text_file), tmp_path / "run", hooks=[(every(9), print), (every(4), fails)])
    [note] = error.value.__notes__
    assert note.startswith("in hooks[1] (") and "fails" in note and note.endswith("after step 4")
    assert Workdir(tmp_path / "run").steps() == [0], "step 4 is saved after its hooks"
    assert not (tmp_path / "run/summary.json").exists()
    quiet_train(config(text_file), tmp_path / "run", hooks=[(every(4), lambda at: steps.append(at.step))])
    assert steps == [4, 4] and sums(tmp_path / "run") == sums(plain)
    assert rows(tmp_path / "run", "hook") == [] and rows(tmp_path / "run", "eval") == rows(plain, "eval")


@pytest.mark.parametrize(
    "hooks, words",
    [
        ([print], r"hooks\[0\] = <built-in function print>: expected a pair of functions \(when, do\)"),
        ([(every(2), print), (100, print)], r"hooks\[1\] = \(100, "),
        (print, "hooks = <built-in function print>: expected a list of pairs"),
    ],
)
def test_what_is_no_hook_is_refused_before_anything_is_written(text_file, tmp_path, hooks, words):
    with pytest.raises(UserError, match=words):
        quiet_train(config(text_file), tmp_path / "run", hooks=hooks)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_halted_goes_on_from_that_step(text_file, tmp_path, plain):
    """Between two saves, at an evaluation; what was left to do there is done, and the run is the same bit for bit."""
    folder, seen = tmp_path / "run", []

    def halt(at):
        raise Halted(f"step {at.step}: {at.metrics['loss']:.2f} is more than a bound")

    for _ in range(2):  # the same command stops at the same place
        with pytest.raises(UserError, match="step 4: .* is more than a bound"):
            quiet_train(config(text_file), folder, hooks=[(lambda at: at.step == 4, halt)])
        assert Workdir(folder).steps()[-1] == 4 and checkpoint.read_meta(folder, 4)["pending"]
    quiet_train(config(text_file), folder, hooks=[(lambda at: at.step == 4, lambda at: seen.append(at.step))])
    assert seen == [4] and sums(folder) == sums(plain)
    assert rows(folder, "train", "eval", "test") == rows(plain, "train", "eval", "test")


def test_every():
    asked = [Moment(step, first=step == 4, last=False) for step in range(4, 13)]
    assert [at.step for at in asked if every(4)(at)] == [8, 12], "the run began at step 4, which is none of its own"
    for wrong in (0, -1, 2.5, "3"):
        with pytest.raises(UserError, match=r"every\(.*\): expected a number of steps, 1 or more"):
            every(wrong)
    assert checked([]) == []


@pytest.mark.heavy
def test_a_checkpoint_of_an_earlier_version_has_its_seconds_in_one(text_file, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(3, patch)
        quiet_train(config(text_file), tmp_path / "run")
    read_meta = checkpoint.read_meta

    def before(workdir, step):
        meta = read_meta(workdir, step)
        return {k: v for k, v in meta.items() if k != "seconds_by"} | {"seconds": 1000.0}

    monkeypatch.setattr("ptft_jax.runs.saving.read_meta", before)
    summary = quiet_train(config(text_file), tmp_path / "run")
    assert summary["seconds_by"]["other"] > 1000 and summary["seconds"] > 1000
