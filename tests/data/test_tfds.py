"""TFDS text, prepared and read without TensorFlow."""

import sys

import pytest

from ptft_jax.data import sources
from ptft_jax.errors import UserError
from tests.data.test_text import data_config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A dataset of our own on disk, as its users would find it: files, and no code registered for it."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    def make(name, features, splits):
        def info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def generate(self, split, n):
            for i in range(n):
                yield i, {key: f"{split} {key} {i}\nsecond line é\n" for key in features}

        # A class made with its name, for TFDS registers builders by name when their class is made.
        body = {
            "name": name,
            "VERSION": tfds.core.Version("1.0.0"),
            "__module__": __name__,
            "_info": info,
            "_split_generators": lambda self, _: {s: self._generate_examples(s, n) for s, n in splits.items()},
            "_generate_examples": generate,
        }
        with tfds.core.registered.skip_registration():
            builder = type(name, (tfds.core.GeneratorBasedBuilder,), body)
        builder(data_dir=folder, file_format="array_record").download_and_prepare()

    text = tfds.features.Text()
    make("ptft_three", {"text": text}, {"train": 30, "validation": 3, "test": 4})
    make("ptft_one", {"question": text, "answer": tfds.features.Text()}, {"train": 40})
    return str(folder)


def test_own_splits_are_used(prepared):
    counts = [len(sources.load(data_config("tfds:ptft_three", tfds_dir=prepared), s).texts) for s in sources.SPLITS]
    assert counts == [30, 3, 4]
    texts = sources.load(data_config("tfds:ptft_three", tfds_dir=prepared), "validation").texts
    assert sorted(texts)[0] == "validation text 0\nsecond line é\n"
    assert "tensorflow" not in sys.modules


def test_missing_splits_are_made(prepared):
    config = data_config("tfds:ptft_one", tfds_dir=prepared, tfds_feature="answer")
    parts = [sources.load(config, s).texts for s in sources.SPLITS]
    assert list(map(len, parts)) == [32, 4, 4] and len({t for texts in parts for t in texts}) == 40


@pytest.mark.parametrize(
    "name, changes, words",
    [
        ("ptft_one", {}, "expected one text feature, found answer, question"),
        ("ptft_one", {"tfds_feature": "answr"}, "did you mean 'answer'"),
        ("tiny_shakespear", {}, "knows no such dataset \\(did you mean 'tiny_shakespeare'"),
    ],
)
def test_errors_say_what_to_do(prepared, name, changes, words):
    with pytest.raises(UserError, match=words):
        sources.load(data_config(f"tfds:{name}", tfds_dir=prepared, **changes), "train")


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
def test_what_preparing_needs_is_said(prepared, monkeypatch, failure, words):
    """tiny_shakespeare is known to TFDS, but not prepared here, and its builder wants a network and TensorFlow."""
    import tensorflow_datasets as tfds

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError, match=words):
        sources.load(data_config("tfds:tiny_shakespeare", tfds_dir=prepared), "train")
