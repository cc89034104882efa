"""docs/data.md: every block runs, in order, in an empty folder, and prints what the guide says."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SLOW = "sh"


def _blocks(slow):
    """(language, text, what it prints or None) of the blocks that run: Python, and shell commands ("sh" are slow)."""
    found = BLOCK.findall((ROOT / "docs/data.md").read_text())
    for (language, text), after in zip(found, [*found[1:], ("", "")]):
        if language != "text" and (slow or language != SLOW):
            yield language, text, after[1] if after[0] == "text" else None


def _run(language, text, folder):
    """Standard output of a block."""
    bin = folder / ".bin"
    if not bin.exists():
        bin.mkdir()
        (folder / "configs").symlink_to(ROOT / "configs")
        (bin / "ptft").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ptft_jax.cli "$@"\n')
        (bin / "ptft").chmod(0o755)
    env = {
        **os.environ,
        "XLA_FLAGS": "",
        "COLUMNS": "80",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{bin}:{os.environ['PATH']}",
    }
    words = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


def _assert_prints(printed, expected):
    """Line by line; in what is expected, "..." stands for anything within a line, or for any lines."""
    pattern = re.escape(expected).replace(re.escape("...") + "\\\n", r"(?:.*\n)*?").replace(re.escape("..."), ".*?")
    assert re.fullmatch(pattern, printed), f"expected:\n{expected}\nprinted:\n{printed}"


def test_the_guide_of_data(tmp_path):
    blocks = list(_blocks(slow=False))
    assert len(blocks) >= 7 and sum(expected is not None for *_, expected in blocks) >= 4
    for language, text, expected in blocks:
        printed = _run(language, text, tmp_path)
        if expected is not None:
            _assert_prints(printed, expected)
    manifest = json.loads((tmp_path / "prepared/manifest.json").read_text())
    first, notes = manifest["splits"]["train"]["sources"]
    assert first["records"] == first["kept"]["records"] + sum(x["records"] for x in first["lost"].values())
    assert first["lost"] and notes["kept"]["records"]


@pytest.mark.slow
def test_the_guide_of_data_with_its_runs(tmp_path):
    """The blocks that take longer too: runs on mixtures, classes and prepared tokens, one continued."""
    for language, text, expected in _blocks(slow=True):
        printed = _run(language, text, tmp_path)
        if expected is not None:
            _assert_prints(printed, expected)
    table = json.loads((tmp_path / "runs/met/data.json").read_text())
    assert [row["source"] for row in table] == ["jsonl:chat.jsonl", "jsonl:pairs.jsonl", "text:notes"]
    assert table[1]["drawn"] < table[1]["asked"] * 160 + 2 and sum(row["drawn"] for row in table) == 20 * 8
    summaries = {
        name: json.loads((tmp_path / f"runs/{name}/summary.json").read_text()) for name in ("met", "moods", "part")
    }
    assert {"validation_pairs/nll", "source/nll"} <= set(summaries["met"]["after"])
    assert summaries["part"]["step"] == 12 and "validation/accuracy" in summaries["moods"]["after"]
    assert (tmp_path / "masked.html").read_text().count("<span") > 50
