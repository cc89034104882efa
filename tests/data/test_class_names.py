"""Labels of data as a head numbers its classes: by name, as numbers, or not at all."""

import csv
import json

import pytest

from ptft_jax import config as configs
from ptft_jax.data import builders, class_names, pipeline, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.class_names import Head
from ptft_jax.data.prepare import shard_writing
from ptft_jax.data.prepare.engines import Processes
from ptft_jax.data.prepare.settings import Settings
from ptft_jax.errors import UserError


def source(path, *labels, options="", form="jsonl"):
    """Thirty records, the labels in turn; their reference."""
    rows = [{"text": f"{path.stem} {i}", "label": labels[i % len(labels)]} for i in range(30)]
    if form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{form}:{path}{options}"


def training(*references, head=class_names.NEW):
    data = configs.check({"data": {"source": references[0], "mixture": tuple((r, 1.0) for r in references)}}).data
    builder = builders.build(configs.check({"objective": {"name": "classification"}}).objective, tok.ByteTokenizer())
    return pipeline.training(data, tok.ByteTokenizer(), builder, steps=4, seed=0, head=head)


def seen(found):
    """Text -> number, over all sources."""
    out = {}
    for rows in found.sets:
        store = rows.store
        for n, label in enumerate(store.labels.tolist()):
            out[tok.ByteTokenizer().decode(store.ids[store.offsets[n] : store.offsets[n + 1]])] = label
    return out


# names of the head, how many classes it has; labels of the data; label -> number by hand.
FITS = {
    "another order": (("zero", "one", "two"), 3, ["two", "one", "zero"], {"zero": 0, "one": 1, "two": 2}),
    "some of them": (("zero", "one", "two", "three"), 4, ["three", "one"], {"three": 3, "one": 1}),
    "numbers": (("zero", "one", "two"), 3, [2, 0], {2: 2, 0: 0}),
    "numbers of named numbers": (("7", "0", "2"), 3, [0, 2, 7], {0: 1, 2: 2, 7: 0}),
    "names of numbered": (("0", "1"), 2, ["1", "0"], {"1": 1, "0": 0}),
    "names that are numbers": ((), 9, ["7", "0", "2"], {"7": 7, "0": 0, "2": 2}),
    "plain numbers": ((), 8, [0, 2, 7], {0: 0, 2: 2, 7: 7}),
    "truths": (("true", "false"), 2, [True, False], {True: 0, False: 1}),
    "truths without names": ((), 2, [True, False], {True: 1, False: 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_labels_are_numbered_as_the_head_has_them(cache, tmp_path, name):
    names, size, labels, expected = FITS[name]
    reference = source(tmp_path / "x.jsonl", *labels)
    found = training(reference, head=Head(names, "runs/a@9", size))
    assert seen(found) == {text: expected[labels[int(text[2:]) % len(labels)]] for text in seen(found)}
    assert found.head.names == (names or (("false", "true") if name == "truths without names" else ()))
    assert found.table[0]["classes"] == list(found.head.names)
    moved = seen(found) != seen(training(reference))
    assert (found.key != training(reference).key) == moved, "what is read decides the key"
    assert ("numbered as runs/a@9 has them" in found.table[0]["format"]) == moved
    if name == "numbers":
        assert "; numbers are those of runs/a@9: 0 = zero, 1 = one, 2 = two" in found.table[0]["format"]


REFUSED = {
    "other names": (("pos", "neg"), ["good", "neg"], "has the classes good, neg, and runs/a@9 was trained on pos, neg: it has no class 'good'"),
    "nearly": (("positive", "negative"), ["positve", "negative"], r"no class 'positve' \(did you mean 'positive'\?\); spell them"),
    "case": (("POS", "NEG"), ["pos", "neg"], r"no class 'neg' \(its 'NEG' differs in white space, case or Unicode form\)"),
    "form": (("caf\u00e9", "x"), ["cafe\u0301", "x"], r"no class 'cafe\\u0301' \(its 'caf\\xe9' differs"),
    "beyond": (("a", "b"), [0, 2], r"x.jsonl, line \d+: the label 2, and runs/a@9 has 2 classes, 0 to 1"),
    "beyond without names": ((), [0, 5], r"x.jsonl, line \d+: the label 5, and runs/a@9 has 2 classes"),
    "of no name": (("7", "0"), [0, 1], r"x.jsonl, line \d+: the label 1, and runs/a@9 has 7, 0"),
    "names for none": ((), ["pos", "neg"], "has the classes neg, pos, and those of runs/a@9 have no names: say .* classes=A,B"),
    "two of a name": (("crane", "crane"), ["crane", "crane"], "the class 'crane' is more than one of runs/a@9, 0, 1: give labels as"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_a_head_has_not_are_refused(cache, tmp_path, name):
    names, labels, expected = REFUSED[name]
    with pytest.raises(UserError, match=expected):
        training(source(tmp_path / "x.jsonl", *labels), head=Head(names, "runs/a@9", 2))


def test_an_order_that_is_given_names_a_head_without_names(cache, tmp_path):
    reference = source(tmp_path / "x.jsonl", "neg", "pos", options="?classes=pos,neg")
    found = training(reference, head=Head((), "hf:x", 2))
    assert found.head.names == ("pos", "neg") and set(seen(found).values()) == {0, 1}
    assert all(label == int(text[2:]) % 2 ^ 1 for text, label in seen(found).items())
    # Where it has names, these decide, and a name that no record has is passed over.
    wide = source(tmp_path / "y.jsonl", "neg", "pos", options="?classes=pos,neg,mid")
    found = training(wide, head=Head(("neg", "pos"), "hf:x", 2))
    assert all(label == int(text[2:]) % 2 for text, label in seen(found).items())
    with pytest.raises(UserError, match="it has no class 'pos'"):
        training(wide, head=Head(("neg", "mid"), "hf:x", 2))


def test_a_new_head_takes_what_the_first_source_has(cache, tmp_path):
    a = source(tmp_path / "a.jsonl", "x", "y", "z", options="?classes=z,y,x")
    b = source(tmp_path / "b.jsonl", "y", "z")
    found = training(a, b)
    number = {"z": 0, "y": 1, "x": 2}
    expected = {"a": "xyz", "b": "yz"}
    assert found.head.names == ("z", "y", "x")
    assert seen(found) == {t: number[expected[t[0]][int(t[2:]) % len(expected[t[0]])]] for t in seen(found)}
    for other, theirs in (
        (source(tmp_path / "c.jsonl", 0, 1), "numbers"),
        (source(tmp_path / "d.jsonl", "x", "u"), "u, x"),
    ):
        with pytest.raises(
            UserError, match=rf"a.jsonl\S* has the classes z, y, x, and .*jsonl {theirs}, so .*classes=A,B"
        ):
            training(a, other)
        with pytest.raises(UserError, match="so their numbers differ"):
            training(other, a)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_prepared_labels_are_numbered_too(cache, tmp_path, form):
    labels = ["two", "one", "zero"]
    for name, options in (("found", ""), ("given", "?classes=two,zero,one")):
        reference = source(tmp_path / f"{name}.{form}", *labels, options=options, form=form)
        settings = Settings(sources=(reference,), shards=2)
        shard_writing.prepare(settings, tok.ByteTokenizer(), tmp_path / name, Processes(1))
        prepared = f"tokens:{tmp_path / name}"
        found = training(prepared, head=Head(("zero", "one", "two"), "hf:x", 3))
        assert all(label == 2 - int(t.split()[1]) % 3 for t, label in seen(found).items())
        if name == "found":
            with pytest.raises(UserError, match="have no names: say which"):
                training(prepared, head=Head((), "hf:x", 3))
        else:
            assert training(prepared, head=Head((), "hf:x", 3)).head.names == ("two", "zero", "one")


def test_names_are_filled_up_and_placeholders_are_none():
    assert class_names.filled(("a", "b"), 4) == ("a", "b", "LABEL_2", "LABEL_3") and class_names.filled((), 4) == ()
    assert class_names.known(("LABEL_0", "LABEL_1")) == () == class_names.known(())
    assert class_names.known(("LABEL_1", "LABEL_0")) == ("LABEL_1", "LABEL_0")


def test_a_model_that_scores_no_classes_leaves_labels_alone(cache, tmp_path):
    """What is wrong with such data is the objective's to say."""
    import types

    model = types.SimpleNamespace(fields={"head": "lm", "classes": 2}, classes=(), name="x")
    head = class_names.of(model)
    assert head == class_names.NEW == head.settled()
    data = configs.check({"data": {"source": source(tmp_path / "x.jsonl", "b", "a")}}).data
    tokens = source_splits.tokenized(data, data.source, "train", tok.ByteTokenizer())
    assert class_names.numbered(tokens, head)[0] is tokens
    model.fields["head"] = "classes"
    assert class_names.of(model) == Head((), "x", 2)
