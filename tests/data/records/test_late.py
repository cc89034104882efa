"""Columns that change what a record means are found wherever they turn up first, in any file of a source."""

import json

import pytest

from ptft_jax.data import tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from tests.data.records import writing

PAIR = {"question": "a", "answer": "b"}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
TEXT = {"text": "a"}
KINDS = ("jsonl", "gz", "list", "parquet", "arrayrecord", "hf", "tfds")
PLACES = {
    "parquet": "row 150",
    "arrayrecord": "record 150",
    "hf": "example 150",
    "tfds": "example 150",
    "list": "object 151",
}


def numbered(record, n):
    """The record, saying something of its own."""
    return json.loads(json.dumps(record).replace('"a"', f'"a{n}"').replace("[1, 2]", f"[1, {n % 250}]"))


def rows(first, last, count=151, at=150):
    """`count` records like the first, that at `at` with further columns."""
    return [{**numbered(first, i), **({} if i != at else last)} for i in range(count)]


def made(reference, split="train", **options):
    opened = tokenize.Opened.of(reference, split, held_out=0.1)
    return tokenize.tokenized(opened, tok.ByteTokenizer(), template="chatml", train_on="assistant", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_telling_column_of_the_last_record_is_found_in_every_kind(cache, tmp_path, kind):
    records = rows(PAIR if kind not in ("parquet", "hf") else {**PAIR, "context": None}, {"context": "told"})
    reference = writing.write(kind, tmp_path, train=records, validation=records[:1], test=records[:1])
    place = PLACES.get(kind, "line 151")
    with pytest.raises(UserError, match=f"{place}: the format prompt-completion does not read column 'context'"):
        made(reference)
    joint = "&" if "?" in reference else "?"
    assert len(made(f"{reference}{joint}unused=context")) == 151
    with pytest.raises(UserError, match=place):  # what was made with leave is not what is made without
        made(reference)


LATE = {
    "context": (PAIR, {"context": "c"}, "the format prompt-completion does not read column 'context'"),
    "system": (PAIR, {"system": "c"}, "does not read column 'system'"),
    "tools": (PAIR, {"tools": [{"type": "function"}]}, "does not read column 'tools'"),
    "functions": (CHAT, {"functions": [{"name": "f"}]}, "the format messages does not read column 'functions'"),
    "history": ({"instruction": "a", "output": "b"}, {"history": [["a", "b"]]}, "alpaca does not read column 'history'"),
    "input": ({"instruction": "a", "output": "b"}, {"input": "c"}, "'input' is not among .* say input=input .*unused=input"),
    "system of messages": (CHAT, {"system": "c"}, "'system' is not among .* say system=system"),
    "tools of messages": (CHAT, {"tools": []}, "'tools' is not among .* say tools=tools"),
    "mask": ({"input_ids": [1, 2]}, {"loss_mask": [0, 1]}, "'loss_mask' is not among .* say mask=loss_mask"),
    "another mask": ({"input_ids": [1, 2]}, {"assistant_masks": [0, 1]}, "say mask=assistant_masks"),
    "labels": ({"input_ids": [1, 2]}, {"labels": [-100, -100]}, "say labels=labels"),
    "padding": ({"input_ids": [1, 2]}, {"attention_mask": [1, 0]}, "say padding=attention_mask"),
    "prompt": ({"chosen": "a", "rejected": "b"}, {"prompt": "c"}, "say prompt=prompt"),
    "label": (TEXT, {"label": 1}, "has the format classification, while .*line 1 has the format text: name one with format="),
    "messages": (TEXT, CHAT, "has the format messages, while .*line 1 has the format text"),
    "messages as JSON": (TEXT, {"messages": json.dumps(CHAT["messages"])}, "has the format messages, while .*line 1 has the format text"),
    "ids as JSON": (TEXT, {"input_ids": "[1, 2]"}, "has the format tokens, while .*line 1 has the format text"),
    "the only text": ({"body": "a"}, {"text": "b"}, "cannot be told whether text is in 'body'.*text=body"),
    "the only text, a pair": ({"body": "a"}, PAIR, "has the format prompt-completion, while"),
    "another name": ({"prompt": "a", "completion": "b"}, {"prompt": None, "completion": None, **PAIR},
                     "column 'prompt' is null, while .*line 1 has the format prompt-completion"),
}  # fmt: skip


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("at", [60, 150])
def test_what_a_late_column_would_have_changed_is_said_with_its_line(cache, tmp_path, name, at):
    first, last, expected = LATE[name]
    (tmp_path / "x.jsonl").write_bytes(writing.lines(rows(first, last, at=at)))
    if at < 100 and "say " in expected:
        found = tokenize.Opened.of(f"jsonl:{tmp_path}/x.jsonl", "train", held_out=0.1).format
        assert set(last) <= set(found.columns.values()), "it is read"
        return
    expected = f"x.jsonl, line {at + 1}: .*{expected}" if at == 150 else "x.jsonl, line "
    with pytest.raises(UserError, match=expected):
        made(f"jsonl:{tmp_path}/x.jsonl")


@pytest.mark.parametrize("value", [None, "", []])
def test_a_late_column_that_says_nothing_is_left_alone(cache, tmp_path, value):
    (tmp_path / "x.jsonl").write_bytes(writing.lines(rows(PAIR, {"context": value})))
    sizes = [len(made(f"jsonl:{tmp_path}/x.jsonl", split)) for split in writing.SPLITS]
    assert sum(sizes) == 151
    records = rows(PAIR, {"context": value})
    records.append({**PAIR, "context": "now it does"})  # further on in the same column
    (tmp_path / "x.jsonl").write_bytes(writing.lines(records))
    with pytest.raises(UserError, match="line 152: .*does not read column 'context'"):
        made(f"jsonl:{tmp_path}/x.jsonl")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_a_column_of_a_later_file(cache, tmp_path, kind):
    _, suffix, encode = writing.FILES[kind]
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(3):
        record = {**PAIR, "context": "told"} if number == 2 else PAIR
        (folder / f"part-{number}{suffix}").write_bytes(encode([numbered(record, number * 60 + i) for i in range(60)]))
    place = {"jsonl": "line 1", "parquet": "row 0", "csv": "line 2"}[kind]
    for split in writing.SPLITS:  # whichever side the record falls to
        with pytest.raises(UserError, match=f"part-2{suffix}, {place}: .*does not read column 'context'"):
            made(f"{kind}:{folder}", split)
    assert sum(len(made(f"{kind}:{folder}?unused=context", split)) for split in writing.SPLITS) == 180


def test_a_column_of_the_validation_file_alone(cache, tmp_path):
    reference = writing.write("jsonl", tmp_path, train=[PAIR] * 5, validation=rows(PAIR, {"context": "c"}), test=[PAIR])
    assert len(made(reference)) == 5
    with pytest.raises(UserError, match="validation.jsonl, line 151: .*does not read column 'context'"):
        made(reference, "validation")
    assert len(made(f"{reference}?unused=context", "validation")) == 151


def test_a_field_of_messages_in_the_validation_file_alone_can_be_left_out(cache, tmp_path):
    for split, name in (("train", {}), ("validation", {"name": "Ann"}), ("test", {})):
        said = [{**CHAT["messages"][0], **name}, CHAT["messages"][1]]
        for written, record in (("as JSON", {"messages": json.dumps(said)}), ("lists", {"messages": said})):
            (tmp_path / written).mkdir(exist_ok=True)
            (tmp_path / written / f"{split}.jsonl").write_bytes(writing.lines([record] * 3))
    for written in ("as JSON", "lists"):
        with pytest.raises(
            UserError, match="validation.jsonl, line 1: .*on 'name'.*leave it out on purpose with unused=name "
        ):
            made(f"jsonl:{tmp_path}/{written}", "validation")
        for split in writing.SPLITS:
            assert len(made(f"jsonl:{tmp_path}/{written}?unused=name", split)) == 3
        with pytest.raises(UserError, match="unused=nmae: the records have no column and no field of messages 'nmae'"):
            made(f"jsonl:{tmp_path}/{written}?unused=nmae")


def test_a_file_that_grows_such_a_column_is_not_served_from_the_cache(cache, tmp_path):
    """Nothing that is read has changed, so the store would be the same."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(writing.lines(rows(PAIR, {})))
    first = made(f"jsonl:{path}")
    path.write_bytes(writing.lines(rows(PAIR, {"url": "x"})))
    assert made(f"jsonl:{path}").key == first.key
    path.write_bytes(writing.lines(rows(PAIR, {"context": "told"})))
    with pytest.raises(UserError, match="line 151: .*does not read column 'context'"):
        made(f"jsonl:{path}")


def test_columns_that_are_named_may_turn_up_late(cache, tmp_path):
    records = rows({"instruction": "a", "output": "b"}, {"extra": "c"})
    (tmp_path / "x.jsonl").write_bytes(writing.lines(records))
    assert sum(len(made(f"jsonl:{tmp_path}/x.jsonl?input=extra", split)) for split in writing.SPLITS) == 151
    with pytest.raises(UserError, match="input=extr: no such column"):
        made(f"jsonl:{tmp_path}/x.jsonl?input=extr")
