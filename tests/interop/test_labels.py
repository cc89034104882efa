"""Names of classes in config.json: read in every form that there is, written, and read back."""

import json

import pytest

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.interop import export, labels, pretrained
from ptft_jax.interop.config_reader import Fields
from ptft_jax.model import presets
from tests.interop import small

CLASSES = {**small.BERT, "head": "classes", "classes": 3, "class_hidden": True}
IMAGES = {
    **presets.family("vit"), "vocab_size": 0, "layers": 2, "width": 32, "heads": 4, "image_size": 16, "patch_size": 8,
    "max_length": 5, "classes": 3,
}  # fmt: skip

READ = {
    "text keys": ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}, 2, ("a", "b")),
    "in no order": ({"id2label": {"2": "c", "0": "a", "1": "b"}}, 3, ("a", "b", "c")),
    "more than ten": ({"id2label": {str(n): f"n{n}" for n in reversed(range(12))}}, 12, tuple(f"n{n}" for n in range(12))),
    "numbers for names": ({"id2label": {"0": 5, "1": 3}}, 2, ("5", "3")),
    "placeholders": ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, 2, ()),
    "some placeholders": ({"id2label": {"0": "a", "1": "LABEL_1"}}, 2, ("a", "LABEL_1")),
    "only a count": ({"num_labels": 5}, 5, ()),
    "nothing": ({}, 2, ()),
    "only the way back": ({"num_labels": 2, "label2id": {"b": 1, "a": "0"}}, 2, ("a", "b")),
    "placeholders and a way back": ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"x": 1, "y": 0}}, 2, ("y", "x")),
    "an incomplete way back": ({"num_labels": 3, "label2id": {"x": 1, "y": 0}}, 3, ()),
    "twice": ({"id2label": {"0": "crane", "1": "x", "2": "crane"}, "label2id": {"crane": 2, "x": 1}}, 3, ("crane", "x", "crane")),
    "synonyms": ({"id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": 0, "pos": 1, "positive": 1}}, 2, ("neg", "pos")),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_names_are_read(name):
    config, count, names = READ[name]
    assert labels.read(Fields(json.loads(json.dumps(config)), "x")) == (count, names)


BAD = {
    "a gap": ({"id2label": {"0": "a", "2": "b"}}, "id2label has the keys 0, 2: expected the numbers 0 to 1, each once"),
    "twice": ({"id2label": {"0": "a", "00": "b"}}, "id2label has the keys 0, 00: expected the numbers 0 to 1"),
    "not a number": ({"id2label": {"a": "0"}}, "id2label has the key 'a': expected the number of a class, from 0"),
    "negative": ({"id2label": {"-1": "a"}}, "id2label has the key '-1': expected the number of a class"),
    "no number of a name": ({"num_labels": 2, "label2id": {"a": "x"}}, r"label2id\['a'\] = 'x': expected the number"),
    "no name": ({"id2label": {"0": None}}, r"id2label\['0'\] = None: expected a name"),
    "contradiction": ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}, "label2id has 'a' as 1, and id2label as 0"),
    "beyond": ({"id2label": {"0": "a", "1": "b"}, "label2id": {"b": 7}}, "label2id has 'b' as 7, and id2label as 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_tables_that_say_nothing_clear_are_refused(name):
    config, expected = BAD[name]
    with pytest.raises(UserError, match=f"x: config.json: {expected}"):
        labels.read(Fields(config, "x"))


@pytest.mark.parametrize("fields", [CLASSES, IMAGES], ids=["text", "images"])
def test_names_are_written_and_read_back(tmp_path, fields, monkeypatch):
    tokenizer = tok.ByteTokenizer() if fields is CLASSES else None
    made = export.Exported(small.params_of(fields), fields, tokenizer, [], classes=("b", "a"))
    export.to_folder(made, tmp_path / "x", dtype="float32")
    config = json.loads((tmp_path / "x/config.json").read_text())
    assert config["id2label"] == {"0": "b", "1": "a", "2": "LABEL_2"}
    assert config["label2id"] == {"b": 0, "a": 1, "LABEL_2": 2}
    assert "0 = b, 1 = a, 2 = LABEL_2" in (tmp_path / "x/README.md").read_text()
    found = pretrained.find(f"hf:{tmp_path / 'x'}", "--run")
    assert found.classes == ("b", "a", "LABEL_2") and found.config.objective.name == "classification"

    wrote = labels.write
    monkeypatch.setattr(labels, "write", lambda names, count: wrote(tuple(reversed(names)), count))
    with pytest.raises(UserError, match=r"read back, is another model:\n  class 0: 'b', read back as 'LABEL_2'"):
        export.to_folder(made, tmp_path / "y", dtype="float32")
    assert not (tmp_path / "y").exists()


def test_what_was_said_of_another_head_is_not_kept(tmp_path):
    """A run's head may be another one than the imported model's; a model that is written as it came says all that it did."""
    came = {
        **json.loads((small.folder(tmp_path / "bert", CLASSES) / "config.json").read_text()),
        "id2label": {"0": "x", "1": "y", "2": "z"}, "label2id": {"x": 0, "y": 1, "z": 2}, "num_labels": 4,
        "problem_type": "multi_label_classification", "initializer_range": 0.7,
    }  # fmt: skip
    origin = {"reference": "hf:x", "step": 0, "fingerprint": "", "model_type": "bert", "config": came}
    params = small.params_of(CLASSES)
    bare = export.Exported(params, CLASSES, None, [origin], classes=("x", "y", "z")).config("float32")
    assert bare["id2label"] == came["id2label"] and bare["problem_type"] == came["problem_type"]
    run = {"workdir": "runs/a", "step": 3, "fingerprint": "", "run_id": ""}
    for classes, expected in ((("a", "b", "c"), ["a", "b", "c"]), ((), ["LABEL_0", "LABEL_1", "LABEL_2"])):
        written = export.Exported(params, CLASSES, None, [run, origin], classes=classes).config("float32")
        assert list(written["id2label"].values()) == expected == list(written["label2id"])
        assert not {"problem_type", "num_labels"} & set(written) and written["initializer_range"] == 0.7
    masked = export.Exported(small.params_of(small.BERT), small.BERT, None, [run, origin]).config("float32")
    assert "id2label" not in masked and masked["architectures"] == ["BertForMaskedLM"]
    assert pretrained.find(f"hf:{tmp_path / 'bert'}", "--run").classes == ()
