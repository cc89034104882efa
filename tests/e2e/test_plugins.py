"""Plugins at the command line: docs/plugins.md as it is written, from training to all that can be done with a run."""

import functools
import json
import re
import sys
import types

import jax
import numpy as np
import pytest

from ptft_jax.config import metrics
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.base import evaluated
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.objectives.classification import Classification
from tests.helpers import SPEC, random_batch
from tests.processes import ROOT, ptft

PAGE = (ROOT / "docs/plugins.md").read_text()
FILES = dict(re.findall(r"`(mypkg/\w+\.py)`:\n\n```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
FOCAL, GAIN = "--config.plugins=('mypkg.focal','mypkg.top5')", "--config.plugins=('mypkg.gain','mypkg.sums')"
TOP5 = ["--config.eval.metrics=('top5',)", "--config.select.metric=validation/top5", "--config.eval.every=1"]
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
    tables = {
        "focal": "OBJECTIVES",
        "near": "OBJECTIVES",
        "gain": "METHODS",
        "top5": "METRICS",
        "sums": "SOURCES",
        "alpaca": "FAMILIES",
    }
    assert set(FILES) == {f"mypkg/{name}.py" for name in tables}
    for name, table in tables.items():
        assert f"\n{table} = {{" in FILES[f"mypkg/{name}.py"]


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


def test_the_metric_is_what_it_says():
    """By sorting, in numpy: of tokens, all at once and in chunks, and of classes; what has no weight counts for nothing."""
    module = types.ModuleType("top5")
    exec(compile(FILES["mypkg/top5.py"], "top5.py", "exec"), module.__dict__)
    measures = metrics.chosen(("top5",), module.METRICS)
    model, batch = Transformer(SPEC), random_batch(0, rows=2)
    params = jax.jit(model.init)(jax.random.key(0))

    def expected(logits, targets, weights):
        best = np.argsort(-np.asarray(logits, np.float64), axis=-1)[..., :5]
        return (weights * (best == targets[..., None]).any(-1)).sum(), weights.sum()

    for chunk in (0, 5):
        run = jax.jit(functools.partial(evaluated, CausalLM(chunk=chunk), measures, model))
        wanted = expected(jax.jit(model)(params, batch["inputs"]), batch["targets"], batch["weights"])
        found = run(params, batch)
        np.testing.assert_allclose(found["top5"], wanted, rtol=1e-6)
        assert 0 < wanted[0] < wanted[1] and set(found) == {"loss", "nll", "accuracy", "top5"}
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(9, 7)).astype(np.float32), rng.integers(0, 7, 9)
    rows = {"targets": targets, "weights": np.float32([1] * 8 + [0])}
    head = types.SimpleNamespace(logits=lambda params, hidden: hidden)
    found = Classification().measured(head, None, logits, rows, measures)["top5"]
    np.testing.assert_allclose(found, expected(logits, targets, rows["weights"]), rtol=1e-6)


OBJECTIVE = [*TINY, FOCAL, *TOP5, "--config.objective.name=focal_lm", "--config.objective.focus=3.0"]


@pytest.fixture(scope="module")
def runs(place):
    """One run with an objective and a metric of plugins, and one from it with a method and a source."""
    call, folder = place
    focal, gain = folder / "focal", folder / "gain"
    call("train", *OBJECTIVE, "--config.training.steps=4", f"--workdir={focal}", check=True)
    method = [*TINY, GAIN, "--config.tune.method=gain", "--config.training.steps=2", f"--config.init.from={focal}"]
    changes = ["--config.tune.gain.start=1.5", "--config.data.source=sums:400"]
    call("train", *method, *changes, f"--workdir={gain}", check=True)
    return focal, gain


@pytest.mark.heavy
def test_runs(runs):
    focal, gain = runs
    config = json.loads((focal / "config.json").read_text())
    assert config["plugins"] == ["mypkg.focal", "mypkg.top5"] and config["objective"]["focus"] == 3.0
    rows = [json.loads(line) for line in (focal / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    # (1 - p)^3 of what is nearly even over 256 bytes is a little below 1.
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all(0.9 * row["nll"] < row["loss"] < row["nll"] for row in steps)
    # The metric selects the best checkpoint: the first with its largest value.
    seen = {row["step"]: row["validation/top5"] for row in rows if row["kind"] == "eval"}
    summary = json.loads((focal / "summary.json").read_text())
    assert [*seen] == [0, 1, 2, 3, 4] and config["select"]["mode"] == "max"
    assert summary["best_step"] == min(step for step in seen if seen[step] == max(seen.values()))
    assert summary["after"]["validation/top5"] == max(seen.values()) > 0 and "test/top5" in summary["after"]

    config = json.loads((gain / "config.json").read_text())
    assert config["tune"]["gain"]["start"] == 1.5 and config["plugins"] == ["mypkg.gain", "mypkg.sums"]
    [data] = json.loads((gain / "data.json").read_text())
    splits = {name: split["records"] for name, split in data["splits"].items()}
    assert sum(splits.values()) == 400 and min(splits.values()) > 0


@pytest.mark.slow
def test_stopped_and_continued(place, runs, tmp_path):
    """Also where the metric's plugin comes later: it has no part in what is trained. Each step is there once."""
    (call, _), (focal, _) = place, runs
    run = tmp_path / "run"
    words = [word for word in OBJECTIVE if word not in (FOCAL, *TOP5)]
    words += ["--config.training.steps=4", "--config.checkpoint.every=1", "--config.eval.every=1", f"--workdir={run}"]
    call("train", *words, "--config.plugins=('mypkg.focal',)", "--max_seconds=0.001", check=True)
    assert not (run / "summary.json").exists()
    call("train", *words, FOCAL, "--config.eval.metrics=('top5',)", check=True)
    rows = [[json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()] for at in (run, focal)]
    mine, whole = ([(r["step"], r["loss"]) for r in found if r["kind"] == "train"] for found in rows)
    assert mine == whole and len(mine) == 4


@pytest.mark.slow
def test_a_child_that_names_none(place, runs):
    """What the parent needs is imported for the parent; what is trained on again is recorded."""
    (call, folder), (_, gain) = place, runs
    child = folder / "child"
    replay = ["--config.data.mixture=(('parent', 1.0), ('stdlib:prose', 1.0))", "--config.data.source=stdlib:prose"]
    more = ["--config.training.steps=1", f"--config.init.from={gain}", f"--workdir={child}"]
    call("train", *TINY, *replay, *more, check=True)
    config = json.loads((child / "config.json").read_text())
    assert config["plugins"] == ["mypkg.sums"]
    assert config["data"]["mixture"] == [["sums:400", 1.0], ["stdlib:prose", 1.0]]
    assert np.isfinite(json.loads((child / "summary.json").read_text())["after"]["source/nll"])


@pytest.mark.heavy
def test_verbs(place, runs, tmp_path):
    (call, _), (focal, gain) = place, runs
    words = ["eval", f"--run={focal}", "--tokens=64", "--data=sums:300", "--plugins=mypkg.sums", "--batch_size=4"]
    found = json.loads(call(*words, check=True).stdout)
    assert np.isfinite(found["nll"]) and 0 <= found["top5"] <= 1 and found["data"] == "sums:300"
    call("export", f"--run={gain}", "--to=hf", f"--out={tmp_path / 'gain'}", check=True)
    call("report", f"--run={focal}", f"--run={gain}", f"--out={tmp_path / 'report.html'}", check=True)
    assert "validation/top5" in (tmp_path / "report.html").read_text()
    # Without the package: one message, with the module's name.
    done = call("eval", f"--run={gain}", path=tmp_path)
    assert done.returncode == 2 and "config.plugins: there is no module 'mypkg.gain'" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_more_verbs(place, runs, tmp_path):
    (call, _), (focal, gain) = place, runs
    for run in (focal, gain):
        found = json.loads(call("eval", f"--run={run}", "--tokens=64", check=True).stdout)
        assert np.isfinite(found["nll"]) and ("top5" in found) == (run == focal)
        assert call("generate", f"--run={run}", "--prompt=the", "--max_new_tokens=4", check=True).stdout
    call("export", f"--run={focal}", "--to=hf", f"--out={tmp_path / 'focal'}", check=True)
    refused = call("export", f"--run={gain}", "--to=peft", f"--out={tmp_path / 'peft'}", f"--base={tmp_path / 'focal'}")
    assert refused.returncode == 2 and refused.stderr.startswith("error: ") and "tune.gain" in refused.stderr
    for verb, *more in (["generate", "--prompt=a"], ["export", "--to=hf", f"--out={tmp_path / 'x'}"]):
        done = call(verb, f"--run={gain}", *more, path=tmp_path)
        assert done.returncode == 2 and "config.plugins: there is no module 'mypkg.gain'" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.heavy
def test_verbs_of_data(place, tmp_path):
    """Which need neither a config nor a run."""
    call, _ = place
    out = tmp_path / "prepared"
    words = ["--source=sums:200", "--plugins=mypkg.sums", "--tokenizer=byte", f"--out={out}", "--workers=2"]
    assert "text from column 'text'" in call("data", "prepare", *words, check=True).stdout
    manifest = json.loads((out / "manifest.json").read_text())
    kept = sum(source["kept"]["records"] for split in manifest["splits"].values() for source in split["sources"])
    assert kept == 200
    shown = call("data", "show", "--data=sums:200", "--plugins=mypkg.sums", "--length=32", check=True).stdout
    assert " = " in shown
    refused = call("data", "stats", "--data=sum:200", "--plugins=mypkg.sums")
    assert refused.returncode == 2 and refused.stderr.rstrip().endswith("(did you mean 'sums'?)")
    refused = call("data", "stats", "--data=sums:many", "--plugins=mypkg.sums")
    assert refused.stderr == "error: data source 'sums:many': expected a count, such as sums:1000\n"
