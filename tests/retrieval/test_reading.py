"""Questions with passages before them: which, by a table made by hand; sides of splits; what is refused; what is measured of answers."""

import json
import pickle

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import filling, records, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.causal import Causal
from ptft_jax.errors import UserError
from ptft_jax.evaluation.tasks.question import read
from ptft_jax.evaluation.tasks.retrieval import Retrieval
from ptft_jax.retrieval import index
from ptft_jax.retrieval.passages import Corpus
from tests.evaluation.test_behavior import Said
from tests.helpers import tiny_config

DOCS = {
    "ann-1": "Ann lives in Rome.", "ann-0": "Ann lives in Oslo.", "bob": "Bob lives in Bern.", "cy": "Cy lives in Kyiv.",
    "zoo": "Nothing here matches.", "dee": "Dee works.",
}  # fmt: skip
ANN = {
    "question": "Where does Ann live?",
    "answer": " Rome",
    "gold": ["ann-1"],
    "stale": ["ann-0"],
    "stale_answers": ["Oslo"],
}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("reading")
    lines(made / "docs.jsonl", [{"id": name, "text": text} for name, text in DOCS.items()])
    index.build(made / "index", "bm25", Corpus(f"jsonl:{made}/docs.jsonl", "", 0, records.opening.SOURCES))
    lines(made / "ann.jsonl", [ANN])
    other = [
        {"question": f"Where does {n} live?", "answer": f" {c}"}
        for n, c in (("Bob", "Bern"), ("Cy", "Kyiv"), ("Eve", "Riga"))
    ]
    lines(made / "unnamed.jsonl", other)
    lines(
        made / "many.jsonl",
        [{"question": f"Is {n} odd?", "answer": "yes" if n % 2 else "no", "gold": "zoo"} for n in range(60)],
    )
    return made


def opened(folder, name, options):
    source = records.open_source(f"jsonl:{folder}/{name}.jsonl?retrieve={folder}/index{options}", trains=False)
    return source.whole("train")


# "Ann lives": both of Ann's passages share a word with the question, others share none, as "live" is not "lives".
@pytest.mark.parametrize(
    ("options", "ids", "hit", "rank", "answer"),
    [
        ("&k=1", ["ann-1"], True, 1, " Rome"),
        ("&k=3", ["ann-1", "ann-0"], True, 1, " Rome"),  # what shares no word is not found
        ("&k=3&order=best_last", ["ann-0", "ann-1"], True, 1, " Rome"),
        ("&k=2&right=never", ["ann-0"], False, 1, " Rome"),
        ("&k=2&outdated=never", ["ann-1"], True, 1, " Rome"),
        ("&k=2&no_answer=1", ["ann-0"], False, 1, " I do not know."),
        ("&k=2&right=never&misses=unknown&unknown=?", ["ann-0"], False, 1, " ?"),
        ("&k=2&cite=yes&order=best_last", ["ann-0", "ann-1"], True, 1, " Rome [2]"),
        ("&learn=passage", None, None, None, " Ann lives in Rome."),
    ],
)
def test_which_passages(options, ids, hit, rank, answer, folder):
    [record] = opened(folder, "ann", options)
    assert record["answer"] == answer
    if ids is None:
        assert record["question"] == ANN["question"] and "passages" not in record
        return
    assert [one["id"] for one in record["passages"]] == ids and (record["hit"], record["rank"]) == (hit, rank)
    expected = "".join(f"[{n}] {DOCS[name]}\n" for n, name in enumerate(ids, 1)) + ANN["question"]
    assert record["question"] == expected and record["asked"] == ANN["question"]
    assert record["passages"][0]["where"].startswith(f"{folder}/docs.jsonl, line ")


def test_distractors_never_answer_and_are_drawn_by_the_record(folder):
    first = opened(folder, "ann", "&k=1&distractors=3&order=shuffled")[0]
    assert first == opened(folder, "ann", "&k=1&distractors=3&order=shuffled")[0]
    assert {one["id"] for one in first["passages"]} == {"ann-1", "bob", "cy", "zoo"} or len(first["passages"]) == 4
    assert "ann-0" not in [one["id"] for one in first["passages"]]  # it tells what was true
    several = opened(folder, "many", "&k=1&distractors=2&order=shuffled")
    assert len({tuple(one["id"] for one in record["passages"]) for record in several}) > 5


def test_where_no_record_names_them_passages_with_an_answer_are_right(folder):
    found = opened(folder, "unnamed", "&k=2&passage={text}%20")
    assert [record["hit"] for record in found] == [True, True, False]
    assert found[0]["question"] == "Bob lives in Bern. Where does Bob live?"


def test_no_answer_is_a_share_and_sides_are_as_without_passages(folder):
    plain, read_ = (
        f"jsonl:{folder}/many.jsonl",
        f"jsonl:{folder}/many.jsonl?retrieve={folder}/index&no_answer=0.5&k=1",
    )
    for split in ("train", "validation", "test"):
        one, other = (records.open_records(name, split, held_out=0.2) for name in (plain, read_))
        assert [r["question"] for r in one] == [r["asked"] for r in other]
        assert one.fingerprint != other.fingerprint and (one.keys() == other.keys()).all()
    silent = np.mean([record.get("answerable") is False for record in opened(folder, "many", "&no_answer=0.5&k=1")])
    assert 0.25 < silent < 0.75  # of 60
    again = pickle.loads(pickle.dumps(other))
    assert [*again] == [*other] and again.fingerprint == other.fingerprint
    assert other.where(0).endswith(f", behind at most 1 passages of {folder}/index")


@pytest.mark.parametrize(
    ("row", "options", "says"),
    [
        (ANN, "&k=7", r"k=7: the index .*index has 6 passages"),
        (ANN, "&k=4&distractors=3", r"k=4 and distractors=3: the index .* has 6 passages"),
        (ANN | {"gold": ["eve"]}, "", r"x\.jsonl, line 1: field 'gold': 'eve' is no passage of .*another corpus"),
        (ANN | {"passages": []}, "", r"x\.jsonl, line 1: field 'passages': it is there already"),
        ({"q": "?", "answer": "a"}, "", r"x\.jsonl, line 1: field 'question': expected a question"),
        ({"question": "?", "answer": "a"}, "&right=always", r"x\.jsonl, line 1: field 'gold': it is missing"),
        (ANN | {"gold": []}, "&learn=passage", r"x\.jsonl, line 1: field 'gold': it names no passage"),
        (ANN, "&k=1&right=always&outdated=always", "k=1: right=always and outdated=always need room"),
        (ANN, "&right=never&cite=yes", "cite: with right=never no question has a passage"),
        (ANN, "&passage={txt}", "passage = '{txt}': expected a text with {text}"),
        (ANN, "&rigth=never", "has no option 'rigth'.*right"),
        (ANN, "&k=0", "k = 0: expected a value above 0"),
        ({"messages": [{"role": "user", "content": "Ann?"}, {"role": "assistant", "content": "x"}], "gold": "bob"}, "&no_answer=1", "expected the answer as a text of its own"),
    ],
)  # fmt: skip
def test_what_is_refused(row, options, says, folder):
    lines(folder / "x.jsonl", [row])
    with pytest.raises(UserError, match=says):
        opened(folder, "x", options)[0]


@pytest.mark.parametrize("how", [{"overlong": "truncate"}, {"overlong": "split"}, {"packing": "concat"}, {}])
def test_a_question_is_never_cut(how, folder):
    """What has no room is an error that names the record and its passages; what would cut it is refused."""
    data = tiny_config(
        folder / "x", data__source=f"jsonl:{folder}/many.jsonl?retrieve={folder}/index&k=1&distractors=1"
    ).data
    data.update(length=16, **how)
    data = configs.check({"data": data.to_dict()}).data
    [name] = how or [""]
    says = (
        rf"config.data.{name} = '{how[name]}': "
        if how
        else r"many\.jsonl, line \d+, behind at most 2 passages of .*index: \d+ tokens are more"
    )
    with pytest.raises(UserError, match=says):
        filling.filled(
            data, source_splits.tokenized(data, data.source, "train", tok.ByteTokenizer()), Causal(), partial=False
        )


def test_an_option_of_reading_alone():
    with pytest.raises(UserError, match="option k is of questions that are read with passages"):
        records.open_source("jsonl:x.jsonl?k=3")


def test_the_last_message_of_a_conversation_is_the_question(folder):
    said = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Where is Cy?"},
    ]
    lines(folder / "chat.jsonl", [{"messages": [*said, {"role": "assistant", "content": "Kyiv"}]}])
    [record] = opened(folder, "chat", "&k=1")
    assert [m["content"] for m in record["messages"]] == ["Hi", "Hi", "[1] Cy lives in Kyiv.\nWhere is Cy?", "Kyiv"]


class Reads(Said):
    def _of(self, question):
        return {"text": self._rows[question.where]}

    def says(self, text, answers):
        return self._right(text, answers)


def test_what_is_measured_of_answers():
    """Four answerable questions, three of them hits; one that nothing answers."""
    gold = {"n": 1, "id": "a", "where": "docs, line 1", "gold": True, "stale": False}
    bad, old = gold | {"n": 2, "id": "b", "gold": False}, gold | {"n": 2, "id": "c", "gold": False, "stale": True}

    def row(where, answer, passages, **more):
        hit = any(one["gold"] for one in passages)
        made = {
            "question": "[1] ...?",
            "asked": "?",
            "answers": [answer],
            "passages": passages,
            "hit": hit,
            "rank": int(hit),
        }
        return read(made | more, where)

    questions = [
        row("0", "Rome", [gold, bad]),
        row("1", "Rome", [bad, gold], rank=2),
        row("2", "Rome", [gold, old], stale_answers=["Oslo"]),
        row("3", "Rome", [bad]),
        row("4", "I do not know.", [bad], answerable=False),
    ]
    said = {"0": "Rome [1]", "1": "Bern [2]", "2": "Oslo", "3": "Rome", "4": "I do not know."}
    memory = {"0, without them": "Bern", "1, without them": "Bern", "2, without them": "Rome"}
    task = Retrieval(("do not know",), True)
    assert [one.prompt for q in questions for one in task.also(q)] == ["?"] * 3
    found = task.measured(questions, _reads(said | memory))
    assert found.values == pytest.approx(
        {
            "recall": 3 / 4, "recall_at_1": 2 / 4, "accuracy": 2 / 4, "accuracy_hit": 1 / 3, "accuracy_miss": 1, "abstained": 0,
            "abstained_unanswerable": 1, "conflicts": 2 / 3, "follows_context": 1 / 2, "follows_memory": 1 / 2, "stale": 1,
            "cited": 2 / 5, "cited_right": 1 / 2,
        }
    )  # fmt: skip
    assert (
        found.details["shown"][0]["cites"] == [1]
        and found.details["shown"][0]["passages"][0]["where"] == "docs, line 1"
    )
    assert "cited_right" not in Retrieval((), False).measured(questions[2:4], _reads(said)).values


def _reads(rows):
    made = Reads()
    made._rows = rows
    return made
