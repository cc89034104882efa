"""Answers of a model to prompts of data: what is asked, what is refused, and that training does not notice."""

import json

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation import answers, names
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten
from ptft_jax.reporting import run_report
from ptft_jax.rewards.texts import Exact
from ptft_jax.runs import loading
from ptft_jax.runs.workdir import Workdir
from tests.helpers import SPEC, TIMED, quiet_train, stop_at, tiny_config

BYTES = tok.ByteTokenizer()
SETTINGS = {"max_new_tokens": 4, "records": 0, "reference": "", "stop": (), "temperature": 0.0, "top_p": 1.0}


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def asked(source, most=64, **settings):
    data = {"template": settings.pop("template", "")}
    config = configs.check({"data": {"source": source, **data}})
    return answers.asked(config.data, source, "", BYTES, most, SETTINGS | settings)


def test_prompts_are_what_a_model_is_trained_on_before_its_answer(tmp_path, cache):
    """Of each format, the ids are those that its encoder puts before what is learned."""
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    reply = [{"role": "assistant", "content": "Hello."}]
    more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Bye."}]
    cases = [
        ({"prompt": "1+1=", "completion": "2"}, "", "1+1=", "2"),
        ({"prompt": "1+1=", "completion": "2"}, "chatml", None, "2"),
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, "", None, "2"),
        ({"messages": talk + reply}, "chatml", None, "Hello."),
        ({"messages": talk + reply + more}, "chatml", None, "Bye."),
        ({"prompt": talk, "completion": reply}, "chatml", None, "Hello."),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}, "chatml", None, "Hello."),
    ]  # fmt: skip
    for number, (record, template, prompt, answer) in enumerate(cases):
        source = written(tmp_path / f"{number}.jsonl", record, record | {"note": "b"})
        found = asked(source, 999, template=template)
        [task, _], ids = found.tasks, found.ids[0]
        from ptft_jax.data import formats

        opened = source_splits.to_measure(configs.check({}).data, source, "")[1]
        [encoded] = formats.encoder(opened.format, BYTES, template=template, train_on="last").encode([record], ["x"])
        learned = np.flatnonzero(encoded.trained)
        assert ids == encoded.ids[: learned[0]].tolist(), record
        assert task.references == (answer,) and (prompt is None or task.prompt == prompt)
        assert found.stop == (("<|im_end|>",) if template else ())
        assert task.where == f"{tmp_path}/{number}.jsonl, line 1"


def test_prompts_without_room_are_counted_and_said(tmp_path, cache):
    source = written(tmp_path / "a.jsonl", *({"prompt": "x" * n, "completion": "y"} for n in (1, 12, 13, 40)))
    found = asked(source, 16)
    assert [len(ids) for ids in found.ids] == [1, 12] and len(found.unasked) == 2
    verifier = answers.chosen(("exact",), configs.check({}), "eval.answers.verifiers")
    made = answers.Answers(SETTINGS, found, verifier, Transformer(SPEC), BYTES)
    assert "2 of the 4 records" in made.notes[0] and "2 are not asked" in made.notes[0] and "line 3" in made.notes[0]
    with pytest.raises(
        UserError, match=r"eval.answers.max_new_tokens = 4: the model sees at most 4 tokens, and no prompt"
    ):
        asked(source, 4)
    assert len(asked(source, 64, records=3).tasks) == 3


def test_references_of_a_column(tmp_path, cache):
    right = ["4", 4, ["4", "four"], {"text": ["4"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    rows = [{"prompt": "2+2=", "completion": "x", "right": value} for value in right]
    found = asked(written(tmp_path / "a.jsonl", *rows), reference="right")
    assert [task.references for task in found.tasks] == [("4",), ("4",), ("4", "four"), ("4",), ("",)]
    for bad, message in [(None, "is null"), ([], "expected a text"), (True, "expected a text")]:
        source = written(tmp_path / "b.jsonl", rows[0], {**rows[1], "right": bad})
        with pytest.raises(UserError, match=rf"b.jsonl, line 2: column 'right'.*{message}"):
            asked(source, reference="right")
    with pytest.raises(UserError, match=r"line 1: column 'write'.* is missing \(did you mean 'right'"):
        asked(written(tmp_path / "c.jsonl", rows[0]), reference="write")


def test_what_has_no_answers_is_refused(tmp_path, cache):
    with pytest.raises(UserError, match="text from column 'text': it has no prompts with answers"):
        asked(written(tmp_path / "a.jsonl", {"text": "x"}))
    user = [{"role": "user", "content": "Hi"}]
    both = [*user, {"role": "assistant", "content": "Hello."}]
    with pytest.raises(
        UserError, match=r"b.jsonl, line 2: messages\[0\] is of the user: the conversation ends with no ans"
    ):
        asked(written(tmp_path / "b.jsonl", {"messages": both}, {"messages": user}), template="chatml")
    with pytest.raises(UserError, match="holds tokens, and no records"):
        asked(f"tokens:{tmp_path}")


def test_settings_that_are_wrong():
    def chosen(**rewards):
        config = configs.check({"rewards": rewards})
        return lambda *names: answers.chosen(names, config, "eval.answers.verifiers")

    with pytest.raises(
        UserError, match=r"config.eval.answers.verifiers: no verifier 'exactly': .*did you mean 'exact'"
    ):
        chosen()("exactly")
    with pytest.raises(UserError, match="'f1' is named twice"):
        chosen()("f1", "f1")
    with pytest.raises(UserError, match=r"config.rewards.combined.parts: no verifier 'f'"):
        chosen(combined={"parts": (("f", 1.0),)})("combined")
    with pytest.raises(UserError, match="'combined' is the sum itself"):
        chosen(combined={"parts": (("combined", 1.0),)})("combined")
    made = chosen(combined={"parts": (("exact", 2.0), ("f1", -1.0))})("combined", "exact")
    assert list(made) == ["combined", "exact"]


def test_steps_between_answers_are_those_of_evaluations():
    def every(answers_, eval_, steps=100):
        return answers.every(
            configs.check({"eval": {"every": eval_, "answers": {"every": answers_}}, "training": {"steps": steps}})
        )

    assert [every(0, 20), every(40, 20), every(0.5, 0.1), every(0, 0)] == [0, 40, 50, 0]
    with pytest.raises(
        UserError, match=r"config.eval.answers.every = 30: expected a multiple of eval.every \(20 steps\)"
    ):
        every(30, 20)
    with pytest.raises(UserError, match="config.eval.answers.every = 10: expected 0 where eval.every is 0"):
        every(10, 0)


def test_records_that_cannot_be_scored_are_refused_before_anything_is_written(tmp_path, cache):
    found = asked(
        written(tmp_path / "a.jsonl", {"prompt": "1", "completion": "2"}, {"prompt": "1", "completion": "two"})
    )
    made = answers.chosen(("number",), configs.check({}), "eval.answers.verifiers")
    with pytest.raises(UserError, match="a.jsonl, line 2: reference 'two' has no number"):
        answers.Answers(SETTINGS, found, made, Transformer(SPEC), BYTES)


def test_an_answer_that_is_labeled_as_bad_is_no_right_one(tmp_path, cache):
    rows = [{"prompt": str(n), "completion": "2", "label": n == 0} for n in range(2)]
    found = asked(written(tmp_path / "a.jsonl", *rows))
    assert [task.references for task in found.tasks] == [("2",), ()] and found.tasks[1].reference is None
    with pytest.raises(UserError, match="a.jsonl, line 2: verifier 'exact' compares with right answers"):
        answers.Answers(SETTINGS, found, {"exact": Exact()}, Transformer(SPEC), BYTES)


def test_larger_scores_are_better():
    assert names.direction("validation/answers/exact", "auto") == "max"
    assert names.direction("answers/ended", "auto") == "max"
    with pytest.raises(UserError, match="larger values of validation/answers/loss are better"):
        names.direction("validation/answers/loss", "min")  # a verifier of a plugin may be called so
    with pytest.raises(UserError, match="set 'min' or 'max'"):
        names.direction("validation/answers/length", "auto")
    assert names.direction("validation/nll", "auto") == "min"


def config(text_file, source, **changes):
    return tiny_config(
        text_file, data__source=source, training__steps=4, eval__every=2, checkpoint__every=1, eval__answers__max_new_tokens=4,
        eval__answers__temperature=1.0, eval__answers__records=5, **changes,
    )  # fmt: skip


@pytest.mark.heavy
def test_training_does_not_notice_and_a_resumed_run_has_the_same_answers(text_file, tmp_path, cache, monkeypatch):
    source = written(tmp_path / "a.jsonl", *({"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(80)))
    quiet_train(tiny_config(text_file, data__source=source, training__steps=4, eval__every=2), tmp_path / "plain")
    made = config(text_file, source, eval__answers__verifiers=("exact", "f1"))
    whole = quiet_train(made, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        assert quiet_train(made, tmp_path / "run")["reason"] == "max_seconds"
    assert quiet_train(made, tmp_path / "run")["finished"]
    loaded = {name: loading.load(tmp_path / f"{name}@last") for name in ("plain", "whole", "run")}
    flat = {name: flatten(one.params) for name, one in loaded.items()}
    for path, array in flat["plain"].items():
        for name in ("whole", "run"):
            np.testing.assert_array_equal(array, flat[name][path])
    rows, again = (Workdir(tmp_path / name).read_answers() for name in ("whole", "run"))
    assert rows == again and [row["step"] for row in rows] == [0] * 5 + [2] * 5 + [4] * 5
    metrics = [
        [{k: v for k, v in row.items() if k not in TIMED} for row in Workdir(tmp_path / name).read_metrics()]
        for name in ("whole", "run")
    ]
    assert metrics[0] == metrics[1]
    last = [row for row in rows if row["step"] == 4]
    mean = np.mean([row["scores"]["f1"]["value"] for row in last])
    assert whole["last"]["validation/answers/f1"] == pytest.approx(mean)
    assert whole["last"]["validation/answers/ended"] == np.mean([row["reason"] == "end" for row in last])
    assert whole["last"]["validation/answers/length"] == np.mean([row["tokens"] for row in last])
    run_report.write([tmp_path / "whole"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Answers</h2>" in page and "validation/answers/exact" in page and f"{last[0]['prompt']}" in page
    # Of the model that is there: greedy answers do not depend on which others are asked.
    options = {"verifiers": ("exact",), "answers": {"temperature": 0.0, "records": 0}}
    _, every = answers.answer(loaded["whole"], **options)
    _, some = answers.answer(loaded["whole"], **{**options, "answers": {"temperature": 0.0, "records": 2}})
    assert [row["answer"] for row in every][:2] == [row["answer"] for row in some]
    with pytest.raises(UserError, match="rewards: 'regex' is none of the verifiers"):
        answers.answer(loaded["whole"], rewards={"regex": {"pattern": "x"}}, **options)


def test_a_source_called_answers_is_no_set_of_answers():
    assert names.known("validation_answers/nll") == names.direction("validation_answers/nll", "auto") == "min"
    assert names.known("validation/answers/exact") == names.known("answers/f1") == "max"
