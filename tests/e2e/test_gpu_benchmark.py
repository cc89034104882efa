"""benchmarks/gpu.sh as docs/performance.md has it, on the CPU."""

import json
import math
import re
import shlex
import sys

import pytest

from tests.processes import ROOT, run


@pytest.mark.heavy
def test_the_command_of_the_page(tmp_path):
    block = re.search(r"^```sh\n(.*)\n```$", (ROOT / "docs/performance.md").read_text(), re.MULTILINE)[1]
    done = run(*shlex.split(block), f"--out={tmp_path / 'found.json'}", cwd=ROOT, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    [case] = json.loads((tmp_path / "found.json").read_text())["cases"].values()
    assert case["shape"]["layers"] == 2 and case["lora"] == 8
    # Untrained, a model of 256 tokens is close to even: rows are random, so that a few steps take it only a little away from it.
    ours = case["ptft_jax"]
    assert ours["loss"] == pytest.approx(math.log(256), rel=0.5) and ours["seconds"] > 0
    # By hand: query and out 64 x 64, key and value 64 x 64 (8 heads of 8), three products of the MLP 64 x 128, the head 64 x 256;
    # scores and mixing over half of 32 keys; two passes, forward and back through the frozen layers.
    block = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64 * 32 / 2
    assert ours["flops_per_token"] == 2 * 2 * (2 * block + 64 * 256)
    assert "1B LoRA" in done.stdout and "TFLOP/s" in done.stdout
