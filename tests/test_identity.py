"""What two models must share: names of classes in any order, tokenizer, template, structure; asked by every verb that joins."""

import json
import types

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.combining.combine import METHODS, combine
from ptft_jax.data import class_names, pipeline
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.class_names import Head
from ptft_jax.data.formats import layouts
from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.interop import labels as interop_labels
from ptft_jax.interop.config_reader import Fields
from ptft_jax.reporting import comparison
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import identity, loading
from ptft_jax.runs import source as restore
from ptft_jax.training import checkpoint, completion
from ptft_jax.training.assembly import Run
from tests.combining.test_combine import derived, whole
from tests.combining.test_finite import rewrite
from tests.helpers import quiet_train, tiny_config

A, B = ("like", "dislike", "meh"), ("meh", "like", "dislike")  # two orders of the same names
HEAD = ("head/classes/kernel", "head/classes/bias")
CLASSES = dict(
    objective__name="classification", model__head="classes", model__causal=False, model__classes=3, model__layers=1,
    training__steps=0, optimizer__warmup_steps=0, eval__every=0,
)  # fmt: skip


@pytest.mark.parametrize(
    "of,among,expected",
    [
        (A, A, None), ((), (), None), (("0", "1"), (), None), ((), ("0", "1", "2"), None),
        (A, B, (1, 2, 0)), (B, A, (2, 0, 1)), (("b", "a"), ("a", "b"), (1, 0)), (("1", "0"), ("0", "1"), (1, 0)),
        (A, (), ValueError), ((), B, ValueError), (A, A[:2], ValueError), (A, (*A, "x"), ValueError),
        (("a", "b"), ("a", "c"), ValueError), (("1", "2"), (), ValueError),
        (("x", "x", "y"), ("x", "x", "y"), None), (("x", "x", "y"), ("x", "y", "x"), ValueError),
    ],
)  # fmt: skip
def test_places_of_names(of, among, expected):
    if expected is ValueError:
        with pytest.raises(ValueError):
            class_names.places(Head(of, "x"), Head(among, "y"))
    else:
        assert class_names.places(Head(of, "x"), Head(among, "y")) == expected


def test_only_what_differs_is_listed():
    text = class_names.differences(Head(("a", "b"), "x"), Head(("b", "c"), "y"))
    assert text == "x has the classes a, b, and y was trained on b, c\n  a: only in x\n  c: only in y"
    many = class_names.differences(Head(tuple(f"n{i}" for i in range(5000)), "x"), Head(("a",), "y"))
    assert len(many) < 1000


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A classifier, one fine-tuned from it, and others whose classes have another order, or other names."""
    folder = tmp_path_factory.mktemp("classes")
    words = dict(zip(A, ("good day", "bad night", "so so")))
    rows = [f"{words[name]} {i},{name}" for i in range(40) for name in A]
    (folder / "moods.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    first = tiny_config(folder, **CLASSES)
    first.data.source = f"csv:{folder}/moods.csv?classes={','.join(A)}"
    quiet_train(first, folder / "base")
    for name in ("one", "two"):
        derived(folder, name, "base", noise=0.3, config={"init.from_": str(folder / "base")})
    chain = json.dumps(
        [{"workdir": str(folder / "base"), "step": 0, "run_id": "", "fingerprint": _print(folder / "base")}]
    )
    for name in ("one", "two"):
        (folder / name / "lineage.json").write_text(chain)
    # The same model as two, with its classes in the order B.
    derived(folder, "turned", "two")
    order = [A.index(name) for name in B]
    params = {p: a[..., order] if p in HEAD else a for p, a in whole(str(folder / "two")).items()}
    rewrite(folder / "turned", params, {**checkpoint.read_meta(folder / "two", 0), "classes": list(B)})
    named(folder, "turned", B)
    for name, classes in (("stranger", ("like", "dislike", "so-so")), ("counted", ())):
        derived(folder, name, "two", meta={"classes": list(classes)})
        named(folder, name, classes)
    return folder


def _print(workdir):
    return checkpoint.read_meta(workdir, 0)["fingerprint"]


def named(folder, name, classes):
    rows = json.loads((folder / name / "data.json").read_text())
    (folder / name / "data.json").write_text(json.dumps([{**row, "classes": list(classes)} for row in rows]))


OPTIONS = {name: {"density": 0.5} if "density" in kind.needs else {} for name, kind in METHODS.items()}


@pytest.mark.parametrize(
    "method",
    [
        "soup",
        pytest.param("task", marks=pytest.mark.heavy),
        *(
            pytest.param(m, marks=pytest.mark.slow)
            for m in METHODS
            if m not in ("interpolate", "greedy_soup", "soup", "task")
        ),
    ],
)
def test_heads_are_put_in_one_order(runs, tmp_path, method):
    """What comes out is, bit for bit, what comes out where the second model had the order of the first all along."""
    plain = combine(method, [str(runs / "one"), str(runs / "two")], tmp_path / "plain", **OPTIONS[method])
    turned = combine(method, [str(runs / "one"), str(runs / "turned")], tmp_path / "turned", **OPTIONS[method])
    expected, found = (whole(str(tmp_path / name)) for name in ("plain", "turned"))
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    [note] = turned["notes"]
    assert "turned@0, whose classes are meh, like, dislike, was put in the order of" in note and "notes" not in plain
    assert json.loads((tmp_path / "turned/data.json").read_text())[0]["classes"] == list(A)
    assert restore.find(str(tmp_path / "turned")).meta["classes"] == list(A)
    # And the other way round: the first model's order is the result's.
    back = combine(method, [str(runs / "turned"), str(runs / "one")], tmp_path / "back", **OPTIONS[method])
    assert json.loads((tmp_path / "back/data.json").read_text())[0]["classes"] == list(B)
    assert restore.find(str(tmp_path / "back")).classes == B
    if method == "soup":
        order = [A.index(name) for name in B]
        np.testing.assert_array_equal(whole(str(back["out"]))[HEAD[0]], expected[HEAD[0]][..., order])


def test_between_a_run_and_its_parent_in_another_order(runs, tmp_path):
    done = combine("interpolate", [str(runs / "turned")], tmp_path / "out", alpha=0.25)
    base, two = whole(str(runs / "base")), whole(str(runs / "two"))
    order, found = [A.index(name) for name in B], whole(str(tmp_path / "out"))
    for path in HEAD:
        expected = 0.75 * base[path].astype(np.float64) + 0.25 * two[path]
        np.testing.assert_allclose(found[path], expected[..., order], rtol=1e-6)
    assert "base@0, whose classes are like, dislike, meh" in done["notes"][0]
    recorded = json.loads((tmp_path / "out/lineage.json").read_text())
    assert recorded[0]["fingerprint"] == _print(runs / "base"), "that of the parent as it is stored"


@pytest.mark.parametrize(
    "method,name,words",
    [
        ("soup", "stranger", "so-so: only in .*stranger"), ("ties", "stranger", "so-so: only in .*stranger"),
        ("greedy_soup", "counted", "counted@0 has numbers for classes, and .*one@0 was trained on like, dislike, meh"),
    ],
)  # fmt: skip
def test_other_names_are_refused(runs, tmp_path, method, name, words):
    options = {"density": 0.5} if method == "ties" else {}
    with pytest.raises(UserError, match=f"(?s)tell other classes apart: .*{words}"):
        combine(method, [str(runs / "one"), str(runs / name)], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def config_of(runs, classes, **changes):
    config = tiny_config(runs, **{**CLASSES, **changes})
    config.data.source = f"csv:{runs}/moods.csv?classes={','.join(classes)}"
    return config


@pytest.mark.heavy
def test_a_child_numbers_classes_as_its_parent(runs, tmp_path):
    """Its head is the parent's, row by row, and so is what it measures."""
    parent = evaluate(loading.load(str(runs / "two")), "", "test")
    child = quiet_train(config_of(runs, B, init__from_=str(runs / "two")), tmp_path / "child")
    assert child["before"]["test/nll"] == pytest.approx(parent["nll"], rel=1e-6)
    assert child["after"]["source_test/accuracy"] == pytest.approx(parent["accuracy"])
    [row] = json.loads((tmp_path / "child/data.json").read_text())
    assert row["classes"] == list(A) and f"numbered as {runs / 'two'}@0 has them: 0 = like" in row["format"]
    for path, array in whole(str(runs / "two")).items():
        np.testing.assert_array_equal(whole(str(tmp_path / "child"))[path], array)
    again = quiet_train(config_of(runs, B, init__from_=str(runs / "two")), tmp_path / "child")
    assert again["finished"]


@pytest.mark.parametrize("name", ["stranger", pytest.param("counted", marks=pytest.mark.slow)])
def test_a_child_with_other_classes_needs_a_new_head(runs, tmp_path, name):
    source = "csv:" + str(runs / "moods.csv")  # names that the source does not give as an option
    with pytest.raises(
        UserError, match=r"moods.csv has the classes dislike, like, meh, and .*init.fresh=\('head/.\*',\)"
    ):
        quiet_train(tiny_config(runs, **CLASSES, init__from_=str(runs / name), data__source=source), tmp_path / "child")
    assert not (tmp_path / "child").exists()
    fresh = dict(init__fresh=("head/.*",), eval__parent_data=False, data__source=source)
    quiet_train(tiny_config(runs, **CLASSES, init__from_=str(runs / name), **fresh), tmp_path / "child")
    assert json.loads((tmp_path / "child/data.json").read_text())[0]["classes"] == ["dislike", "like", "meh"]


def test_a_parent_of_numbers_is_given_names(runs, tmp_path):
    quiet_train(config_of(runs, B, init__from_=str(runs / "counted"), eval__parent_data=False), tmp_path / "child")
    assert json.loads((tmp_path / "child/data.json").read_text())[0]["classes"] == list(B)


def test_evaluation_goes_by_names(runs):
    loaded = loading.load(str(runs / "two"))
    own, other = (evaluate(loaded, f"csv:{runs}/moods.csv?classes={','.join(c)}", "test") for c in (A, B))
    assert other["nll"] == own["nll"] and other["accuracy"] == own["accuracy"]
    assert "labels" not in own
    assert other["labels"] == f"numbered as {loaded.source.name} has them: 0 = like, 1 = dislike, 2 = meh"


def test_sources_of_a_mixture_go_by_names(runs, tmp_path):
    texts = {name: f"{name} it is" for name in A}
    other = tmp_path / "other.csv"
    other.write_text("text,label\n" + "".join(f"{texts[name]} {i},{name}\n" for i in range(20) for name in A))
    config = config_of(runs, A)
    config.data.mixture = ((config.data.source, 1.0), (f"csv:{other}", 1.0))
    quiet_train(config, tmp_path / "run")
    rows = json.loads((tmp_path / "run/data.json").read_text())
    assert [row["classes"] for row in rows] == [list(A)] * 2
    data = pipeline.training(completion.resolve(config)[0].data, tok.ByteTokenizer(), _builder(), steps=1, seed=0)
    tokenizer = tok.ByteTokenizer()
    for store in (s.store for s in data.sets):
        for example, label in enumerate(store.labels):
            text = tokenizer.decode(store.ids[store.offsets[example] : store.offsets[example + 1]].tolist())
            word = {"good": "like", "bad": "dislike", "so": "meh"}.get(text.split()[0], text.split()[0])
            assert A[label] == word


def _builder():
    from ptft_jax.data.builders.classes import Classes

    return Classes()


def conversations(template, classes=None, source="x"):
    """The identity of a run that was trained on conversations."""
    rows = [{"format": "messages: messages from column 'messages'", "source": "jsonl:x", "classes": []}]
    tokenizer = types.SimpleNamespace(chat_templates={"default": source}, chat_template=source)
    return identity.Identity("run", {}, None, identity.template(template, tokenizer, rows))


def test_templates():
    identity.check_templates(conversations("chatml"), conversations("chatml"))
    identity.check_templates(
        conversations(""), conversations("default")
    )  # by what they say, not by what they are called
    with pytest.raises(UserError, match="different chat templates, 'gemma' and 'chatml'"):
        identity.check_templates(conversations("chatml"), conversations("gemma"))
    with pytest.raises(UserError, match="the tokenizer's own and 'llama3'"):
        identity.check_templates(conversations("llama3"), conversations(""))
    texts = identity.template("", conversations("").tokenizer, [{"format": "text: text from column 'text'"}])
    assert texts is None


def test_names_of_imported_weights():
    def of(labels):
        count, names = interop_labels.read(Fields({"id2label": labels}, "hf:x"))
        fields, archive = {"head": "classes", "classes": count}, types.SimpleNamespace(config={})
        return identity.classes_of(types.SimpleNamespace(fields=fields, archive=archive, name="hf:x", classes=names))

    assert of({"2": "c", "1": "b", "0": "a"}).names == ("a", "b", "c")
    assert of({0: "no", 1: "yes"}).names == ("no", "yes")
    for nothing in (None, {"0": "LABEL_0", "1": "LABEL_1"}, []):
        assert of(nothing) is None
    for wrong in ({"10": "k", "0": "a"}, {"a": "b"}):  # keys that are not the numbers of classes
        with pytest.raises(UserError, match="config.json"):
            of(wrong)
    # Two classes of one name have no order to be put in.
    one, other = (identity.Identity(n, {}, None, None, of({"0": "x", "1": n, "2": "x"})) for n in ("x", "y"))
    assert identity.check(one, one) is None
    with pytest.raises(UserError, match="y and x tell other classes apart"):
        identity.check(one, other)


def test_runs_that_tell_other_classes_apart_are_not_compared(runs, tmp_path):
    one, two = (
        identity.of_folder(runs / n, json.loads((runs / n / "config.json").read_text()), n) for n in ("two", "turned")
    )
    identity.check_measured_alike(one, two)
    other = identity.of_folder(runs / "stranger", json.loads((runs / "stranger/config.json").read_text()), "stranger")
    with pytest.raises(UserError, match="(?s)tell other classes apart.*meh: only in two"):
        identity.check_measured_alike(one, other)
    config = json.loads((runs / "two/config.json").read_text())
    found = comparison.Finished(runs / "two", config, {}, [])
    assert found.identity.classes.names == A and found.identity.tokenizer.vocab_size == 257


def test_an_adapter_for_another_tokenizer(runs, tmp_path):
    source = loading.load(str(runs / "two")).source
    identity.check_folder(tmp_path, source, "--adapter")  # none beside it
    for name, data in source.tokenizer.files().items():
        (tmp_path / name).write_bytes(data)
    identity.check_folder(tmp_path, source, "--adapter")
    for name, data in (
        tok.train_bpe(["the cat sat on a mat while rain fell on an old stone roof " * 9], 270).files().items()
    ):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match="made for another tokenizer than that of .*two@0: token "):
        identity.check_folder(tmp_path, source, "--adapter")


def test_the_importance_of_parameters_goes_by_names(runs, tmp_path):
    """Labels of the parent's data are those of its head, however the child's source numbers them."""
    found = []
    for order in (A, B):
        config = config_of(runs, order, init__from_=str(runs / "two"), tune__ewc__weight=1.0)
        config.tune.ewc.update(labels="data", rows=16)
        config.eval.source = f"csv:{runs}/moods.csv?classes={','.join(order)}"
        run = Run(config, tmp_path / "run", Reporter(quiet=True))
        found.append(run.importance._rows)
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(mine["targets"], theirs["targets"])
        np.testing.assert_array_equal(mine["inputs"], theirs["inputs"])


def test_a_template_whose_file_is_gone_is_not_its_name(tmp_path):
    tokenizer = tok.ByteTokenizer()
    assert identity.learned_template(str(tmp_path / "gone.jinja"), tokenizer, []) is None
    old = types.SimpleNamespace(
        name="runs/old",
        fields={"image_size": 0},
        tokenizer=tokenizer,
        meta={},
        workdir=tmp_path,
        config=configs.check({}),
    )
    old.config = configs.check({"data": {"template": "gone.jinja"}}, complete=False)
    assert identity.chat_template(old) == ""


def test_every_format_of_turns_is_rendered_by_a_tokenizers_own_template():
    turns = {layout.name for layout in layouts.LAYOUTS if layout.name.endswith("messages")} | {"sharegpt", "alpaca"}
    assert {name.rstrip(":") for name in identity._TALKS} == turns
