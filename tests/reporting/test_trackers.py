"""Trackers: told what the run writes, each thing once however often it was killed; one that fails fails alone."""

import json
import re
import sys
import threading
import types
import typing

import pytest

from ptft_jax.config.trackers import TRACKERS as BUILT_IN
from ptft_jax.config.trackers import TrackerSpec, chosen
from ptft_jax.errors import UserError
from ptft_jax.reporting.metrics import MetricsWriter
from ptft_jax.reporting.progress import Reporter
from ptft_jax.reporting.trackers.base import FAILED, FINISHED, STOPPED, Guarded, Launch, flat
from ptft_jax.runs.files import read_rows
from ptft_jax.training import assembly
from tests.helpers import quiet_train, stop_at, tiny_config
from tests.processes import ROOT


class Book:
    """A tracker that writes down what it is told, for all launches of a test."""

    told: typing.ClassVar[list] = []

    def start(self, launch):
        self.told.append(("start", launch.tracked_as, launch.step, launch.workdir.name))
        return launch.tracked_as or f"book of {launch.run_id[:6]}"

    def scalars(self, step, kind, values):
        self.told.append((kind, step, dict(values)))

    def texts(self, step, rows):
        self.told.append(("texts", step, [row["text"] for row in rows]))

    def close(self, status):
        self.told.append(("close", status))


TRACKERS = {  # this module is a plugin
    "book": TrackerSpec(Book),
    "here": TrackerSpec(f"{__name__}:Book", ("json",)),
    "gone": TrackerSpec(Book, ("json", "no_such_package_1")),
}


@pytest.fixture
def book(monkeypatch):
    monkeypatch.setattr(Book, "told", [])
    return Book.told


def writer(workdir, step=-1, run_id="abcdef123", **options):
    said = options.pop("said", [])
    options = {"trackers": {"book": TrackerSpec(Book)}, **options}
    return MetricsWriter(
        workdir, tensorboard=False, step=step, config={"a": 1}, run_id=run_id, say=said.append, **options
    )


def kinds(told):
    return [(one[0], one[1]) for one in told]


def test_a_tracker_is_told_what_is_written(tmp_path, book):
    made = writer(tmp_path)
    made.write(1, "train", {"loss": 2.0})
    made.write(1, "eval", {"validation/nll": 1.5})
    made.sample(1, {"prompt": "p", "text": "a"}, {"prompt": "q", "text": "b"})
    made.status = FINISHED
    made.close()
    assert book == [
        ("start", "", -1, tmp_path.name),
        ("train", 1, {"loss": 2.0}),
        ("eval", 1, {"validation/nll": 1.5}),
        ("texts", 1, ["a", "b"]),
        ("close", FINISHED),
    ]
    assert [row["text"] for row in read_rows(tmp_path / "samples.jsonl")] == ["a", "b"]
    assert json.loads((tmp_path / "trackers.json").read_text())["book"]["tracked_as"] == "book of abcdef"


def test_what_a_killed_run_computes_again_is_not_told_again(tmp_path, book):
    made = writer(tmp_path)
    for step in range(1, 6):
        made.write(step, "train", {"loss": step})
    made.write(4, "eval", {"x": 4})
    made.sample(4, {"prompt": "", "text": "t"})
    made.close()  # in place of a kill: what was told is seen in the rows, which are the same then
    for upto, last in (
        (4, 3),
        (7, 2),
    ):  # a second kill, before it is where it was: the rows alone know less than the trackers
        book.clear()
        made = writer(tmp_path, step=last, pending=True)
        for step in range(last + 1, upto + 1):
            made.write(step, "train", {"loss": step})
            if step == 4:
                made.write(4, "eval", {"x": 4})
                made.sample(4, {"prompt": "", "text": "t"})
        made.write(4, "test", {"x": 1})
        made.sample(4, {"prompt": "", "text": "s", "selected": True})
        made.close()
    told = kinds(book)
    assert told[0] == ("start", "book of abcdef") and told[1:] == [("train", 6), ("train", 7), ("close", STOPPED)]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"] == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
    ]


def test_a_run_that_begins_again_is_another_run_and_a_new_tracker_is_told_all(tmp_path, book):
    made = writer(tmp_path)
    made.write(1, "train", {"loss": 1})
    made.close()
    book.clear()
    made = writer(tmp_path, run_id="fedcba321")
    made.write(1, "train", {"loss": 1})
    made.close()
    assert kinds(book) == [("start", ""), ("train", 1), ("close", STOPPED)]
    book.clear()
    made = writer(tmp_path, step=0, run_id="fedcba321", trackers={"second": TrackerSpec(Book)})
    made.write(1, "train", {"loss": 1})
    made.close()
    assert kinds(book) == [("start", ""), ("train", 1), ("close", STOPPED)], "it has heard of none of it"


class Broken(Book):
    def scalars(self, step, kind, values):
        raise ConnectionError("\nno network: the service is not there\nmore")


class Unable(Book):
    def start(self, launch):
        sys.exit("not logged in")


@pytest.mark.parametrize("kind, words", [(Broken, "no network: the service is not there"), (Unable, "not logged in")])
def test_a_tracker_that_fails_is_said_once_and_the_rest_goes_on(tmp_path, book, kind, words):
    said = []
    made = writer(tmp_path, trackers={"bad": TrackerSpec(kind), "book": TrackerSpec(Book)}, said=said)
    for step in (1, 2, 3):
        made.write(step, "train", {"loss": step})
    made.close()
    assert said == [f"log.trackers: bad failed: {words}\nThe run goes on without it, and metrics.jsonl has all"]
    assert [one for one in kinds(book) if one[0] == "train"] == [("train", 1), ("train", 2), ("train", 3)]
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 3


def test_a_tracker_that_hangs_holds_up_nothing(tmp_path):
    said, never = [], threading.Event()
    slow = types.SimpleNamespace(
        start=lambda launch: "x", scalars=lambda *_: never.wait(60), close=lambda status: None, texts=None
    )
    guarded = Guarded("slow", slow, said.append, {})
    guarded.start(Launch({}, tmp_path, "r"), lambda name: None)
    for step in range(1000):
        guarded.scalars(step, "train", {"loss": 1.0})
    guarded.close(FINISHED, seconds=0.05)
    assert said == ["log.trackers: slow has not sent everything in 0 s, and is not waited for"]
    never.set()


def test_others_of_several_processes_are_silent(tmp_path, book):
    made = writer(tmp_path, silent=True)
    made.write(1, "train", {"loss": 1.0})
    made.sample(1, {"prompt": "", "text": ""})
    made.close()
    assert book == [] and list(tmp_path.iterdir()) == []


@pytest.mark.heavy
def test_a_run_with_a_tracker(text_file, tmp_path, book):
    """Stopped, continued and finished; another that fails."""
    config = tiny_config(text_file, training__steps=4, eval__every=2, log__trackers=("book",), plugins=(__name__,))
    config.samples.update(prompts=("the",), max_new_tokens=3, every=2)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(3, patch)
        quiet_train(config, tmp_path / "run")
    assert book[-1] == ("close", STOPPED)
    quiet_train(config, tmp_path / "run")
    assert [one[:1] for one in book if one[0] in ("start", "close")] == [("start",), ("close",)] * 2
    assert book[-1] == ("close", FINISHED) and [one[1] for one in book if one[0] == "train"] == [1, 2, 3, 4]
    assert [one[1] for one in book if one[0] == "eval"] == [0, 2, 4]
    rows = [row for row in read_rows(tmp_path / "run/metrics.jsonl") if row["kind"] == "train"]
    assert [one[2] for one in book if one[0] == "train"] == [
        {k: v for k, v in row.items() if k not in ("step", "kind", "time")} for row in rows
    ]
    texts = [row["text"] for row in read_rows(tmp_path / "run/samples.jsonl")]
    assert [text for one in book if one[0] == "texts" for text in one[2]] == texts and len(texts) == 3

    # Without the tracker, and the plugin that has it, it is the same run; one of another seed is not.
    alone = {**config.to_dict(), "plugins": (), "log": tiny_config(text_file).log.to_dict()}
    assembly.Run(alone, tmp_path / "run", Reporter(quiet=True))
    with pytest.raises(UserError, match="holds a run with another config:\n  seed: 0 -> 1\n"):
        assembly.Run({**alone, "seed": 1}, tmp_path / "run", Reporter(quiet=True))

    def fails(at):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        quiet_train(config, tmp_path / "failed", hooks=[(lambda at: at.first, fails)])
    assert book[-1] == ("close", FAILED)


@pytest.mark.parametrize(
    "names, words",
    [
        (
            ("wandbb",),
            r"config.log.trackers: no tracker 'wandbb': expected of wandb, mlflow, aim, .* \(did you mean 'wandb'\?\)",
        ),
        (
            ("gone",),
            "config.log.trackers: 'gone' needs no_such_package_1, not installed here: pip install no_such_package_1",
        ),
        (("here", "here"), "config.log.trackers: 'here' is named twice"),
        ("wandb", "config.log.trackers = 'wandb': expected tuple"),
    ],
)
def test_what_cannot_track_is_refused_before_anything_is_written(text_file, tmp_path, names, words):
    config = tiny_config(text_file, plugins=(__name__,)).to_dict()
    config["log"]["trackers"] = names
    with pytest.raises(UserError, match=words):
        quiet_train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_an_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        chosen(("mlflow",), BUILT_IN)
    needs = "config.log.trackers: 'mlflow' needs mlflow, sqlalchemy, alembic, not installed here"
    assert str(error.value) == f"{needs}: pip install 'ptft_jax[mlflow]'"
    text = (ROOT / "setup.py").read_text()
    assert all(f'    "{name}": [' in text for name in BUILT_IN)


def test_the_tracker_of_the_page(tmp_path):
    page = (ROOT / "docs/plugins.md").read_text().partition("## Trackers")[2]
    [block] = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names = {}
    exec(block, names)
    made = writer(tmp_path, trackers=names["TRACKERS"])
    made.write(1, "train", {"loss": 2.0})
    made.sample(1, {"prompt": "p", "text": "a"})
    made.close()
    assert (tmp_path / "diary.txt").read_text() == "1 train {'loss': 2.0}\n1 a\n"


def test_settings_in_one_level():
    assert flat({"seed": 1, "init": {"from_": "x"}, "a": {"b": {"c": (1, 2)}}}) == {
        "seed": 1, "init.from": "x", "a.b.c": (1, 2),
    }  # fmt: skip
