"""Names of classes travel with a head: from data or an import through runs, evaluations and exports."""

import json

import numpy as np
import pytest

from ptft_jax.data.class_names import Head
from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.interop import pretrained
from ptft_jax.model import presets
from ptft_jax.reporting import run_report
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import checkpoint, loading
from ptft_jax.runs import source as restore
from ptft_jax.training import assembly
from ptft_jax.verbs import export
from tests.helpers import quiet_train, repeats, stop_at, tiny_config
from tests.processes import ptft

pytestmark = pytest.mark.heavy
WORDS = {"plain": "aaaa", "odd": "bbbb", "new": "cccc"}  # the word that tells a class


def texts(path, rows):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return f"jsonl:{path}"


def of_classes(*names, count=90, **spelled):
    """Texts with the word of their class, called as `spelled` has it."""
    every = [names[i % len(names)] for i in range(count)]
    return [(f"{WORDS[name]} {i}", spelled.get(name, name)) for i, name in enumerate(every)]


def config(text_file, source, **changes):
    options = dict(
        data__source=source, objective__name="classification", training__steps=40, eval__every=0, optimizer__learning_rate=3e-3,
    )  # fmt: skip
    made = tiny_config(text_file, **options | changes)
    made.model.update({**presets.family("bert"), "head": "classes", "class_hidden": True, "classes": 3})
    return made


@pytest.fixture(scope="module")
def run(text_file, tmp_path_factory):
    """A run from scratch on three classes, whose order is the alphabet's: new, odd, plain."""
    folder = tmp_path_factory.mktemp("classes")
    summary = quiet_train(config(text_file, texts(folder / "x.jsonl", of_classes(*WORDS))), folder / "run")
    assert summary["after"]["test/accuracy"] == summary["after"]["test/f1_macro"] == 1.0
    assert summary["confusion"]["test"]["classes"] == ["new", "odd", "plain"]
    run_report.write([folder / "run"], folder / "report.html")
    assert ">plain</text>" in (folder / "report.html").read_text(), "which was taken for which"
    return folder / "run"


def test_names_are_kept_with_a_run_and_go_out_with_it(run, tmp_path):
    source = restore.find(f"{run}@40")
    assert source.classes == ("new", "odd", "plain") == tuple(source.meta["classes"])
    written = export.model(str(run), "hf", tmp_path / "out", dtype="float32")
    assert json.loads((tmp_path / "out/config.json").read_text())["id2label"] == {"0": "new", "1": "odd", "2": "plain"}
    assert pretrained.find(f"hf:{tmp_path / 'out'}", "--run").classes == source.classes and written["family"] == "bert"
    data = texts(tmp_path / "x.jsonl", of_classes(*WORDS, count=60))
    both = [
        ptft("eval", f"--run={r}", f"--data={data}", "--length=32", check=True) for r in (run, f"hf:{tmp_path / 'out'}")
    ]
    own, exported = (json.loads(done.stdout) for done in both)
    assert own["confusion"] == exported["confusion"] and own["f1_macro"] == own["f1_weighted"] == 1.0
    assert own["confusion"]["classes"] == ["new", "odd", "plain"]
    table = np.asarray(own["confusion"]["counts"])
    assert table.sum() == own["tokens_scored"] and table.tolist() == np.diag(table.diagonal()).tolist()
    assert own["accuracy"] == exported["accuracy"] == 1.0 and own["nll"] == pytest.approx(exported["nll"], abs=1e-5)


def test_a_run_is_measured_by_names(run, tmp_path):
    loaded = loading.load(str(run))
    data = {
        "some": of_classes("plain", "odd"),  # 0 and 1 by themselves, 2 and 1 of the head's
        "numbers": of_classes(*WORDS, new=0, odd=1, plain=2),
        "given": of_classes(*WORDS),
    }
    for name, rows in data.items():
        reference = texts(tmp_path / f"{name}.jsonl", rows) + ("?classes=plain,odd,new" * (name == "given"))
        assert evaluate(loaded, reference, "validation")["accuracy"] == 1.0, name
    whole = texts(tmp_path / "same.jsonl", of_classes(*WORDS))
    assert "labels" not in evaluate(loaded, whole, "validation")
    counted = [evaluate(loaded, whole, split) for split in ("", "train", "validation", "test")]
    assert [row["split"] for row in counted] == ["all", "train", "validation", "test"]
    every, *shares = (row["examples"] for row in counted)
    assert every == counted[0]["tokens_scored"] == sum(shares) == 90 and all(shares)
    with pytest.raises(UserError, match="--held_out=0.2: nothing is held out where all of --data is measured"):
        evaluate(loaded, whole, held_out=0.2)
    said = evaluate(loaded, f"jsonl:{tmp_path / 'numbers.jsonl'}", "validation")["labels"]
    assert said == f"numbers are those of {run}@40: 0 = new, 1 = odd, 2 = plain"
    wrong = texts(tmp_path / "wrong.jsonl", of_classes(*WORDS, new=1, odd=2, plain=0))
    assert evaluate(loaded, wrong, "validation")["accuracy"] == 0.0  # numbers are taken at their word
    other = texts(tmp_path / "other.jsonl", of_classes(*WORDS, new="fresh"))
    done = ptft("eval", f"--run={run}", f"--data={other}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "it has no class 'fresh'" in done.stderr and "was trained on new, odd, plain" in done.stderr


def test_runs_of_before_have_the_names_of_their_data(run, monkeypatch):
    read = checkpoint.read_meta
    monkeypatch.setattr(checkpoint, "read_meta", lambda *a: {k: v for k, v in read(*a).items() if k != "classes"})
    source = restore.find(str(run))
    assert "classes" not in source.meta and source.classes == ("new", "odd", "plain")


@pytest.mark.parametrize("method", repeats(["full", "lora"]))
def test_a_child_takes_the_order_of_its_parent(run, text_file, tmp_path, method, monkeypatch):
    """Of no step, it is as good as the parent; and stopped and resumed, it has the names too."""
    some = texts(tmp_path / "x.jsonl", of_classes("plain", "odd"))
    change = dict(init__from_=str(run), tune__method=method, optimizer__warmup_steps=0)
    start = quiet_train(config(text_file, some, **change, training__steps=0), tmp_path / "start")
    assert start["after"]["test/accuracy"] == 1.0
    made = config(text_file, some, **change, training__steps=4, checkpoint__every=1)
    stop_at(2, monkeypatch)
    assert not quiet_train(made, tmp_path / "child")["finished"]
    assert quiet_train(made, tmp_path / "child")["after"]["test/accuracy"] == 1.0
    for name in ("start", "child"):
        assert restore.find(str(tmp_path / name)).classes == ("new", "odd", "plain")
        [row] = json.loads((tmp_path / name / "data.json").read_text())
        assert row["classes"] == ["new", "odd", "plain"]
        assert f"numbered as {run}@40 has them: 0 = new, 1 = odd, 2 = plain" in row["format"]
    shown = ptft("data", "show", f"--run={tmp_path / 'child'}", "--rows=0", "--as=json", check=True).stdout
    rows = [json.loads(line)["tokens"] for line in shown.splitlines()]
    classes = {row[0]["text"]: row[0]["answer"] for row in rows}
    assert classes == {"a": "class 2", "b": "class 1"}
    export.model(str(tmp_path / "child"), "hf", tmp_path / "out", dtype="float32")
    assert pretrained.find(f"hf:{tmp_path / 'out'}", "--run").classes == ("new", "odd", "plain")


def test_other_classes_need_another_head(run, text_file, tmp_path):
    other = texts(tmp_path / "x.jsonl", of_classes(*WORDS, new="fresh"))
    change = dict(init__from_=str(run), optimizer__warmup_steps=0, training__steps=0)
    with pytest.raises(
        UserError, match=r"x.jsonl has the classes fresh, odd, plain, and .*run@40 was trained on new, odd"
    ):
        assembly.Run(config(text_file, other, **change), tmp_path / "no", Reporter(quiet=True))
    assert not (tmp_path / "no").exists()
    fresh = dict(init__fresh=("head/.*",))
    with pytest.raises(UserError, match=r"no class 'new'.*(?s:.*)forgetting is measured on: .* eval.parent_data=False"):
        assembly.Run(config(text_file, other, **change, **fresh), tmp_path / "no", Reporter(quiet=True))
    made = assembly.Run(
        config(text_file, other, **change, **fresh, eval__parent_data=False), tmp_path / "no", Reporter(quiet=True)
    )
    assert made.classes == ("fresh", "odd", "plain") and made.head == Head(made.classes, "this run")
    few = config(text_file, other, **change, **fresh, eval__parent_data=False)
    few.model.classes = 2
    with pytest.raises(UserError, match=r"config.model.classes = 2: the data have 3 classes \(fresh, odd, plain\)"):
        assembly.Run(few, tmp_path / "no", Reporter(quiet=True))
    more = config(text_file, other, **change, **fresh, eval__parent_data=False)
    more.model.classes = 5
    assert assembly.Run(more, tmp_path / "no", Reporter(quiet=True)).classes == (
        "fresh",
        "odd",
        "plain",
        "LABEL_3",
        "LABEL_4",
    )


@pytest.mark.slow
def test_a_head_without_names_gets_none_by_guessing(text_file, tmp_path, cache):
    plain = of_classes(*WORDS, new=2, odd=1, plain=0)
    quiet_train(config(text_file, texts(tmp_path / "n.jsonl", plain)), tmp_path / "run")
    assert restore.find(str(tmp_path / "run")).classes == ()
    export.model(str(tmp_path / "run"), "hf", tmp_path / "out", dtype="float32")
    assert json.loads((tmp_path / "out/config.json").read_text())["id2label"]["2"] == "LABEL_2"
    named = texts(tmp_path / "x.jsonl", of_classes(*WORDS))
    for parent in (str(tmp_path / "run"), f"hf:{tmp_path / 'out'}"):
        loaded = loading.load(parent)
        with pytest.raises(
            UserError, match=r"x.jsonl has the classes new, odd, plain, and those of .* have no names: say which"
        ):
            evaluate(loaded, named, "validation", length=32)
        assert evaluate(loaded, f"{named}?classes=plain,odd,new", "validation", length=32)["accuracy"] == 1.0
    change = dict(init__from_=f"hf:{tmp_path / 'out'}", optimizer__warmup_steps=0)
    child = config(text_file, f"{named}?classes=plain,odd,new", **change, training__steps=0)
    assert quiet_train(child, tmp_path / "child")["after"]["test/accuracy"] == 1.0
    assert restore.find(str(tmp_path / "child")).classes == ("plain", "odd", "new")


def test_how_numbers_are_taken_is_said_of_what_is_only_measured_too(run, text_file, tmp_path):
    named = texts(tmp_path / "x.jsonl", of_classes(*WORDS))
    numbers = texts(tmp_path / "n.jsonl", of_classes(*WORDS, new=0, odd=1, plain=2))
    said = []
    reporter = Reporter(quiet=True)
    reporter.say = said.append
    change = dict(init__from_=str(run), optimizer__warmup_steps=0, eval__source=numbers)
    assembly.Run(config(text_file, named, **change), tmp_path / "run", reporter)
    told = "numbers are those of this run: 0 = new, 1 = odd, 2 = plain"
    assert [line for line in said if told in line] == [f"{s} of {numbers}: {told}" for s in ("validation", "test")]
