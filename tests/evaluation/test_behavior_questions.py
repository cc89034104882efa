"""Questions of users' files: what they mean, and what is wrong with them."""

import dataclasses
import json

import pytest

from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.behavior import Tasks, of_run
from ptft_jax.evaluation.tasks.observed import Rendering
from ptft_jax.evaluation.tasks.question import read
from ptft_jax.model.transformer import Transformer
from tests.helpers import SPEC

BYTES = tok.ByteTokenizer()


def test_what_records_mean():
    city = {"question": "Where?", "options": ["Rome", "Oslo"]}
    for record, answers, one, right in [
        ({"answer": 1}, ("Oslo",), "Oslo", 1),
        ({"answer": "Rome"}, ("Rome",), "Rome", 0),
        ({"answer": " Rome", "answers": ["Rome"]}, ("Rome",), "Rome", 0),  # as the generated world has it
        ({"answers": ["Oslo", "Christiania"]}, ("Oslo", "Christiania"), "", 1),
        ({"answers": ["Oslo", "Rome"]}, ("Oslo", "Rome"), "", None),
        ({"answers": ["Oslo", "Rome"], "answer": 0}, ("Oslo", "Rome"), "Rome", 0),
        ({}, (), "", None),
    ]:
        found = read(city | record, "x")
        assert (found.answers, found.one, found.right) == (answers, one, right), record
    found = read({"prompt": "2+2=", "answer": 4, "date": 2024, "group": 3}, "x")
    assert (found.prompt, found.answers, found.date, found.group, found.plain) == ("2+2=", ("4",), "2024", "3", True)
    assert [read(city | {"answer": 0} | more, "x").kind for more in ({"known": True, "kind": "city"}, {"known": False}, {"kind": "city"})] == ["known", "unknown", ""]  # fmt: skip
    assert read(city | {"shares": [3, 1]}, "x").shares == (0.75, 0.25)
    assert [read(city | {"date": d}, "x").date for d in ("2024-05", "2024-05-31", "2024-05-31T10:00:00")] == ["2024-05", "2024-05-31", "2024-05-31"]  # fmt: skip
    assert read({"good": "a b", "bad": "a c"}, "x").good == "a b"


Q = {"question": "Where?"}
WRONG = [
    ({"questoin": "Where?"}, "field 'question': it is missing .did you mean 'question'"),
    ({"question": "a", "prompt": "b"}, "field 'prompt': there is a 'question', too"),
    ({"question": " "}, "field 'question': expected a text that is not empty"),
    (Q | {"options": ["a", "b", "a "]}, "field 'options': 'a' is there twice"),
    (Q | {"options": ["a"]}, "field 'options': 'a' is the only one"),
    (Q | {"options": "ab"}, "field 'options': expected a list of texts"),
    (Q | {"options": ["a", None]}, "field 'options': expected texts"),
    (Q | {"options": ["a", "b"], "answer": 2}, "field 'answer': 2: expected the number of an option, 0 to 1"),
    (
        Q | {"options": ["Rome", "b"], "answer": "Rom"},
        "field 'options': none of them is right: 'Rom' .did you mean 'Rome'",
    ),
    (Q | {"answer": ["a", "b"]}, "field 'answer': expected one text, got a list"),
    (Q | {"answers": ["a"], "answer": "b"}, "field 'answer': 'b' is none of the answers 'a'"),
    (Q | {"answers": ["a", "a"]}, "field 'answers': 'a' is there twice"),
    (Q | {"options": ["a", "b"], "shares": [1]}, "field 'shares': 1 for 2 options"),
    (Q | {"options": ["a", "b"], "weights": [-1, 2]}, "field 'weights': expected numbers of 0 or more"),
    (Q | {"date": "31.5.2024"}, "field 'date': '31.5.2024' is no date"),
    (Q | {"date": "2024-13"}, "field 'date': '2024-13' is no date"),
    (Q | {"date": "2023-02-29"}, "field 'date': '2023-02-29' is no date"),
    (Q | {"known": "yes"}, "field 'known': expected true or false"),
    (Q | {"known": True, "kind": "unknown"}, "field 'kind': 'unknown', and 'known' is true"),
    (Q | {"group": []}, "field 'group': expected a text"),
    ({"good": "a"}, "field 'bad': it is missing"),
    ({"good": "a", "bad": "a"}, "field 'bad': it is what 'good' is"),
]


@pytest.mark.parametrize(("record", "words"), WRONG, ids=[words[7:40] for _, words in WRONG])
def test_what_is_wrong_with_a_record(record, words):
    with pytest.raises(UserError, match=f"q.jsonl, line 3: {words}"):
        read(record, "q.jsonl, line 3")


def tasks(folder, names, *rows, **changes):
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    behavior = {"tasks": names, "source": f"jsonl:{folder}/q.jsonl", **changes}
    config = configs.check({"eval": {"behavior": behavior}})
    return Tasks(config, Transformer(SPEC), BYTES, "", reads_prompt=False, adapter=None)


A = {"question": "1", "answer": "a", "options": ["a", "b"], "group": "x", "date": "2024", "paraphrase_of": 1}
B = A | {"question": "2", "answer": "b", "group": "y"}
REFUSED = [
    ("recall", [Q], "line 1: field 'answer': it is missing"),
    ("recall", [A, Q | {"answers": ["a", "b"]}], "line 2: field 'answers': 2 are right, and one is asked for"),
    ("options", [Q | {"answer": "a"}], "line 1: field 'options': they are missing"),
    ("options", [Q | {"answers": ["a", "b"], "options": ["a", "b", "c"]}], "field 'options': two of them are right"),
    ("shares", [A], "'shares': .*q.jsonl .all. has no questions with 'shares'"),
    ("dates", [Q | {"answer": "a"}], "has no questions with a 'date'"),
    ("known", [A], "field 'kind': no question of the source is 'unknown'"),
    ("groups", [A, A], "field 'group': 'x' is the only group"),
    ("groups", [A, B, B], "line 1: field 'group': 'x' has this question alone: a group of one"),
    ("groups", [A | {"swap_of": 1}, A, B, B], "field 'swap_of': no other question has it"),
    ("paraphrases", [A, B, A | {"paraphrase_of": 2}], "line 3: field 'paraphrase_of': it is the only question"),
    ("minimal_pairs", [A], "that are a 'good' and a 'bad' sentence"),
    ("styles", [A], "config.eval.behavior.styles.verifiers is empty, and no question"),
    ("probe", [A, B], "2 questions: with eval.behavior.probe.held_out = 0.25 none is left to measure by"),
    ("probe", [A] * 4, "'a' is the only class"),
    ("recal", [A], "config.eval.behavior.tasks: no task 'recal': .*did you mean 'recall'"),
    ("extraction", [A], "line 1: 1 tokens, and 17 of an answer: the model sees at most 16"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "rows", "words"), REFUSED, ids=[f"{t}-{n}" for n, (t, *_) in enumerate(REFUSED)])
def test_questions_that_a_task_can_do_nothing_with(task, rows, words, tmp_path, cache):
    changes = {} if task == "extraction" else {"max_new_tokens": 4}
    with pytest.raises(UserError, match=words):
        tasks(tmp_path, (task,), *rows, **changes)


def test_each_task_takes_its_own(tmp_path, cache):
    rows = [
        A,
        A,
        B,
        B,
        Q | {"kind": "unknown"},
        Q | {"options": ["a", "b"], "shares": [1, 1]},
        {"good": "a", "bad": "b"},
    ]
    names = ("recall", "known", "shares", "minimal_pairs", "dates")
    found = tasks(tmp_path, names, *rows, max_new_tokens=4)
    assert {name: len(asked) for name, asked in found.asked.items()} == {"recall": 4, "known": 5, "shares": 1, "minimal_pairs": 1, "dates": 4}  # fmt: skip
    assert "behavior/recall/accuracy" in found.names and "recall of 4, known of 5" in found.notes[0]


def test_several_sources(tmp_path, cache):
    """Each question once, and none lost, whatever their places are called."""
    (tmp_path / "more.jsonl").write_text(json.dumps(Q | {"kind": "unknown"}) + "\n")
    also = f"jsonl:{tmp_path}/more.jsonl"
    found = tasks(tmp_path, ("known",), A, B, also=(also,), max_new_tokens=4)
    assert len(found.asked["known"]) == found.total == 3
    with pytest.raises(UserError, match="config.eval.behavior.also: .*more.jsonl' is there twice"):
        tasks(tmp_path, ("known",), A, B, also=(also, also), max_new_tokens=4)


def test_the_split_of_each_source(tmp_path, cache):
    """Of what is trained on validation, of what is not all that it holds; a split that a source lacks is said."""
    sources = ("world:questions?size=20", "world:questions?size=20&people=unknown&split=test")
    behavior = {"tasks": ("known",), "source": sources[0], "also": sources[1:], "max_new_tokens": 4}
    config = configs.check({"eval": {"behavior": behavior}, "data": {"source": sources[0]}})
    model = Transformer(dataclasses.replace(SPEC, vocab_size=BYTES.vocab_size, max_length=128))
    made = of_run(config, model, BYTES, {})
    kinds = {(q.kind, q.where.partition(",")[0].rpartition("/")[2]) for q in made.asked["known"]}
    assert made.split == "validation" and kinds == {("known", "validation"), ("unknown", "test")}
    with pytest.raises(UserError, match="split=test': it has no validation, which was asked for: it has test"):
        Tasks(config, model, BYTES, "validation", reads_prompt=False, adapter=None)


def test_columns_of_tables_that_a_row_has_nothing_in():
    row = Q | {"good": None, "bad": None, "answer": "a", "shares": None, "date": None, "group": None, "harmful": None}
    assert read(row, "1").plain
    pair = {"good": "a", "bad": "b", "question": None, "answer": None}
    assert read(pair, "1").good == "a"
    assert [read(Q | {"harmful": value}, "1").kind for value in (True, False)] == ["harmful", "benign"]
    with pytest.raises(UserError, match="field 'kind': 'benign', and 'harmful' is true"):
        read(Q | {"harmful": True, "kind": "benign"}, "1")


@pytest.mark.parametrize(
    ("record", "between"),
    [
        ({"question": "Q?", "answer": "a"}, " "),
        ({"question": "Q? ", "answer": "a"}, ""),
        ({"question": "Q?", "answer": "\na"}, "\n"),
        ({"prompt": "Q?", "completion": "\n\ta", "answers": ["a"]}, "\n\t"),
        ({"question": "Q?\n", "options": [" a", " b"], "answer": 0}, " "),
    ],
)
def test_what_stands_between_question_and_answer(record, between):
    """As pairs are trained on: the white space of the file, and a space where it has none."""
    found = Rendering(BYTES, None, " ").answer(read(record, "1"), "a")
    assert list(found) == BYTES.encode(f"{between}a").tolist()
