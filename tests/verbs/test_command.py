"""The words of a command line, before any flag is read."""

import json
import subprocess
import sys

import pytest

from ptft_jax.config import files
from ptft_jax.errors import UserError
from ptft_jax.verbs import command
from tests.processes import ROOT


@pytest.mark.parametrize(
    "words, read",
    [
        (["ptft", "--config", "a:b"], ["ptft", "--config=a:b"]),
        (["ptft", "--config.seed=1", "--config", "a", "--list"], ["ptft", "--config=a", "--config.seed=1", "--list"]),
        (["ptft", "--workdir=w", "--config.seed", "1", "--config=a"], ["ptft", "--config=a", "--workdir=w", "--config.seed", "1"]),
        (["ptft", "--config", "--list"], ["ptft", "--config", "--list"]),  # a value is missing: the parser says so
        (["ptft"], ["ptft"]),
    ],
)  # fmt: skip
def test_a_config_may_stand_anywhere(words, read):
    assert command._joined(words) == read


def test_a_workdir_alone_has_the_config_that_its_run_recorded(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    given = ["train", f"--workdir={run}"]
    assert command._with_recorded(given) == given, "no run is there"
    (run / "config.json").write_text(json.dumps({}))
    recorded = f"--config={run}/config.json"
    for words in (given, ["train", "--workdir", str(run)]):
        assert command._with_recorded(words) == ["train", recorded, *words[1:]]
    assert command._with_recorded(["train", "--config=x", f"--workdir={run}"])[1] == "--config=x"
    assert recorded not in command._with_recorded(["train", "--config=x", f"--workdir={run}"])


def test_a_recorded_config_may_lie_in_a_folder_with_a_colon(tmp_path):
    run = tmp_path / "base:1"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"seed": 7}))
    words = command._with_recorded(["train", f"--workdir={run}"])
    assert files.load(words[1].removeprefix("--config=")).seed == 7
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="a JSON file takes no argument"):
        files.load(f"{tmp_path}/config.json:x.json")


VERB = """
import pathlib
from absl import flags
from ptft_jax.verbs import command

def define():
    flags.DEFINE_string("text", "", "")

def main():
    text = flags.FLAGS.text
    print(ascii(text), pathlib.Path(text).read_text(encoding="utf-8"))

command.launch(define, main)
"""


def test_words_have_all_letters_in_a_locale_that_knows_ascii_alone(tmp_path):
    """As texts, and as names of files."""
    (tmp_path / "\u00e9 \u6570").write_text("found", encoding="utf-8")
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", VERB, "--text=\u00e9 \u6570"],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, r"'\xe9 \u6570' found" + "\n", "")
