"""kill -9 at any moment, then the same command: the same bits as a run that was never disturbed."""

import itertools
import os
import random
import signal
import sys
import threading

import pytest

from ptft_jax.data import batches
from ptft_jax.runs.files import read_rows
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import checkpoint
from tests.helpers import TIMED, happen
from tests.processes import ended, run, start

STEPS = 400
CONFIG = """
from configs.pretrain import text
from tests.e2e import test_kill

def get_config(event=""):
    test_kill.begin(event)
    return text.get_config({text!r})
"""


def begin(event):
    """Lets the event happen to this process: one of `helpers.happen`, or as SEED,STEPS a kill at a random moment before so many
    steps are over, so that a run that is longer cannot end first."""
    if "@" in event:
        happen(event)
    elif event:
        seed, within = map(int, event.split(","))
        _kill(random.Random(seed), within)


def _kill(chance, within):
    # Most kills land while it trains and saves, some while it starts.
    if chance.random() < 0.1:
        _killer(chance.uniform(0, 5)).start()
    killer, at = _killer(chance.uniform(0, 0.1)), chance.randrange(1, within)
    read_batch, steps = batches.Batches.__getitem__, itertools.count()

    def patched(self, step):
        read = next(steps)
        if read == at:
            killer.start()
        if read == within:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_batch(self, step)

    batches.Batches.__getitem__ = patched


def _killer(seconds):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    return timer


def _train(text_file, workdir, event="", **changes):
    file = workdir.parent / "config.py"
    file.write_text(CONFIG.format(text=str(text_file)))
    settings = {
        "model.width": 32, "model.layers": 2, "model.dropout": 0.1, "training.steps": STEPS, "optimizer.warmup_steps": 5,
        "eval.every": 20, "eval.tokens": 300, "checkpoint.every": 7, "log.every": 1, "training.ema_decay": 0.9,
        "select.patience": 0, "data.length": 32, "log.tensorboard": False, **changes,
    }  # fmt: skip
    words = [f"--config.{name}={value}" for name, value in settings.items()]
    config = f"--config={file}{':' + event if event else ''}"
    return run(sys.executable, "-m", "ptft_jax.train", config, f"--workdir={workdir}", *words, XLA_FLAGS="")


def _check(text_file, tmp_path, kills, seed):
    reference = _train(text_file, tmp_path / "whole")
    assert reference.returncode == 0, reference.stderr
    for number in range(kills):
        event = f"{seed * 1000 + number},{STEPS // (kills + 1)}"
        killed = _train(text_file, tmp_path / "killed", event)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = _train(text_file, tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    metas = [checkpoint.read_meta(tmp_path / name, STEPS) for name in ("whole", "killed")]
    assert metas[0]["checksums"] == metas[1]["checksums"]
    assert metas[0]["best"] == metas[1]["best"]
    curves = []
    for name in ("whole", "killed"):
        rows = read_rows(tmp_path / name / "metrics.jsonl")
        curves.append([{k: v for k, v in row.items() if k not in TIMED} for row in rows])
    assert curves[0] == curves[1] and len(curves[0]) > STEPS
    assert not (tmp_path / "killed/checkpoints-damaged").exists(), "a kill must never leave a damaged checkpoint"


@pytest.mark.heavy
def test_sigterm_exits_with_143_and_the_same_command_finishes(text_file, tmp_path):
    command = (text_file, tmp_path / "run", "sigterm@5")
    changes = {"data.prefetch": 0, "training.steps": 40}
    stopped = _train(*command, **changes)
    assert stopped.returncode == 143 and "at step 6" in stopped.stderr, stopped.stderr
    assert "the same command continues" in stopped.stderr and "Traceback" not in stopped.stderr
    assert Workdir(tmp_path / "run").steps()[-1] == 6
    done = _train(*command, **changes)  # batch 5 is not read again
    assert done.returncode == 0 and "continuing from step 6" in done.stderr, done.stderr


@pytest.mark.heavy
def test_the_same_command_twice_at_once(text_file, tmp_path):
    """One of the two does the run, the other says who does; and what is there afterwards is the run."""
    (tmp_path / "config.py").write_text(CONFIG.format(text=str(text_file)))
    words = ["--config.training.steps=40", "--config.eval.tokens=300", "--config.log.tensorboard=False"]
    command = [
        sys.executable,
        "-m",
        "ptft_jax.train",
        f"--config={tmp_path / 'config.py'}",
        f"--workdir={tmp_path / 'run'}",
        *words,
    ]
    done = sorted(ended(*(start(*command, XLA_FLAGS="") for _ in range(2))), key=lambda one: one.returncode)
    assert [one.returncode for one in done] == [0, 2], done
    assert (
        "is running in it. One launch at a time writes into a workdir" in done[1].stderr
        and "space" not in done[1].stderr
    )
    assert Workdir(tmp_path / "run").steps()[-1] == 40 and (tmp_path / "run/summary.json").is_file()
    assert not (tmp_path / "run/owner.json").exists() and not (tmp_path / "run/checkpoints-damaged").exists()


@pytest.mark.slow
def test_killed_three_times(text_file, tmp_path):
    _check(text_file, tmp_path, kills=3, seed=0)


@pytest.mark.slow
def test_killed_twenty_times(text_file, tmp_path):
    _check(text_file, tmp_path, kills=20, seed=1)
