"""Runs that earlier versions made are read, continued and fine-tuned from.

earlier/REVISION.tar.xz were made by that revision on one device: `base` (full, with an average), `lora` from it, of the second one
also `part`, which SIGTERM stopped at step 3 of 4. expected.json is what the same revision measured (of so many "tokens"; 0 = all), "part" of an uninterrupted run.
"""

import json
import shutil
import sys
import tarfile

import pytest

from tests.processes import ROOT, run

EARLIER = sorted((ROOT / "tests/runs/earlier").glob("*.tar.xz"))

CODE = """
import json, pathlib
import ptft_jax as pt
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.source import parameters_fingerprint
from ptft_jax.runs.workdir import Workdir

quiet, found = Reporter(quiet=True), {}
expected = json.loads(pathlib.Path("expected.json").read_text())
if pathlib.Path("part").is_dir():
    summary = pt.train(Workdir("part").read_config().as_dict(), "part", reporter=quiet)
    assert summary["finished"] and summary["step"] == 4
for name in ("base", "lora", "part"):
    if pathlib.Path(name).is_dir():
        loaded = pt.load(name)
        nll = evaluate(loaded, "", "validation", tokens=expected[name].get("tokens", 0))["nll"]
        found[name] = {"nll": nll, "fingerprint": parameters_fingerprint(loaded.params)}
config = Workdir("base").read_config().as_dict()
config["init"]["from_"], config["training"] = "base", config["training"] | {"steps": 0, "ema_decay": 0.0}
pt.train(config, "child", reporter=quiet)
found["child"] = evaluate(pt.load("child"), "", "validation", tokens=expected["base"].get("tokens", 0))["nll"]
print(json.dumps(found))
"""


@pytest.mark.heavy
@pytest.mark.parametrize("file", EARLIER, ids=lambda file: file.name.partition(".")[0])
def test_runs_of_earlier_versions(file, tmp_path):
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path, filter="data")
    expected = json.loads((tmp_path / "expected.json").read_text())
    done = run(sys.executable, "-c", CODE, cwd=tmp_path, XLA_FLAGS="", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {*expected, "child"} == {*found} and len(expected) >= 2
    for name, values in expected.items():
        # Float32, summed in another order by another version of the compiler.
        assert found[name]["nll"] == pytest.approx(values["nll"], abs=1e-5), name
        if name != "part":  # what was stored, to the bit
            assert found[name]["fingerprint"] == values.get("fingerprint", found[name]["fingerprint"]), name
    assert found["child"] == pytest.approx(expected["base"]["nll"], abs=1e-5)
    shutil.rmtree(tmp_path / "base")
    done = run(
        sys.executable, "-c", "import ptft_jax as pt; pt.load('lora')", cwd=tmp_path, XLA_FLAGS="", PYTHONPATH=str(ROOT)
    )
    assert "its base is not at" in done.stderr


def test_there_are_some():
    assert len(EARLIER) >= 2
