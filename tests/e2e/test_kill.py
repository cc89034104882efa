"""kill -9 at any moment, then the same command: the same bits as a run that was never disturbed."""

import os
import random
import subprocess
import sys
import time

import pytest

from ptft_jax.reporting.metrics import read
from ptft_jax.training import checkpoint
from tests.helpers import ROOT


def _command(text_file, workdir):
    return [
        sys.executable, "-m", "ptft_jax.train", f"--config=configs/pretrain/text.py:{text_file}", f"--workdir={workdir}",
        "--config.model.width=32", "--config.model.layers=2", "--config.model.dropout=0.1", "--config.training.steps=400",
        "--config.optimizer.warmup_steps=5", "--config.eval.every=20", "--config.eval.tokens=300", "--config.checkpoint.every=7",
        "--config.log.every=1", "--config.training.ema_decay=0.9", "--config.select.patience=0", "--config.data.length=32",
        "--config.log.tensorboard=False",
    ]  # fmt: skip


def _run(command):
    env = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _check(text_file, tmp_path, kills, seed):
    reference = _run(_command(text_file, tmp_path / "whole"))
    assert reference.wait() == 0, reference.stderr.read()
    command, chance, done = _command(text_file, tmp_path / "killed"), random.Random(seed), 0
    while done < kills:
        process = _run(command)
        # Most kills land while it trains and saves: wait for a sign of that, then for a random moment.
        before = len(read(tmp_path / "killed/metrics.jsonl"))
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(read(tmp_path / "killed/metrics.jsonl")) != before or chance.random() < 0.002:
                break
            time.sleep(0.02)
        time.sleep(chance.random() * 0.3)
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
            break
        process.kill()
        process.wait()
        done += 1
    process = _run(command)
    assert process.wait() == 0, process.stderr.read()
    assert done >= min(kills, 3), "the run ended before it could be killed: nothing was tested"
    metas = [checkpoint.read_meta(tmp_path / name, 400) for name in ("whole", "killed")]
    assert metas[0]["checksums"] == metas[1]["checksums"]
    assert metas[0]["best"] == metas[1]["best"]
    curves = []
    for name in ("whole", "killed"):
        timed = ("step_seconds", "tokens_per_second")
        rows = read(tmp_path / name / "metrics.jsonl")
        curves.append([{k: v for k, v in row.items() if k not in timed} for row in rows])
    assert curves[0] == curves[1] and len(curves[0]) > 400
    assert not (tmp_path / "killed/checkpoints-damaged").exists(), "a kill must never leave a damaged checkpoint"


@pytest.mark.heavy
def test_sigterm_exits_with_143_and_the_same_command_finishes(text_file, tmp_path):
    command = _command(text_file, tmp_path / "run")
    process = _run(command)
    while process.poll() is None and len(read(tmp_path / "run/metrics.jsonl")) < 5:
        time.sleep(0.02)
    process.terminate()
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 143 and "the same command continues" in message and "Traceback" not in message
    step = checkpoint.steps_of(tmp_path / "run")[-1]
    assert f"at step {step}" in message and 0 < step < 400
    process = _run(command)
    assert process.wait() == 0 and f"continuing from step {step}" in process.stderr.read()


@pytest.mark.slow
def test_killed_three_times(text_file, tmp_path):
    _check(text_file, tmp_path, kills=3, seed=0)


@pytest.mark.slow
def test_killed_twenty_times(text_file, tmp_path):
    _check(text_file, tmp_path, kills=20, seed=1)
