"""A teacher that a run cannot learn from is refused before anything is read of it."""

import json
import types

import pytest

from ptft_jax import config as configs
from ptft_jax.data.tokenizers.byte import ByteTokenizer
from ptft_jax.errors import UserError
from ptft_jax.model.quantized import Quantization
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import teacher as teachers
from tests.helpers import tiny_config

OTHER = types.SimpleNamespace(
    identity=lambda: "other", vocab_size=300, end_id=0, prefix_ids=(), special={}, unk_id=None
)
REFUSED = {
    "another tokenizer": (
        {"tokenizer": OTHER},
        {},
        r"theirs@3 and this run have different tokenizers \(300 and 257 tokens\)",
    ),
    "another table": ({"size": 320}, {}, r"theirs@3 scores 320 tokens, and this run 257 \(model.vocab_size\)"),
    "fewer positions": (
        {"model__max_length": 24, "data__length": 24},
        {},
        r"theirs@3 sees at most 24 tokens \(model.max_length\), and config.data.length = 32: give at most 24",
    ),
    "classes": ({"model__head": "classes"}, {}, "theirs@3 predicts no next tokens"),
    "both ways": ({"model__causal": False}, {}, "theirs@3 predicts no next tokens"),
    "quantized twice": (
        {"quantization": Quantization("nf4")},
        {"objective__distill__quantize": "int8"},
        "config.objective.distill.quantize = 'int8': the base of theirs@3 is kept in nf4 already",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, monkeypatch, tmp_path):
    theirs, mine, message = REFUSED[name]
    own = {k: v for k, v in theirs.items() if "__" in k}
    config = configs.check(tiny_config("unread", **own))
    found = types.SimpleNamespace(
        name="theirs@3",
        config=config,
        fields={"vocab_size": theirs.get("size", 257)},
        tokenizer=theirs.get("tokenizer", ByteTokenizer()),
        adapter=None,
        quantization=theirs.get("quantization"),
    )
    monkeypatch.setattr(teachers.restore, "find", lambda reference, field, plugins: found)
    monkeypatch.setattr(teachers.loading, "load", lambda *_, **__: pytest.fail("loaded"))
    options = {"objective__name": "distill", "objective__distill__teacher": "theirs"} | mine
    run = configs.check(tiny_config("unread", **options))
    with pytest.raises(UserError, match=message) as caught:
        teachers.Teacher(run, ByteTokenizer(), 257, lambda: False, tmp_path)
    assert str(caught.value).startswith("config.objective.distill.")


def test_a_run_that_goes_on_has_the_teacher_that_it_had(monkeypatch, tmp_path):
    """At the step that was chosen, whatever is the best of that run by now, and not looked for before something is computed."""
    asked = []

    def gone(reference, **_):
        asked.append(reference)
        raise UserError("gone")

    monkeypatch.setattr(teachers.restore, "find", lambda *_, **__: pytest.fail("looked for"))
    monkeypatch.setattr(teachers.loading, "load", gone)
    Workdir(tmp_path).config.write_text("{}")
    Workdir(tmp_path).summary.write_text("{}")  # it has begun
    for known, reference in (({"step": 7}, "theirs@7#a"), ({}, "theirs@best#a")):
        Workdir(tmp_path).teacher.write_text(json.dumps(known))
        options = {"objective__name": "distill", "objective__distill__teacher": "theirs@best#a"}
        run = configs.check(tiny_config("unread", **options))
        found, recorded = teachers.Teacher(run, ByteTokenizer(), 257, lambda: False, tmp_path).asked("as it was")
        assert recorded == "as it was" and not asked
        with pytest.raises(UserError, match="gone"):
            found.load()
        assert asked.pop() == reference
    # One that is asked at each step is loaded before anything is compiled.
    run = configs.check(tiny_config("unread", objective__name="gkd", objective__distill__teacher="theirs"))
    with pytest.raises(UserError, match="gone"):
        teachers.Teacher(run, ByteTokenizer(), 257, lambda: False, tmp_path).asked("as it was")
