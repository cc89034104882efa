"""A setting that names a file or folder means a place, however it is spelled, from whichever folder."""

import json
import os

import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.runs import meant
from ptft_jax.runs import source as restore
from ptft_jax.verbs import command
from tests.helpers import quiet_train, stop_at, tiny_config


@pytest.fixture
def place(tmp_path):
    for folder in ("a/runs/base", "a/runs/x@1", "b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a/x.jsonl").write_text("{}", encoding="utf-8")
    os.symlink(tmp_path / "a", tmp_path / "link")
    return tmp_path


@pytest.mark.parametrize(
    "means, there, here, same",
    [
        (meant.parent, "runs/base@best", "{0}/a/runs/base@best", True),
        (meant.parent, "runs/base@last", "../a/runs/base@latest", True),
        (meant.parent, "./runs/base/#one", "{0}/link/runs/base#one", True),
        (meant.parent, "runs/x@1", "../a/runs/x@1", True),  # a folder with such a name
        (meant.parent, "runs/base@3", "{0}/a/runs/base@4", False),
        (meant.parent, "runs/base#one", "{0}/a/runs/base#two", False),
        (meant.parent, "runs/base", "runs/base", False),  # another folder's
        (meant.parent, "hf:runs/base", "hf:{0}/a/runs/base", True),
        (meant.parent, "hf:some/model", "hf:some/model", True),
        (meant.parent, "hf:runs/base", "gguf:{0}/a/runs/base", False),
        (meant.file, "x.jsonl", "{0}/a/x.jsonl", True),
        (meant.template, "chatml", "chatml", True),
        (meant.template, "x.jinja", "{0}/a/x.jinja", True),
        (meant.source, "jsonl:x.jsonl", "jsonl:file://{0}/a/x.jsonl", True),
        (meant.source, "jsonl:*.jsonl?examples=3", "jsonl:../a/*.jsonl?examples=3", True),
        (meant.source, "jsonl:x.jsonl?examples=3", "jsonl:{0}/a/x.jsonl?examples=4", False),
        (meant.source, "jsonl:x.jsonl", "text:{0}/a/x.jsonl", False),
        (meant.source, "tokens:runs", "tokens:{0}/a/runs", True),
        (meant.source, "hf:imdb", "hf:imdb", True),
        (meant.source, "jsonl:s3://bucket/x.jsonl", "jsonl:s3://bucket/x.jsonl", True),
        (meant.source, "shakespeare:plays", "shakespeare:plays", True),
        (meant.source, "tfds:d?dir=runs", "tfds:d?dir={0}/a/runs", True),
        (meant.source, "world:retrieval?retrieve=runs&k=1", "world:retrieval?k=1&retrieve={0}/a/runs", True),
        (meant.source, "world:retrieval?retrieve=runs", "world:retrieval?retrieve={0}/b/runs", False),
        (meant.mixture, [["jsonl:x.jsonl", 1.0]], (("jsonl:{0}/a/x.jsonl", 1.0),), True),
    ],
)
def test_two_spellings(means, there, here, same, place):
    here = ((here[0][0].format(place), here[0][1]),) if isinstance(here, tuple) else here.format(place)
    assert (means(there, str(place / "a")) == means(here, str(place / "b"))) == same


@pytest.mark.heavy
def test_a_run_goes_on_from_another_folder(tmp_path, monkeypatch):
    """All files by their absolute paths, where the run was begun with relative ones: the same bits, and the same figures of
    what was forgotten of the parent's data, which its own config names by a relative path, too."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "runs").mkdir(parents=True)
    there.mkdir()
    for name, text in (
        ("a.txt", "to be or not to be, that is the question.\n"),
        ("b.txt", "all the world is a stage\n"),
    ):
        (here / name).write_text(text * 300, encoding="utf-8")
    common = dict(training__steps=4, eval__every=2, checkpoint__every=1, checkpoint__keep_latest=9)

    def config(**changes):
        return tiny_config("-", **common, data__source=changes.pop("source"), **changes)

    def child(folder, **changes):
        parent = f"{folder}runs/base@3"
        return config(source=f"text:{folder}b.txt", init__from_=parent, tune__method="lora", **changes)

    monkeypatch.chdir(here)
    quiet_train(config(source="text:a.txt"), "runs/base")
    whole = quiet_train(child(""), "runs/whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        quiet_train(child(""), "runs/child")
    monkeypatch.chdir(there)
    with pytest.raises(UserError, match="another config:\n  init.from"):
        quiet_train(
            config(source=f"text:{here}/b.txt", init__from_=f"{here}/runs/base@2", tune__method="lora"),
            here / "runs/child",
        )
    done = quiet_train(child(f"{here}/"), here / "runs/child")
    assert (done["after"], done["transfer"]) == (whole["after"], whole["transfer"]) and "source/nll" in done["after"]
    kept = json.loads((here / "runs/child/config.json").read_bytes())
    assert (kept["init"]["from_"], kept["data"]["source"]) == ("runs/base@3", "text:b.txt"), "as it was begun"
    assert restore.find(str(here / "runs/child")).data.source == f"text:{here}/b.txt"
    assert restore.before(restore.find(str(here / "runs/child"))).data.source == f"text:{here}/a.txt"
    # With its optimizer, by the chain of what it came from.
    on = child(f"{here}/", init__optimizer=True)
    on.init.from_ = f"{here}/runs/child@2"
    assert quiet_train(on, there / "on")["after"] == whole["after"]
    # Of an earlier version, whose environment.json names no folder: the parent's place tells.
    environment = json.loads((here / "runs/child/environment.json").read_bytes())
    assert environment.pop("folder") == str(here)
    (here / "runs/child/environment.json").write_text(json.dumps(environment), encoding="utf-8")
    assert quiet_train(child("../here/"), here / "runs/child")["after"] == whole["after"]
    # Moved as a whole, the parent is the same run.
    here.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert quiet_train(child(""), "runs/child")["after"] == whole["after"]


@pytest.fixture
def begun(place):
    """A run that was begun in the folder a, by relative paths."""
    workdir = place / "a/runs/child"
    workdir.mkdir()
    config = tiny_config("-", data__source="text:x.txt", init__from_="runs/base@best", eval__source="text:x.txt")
    (place / "a/x.txt").write_text("text", encoding="utf-8")
    files = {"config": config.to_dict(), "environment": {"folder": str(place / "a")}}
    for name, values in files.items():
        (workdir / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    return workdir


@pytest.mark.parametrize(
    "recorded, known", [({"checkpoint": "best"}, True), ({"checkpoint": "last"}, False), ({}, False)]
)
def test_a_name_alone_is_what_the_run_was_started_from(begun, recorded, known, monkeypatch):
    (begun / "lineage.json").write_text(json.dumps([{"workdir": str(begun.parent / "base"), "step": 2, **recorded}]))
    monkeypatch.chdir(begun.parent.parent)
    config = configs.check(tiny_config("-", data__source="text:x.txt", init__from_="runs/base"), complete=False)
    assert (meant.spelled(begun, config).init.from_ == "runs/base@best") == known


def test_the_workdir_alone_continues_from_any_folder(begun, place, monkeypatch):
    monkeypatch.chdir(place / "b")
    words = command._with_recorded(["ptft", f"--workdir={begun}"])
    there = place / "a"
    assert words == [
        "ptft",
        f"--config={begun}/config.json",
        f"--config.init.from_={there}/runs/base@best",
        f"--config.data.source=text:{there}/x.txt",
        f"--config.eval.source=text:{there}/x.txt",
        f"--workdir={begun}",
    ]
    monkeypatch.chdir(place / "a")
    assert command._with_recorded(["ptft", f"--workdir={begun}"]) == [words[0], words[1], words[-1]]


def test_all_that_a_config_names_is_found_from_elsewhere(place, monkeypatch):
    """What asks and rewards answers, too."""
    there = place / "a"
    for name in ("q.jsonl", "t.jinja"):
        (there / name).write_text("{}", encoding="utf-8")
    given = {
        "eval.answers.source": ("jsonl:q.jsonl", f"jsonl:{there}/q.jsonl"),
        "eval.behavior.source": ("jsonl:q.jsonl?format=text", f"jsonl:{there}/q.jsonl?format=text"),
        "eval.behavior.also": (("jsonl:q.jsonl", "jsonl:none.jsonl"), (f"jsonl:{there}/q.jsonl", "jsonl:none.jsonl")),
        "rewards.judge.template": ("t.jinja", f"{there}/t.jinja"),
        "rewards.ensemble.template": ("chatml", "chatml"),
        "data.mixture": ((("jsonl:q.jsonl", 1.0),), ((f"jsonl:{there}/q.jsonl", 1.0),)),
    }  # fmt: skip
    config = tiny_config("-", data__source="", **{path.replace(".", "__"): value for path, (value, _) in given.items()})
    (there / "runs/base/environment.json").write_text(json.dumps({"folder": str(there)}), encoding="utf-8")
    section = configs.check(config, complete=False)
    monkeypatch.chdir(place / "b")
    found = meant.from_here(there / "runs/base", section)
    assert {path: configs.get(found, path) for path in given} == {path: value for path, (_, value) in given.items()}
    monkeypatch.chdir(there)
    assert configs.get(meant.from_here(there / "runs/base", section), "eval.answers.source") == "jsonl:q.jsonl"


def test_an_index_is_found_from_another_folder(begun, place, monkeypatch):
    config = json.loads((begun / "config.json").read_text())
    config["data"]["source"] = "text:x.txt?retrieve=runs/base&k=2"
    config["eval"]["source"] = "world:retrieval?k=2&retrieve=nowhere"
    (begun / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.chdir(place / "b")
    values = meant.from_here(begun, configs.check(config))
    assert values["data"]["source"] == f"text:{place}/a/x.txt?retrieve={place}/a/runs/base&k=2"
    assert values["eval"]["source"] == "world:retrieval?k=2&retrieve=nowhere"
