"""What is released, as its users get it: built, installed in an empty environment, and used in another folder."""

import json
import os
import re
import shlex
import shutil
import sys
import zipfile

import pytest

from tests.processes import ROOT, run

SHIPPED = ("ptft_jax", "configs", "experiments")
# An experiment of one's own, in a folder of one's own: a shipped recipe, changed, and a config beside it.
MINE = """
import json
import pathlib
import sys

import ptft_jax as pt
from ptft_jax.experiments.graph import with_changes
from ptft_jax.experiments.launch import executor, launch
from ptft_jax.reporting.progress import Reporter
from ptft_jax.verbs.command import prepare_experiment

prepare_experiment()
from configs.pretrain import shakespeare

import beside

graph = pt.Graph()
base = with_changes(pt.recipe("pretrain/shakespeare:tiny"), **{"training.steps": 2, "samples.prompts": (), "eval.every": 0})
first = graph.run("first", base)
graph.run("second", beside.changed(pt.recipe("mine.py:3"), first))
launch(graph, "out", by=executor("inline", 1), reporter=Reporter(quiet=True))
steps = [json.loads(pathlib.Path(f"out/runs/{name}/summary.json").read_text())["step"] for name in ("first", "second")]
print(*steps, sorted(shakespeare.SIZES))
"""
BESIDE = "def changed(config, parent):\n    config.init.from_ = parent\n    return config\n"
RECIPE = """
from configs.finetune import shakespeare


def get_config(steps):
    config = shakespeare.get_config("lora")
    config.training.steps = int(steps)
    config.optimizer.warmup_steps = 1
    config.data.length = 64
    config.samples.update(prompts=("a",), max_new_tokens=2)
    return config
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("build")
    copied = folder / "source"
    for name in SHIPPED:
        shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copied)
    _done(sys.executable, "-m", "venv", folder / "tools")
    _done(folder / "tools/bin/python", "-m", "pip", "install", "--quiet", "build", "twine")
    _done(folder / "tools/bin/python", "-m", "build", "--outdir", folder / "dist", copied)
    _done(folder / "tools/bin/python", "-m", "twine", "check", "--strict", *(folder / "dist").iterdir())
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """`ptft` of an environment that has nothing but the package and what it requires."""
    folder = tmp_path_factory.mktemp("fresh")
    _done(sys.executable, "-m", "venv", folder)
    [wheel] = dist.glob("*.whl")
    _done(folder / "bin/python", "-m", "pip", "install", "--quiet", wheel)
    return folder / "bin"


def _done(*command, **options):
    done = run(*command, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def _ptft(installed, folder, *words):
    """`ptft WORDS` as a user has it: nothing of this checkout is on the path."""
    return run(
        installed / "ptft", *words, cwd=folder, PYTHONPATH="", XLA_FLAGS="", PATH=f"{installed}:{os.environ['PATH']}"
    )


@pytest.mark.slow
def test_what_is_built(dist):
    """Both hold the recipes and experiments; the wheel brings one top-level package."""
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"ptft_jax"}
    assert not [name for name in names if name.startswith(("ptft_jax/tests", "ptft_jax/shipped/tests"))]
    for path in (ROOT / "configs").glob("*/*.py"):
        assert f"ptft_jax/shipped/{path.relative_to(ROOT)}" in names
    for path in (ROOT / "experiments").rglob("*.py"):
        assert f"ptft_jax/shipped/{path.relative_to(ROOT)}" in names
    assert "ptft_jax/py.typed" in names and sdist.name.removesuffix(".tar.gz") in wheel.name


EXTRAS = {"reports": "matplotlib", "gguf": "gguf"}  # that commands of the README ask for, and what of each is missing


@pytest.mark.slow
def test_the_commands_of_the_readme_run_outside_the_clone(installed, tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("ptft ")]
    assert len(commands) >= 7 and any(" report " in command for command in commands)
    needed = dict(EXTRAS)
    for command in commands:
        done = _ptft(installed, tmp_path, *shlex.split(command)[1:])
        if missing := re.search(r"pip install 'ptft_jax\[(\w+)\]'", done.stderr if done.returncode == 2 else ""):
            _done(installed / "python", "-m", "pip", "install", "--quiet", needed.pop(missing[1]))
            done = _ptft(installed, tmp_path, *shlex.split(command)[1:])
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert not needed, "asked for by the first command that needs it"
    assert (tmp_path / "runs/report.html").exists() and (tmp_path / "runs/mine/summary.json").exists()
    listed = _ptft(installed, tmp_path, "config", "--list").stdout
    assert all(f"{path.parent.name}/{path.stem}:ARG\n" in listed for path in (ROOT / "configs").glob("*/*.py"))
    words = ["train", "--config=runs/base/config.json", "--config.training.steps=2", "--workdir=runs/again"]
    again = _ptft(installed, tmp_path, *words)
    assert again.returncode == 0, again.stderr
    written = [json.loads((tmp_path / f"runs/{name}/config.json").read_text()) for name in ("base", "again")]
    written[0]["training"]["steps"], written[0]["optimizer"]["warmup_steps"] = 2, 0
    assert written[0] == written[1]
    shown = _ptft(installed, tmp_path, "config", "--config=pretrain/objectives:masked_lm")
    assert json.loads(shown.stdout)["objective"]["name"] == "masked_lm"


@pytest.mark.slow
def test_experiments_run_in_any_folder(installed, tmp_path):
    for name, text in {"experiment.py": MINE, "beside.py": BESIDE, "mine.py": RECIPE}.items():
        (tmp_path / name).write_text(text)
    options = {"cwd": tmp_path, "PYTHONPATH": "", "XLA_FLAGS": ""}
    done = _done(installed / "python", "experiment.py", **options)
    assert done.stdout.splitlines()[-1] == "2 3 ['medium', 'small', 'tiny']"
    module = ["-m", "ptft_jax.shipped.experiments.transfer"]
    assert "--size: " in _done(installed / "python", *module, "--help", **options).stdout
    done = run(installed / "python", *module, "--size=tiny", "--out=demo", **options)
    refused = done.returncode == 2 and "pip install 'ptft_jax[reports]'" in done.stderr  # before anything is run
    assert (refused and not (tmp_path / "demo").exists()) or (tmp_path / "demo/report.html").exists()
