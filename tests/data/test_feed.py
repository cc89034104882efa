"""Feeds: data by step number is read ahead and in any order; rows may follow from the state, and resuming stays exact."""

import itertools

import jax
import numpy as np
import pytest

from ptft_jax.data.feed import Indexed
from ptft_jax.runs import checkpoint
from ptft_jax.training import assembly
from tests.helpers import quiet_train, stop_at, tiny_config


def test_data_by_step_number_is_opened_once_for_steps_that_follow_one_another():
    opened = []

    def batches(step):
        opened.append(step)
        return ({"tokens": n} for n in itertools.count(step))

    feed = Indexed(batches)
    steps = [3, 4, 5, 9, 10, 2, 2, 3, 11]
    assert [feed.next(step, None)["tokens"] for step in steps] == steps
    assert opened == [3, 9, 2, 2, 11]


class OfTheState:
    """Training rows that follow from the seed, the step and the parameters, as samples of a policy do."""

    def __init__(self, feed, program):
        self._feed, self._program = feed, program

    def next(self, step, state):
        rows = self._feed.next(step, state)
        whole = self._program.whole(state)
        total = float(sum(abs(np.asarray(leaf)).sum() for leaf in jax.tree.leaves(whole.trainable)))
        shift = int(np.frombuffer(np.float32(total).tobytes(), np.uint8).sum()) + step
        return {**rows, "inputs": (rows["inputs"] + shift) % 256}


@pytest.mark.slow
@pytest.mark.heavy
def test_rows_that_follow_from_the_state_and_a_run_that_continues(text_file, tmp_path, monkeypatch):
    init = assembly.Run.__init__

    def fed(self, *args, **options):
        init(self, *args, **options)
        self.feed = OfTheState(self.feed, self.trainer.program)

    plain = quiet_train(tiny_config(text_file, training__steps=4), tmp_path / "plain")
    monkeypatch.setattr(assembly.Run, "__init__", fed)
    config = tiny_config(text_file, training__steps=4)
    whole = quiet_train(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        quiet_train(config, tmp_path / "part")
    part = quiet_train(config, tmp_path / "part")
    sums = [checkpoint.read_meta(tmp_path / name, 4)["checksums"] for name in ("whole", "part")]
    assert sums[0] == sums[1] and whole["after"] == part["after"] != plain["after"]
