"""Formats are told by their columns, the same for all records, and said aloud."""

import re

import pytest

from ptft_jax.data import formats
from ptft_jax.errors import UserError
from tests.data.formats.helpers import encode, shown, where

OPENAI = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHAREGPT = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
KNOWN = {
    "text": ({"text": "a", "id": 1}, "text", "text: text from column 'text'; not used: 'id'"),
    "only text": ({"content": "a", "stars": 5}, "text", "text: text from column 'content'; not used: 'stars'"),
    "text beside text": ({"text": "a", "url": "b"}, "text", "text: text from column 'text'; not used: 'url'"),
    "pair": ({"prompt": "a", "completion": "b"}, "answers", "prompt-completion: prompt from column 'prompt', completion"),
    "question": ({"question": "a", "answer": "b"}, "answers", "prompt-completion: prompt from column 'question'"),
    "input": ({"input": "a", "output": "b"}, "answers", "prompt-completion: prompt from column 'input'"),
    "response": ({"instruction": "a", "response": "b"}, "answers", "prompt-completion: prompt from column 'instruction'"),
    "message pair": ({"prompt": OPENAI[:1], "completion": OPENAI[1:]}, "answers", "prompt-messages: prompt from"),
    "alpaca": ({"instruction": "a", "input": "", "output": "b"}, "answers", "alpaca: instruction from .*input from"),
    "alpaca without": ({"instruction": "a", "output": "b"}, "answers", "alpaca: instruction from"),
    "openai": ({"messages": OPENAI, "text": "x"}, "answers", "messages: messages from .*read as format=text"),
    "openai elsewhere": ({"conversations": OPENAI}, "answers", "messages: messages from column 'conversations'"),
    "sharegpt": ({"conversations": SHAREGPT, "id": "x"}, "answers", "sharegpt: messages from column 'conversations'"),
    "preference": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference", "preference: chosen .*prompt from"),
    "whole": ({"chosen": "b", "rejected": "c"}, "preference", "preference: chosen from column 'chosen', rejected from"),
    "chats": ({"chosen": OPENAI, "rejected": OPENAI}, "preference", "preference-messages: chosen"),
    "classes": ({"text": "a", "label": 1}, "classification", "classification: text .*label .*read as format=text"),
    "ids": ({"input_ids": [1, 2], "attention_mask": [1, 1]}, "tokens", "tokens: input_ids .*padding from column 'att"),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_formats_are_told_by_their_columns(name):
    record, kind, description = KNOWN[name]
    found = formats.choose([record] * 3, {}, where)
    assert found.kind == kind
    assert re.match(description, found.describe()), found.describe()


def test_every_column_can_have_another_name():
    choose = lambda record, **options: formats.choose([record], options, where)  # noqa: E731
    assert choose({"body": "a", "title": "b"}, text="body").columns == {"text": "body"}
    found = choose({"q": "a", "a": "b"}, prompt="q", completion="a")
    assert found.name == "prompt-completion" and found.columns == {"prompt": "q", "completion": "a"}
    assert choose({"dialogues": SHAREGPT}, messages="dialogues").name == "sharegpt"
    assert choose({"review": "a", "stars": 3}, text="review", label="stars").name == "classification"
    assert choose({"ids": [1], "text": "a"}, input_ids="ids").name == "tokens"
    assert choose({"text": "a", "label": 1}, format="text").name == "text"
    assert set(formats.OPTIONS) >= {"format", "text", "messages", "tools", "label", "input_ids", "classes"}


WRONG = {
    "nothing": ([], {}, "no records"),
    "columns": ([{"promt": "a", "completion": "b"}], {}, r"line 1: no format has .*\n  promt: text \(did you mean 'prompt'\?\)"),
    "needs": ([{"promt": "a", "completion": "b"}], {}, r"prompt-completion: prompt \(text\), completion \(text\)"),
    "two texts": ([{"a": "a", "b": "b"}], {}, "no format has the columns"),
    "values": ([{"prompt": "a", "completion": 3}], {}, "no format has .*\n  prompt: text\n  completion: number"),
    "option": ([{"body": "a", "b": "b"}], {"text": "bdy"}, "text=bdy: no such column.*did you mean 'body'"),
    "format": ([{"text": "a"}], {"format": "txt"}, "format=txt: expected one of .*did you mean 'text'"),
    "another": ([{"text": "a"}], {"format": "alpaca"}, r"no format has .*\n  alpaca: instruction \(text\), output \(text\)"),
    "mixed": ([{"text": "a"}], {"text": "text", "chosen": "text"}, "no format has all of these columns: chosen, text"),
    "not of it": ([{"text": "a"}], {"format": "text", "label": "text"}, "format=text has no such columns: label"),
    "later": ([{"text": "a"}] * 7 + [{"txt": "a"}], {}, "line 8: column 'text' is missing, while x.jsonl, line 1 has the format text"),
    "null": ([{"text": "a"}, {"text": None}], {}, "line 2: column 'text' is null, while"),
    "type": ([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": 3}], {}, "line 2: column 'completion' is not text"),
    "more": ([{"text": "a"}, {"text": "a", "label": 1}], {}, "line 2: has the format classification, while x.jsonl, line 1 has the format text"),
    "empty": ([{"messages": OPENAI}, {"messages": []}], {}, "line 2: column 'messages' is not a list of"),
    "first": ([{"messages": OPENAI}], {"assistant_first": "1"}, "assistant_first=1: expected yes or no"),
    "unread": ([{"text": "a"}], {"assistant_first": "yes"}, "assistant_first=yes: the records have the format text, which"),
    "unread classes": ([{"text": "a"}], {"classes": "a,b"}, "classes=a,b: the records have the format text, which has no use"),
    "mask": ([{"input_ids": [1, 2]}, {"input_ids": [1, 2], "loss_mask": [0.0, 1.0]}], {}, "line 2: column 'loss_mask' is list of number, .* mask: a list of 0 and 1"),
    "input": ([{"instruction": "a", "input": 3, "output": "b"}], {}, "line 1: column 'input' is number, .* input: text"),
    "system": ([{"messages": OPENAI, "system": ["a"]}], {}, "line 1: column 'system' is list of text, .* system: text"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_columns_are_named_with_what_would_do(name):
    records, options, expected = WRONG[name]
    with pytest.raises(UserError) as raised:
        formats.choose(records, options, where)
    assert re.search(expected, str(raised.value), re.DOTALL), raised.value


def test_records_after_the_first_hundred_are_checked_when_they_are_read():
    records = [{"text": "a"}] * 150 + [{"txt": "b"}]
    with pytest.raises(UserError, match=r"^x.jsonl, line 151: column 'text' is missing.*did you mean 'txt'"):
        encode(records)
    records[150] = {"text": ["b"]}
    with pytest.raises(UserError, match="^x.jsonl, line 151: column 'text' is a list, expected a text"):
        encode(records)
    records[150] = {"text": "b\ud800"}
    with pytest.raises(UserError, match="^x.jsonl, line 151: not Unicode: character 1 .* U\\+D800"):
        encode(records)


def test_a_column_that_turns_up_late_is_not_left_out():
    records = [{"instruction": "a", "output": "b"}] * 120 + [{"instruction": "a", "input": "c", "output": "b"}]
    with pytest.raises(UserError, match="^x.jsonl, line 121: column 'input' is not among those .* say input=input"):
        encode(records)
    rows = encode(records, {"input": "input"})
    assert "### Input:\nc" in shown(rows[-1])[0] and "### Input:" not in shown(rows[0])[0]
    with pytest.raises(UserError, match="input=inpt: no such column"):
        encode(records, {"input": "inpt"})


def test_another_split_has_the_format_of_the_train_split():
    train = formats.choose([{"instruction": "a", "input": "c", "output": "b"}], {}, where)
    assert formats.choose([{"instruction": "a", "output": "b"}], {}, where, like=train) == train
    with pytest.raises(
        UserError, match="line 1: column 'output' is missing, while the train split has the format alpaca"
    ):
        formats.choose([{"instruction": "a", "completion": "b"}], {}, where, like=train)


@pytest.mark.parametrize("column", ["context", "history", "system"])
def test_a_column_that_tells_the_model_something_is_not_left_out_by_oversight(column):
    records = [{"instruction": "a", "response": "b", column: ""}, {"instruction": "c", "response": "d", column: "told"}]
    with pytest.raises(UserError, match=rf"row 1: .* does not read column '{column}'.*unused={column}"):
        formats.choose(records, {}, lambda i: f"row {i}")
    assert formats.choose(records, {"unused": column}, str).name == "prompt-completion"
    assert formats.choose(records[:1], {}, str).name == "prompt-completion"  # it says nothing
    with pytest.raises(UserError, match="unused=contxt: the records have no column 'contxt'"):
        formats.choose(records, {"unused": "contxt"}, str)


def test_classes_that_are_numbers_are_in_their_order():
    records = [{"text": "x", "label": str(i % 12)} for i in range(24)]
    assert formats.choose(records, {}, str).classes == tuple(map(str, range(12)))
