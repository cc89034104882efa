"""What docs/methods.md shows of "After training" runs as it is written."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT


def _section():
    return re.search(r"^## After training\n(.*?)(?=^## |\Z)", (ROOT / "docs/methods.md").read_text(), re.S | re.M)[1]


@pytest.mark.heavy
def test_after_training(tmp_path):
    blocks = re.findall(r"^```sh\n(.*?)^```$", _section(), re.S | re.M)
    assert len(blocks) >= 4
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / ".bin").mkdir()
    (tmp_path / ".bin/ptft").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ptft_jax.cli "$@"\n')
    (tmp_path / ".bin/ptft").chmod(0o755)
    path = f"{tmp_path / '.bin'}:{os.environ['PATH']}"
    env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "PATH": path}
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    made = json.loads((tmp_path / "runs/between/combine.json").read_text())
    assert len(made["curve"]) == 6 and {"validation/nll", "source/nll"} <= made["curve"][0].keys()
    assert (tmp_path / "runs/between/report.html").read_text().count("<svg") >= 2
