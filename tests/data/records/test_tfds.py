"""TFDS datasets, written and read without TensorFlow."""

import sys

import pytest

from ptft_jax.data.records import open_records
from ptft_jax.data.records.tfds_builder import infer, write_tfds
from ptft_jax.errors import UserError
from tests.data.records import writing
from tests.processes import run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A dataset as its users would find it: files, and no code registered for it; its examples shuffled by TFDS."""
    import numpy as np
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    f = tfds.features
    features = {
        "question": f.Text(),
        "raw": f.Tensor(shape=(), dtype=np.object_),
        "vector": f.Tensor(shape=(None,), dtype=np.float32),
        "grid": f.Tensor(shape=(2, 2), dtype=np.int32),
        "label": f.ClassLabel(names=["no", "yes"]),
        "flag": f.Scalar(np.bool_),
        "messages": f.Sequence({"role": f.Text(), "content": f.Text()}),
        "rows": f.Dataset({"a": f.Text()}),
        "answers": f.FeaturesDict({"text": f.Sequence(f.Text()), "start": f.Sequence(np.int32)}),
    }

    def generate(self, n):
        for i in range(n):
            yield i, {
                "question": f"question {i} é", "raw": f"raw {i}".encode(), "vector": [0.5] * i, "grid": [[i, 1], [2, 3]],
                "label": i % 2, "flag": i % 2 == 0, "rows": [{"a": str(j)} for j in range(i)],
                "messages": [{"role": "user", "content": str(j)} for j in range(i % 3)],
                "answers": {"text": ["x"] * i, "start": list(range(i))},
            }  # fmt: skip

    body = {
        "name": "ptft_own",
        "VERSION": tfds.core.Version("1.0.0"),
        "__module__": __name__,
        "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features)),
        "_split_generators": lambda self, _: {"train": self._generate_examples(20)},
        "_generate_examples": generate,
    }
    with tfds.core.registered.skip_registration():
        builder = type("ptft_own", (tfds.core.GeneratorBasedBuilder,), body)
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_every_feature_is_a_column(cache, prepared):
    parts = writing.opened(f"tfds:ptft_own?dir={prepared}", held_out=0.2)
    assert sum(len(p) for p in parts.values()) == 20 and all(map(len, parts.values()))
    found = {r["question"]: r for p in parts.values() for r in p}
    assert len(found) == 20
    for i in (0, 1, 5):
        assert found[f"question {i} é"] == {
            "question": f"question {i} é", "raw": f"raw {i}", "vector": [0.5] * i, "grid": [[i, 1], [2, 3]],
            "label": i % 2, "flag": i % 2 == 0, "rows": [{"a": str(j)} for j in range(i)],
            "messages": [{"role": "user", "content": str(j)} for j in range(i % 3)],
            "answers": {"text": ["x"] * i, "start": list(range(i))},
        }  # fmt: skip
    some = open_records(f"tfds:ptft_own?dir={prepared}&columns=question,label", "train", held_out=0.1)
    assert set(some[0]) == {"question", "label"}


def test_tensorflow_is_not_needed(cache, prepared, tmp_path):
    code = f"""
import sys
from ptft_jax.data.records import open_records
from ptft_jax.data.records.tfds_builder import write_tfds
own = open_records("tfds:ptft_own?dir={prepared}", "train", held_out=0.1)
write_tfds({{"train": own}}, "copied", "2.1.0", {str(tmp_path)!r})
one = open_records("tfds:copied:2.1.0?dir={tmp_path}", "train", held_out=0.4)
assert len(own) > len(one) > 0, (len(own), len(one))
assert {{r["question"] for r in one}} < {{r["question"] for r in own}}
assert all(r in list(own) for r in one)
assert "tensorflow" not in sys.modules
"""
    done = run(sys.executable, "-c", code)
    assert not done.returncode, done.stderr


def test_kinds_of_columns():
    records = [
        {"a": "x", "b": 1, "c": [], "d": [], "e": {"x": 1, "y": ["a"]}, "f": 0.5, "g": [{"r": "u"}], "h": None, "i": 1, "j": [[1]]},
        {"a": "y", "b": 2, "c": [], "d": [2], "e": {"x": 2, "y": []}, "f": 1.0, "g": [], "h": "text", "i": 0.5, "j": [[2]]},
    ]  # fmt: skip
    assert infer(records) == {
        "a": "text", "b": "int", "c": ("list", None), "d": ("list", "int"), "f": "float", "h": "json", "i": "json",
        "e": ("object", {"x": "int", "y": ("list", "text")}), "g": ("list", ("object", {"r": "text"})), "j": "json",
    }  # fmt: skip
    for value in (2**63, 0.1, 1e300, {"a/b": 1}, {}, [None], [1, "a"], [{"a": []}], {"a": {"b": None}}):
        assert infer([{"x": value}]) == {"x": "json"}
    assert infer([{"x": 1}, {"y": True}]) == {"x": "json", "y": "json"}, "a column that is not everywhere"
    assert infer([{"x": True}, {"x": 1}]) == {"x": "json"}, "1 and true differ"


def test_what_cannot_be_written(tmp_path):
    one = writing.Listed([{"text": "x"}])
    for arguments, words in [
        (({"train": one}, "My-Data", "1.0.0"), "dataset name 'My-Data': expected lower-case"),
        (({"train": one}, "data", "1.0"), "dataset version '1.0': expected three numbers"),
        (({"train": one, "test": writing.Listed()}, "data", "1.0.0"), "no records in test"),
        (({}, "data", "1.0.0"), "no records in no split"),
    ]:
        with pytest.raises(UserError, match=words):
            write_tfds(*arguments, tmp_path)
    path = write_tfds({"train": one}, "data", "1.0.0", tmp_path)
    assert path.is_dir()
    with pytest.raises(UserError, match="data/1.0.0: exists; give the dataset another version"):
        write_tfds({"train": one}, "data", "1.0.0", tmp_path)


@pytest.mark.parametrize(
    "name, words",
    [
        ("tiny_shakespear", "knows no such dataset \\(did you mean 'tiny_shakespeare'"),
        ("ptft_own:9.9.9", "data source 'tfds:ptft_own:9.9.9"),
        ("ptft_own?columns=questions", "no column 'questions'; it has .*\\(did you mean 'question'"),
    ],
)
def test_errors_say_what_to_do(cache, prepared, name, words):
    joint = "&" if "?" in name else "?"
    with pytest.raises(UserError, match=words):
        open_records(f"tfds:{name}{joint}dir={prepared}", "train", held_out=0.1)


@pytest.mark.parametrize(
    "failure, words",
    [
        (
            ModuleNotFoundError("No module named 'tensorflow'"),
            "needs more.*'tensorflow'.*pip install 'ptft_jax\\[tfds\\]'",
        ),
        (OSError("name resolution failed"), "could not download and prepare it into .*name resolution failed"),
    ],
)
def test_what_preparing_needs_is_said(cache, prepared, monkeypatch, failure, words):
    """tiny_shakespeare is known to TFDS, but not prepared here, and its builder wants a network and TensorFlow."""
    import tensorflow_datasets as tfds

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError, match=words):
        open_records(f"tfds:tiny_shakespeare?dir={prepared}", "train", held_out=0.1)


def test_files_that_only_tensorflow_reads(cache, prepared, monkeypatch):
    import tensorflow_datasets as tfds

    def refuse(*_, **__):
        raise NotImplementedError("Random access data source for file format tfrecord is not supported")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", refuse)
    with pytest.raises(UserError, match="are not ArrayRecord.*tfrecord.*file_format='array_record'"):
        open_records(f"tfds:ptft_own?dir={prepared}", "train", held_out=0.1)
