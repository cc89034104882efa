"""Whatever a conversation carries is in its text, or is an error that names the line and the field."""

import copy
import json

import pytest

from ptft_jax.data import chat
from ptft_jax.data.chat_templates import BUILT_IN
from ptft_jax.errors import UserError
from tests.data import kinds
from tests.data.formats.helpers import chatml_bytes, encode, encoder, shown
from tests.data.test_chat import LLAMA3, MISTRAL, REASONING, TOOLS
from tests.data.test_turns import PLAIN_CHATML, with_template

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "y"}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "7", "tool_call_id": "1"}
GOOD = {"messages": [USER, ANSWER]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
# What a record carries and ChatML has no place for -> the message, the field.
CARRIED = {
    "tool calls": ({"messages": [USER, CALLING]}, "messages[1]", "tool_calls"),
    "a call beside text": ({"messages": [USER, {**CALLING, "content": "I look."}]}, "messages[1]", "tool_calls"),
    "reasoning": ({"messages": [USER, {**ANSWER, "reasoning_content": "hm"}]}, "messages[1]", "reasoning_content"),
    "thinking": ({"messages": [USER, {**ANSWER, "thinking": "hm"}]}, "messages[1]", "thinking"),
    "name": ({"messages": [{**USER, "name": "ann"}, ANSWER]}, "messages[0]", "name"),
    "function call": ({"messages": [USER, {"role": "assistant", "content": None, "function_call": {"name": "f"}}]}, "messages[1]", "function_call"),
    "refusal": ({"messages": [USER, {"role": "assistant", "content": None, "refusal": "No."}]}, "messages[1]", "refusal"),
    "audio": ({"messages": [USER, {**ANSWER, "audio": {"id": "x"}}]}, "messages[1]", "audio"),
    "images": ({"messages": [{**USER, "images": ["x.png"]}, ANSWER]}, "messages[0]", "images"),
    "a number": ({"messages": [USER, {**ANSWER, "score": 3}]}, "messages[1]", "score"),
    "yes": ({"messages": [USER, {**ANSWER, "prefix": True}]}, "messages[1]", "prefix"),
    "an id of no call": ({"messages": [USER, RESULT, ANSWER]}, "messages[1]", "tool_call_id"),
    "sharegpt": ({"conversations": [{"from": "human", "value": "a", "lang": "en"}, {"from": "gpt", "value": "b"}]}, "messages[0]", "lang"),
    "sharegpt's call": ({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}]}, "messages[1]", "tool_calls"),
    "tools": ({**GOOD, "tools": [TOOL]}, "", "tools"),
    "tools as JSON": ({**GOOD, "tools": json.dumps([TOOL])}, "", "tools"),
    "documents": ({**GOOD, "documents": [{"title": "t"}]}, "", "documents"),
    "a completion": ({"prompt": [USER], "completion": [{**ANSWER, "reasoning_content": "hm"}]}, "messages[1]", "reasoning_content"),
    "a preferred answer": ({"prompt": "a", "chosen": [{**ANSWER, "reasoning": "hm"}], "rejected": [ANSWER]}, "messages[1]", "reasoning"),
}  # fmt: skip


def plain():
    return chatml_bytes(PLAIN_CHATML)


@pytest.mark.parametrize("name", CARRIED)
def test_what_the_text_does_not_depend_on_is_an_error(name):
    record, place, field = CARRIED[name]
    column = next(column for column in ("messages", "conversations", "prompt") if column in record)
    said = record["prompt"] if isinstance(record.get("prompt"), str) else None
    bare = {
        k: v
        for k, v in record.items()
        if k in ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
    }
    good = {
        "messages": GOOD,
        "conversations": {"conversations": CARRIED["sharegpt"][0]["conversations"][1:2] * 2},
        "prompt": bare,
    }[column]
    if column == "conversations":
        good = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    elif column == "prompt":
        answer = {"completion": [ANSWER]} if said is None else {"chosen": [ANSWER], "rejected": [ANSWER]}
        good = {"prompt": said or [USER], **answer}
    records = [*[copy.deepcopy(good) for _ in range(150)], record]
    with pytest.raises(UserError) as raised:
        encode(records, tokenizer=plain(), template="default")
    if not place:  # a column that is new there; then one that was there before
        assert str(raised.value).startswith(
            f"x.jsonl, line 151: column {field!r} is not among those of the first records"
        )
        with pytest.raises(UserError) as raised:
            encode([*records[:49], record, *records[:100]], tokenizer=plain(), template="default")
    where = f"x.jsonl, line {151 if place else 50}: {place + ': ' if place else ''}the rendered text does not depend on {field!r}"
    assert str(raised.value).startswith(where), raised.value
    assert f"with unused={field} in the options of the source" in str(raised.value)
    # Left out on purpose, the rest is what it is without it.
    [row] = encode(records, {"unused": field}, tokenizer=plain(), template="default")[-1:]
    assert not any(f'"{field}"' in shown(s)[0] for s in row.sequences)
    assert (
        encoder(records, {"unused": field}, tokenizer=plain(), template="default").identity
        != encoder(records[:1], tokenizer=plain(), template="default").identity
    )


def test_all_that_is_unread_is_said_at_once():
    record = {
        "messages": [
            {**USER, "name": "n"},
            {**CALLING, "reasoning_content": "r"},
            RESULT,
            {**ANSWER, "audio": {"id": 1}},
        ]
    }
    with pytest.raises(UserError) as raised:
        encode([record], tokenizer=plain())
    assert "messages[0]: the rendered text does not depend on 'name' (nor on " in str(raised.value)
    [unused] = [word for word in str(raised.value).split() if word.startswith("unused=")]
    assert set(unused.removeprefix("unused=").split(",")) == {
        "name",
        "tool_calls",
        "tool_call_id",
        "reasoning_content",
        "audio",
    }
    row = encode([record], {"unused": unused.removeprefix("unused=")}, tokenizer=plain())[0]
    assert shown(row)[0] == "«user\na»\n«assistant\n»\n«tool\n7»\n«assistant\nb»\n" and len(row.empty) == 1


@pytest.mark.parametrize("value", [None, "", [], {}, False, 0, "  "])
def test_what_says_nothing_is_no_error(value):
    record = {
        "messages": [
            {**USER, "name": value},
            {**ANSWER, "tool_calls": value if isinstance(value, list) else None, "x": value},
        ]
    }
    record |= {"tools": value if value in (None, "", []) else None}
    assert shown(encode([record], tokenizer=plain())[0])[0] == "«user\na»\n«assistant\nb»\n"


def test_what_is_rendered_is_read():
    t = chatml_bytes(TOOLS)
    record = {
        "messages": [{**USER, "name": "ann"}, CALLING, RESULT, {**ANSWER, "reasoning_content": "hm"}],
        "tools": [TOOL],
    }
    text, learned = shown(encode([record], tokenizer=t)[0])
    for part in ("name=ann", '{"name": "f", "arguments": {"x": "y"}}', "<think>\nhm\n</think>", '"parameters"'):
        assert part in text
    assert '"arguments": {"x": "y"}' in learned and "hm" in learned
    # Of a call's parts each counts; numbers in arguments too.
    for arguments, expected in (({"n": 1}, '{"n": 1}'), ([1, 2], "[1, 2]"), ({}, "{}")):
        call = {"function": {"name": "f", "arguments": arguments}}
        assert expected in shown(encode([{"messages": [USER, {**CALLING, "tool_calls": [call]}]}], tokenizer=t)[0])[0]
    named = chatml_bytes(TOOLS.replace("(call.function.arguments | tojson)", "'{}'"))
    with pytest.raises(
        UserError, match=r"messages\[1\]: the rendered text does not depend on 'tool_calls.function.arguments'"
    ):
        encode([{"messages": [USER, CALLING]}], tokenizer=named)
    strict = {**CALL, "index": 1, "function": {**CALL["function"], "strict": True}}
    with pytest.raises(UserError, match=r"unused=tool_calls.function.strict,tool_calls.index in"):
        encode([{"messages": [USER, {**CALLING, "tool_calls": [strict]}]}], tokenizer=t)
    row = encode(
        [{"messages": [USER, {**CALLING, "tool_calls": [strict]}]}],
        {"unused": "tool_calls.function.strict,tool_calls.index"},
        tokenizer=t,
    )
    assert '"arguments": {"x": "y"}' in shown(row[0])[0]


def test_a_value_may_count_without_being_shown():
    """That there is one changes the text."""
    shows = "+ ('!' if message.loud else '') + (message.content if not message.hidden else '?')"
    t = chatml_bytes(PLAIN_CHATML.replace("+ message.content", shows))
    for value in (True, 1, "yes", ["x"]):
        text = shown(encode([{"messages": [{**USER, "loud": value}, ANSWER]}], tokenizer=t)[0])[0]
        assert text.startswith("«user\n!a»")
    with pytest.raises(UserError, match=r"messages\[0\]: the rendered text does not depend on 'content'"):
        encode([{"messages": [{**USER, "hidden": 1}, ANSWER]}], tokenizer=t)


def test_ids_of_calls_are_told_by_their_order():
    t = chatml_bytes(TOOLS)
    calls = [{**CALL, "id": str(n)} for n in (1, 2)]
    results = [{**RESULT, "tool_call_id": str(n)} for n in (1, 2)]
    said = [USER, {**CALLING, "tool_calls": calls}]
    encode([{"messages": [*said, *results, ANSWER]}], tokenizer=t)
    for wrong in (results[::-1], results[1:], [results[0], results[0]]):
        with pytest.raises(UserError, match="the rendered text does not depend on 'tool_call_id'"):
            encode([{"messages": [*said, *wrong, ANSWER]}], tokenizer=t)
    # Where the template has them, they may come in any order.
    shows = chatml_bytes(TOOLS.replace("<tool_response>\n' +", "<tool_response id=' + m.tool_call_id + '>\n' +"))
    assert "id=2>" in shown(encode([{"messages": [*said, *results[::-1], ANSWER]}], tokenizer=shows)[0])[0]


# As Qwen3's: reasoning is shown of what comes after the last question only.
FORGETFUL = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' and m.reasoning_content "
    "and loop.index0 > ns.last %}{{- '<think>' + m.reasoning_content + '</think>' }}{%- endif %}{{- m.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def test_reasoning_that_a_template_forgets_may_be_context_and_not_learned():
    t, thought = chatml_bytes(FORGETFUL), {**ANSWER, "reasoning_content": "hm"}
    for last in (thought, ANSWER):
        row = encode([{"messages": [USER, thought, USER, last]}], tokenizer=t, train_on="last")[0]
        assert shown(row)[1].strip(".") == ("<think>hm</think>b»" if last is thought else "b»")
        with pytest.raises(UserError, match=r"messages\[1\]: the rendered text does not depend on 'reasoning_content'"):
            encode([{"messages": [USER, thought, USER, last]}], tokenizer=t)
    # A template that never shows it.
    with pytest.raises(UserError, match=r"messages\[1\]: the rendered text does not depend on 'reasoning_content'"):
        encode([{"messages": [USER, thought, USER, ANSWER]}], tokenizer=plain(), train_on="last")


def test_a_part_of_an_answer_that_a_template_drops():
    """As DeepSeek R1's and its children's do with what comes before </think>, also of the last answer."""
    drops = "{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    source = PLAIN_CHATML.replace(
        "{{ '<|im_start|>' + message", drops.replace("m.content", "message.content") + "{{ '<|im_start|>' + message"
    )
    t = chatml_bytes(source.replace("+ message.content +", "+ c +"))
    record = {"messages": [USER, {"role": "assistant", "content": "<think>so</think>b"}]}
    with pytest.raises(
        UserError, match=r"^x.jsonl, line 1: messages\[1\].content: the template leaves out a part of it"
    ):
        encode([record], tokenizer=t)
    assert shown(encode([record], {"unused": "content"}, tokenizer=t)[0])[0] == "«user\na»\n«assistant\nb»\n"
    assert shown(encode([GOOD], tokenizer=t)[0])[0] == "«user\na»\n«assistant\nb»\n"
    # One that takes the thought out and writes it itself has all of it.
    thinking = chatml_bytes(REASONING)
    text = shown(
        encode(
            [{"messages": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}]}],
            tokenizer=thinking,
        )[0]
    )[0]
    assert "<think>hm</think>" in text


AS_SAID = {
    "messages": lambda q, a: {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]},
    "sharegpt": lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]},
    "pair": lambda q, a: {"prompt": q, "completion": a},
    "alpaca": lambda q, a: {"instruction": q, "output": a},
    "preference": lambda q, a: {"prompt": q, "chosen": a, "rejected": "no"},
}


@pytest.mark.parametrize("name", AS_SAID)
def test_the_advice_on_a_part_of_an_answer_can_be_followed_in_every_layout(tmp_path, name):
    template = tmp_path / "short.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}\n{% endfor %}")
    records = [AS_SAID[name]("a", "<think>so</think>b")]
    with pytest.raises(UserError, match=r"line 1: messages\[1\].content: .*'<think>so</think>'.*unused=content "):
        encode(records, template=str(template))
    [row] = encode(records, {"unused": "content"}, template=str(template))
    assert shown(row)[0].startswith("user: a\nassistant: b\n")


@pytest.mark.parametrize("written", [lambda call: [call], lambda call: json.dumps([call])])
def test_fields_of_calls_have_the_names_that_errors_give_them(written):
    call = {"name": "f", "arguments": {}, "strict": True}  # without its "function"
    records = [{"messages": [USER, {"role": "assistant", "content": "", "tool_calls": written(call)}]}]
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}\n{% endfor %}"
    with pytest.raises(UserError, match=r"line 1: messages\[1\]: .*unused=tool_calls.function.strict "):
        encode(records, tokenizer=chatml_bytes(template))
    [row] = encode(records, {"unused": "tool_calls.function.strict"}, tokenizer=chatml_bytes(template))
    assert "assistant: f" in shown(row)[0]
    for unused in ("role", "tool_calls.strict.x"):
        with pytest.raises(UserError, match=f"unused={unused}: the records have no column and no field of messages"):
            encoder(records, {"unused": unused}, tokenizer=chatml_bytes(template))


def test_parts_of_texts_have_nothing_but_their_text():
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "annotations": []}
    record = {"messages": [{"role": "user", "content": [part]}, ANSWER]}
    with pytest.raises(
        UserError, match=r"line 1: messages\[0\]: content\[0\].cache_control: .*unused=content.cache_control"
    ):
        encode([record], tokenizer=plain())
    assert shown(encode([record], {"unused": "content.cache_control"}, tokenizer=plain())[0])[0].startswith("«user\na»")


def test_a_column_has_the_name_that_it_has():
    with pytest.raises(UserError, match="does not depend on 'functions_json'.*unused=functions_json "):
        encode([{**GOOD, "functions_json": [TOOL]}], {"tools": "functions_json"}, tokenizer=plain())
    with pytest.raises(
        UserError, match=r"messages\[0\] is the system's, and column 'system' says another thing.*unused=system"
    ):
        encode([{"messages": [{"role": "system", "content": "s"}, USER, ANSWER], "system": "t"}], tokenizer=plain())
    system = {"messages": [{"role": "system", "content": "s"}, USER, ANSWER], "system": "s"}
    assert shown(encode([system], tokenizer=plain())[0])[0].startswith("«system\ns»\n«user")
    alone = {"messages": [USER, ANSWER], "system": "t"}
    assert shown(encode([alone], {"unused": "system"}, tokenizer=plain())[0])[0].startswith("«user")


def test_a_field_that_is_nowhere_cannot_be_left_out():
    for unused in ("nmae", "name,nmae", "tool_calls.x"):
        with pytest.raises(
            UserError,
            match=f"unused={unused}: the records have no column and no field of messages '.*' that is not read",
        ):
            encoder([{"messages": [{**USER, "name": "n"}, ANSWER]}], {"unused": unused}, tokenizer=plain())
    with pytest.raises(UserError, match="system=sys has the column 'sys' read, and unused=sys leaves it out"):
        encoder([{**GOOD, "sys": "s"}], {"system": "sys", "unused": "sys"}, tokenizer=plain())
    with pytest.raises(UserError, match="unused=messages: the format messages needs the column 'messages'"):
        encoder([GOOD], {"unused": "messages"}, tokenizer=plain())
    late = [*[GOOD] * 120, {"messages": [{**USER, "name": "n"}, ANSWER]}]
    assert len(encode(late, {"unused": "name"}, tokenizer=plain())) == 121


def test_templates_that_show_only_calls_lose_what_is_said_beside_them():
    t = with_template(kinds.llama2, MISTRAL)
    said = [USER, {**CALLING, "content": "Let me look."}, {**RESULT, "tool_call_id": "1"}, ANSWER]
    with pytest.raises(UserError, match=r"messages\[1\]: the rendered text does not depend on 'tool_calls'"):
        encode([{"messages": said}], tokenizer=t)
    assert len(encode([{"messages": [USER, CALLING, RESULT, ANSWER]}], tokenizer=t)) == 1
    with pytest.raises(UserError, match=r"messages\[1\]: the rendered text does not depend on 'content'"):
        encode([{"messages": said[:2]}], tokenizer=with_template(kinds.llama3, LLAMA3))


def test_nothing_is_asked_of_what_is_rendered_by_itself():
    """Outside of data: transformers renders it, too."""
    messages = [{**USER, "name": "n"}, {**ANSWER, "reasoning_content": "r"}]
    assert chat.render(plain(), messages) == chat.render(plain(), [USER, ANSWER])


NULL = [{"role": "assistant", "content": text} for text in (None, "", " \n", [{"type": "text", "text": ""}])]


@pytest.mark.parametrize("source", [PLAIN_CHATML, BUILT_IN["chatml"], TOOLS], ids=["plain", "marked", "tools"])
@pytest.mark.parametrize("message", NULL, ids=["null", "empty", "space", "part"])
def test_an_empty_answer_is_known_by_the_id_that_it_begins_with(source, message):
    t = chatml_bytes(source)
    for messages, train_on, count in (
        ([USER, message], "assistant", 1), ([USER, message, USER, ANSWER], "assistant", 1), ([USER, message, USER, ANSWER], "last", 0),
        ([USER, ANSWER, USER, message], "last", 1), ([USER, message, USER, message], "all", 2), ([USER, message], "user", 0),
        ([USER, {**message, "train": False}], "assistant", 0), ([USER, ANSWER], "all", 0),
    ):  # fmt: skip
        row = encode([{"messages": messages}], tokenizer=t, train_on=train_on)[0]
        assert len(row.empty) == count, (messages, train_on)
        for at in row.empty:
            assert row.trained is None or row.trained[at]
            text = shown(row)[0]
            assert text[:at].endswith("«assistant\n") and text[at:].lstrip().startswith("»")
        context = encode([{"messages": messages}], {"empty_answers": "context"}, tokenizer=t, train_on=train_on)[0]
        assert context.empty == () and context.ids.tolist() == row.ids.tolist()
        if count:
            assert not context.trained[list(row.empty)].any()


def test_empty_answers_of_pairs():
    for record, count in (
        ({"prompt": "a", "completion": " "}, 1),
        ({"prompt": "a", "completion": "b"}, 0),
        ({"instruction": "a", "output": ""}, 1),
    ):
        for template in ("", "chatml"):
            row = encode([record], template=template)[0]
            assert len(row.empty) == count and all(row.trained[at] for at in row.empty)
            context = encode([record], {"empty_answers": "context"}, template=template)[0]
            assert context.trained.any() == (count == 0)
    pair = encode([{"prompt": "a", "chosen": "b", "rejected": ""}])[0]
    assert pair.empty == () and len(pair.rejected.empty) == 1
    with pytest.raises(UserError, match="empty_answers=drop: expected learn or context"):
        encoder([GOOD], {"empty_answers": "drop"}, template="chatml")
    with pytest.raises(UserError, match="empty_answers=learn: the records have the format text"):
        encoder([{"text": "a"}], {"empty_answers": "learn"})
