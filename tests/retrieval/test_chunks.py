"""Passages for chunks of rows: which, by words that only they share; the same after pickling; what is refused; a run."""

import json
import pickle

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.config.sources import SOURCES
from ptft_jax.data import builders
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.model.decode import Sampling, generate
from ptft_jax.pairing import check_neighbors
from ptft_jax.params.rules import flatten
from ptft_jax.retrieval import index
from ptft_jax.retrieval.passages import Corpus
from ptft_jax.runs import loading
from ptft_jax.runs.workdir import Workdir
from tests.helpers import quiet_train, stop_at, tiny_config

TEXTS = ["ann is in rome", "bob is in bern", "cy sings"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("chunks")
    (made / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    index.build(made / "index", "bm25", Corpus(f"jsonl:{made}/texts.jsonl", "", 0, SOURCES))
    return made


def config_of(folder):
    config = configs.default()
    config.tune.method = "retro"
    config.data.update(length=32)
    config.data.neighbors.update(index=str(folder / "index"), chunk=8, k=2, length=16)
    return config


def builder_of(config):
    c = configs.check(config, complete=False)
    return builders.for_model(c.objective, tok.with_tokens(tok.ByteTokenizer(), ("[MASK]",)), c.model, c.data)


def row(*chunks):
    return np.frombuffer("".join(f"{text:8.8}" for text in chunks).encode(), np.uint8).astype(np.int32)


def test_a_chunk_has_what_shares_its_words(folder):
    neighbors = builder_of(config_of(folder)).neighbors
    rows = np.stack([row("go ann!", "x y z", "in bob", "sings."), row("cy cy", "ann", "ann", "ann")])
    segments = np.ones((2, 32), np.int32)
    segments[1, 24:] = 0  # padding, whatever stands there
    found = neighbors.of_rows(rows, segments)
    assert found.shape == (2, 4, 2, 16) and found.dtype == np.int32

    def texts(chunk):
        return [bytes(ids[ids >= 0].tolist()).decode() for ids in chunk]

    assert [texts(chunk) for chunk in found[0]] == [
        [TEXTS[0], ""], ["", ""], [TEXTS[1], TEXTS[0]], [TEXTS[2], ""],
    ]  # fmt: skip
    assert texts(found[1, 0]) == [TEXTS[2], ""] and texts(found[1, 3]) == ["", ""]
    again = pickle.loads(pickle.dumps(neighbors))
    np.testing.assert_array_equal(again.of_rows(rows, segments), found)
    assert again == neighbors and hash(again) == hash(neighbors)
    np.testing.assert_array_equal(neighbors.of_rows(rows[:1], None), found[:1])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data.neighbors.chunk": 7}, r"chunk = 7: rows have 32 tokens \(data.length\): expected several whole chunks"),
        ({"data.neighbors.k": 9}, "k = 9: the index .* has 3 passages"),
        ({"data.neighbors.length": 999}, "length = 999: the model reads at most"),
        ({"data.packing": "best_fit"}, "packed rows .*best_fit.*expected none, or concat"),
        ({"objective.name": "masked_lm", "model.causal": False, "tokenizer.add": ("[MASK]",)}, "expected objective.name = 'causal_lm'"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(changes, words, folder):
    config = config_of(folder)
    for field, value in changes.items():
        *above, last = field.split(".")
        part = config
        for name in above:
            part = part[name]
        part[last] = value
    with pytest.raises(UserError, match=words):
        builder_of(config)


def test_settings_that_nothing_reads(folder):
    config = config_of(folder)
    check_neighbors(config.to_dict())
    config.samples.prompts = ("a",)
    with pytest.raises(
        UserError, match="samples.prompts: a model of tune.method = 'retro' reads rows, and writes no text"
    ):
        check_neighbors(config.to_dict())
    config.samples.prompts, config.tune.method = (), "full"
    with pytest.raises(UserError, match="neighbors.index.*nothing reads what is found"):
        check_neighbors(config.to_dict())
    config.tune.method, config.data.neighbors.index = "retro+lora", ""
    with pytest.raises(UserError, match="'retro': it reads what is found.*index is ''"):
        check_neighbors(config.to_dict())
    config = config_of(folder)
    config.data.neighbors.length = 13
    with pytest.raises(UserError, match="length = 13: the passage '0' .* has 14 tokens, and nothing is cut"):
        builder_of(config).neighbors.of_rows(row("ann", "", "", "")[None], None)


@pytest.mark.heavy
def test_a_run(tmp_path, text_file, monkeypatch):
    """What reads passages of the text itself: it starts as its base, learns, goes on where it was stopped to the same bits, is measured again
    the same, and writes nothing."""
    index.build(tmp_path / "index", "bm25", Corpus(f"text:{text_file}", "", 8, SOURCES), words=8)
    changes = {"data__neighbors__chunk": 8, "data__neighbors__length": 64, "model__max_length": 64}
    changes["data__neighbors__index"] = str(tmp_path / "index")
    changes |= {"init__from_": str(tmp_path / "base"), "tune__method": "retro", "tune__retro__heads": 2}
    quiet_train(tiny_config(text_file, model__max_length=64), tmp_path / "base")
    summary = quiet_train(tiny_config(text_file, **changes), tmp_path / "run")
    before, after = (summary[when]["validation/nll"] for when in ("before", "after"))
    [started, *_] = [r["validation/nll"] for r in Workdir(tmp_path / "run").read_metrics() if r["kind"] == "eval"]
    assert started == pytest.approx(before, abs=1e-6) and after < started
    loaded = loading.load(f"{tmp_path}/run@best")
    assert evaluate(loaded, "", "validation", tokens=512)["nll"] == pytest.approx(after, abs=2e-5)
    with pytest.raises(UserError, match="neither writes nor answers"):
        generate(loaded.model, loaded.params, [[1, 2, 3]], max_new_tokens=3, sampling=Sampling(temperature=0))
    stop_at(5, monkeypatch)
    quiet_train(tiny_config(text_file, **changes), tmp_path / "again")
    quiet_train(tiny_config(text_file, **changes), tmp_path / "again")
    whole, resumed = (restored(tmp_path / name) for name in ("run", "again"))
    assert whole and whole.keys() == resumed.keys()
    for path, array in whole.items():
        np.testing.assert_array_equal(array, resumed[path], err_msg=path)


def restored(workdir):
    return flatten(loading.load(f"{workdir}@last").params)
