"""Lists that are JSON in a text are read as the lists that they are, or asked for; never trained on as they are written."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ptft_jax import config as configs
from ptft_jax.data import source_splits, tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from tests.data.formats.helpers import chatml_bytes, encode, encoder, shown
from tests.data.test_chat import TOOLS

SAID = [{"role": "user", "content": 'a "b" é'}, {"role": "assistant", "content": "c"}]
TURNS = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "c"}]
CALLS = [SAID[0], {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]
# Records as they are meant; any of their columns may be written as JSON.
MEANT = {
    "messages": {"messages": SAID},
    "other names": {"chat": SAID},
    "conversations": {"conversations": TURNS},
    "openai's under sharegpt's name": {"conversations": SAID},
    "pair": {"prompt": SAID[:1], "completion": SAID[1:]},
    "question and answer": {"question": SAID[:1], "answer": SAID[1:]},
    "preference": {"chosen": SAID, "rejected": [SAID[0], {"role": "assistant", "content": "d"}]},
    "preference after a prompt": {"prompt": SAID[:1], "chosen": SAID[1:], "rejected": [{"role": "assistant", "content": "d"}]},
    "ids": {"input_ids": [97, 98, 99, 100], "labels": [-100, -100, 99, 100]},
    "masked ids": {"tokens": [97, 98, 99, 100], "loss_mask": [0, 0, 1, 1], "attention_mask": [1, 1, 1, 0]},
}  # fmt: skip
CALLED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{{ c.function.arguments.a }}{% endfor %}<|im_end|>\n{% endfor %}"
)
WRITTEN = {
    "json": lambda value: json.dumps(value),
    "unicode": lambda value: json.dumps(value, ensure_ascii=False, indent=1),
    "twice": lambda value: json.dumps(json.dumps(value)),
    "each": lambda value: [json.dumps(item) for item in value],
    "each, then all": lambda value: json.dumps([json.dumps(item) for item in value]),
}


def same(rows, others):
    for row, other in zip(rows, others, strict=True):
        for a, b in zip(row.sequences, other.sequences, strict=True):
            assert a.ids.tolist() == b.ids.tolist()
            assert a.trained.tolist() == b.trained.tolist()


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("name", MEANT)
def test_json_in_texts_is_what_it_says(name, how):
    record = MEANT[name]
    if "ids" in name and how not in ("json", "unicode"):
        return
    written = {column: WRITTEN[how](value) for column, value in record.items()}
    template = {} if "ids" in name else {"template": "chatml"}
    same(encode([written] * 3, **template), encode([record] * 3, **template))
    assert "(JSON in a text)" in encoder([written], **template).describe()
    assert encoder([written], **template).identity != encoder([record], **template).identity
    if "ids" not in name:
        assert encoder([written], **template).texts(written) == encoder([record], **template).texts(record)


def test_what_is_beside_messages_may_be_json_too():
    t = chatml_bytes(TOOLS)
    tool = {"type": "function", "function": {"name": "f"}}
    calls = [CALLS[0], {**CALLS[1], "tool_calls": json.dumps(CALLS[1]["tool_calls"])}]
    same(
        encode([{"messages": json.dumps(calls), "tools": json.dumps([tool])}], tokenizer=t),
        encode([{"messages": CALLS, "tools": [tool]}], tokenizer=t),
    )


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files_of_every_kind(cache, tmp_path, kind):
    """The rows of training are those of the same conversations in JSON lines."""
    rows = [[{"role": "user", "content": f"{n}, a?"}, {"role": "assistant", "content": f"{n} b"}] for n in range(30)]
    for folder in ("plain", "written"):
        (tmp_path / folder).mkdir()
    for split, part in (("train", rows[:20]), ("validation", rows[20:25]), ("test", rows[25:])):
        lines = [json.dumps({"messages": row}) + "\n" for row in part]
        (tmp_path / "plain" / f"{split}.jsonl").write_text("".join(lines))
        path, written = tmp_path / "written" / f"{split}.{kind}", [json.dumps(row) for row in part]
        if kind == "jsonl":
            path.write_text("".join(json.dumps({"messages": text}) + "\n" for text in written))
        elif kind == "csv":
            with path.open("w", newline="") as f:
                csv.writer(f).writerows([["messages"], *([text] for text in written)])
        else:
            pq.write_table(pa.table({"messages": written}), path)
    t = tok.with_tokens(tok.ByteTokenizer(), ["<|im_start|>", "<|im_end|>"])
    for split in ("train", "validation", "test"):
        ids = []
        for source in (f"jsonl:{tmp_path}/plain", f"{kind}:{tmp_path}/written"):
            data = configs.check({"data": {"source": source, "template": "chatml", "length": 64}}).data
            store = source_splits.tokenized(data, source, split, t).store
            assert len(store) == (20 if split == "train" else 5)
            ids.append((store.ids.tolist(), store.trained.tolist()))
        assert ids[0] == ids[1]


BAD = {
    "another text": ({"messages": "Hello"}, 3, "line 3: column 'messages' is not what it is in .*line 1, messages as JSON in a text"),
    "a list": ({"messages": SAID}, 3, "line 3: column 'messages' is not what it is in .*line 1, messages as JSON in a text"),
    "cut off": ({"messages": json.dumps(SAID)[:-9]}, 3, "line 3: column 'messages' is no JSON.*Unterminated|line 3: column 'messages' is no JSON"),
    "python": ({"messages": str(SAID)}, 3, "line 3: column 'messages' is no JSON, .*Python's way"),
    "no messages": ({"messages": json.dumps([{"role": "user", "content": "a"}, 3])}, 3, "line 3: column 'messages' is not a list of"),
    "later a text": ({"messages": "Hello"}, 140, "line 140: column 'messages' is no JSON"),
    "later a list": ({"messages": SAID}, 140, "line 140: column 'messages' is a list, while the first records have JSON in a text"),
    "later cut off": ({"messages": json.dumps(SAID)[:-9]}, 140, "line 140: column 'messages' is no JSON"),
    "later an object": ({"messages": json.dumps(SAID[0])}, 140, "line 140: column 'messages': JSON of a dict, expected a list"),
    "later null": ({"messages": None}, 140, "line 140: column 'messages' is null"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_differs_is_an_error(name):
    record, line, expected = BAD[name]
    records = [{"messages": json.dumps(SAID)} for _ in range(150)]
    records[line - 1] = record
    with pytest.raises(UserError, match=f"x.jsonl, {expected}"):
        encode(records, template="chatml")


@pytest.mark.parametrize(
    "record", [{"prompt": "a", "completion": "b"}, {"chat": "a"}, {"question": "a", "answer": "b"}]
)
def test_messages_among_texts_are_an_error_wherever_they_are(record):
    name = "text" if "chat" in record else "prompt-completion"
    for column in record:
        for line in (3, 140):
            records = [dict(record) for _ in range(150)]
            records[line - 1][column] = json.dumps(SAID)
            with pytest.raises(
                UserError, match=f"line {line}.* messages as JSON in a text.*write (all|both) alike.*format="
            ):
                encode(records)
            assert len(encode(records, {"format": name})) == 150
            records[line - 1][column] = "[1] and more"
            assert len(encode(records)) == 150


def test_messages_among_texts_are_not_found_in_the_cache(cache, tmp_path):
    rows = [{"prompt": f"a {n}", "completion": "b"} for n in range(300)]
    rows[150]["prompt"] = json.dumps(SAID)
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def made(reference):
        opened = [tokenize.Opened.of(reference, split, held_out=0.1) for split in ("train", "validation", "test")]
        return [tokenize.tokenized(o, tok.ByteTokenizer(), template="", train_on="assistant") for o in opened]

    assert sum(map(len, made(f"jsonl:{path}?format=prompt-completion"))) == 300
    with pytest.raises(UserError, match="x.jsonl, line 151: column 'prompt' holds messages as JSON in a text"):
        made(f"jsonl:{path}")


@pytest.mark.parametrize("written", [json.dumps, lambda value: value])
def test_half_a_character_is_named_with_its_line(cache, tmp_path, written):
    rows = [[{"role": "user", "content": f"a {n}"}, SAID[1]] for n in range(30)]
    rows[4] = [{"role": "user", "content": "\ud800"}, SAID[1]]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"messages": written(row)}) + "\n" for row in rows))
    with pytest.raises(
        UserError, match=r"x.jsonl, line 5: half a character \(surrogate '.ud800'\), which no text can hold"
    ):
        tokenize.Opened.of(f"jsonl:{path}", "train", held_out=0.1)
    opened = [
        tokenize.Opened.of(f"jsonl:{path}", split, held_out=0.1, broken="skip")
        for split in ("train", "validation", "test")
    ]
    assert sum(len(one.records) for one in opened) == 29
    call = {"function": {"name": "f", "arguments": '{"a": "\\ud800"}'}}  # of which the file itself says nothing wrong
    record = {"messages": written([SAID[0], {"role": "assistant", "content": "", "tool_calls": [call]}])}
    with pytest.raises(UserError, match=r"x.jsonl, line 2: not Unicode: .*U\+D800"):
        encode([{"messages": written(SAID)}, record], tokenizer=chatml_bytes(CALLED))


def test_a_text_among_lists_is_an_error():
    for line, expected in (
        (3, "x.jsonl, line 1: column 'messages' is not what it is in x.jsonl, line 3, messages as JSON in a text"),
        (140, "x.jsonl, line 140: str, expected a list of messages"),
    ):
        records = [{"messages": SAID} for _ in range(150)]
        records[line - 1] = {"messages": json.dumps(SAID)}
        with pytest.raises(UserError) as raised:
            encode(records, template="chatml")
        assert str(raised.value).startswith(expected)


def test_all_of_a_file_in_pythons_words_is_an_error():
    with pytest.raises(UserError, match="x.jsonl, line 1: column 'messages' is no JSON.*it looks like Python's way"):
        encode([{"messages": str(SAID)}] * 3, template="chatml")


@pytest.mark.parametrize("column", ["text", "data", "body"])
def test_messages_under_a_name_that_says_nothing_are_asked_for(column):
    records = [{column: json.dumps(SAID)}] * 3
    with pytest.raises(UserError) as raised:
        encode(records)
    assert str(raised.value).startswith(
        f"x.jsonl, line 1: column {column!r} holds messages as JSON in a text: messages={column} "
    )
    same(encode(records, {"messages": column}, template="chatml"), encode([{"messages": SAID}] * 3, template="chatml"))
    # As it stands, where that is what is meant.
    for options in ({"format": "text", "text": column}, {"text": column}):
        assert shown(encode([{column: "[1]"}] * 3, options)[0])[0] == "[1]$"
        assert bytes(encode(records, options)[0].ids[:-1].tolist()).decode() == records[0][column]
    if column == "text":
        assert len(encode(records, {"format": "text"})) == 3


def test_texts_that_only_look_like_it_are_texts():
    for text in ("[x] done", "[1, 2]", "{}", '["a", "b"]', '[{"a": 1}]', "role: user"):
        for column in ("prompt", "text"):
            record = {column: text, **({"completion": text} if column == "prompt" else {})}
            assert shown(encode([record])[0])[0] in (f"{text}$", f"{text}{text}$")
    # One prompt among others that is about messages: which it is, is asked; said to be text, it is.
    records = [{"prompt": "a", "completion": "b"}, {"prompt": json.dumps(SAID), "completion": "b"}]
    with pytest.raises(
        UserError,
        match="line 1: column 'prompt' is not what it is in .*line 2, messages as JSON in a text.*say format=",
    ):
        encode(records)
    assert len(encode(records, {"format": "prompt-completion"})) == 2


def test_another_split_is_read_as_the_train_split_is(cache, tmp_path):
    (tmp_path / "data").mkdir()
    for split, text in (("train", json.dumps(SAID)), ("validation", "Hello"), ("test", "Hello")):
        (tmp_path / "data" / f"{split}.jsonl").write_text((json.dumps({"messages": text}) + "\n") * 3)
    with pytest.raises(UserError, match="validation.jsonl, line 1: column 'messages' is no JSON"):
        tokenize.Opened.of(f"jsonl:{tmp_path}/data?id=-", "validation", held_out=0.1)
