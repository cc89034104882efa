"""The experiment of characters: how a text is parted, what becomes of its runs, and a miniature of it."""

import json
import sys

import pytest

from experiments import characters
from ptft_jax.errors import UserError
from tests.processes import run


def test_a_text_is_parted_by_characters(tmp_path):
    (tmp_path / "input.txt").write_text("äb" * 50, encoding="utf-8")
    folder = characters.split(tmp_path / "input.txt", tmp_path / "out/text")
    assert (folder / "train.txt").read_text(encoding="utf-8") == "äb" * 45
    assert (folder / "validation.txt").read_text(encoding="utf-8") == "äb" * 5
    before = (folder / "train.txt").stat().st_mtime_ns
    characters.split(tmp_path / "input.txt", tmp_path / "out/text")
    assert (folder / "train.txt").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"--text=.*nothing.txt: .*No such file"):
        characters.split(tmp_path / "nothing.txt", tmp_path)


def test_results_of_runs():
    runs = {
        name: [{"step": 4, "last": {"validation/nll": loss}, "seconds_by": {"steps": s}} for loss, s in row]
        for name, row in {"cpu": [(1.9, 8.0), (1.8, 4.0), (1.7, 6.0)], "cpu_fast": [(1.5, 2.0)]}.items()
    }
    rows = [{"kind": "eval", "step": 0, "validation/nll": 5.0}, {"kind": "train", "step": 1}]
    rows += [{"kind": "eval", "step": 4, "validation/nll": 1.9}]
    assert characters.curve(runs["cpu"][0], rows) == [[0.0, 5.0], [8.0, 1.9]]
    found = characters.results_of(runs, {"cpu": [], "cpu_fast": []})["recipes"]
    assert found["cpu"] == {"steps": 4, "losses": [1.9, 1.8, 1.7], "seconds": 6.0, "curves": []}


def test_recipes_have_one_target():
    assert characters.chosen(["gpu", "gpu"]) == ("gpu",) and characters.chosen(["cpu_fast"]) == ("cpu_fast",)
    found = characters.results_of(
        {"gpu": [{"step": 1, "last": {"validation/nll": 2.0}, "seconds_by": {"steps": 1.0}}]}, {"gpu": []}
    )
    assert found["target"] == 1.4697
    with pytest.raises(UserError, match="no recipe 'gpi' \\(did you mean 'gpu'\\?\\)"):
        characters.chosen(["gpi"])
    for several in (["cpu", "gpu"], []):
        with pytest.raises(UserError, match="expected recipes with one target"):
            characters.chosen(several)


@pytest.mark.heavy
def test_the_experiment(tmp_path):
    (tmp_path / "input.txt").write_text("To be, or not to be: that is the question.\n" * 200, encoding="utf-8")
    words = [f"--text={tmp_path / 'input.txt'}", f"--out={tmp_path / 'out'}", "--size=tiny", "--seeds=1"]
    done = run(sys.executable, "-m", "experiments.characters", *words, XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert set(found["recipes"]) == set(characters.RECIPES)
    for recipe in found["recipes"].values():
        [curve] = recipe["curves"]
        assert len(curve) == 3 and curve[-1][1] == recipe["losses"][0] < curve[0][1]
    assert (tmp_path / "out/report.html").read_text().count("<svg") == 1
