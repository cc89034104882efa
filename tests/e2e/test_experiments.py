"""docs/experiments.md as it is typed; and the same graph in processes, one of which is killed, and after its folder was moved."""

import json
import os
import re
import signal
import sys
import time

import pytest

from tests.e2e.test_documented import _run_block
from tests.e2e.test_pages import carry_out
from tests.processes import HURRY, ROOT, ended, start

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Where the page was carried out, and what its blocks printed."""
    folder = tmp_path_factory.mktemp("page")
    return folder, carry_out("experiments", folder)


def test_the_page(page):
    folder, printed = page
    assert len(printed) == 3
    rates, stages, climb = printed
    assert re.search(r"^\| rate \| 0.001 \| 2/2 \| \d\.\d{4} ± \d\.\d{4} \|", rates, re.M)
    report = (folder / "runs/rates/experiment.md").read_text()
    assert report.startswith(
        "# ptft sweep --config=small.py --axis optimizer.learning_rate=1e-3,1e-2 --seeds=2 --name=rate\n"
    )
    assert re.search(
        r"^Best: learning_rate=0\.01 \(validation/nll .* paired over 2 seeds|^No difference larger", report, re.M
    )
    html = (folder / "runs/stages/experiment.html").read_text()
    assert html.count("<svg") >= 3 and "ptft experiment --file=stages.py --out=runs/stages" in html
    first, after = stages.split("nodes: ")[0], stages.rsplit("nodes: ", 1)[1]
    assert first.count(" new ") == 6 and after.strip() == "6 cached"
    tried = re.findall(r"rate-(\S+) +run +cached", climb)
    assert len(tried) > 2 and re.search(rf"^{len(tried)} nodes: {len(tried)} cached", climb, re.M), (
        "it goes on from the best"
    )
    lines = re.search(r"(?s)cat > stages.py <<'END'\n(.*?)END", (ROOT / "docs/experiments.md").read_text())[1]
    assert len(lines.splitlines()) <= 25
    summary = json.loads((folder / "runs/stages/summary.json").read_text())
    result = {node["name"]: node["result"] for node in summary["nodes"]}
    assert result["base"]["after"]["validation/nll"] < result["base"]["before"]["validation/nll"]
    assert result["mid"]["transfer"]["target"]["gain"] > 0 and result["notes"]["tokens_scored"] > 400


@pytest.mark.slow
def test_the_same_in_processes_whatever_happens_meanwhile(page):
    tmp_path, _ = page
    words = ["experiment", "--file=stages.py", "--out=runs/again", "--executor=local", "--max_parallel=2"]
    environment = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": HURRY}
    one = start(sys.executable, "-m", "ptft_jax.cli", *words, cwd=tmp_path, **environment)
    kill_owner(tmp_path / "runs/again/runs/base", one)
    [done] = ended(one)
    assert done.returncode == 0, done.stderr
    assert re.search(r"base: its process ended by SIGKILL .*; it is begun again", done.stderr)
    assert same(tmp_path, "stages", "again")
    (tmp_path / "runs/again").rename(tmp_path / "moved")
    text = "ptft experiment --file=stages.py --out=moved --dry_run"
    assert _run_block("sh", text, tmp_path).rstrip().endswith("6 cached")


def same(folder, one, other):
    return all(
        (folder / "runs" / one / name).read_bytes() == (folder / "runs" / other / name).read_bytes()
        for name in ("summary.json", "table.csv", "table.md")
    )


def kill_owner(run, driver):
    """Kills the process of a run once that is there."""
    while True:
        assert driver.process.poll() is None, driver.written()
        try:
            os.kill(json.loads((run / "owner.json").read_bytes())["process"], signal.SIGKILL)
            return
        except (OSError, ValueError):
            time.sleep(0.02)
