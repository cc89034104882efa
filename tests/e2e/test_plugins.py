"""Plugins at the command line: docs/plugins.md as it is written, from training to all that can be done with a run."""

import functools
import json
import re
import sys
import types

import jax
import numpy as np
import pytest

from ptft_jax.model.transformer import Transformer
from tests.helpers import SPEC, random_batch
from tests.processes import ROOT, ptft

PAGE = (ROOT / "docs/plugins.md").read_text()
FILES = dict(re.findall(r"`(mypkg/\w+\.py)`:\n\n```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
FOCAL, GAIN = "--config.plugins=('mypkg.focal',)", "--config.plugins=('mypkg.gain',)"
TINY = [
    "--config=configs/pretrain/text.py:README.md",
    "--config.model.layers=1",
    "--config.model.width=16",
    "--config.model.heads=2",
    "--config.model.scan=False",
    "--config.data.length=16",
    "--config.data.batch_size=4",
    "--config.optimizer.warmup_steps=0",
    "--config.eval.tokens=64",
    "--config.eval.every=0",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
    "--config.select.patience=0",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(a function that calls a verb with the package on the path or not, the folder of the runs)."""
    folder = tmp_path_factory.mktemp("plugins")
    installed = folder / "installed"
    for name, text in FILES.items():
        (installed / name).parent.mkdir(parents=True, exist_ok=True)
        (installed / name).write_text(text)

    def call(*words, path=installed, **options):
        return ptft(*words, PYTHONPATH=str(path), cache=folder / "cache", **options)

    return call, folder


def test_the_page_has_one_file_for_each():
    """What a new objective and a new method take: a file each, whose last statement is the table; no edit of the package."""
    assert set(FILES) == {"mypkg/focal.py", "mypkg/gain.py"}
    assert "\nOBJECTIVES = {" in FILES["mypkg/focal.py"] and "\nMETHODS = {" in FILES["mypkg/gain.py"]


def test_the_focal_loss_is_its_formula(monkeypatch):
    """Lin et al. 2017, equation 4, in numpy; all at once and in chunks. Focus 0 is cross-entropy."""
    module = types.ModuleType("focal")
    monkeypatch.setitem(sys.modules, "focal", module)
    exec(compile(FILES["mypkg/focal.py"], "focal.py", "exec"), module.__dict__)
    model, batch = Transformer(SPEC), random_batch(0, rows=2)
    params = jax.jit(model.init)(jax.random.key(0))
    logits = np.asarray(jax.jit(model)(params, batch["inputs"]), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p = np.take_along_axis(p, batch["targets"][..., None], -1)[..., 0]
    for focus, chunk in ((3.0, 0), (3.0, 5), (0.0, 0)):
        objective = module.FocalLM(focus=focus, chunk=chunk)
        loss = jax.jit(functools.partial(objective.loss, model))(params, batch)
        expected = (batch["weights"] * (1 - p) ** focus * -np.log(p)).sum()
        np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
        np.testing.assert_allclose(loss.metrics["nll"][0], (batch["weights"] * -np.log(p)).sum(), rtol=1e-5)


@pytest.mark.heavy
def test_from_training_to_all_verbs(place, tmp_path):
    call, folder = place
    focal, gain, child = (folder / name for name in ("focal", "gain", "child"))
    objective = [*TINY, FOCAL, "--config.objective.name=focal_lm", "--config.objective.focus=3.0"]
    # Stopped after no second, and continued: the second launch resumes.
    words = ["train", *objective, "--config.training.steps=4", "--config.checkpoint.every=1", f"--workdir={focal}"]
    call(*words, "--max_seconds=0.001", check=True)
    assert not (focal / "summary.json").exists()
    call(*words, check=True)
    config = json.loads((focal / "config.json").read_text())
    assert config["plugins"] == ["mypkg.focal"] and config["objective"]["focus"] == 3.0
    rows = [json.loads(line) for line in (focal / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    # Each step once, though the run was stopped: (1 - p)^3 of what is nearly even over 256 bytes is a little below 1.
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all(0.9 * row["nll"] < row["loss"] < row["nll"] for row in steps)

    method = [*TINY, GAIN, "--config.tune.method=gain", "--config.training.steps=2", f"--config.init.from={focal}"]
    call("train", *method, "--config.tune.gain.start=1.5", f"--workdir={gain}", check=True)
    assert json.loads((gain / "config.json").read_text())["tune"]["gain"]["start"] == 1.5
    # A run from it: what the parent needs is imported for the parent; the child names none.
    call("train", *TINY, "--config.training.steps=1", f"--config.init.from={gain}", f"--workdir={child}", check=True)
    assert json.loads((child / "config.json").read_text())["plugins"] == []

    for run in (focal, gain):
        found = json.loads(call("eval", f"--run={run}", "--tokens=64", check=True).stdout)
        assert np.isfinite(found["nll"])
        assert call("generate", f"--run={run}", "--prompt=the", "--max_new_tokens=4", check=True).stdout
        call("export", f"--run={run}", "--to=hf", f"--out={tmp_path / run.name}", check=True)
    call("report", f"--run={focal}", f"--run={gain}", f"--out={tmp_path / 'report.html'}", check=True)
    refused = call("export", f"--run={gain}", "--to=peft", f"--out={tmp_path / 'peft'}", f"--base={tmp_path / 'focal'}")
    assert refused.returncode == 2 and refused.stderr.startswith("error: ") and "tune.gain" in refused.stderr

    # Without the package: one message, with the module's name.
    for verb, *more in (["eval"], ["generate", "--prompt=a"], ["export", "--to=hf", f"--out={tmp_path / 'x'}"]):
        done = call(verb, f"--run={gain}", *more, path=tmp_path)
        assert done.returncode == 2 and "config.plugins: there is no module 'mypkg.gain'" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
