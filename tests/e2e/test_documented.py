"""Every README command, config and experiment runs."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from ptft_jax import config as configs
from ptft_jax import run as runs
from ptft_jax.reporting.progress import Reporter
from tests.helpers import ROOT


def _commands():
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("ptft ")]


def test_readme_commands(tmp_path):
    """In order, in an empty folder with only the configs and the README in it."""
    for name in ("configs", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands = _commands()
    assert len(commands) >= 7
    env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    for command in commands:
        words = [sys.executable, "-m", "ptft_jax.cli", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "runs/report.html").exists() and (tmp_path / "runs/mine/summary.json").exists()


def test_the_demos_experiment(tmp_path):
    """All runs of the demo at toy size; a second launch runs nothing again."""
    command = [sys.executable, "-m", "experiments.transfer", f"--out={tmp_path}/demo", "--size=tiny"]
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path}/demo/report.html" in done.stdout
    results = json.loads((tmp_path / "demo/results.json").read_text())
    assert set(results["targets"]) == {"roses", "code"} and len(results["claims"]) > 10
    assert all(len(f["forgetting"]) == 3 for f in results["targets"]["roses"] if f["method"] != "scratch")
    html = (tmp_path / "demo/report.html").read_text()
    assert html.count("<svg") >= 8 and "±" in html
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "demo/runs").glob("*/summary.json")}
    again = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert again.returncode == 0 and len(before) == 27
    assert {p: p.stat().st_mtime_ns for p in before} == before


def _every_config():
    from configs.finetune import shakespeare as finetune
    from configs.pretrain import shakespeare as pretrain
    from ptft_jax.model.presets import FAMILIES

    for size in pretrain.SIZES:
        for family in FAMILIES:
            yield f"pretrain/shakespeare:{size},{family}", lambda a=f"{size},{family}": pretrain.get_config(a)
    for method in finetune.METHODS:
        yield f"finetune/shakespeare:{method}", lambda m=method: finetune.get_config(m)


def test_every_config_assembles(tmp_path, monkeypatch):
    for name, make in _every_config():
        config = make()
        if name.startswith("finetune"):
            parent = tmp_path / "parent"
            if not parent.exists():
                from configs.pretrain import shakespeare as pretrain

                tiny = pretrain.get_config("tiny")
                tiny.training.steps, tiny.optimizer.warmup_steps = 0, 0
                tiny.samples.update(prompts=(), max_new_tokens=configs.default().samples.max_new_tokens)
                tiny.model.max_length = 128
                runs.train(tiny, parent, reporter=Reporter(quiet=True))
            config.init.from_ = str(parent)
        run = runs.Run(config, tmp_path / "run", Reporter(quiet=True))
        assert run.partition.count(True) > 0, name


def test_every_config_file_is_covered():
    files = {str(p.relative_to(ROOT / "configs")) for p in (ROOT / "configs").rglob("*.py") if p.name != "__init__.py"}
    assert files == {"pretrain/shakespeare.py", "finetune/shakespeare.py", "pretrain/text.py"}, "test the new one"


@pytest.mark.parametrize("target", ["demo", "test", "test-full", "live", "install", "clean"])
def test_make_knows_its_targets(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
