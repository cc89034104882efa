"""Prompts and answers, instructions and conversations: the ids they become, and what is learned of them."""

import json
import pickle

import pytest

from ptft_jax.data import formats
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.chat_templates import BUILT_IN
from ptft_jax.errors import UserError
from tests.data import kinds
from tests.data.formats.helpers import chatml_bytes, encode, encoder, shown, where
from tests.data.kinds import make, named

CHATML = BUILT_IN["chatml"]
# With what ChatML has no words for.
TOOLS = (
    "{% if tools %}tools={{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% for call in m.tool_calls %}"
    "{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
)


@named(kinds.ALL)
def test_prompt_and_answer_are_tokenized_apart_and_the_end_is_learned(kind):
    """As when a model is asked: the prompt's ids are the same without the answer."""
    t = make(kind)
    records = [{"prompt": "the cat ", "completion": "sat on"}, {"prompt": "", "completion": ""}]
    for record, row in zip(records, encode(records, tokenizer=t)):
        prompt, answer = (t.encode(record[what]).tolist() for what in ("prompt", "completion"))
        assert row.ids.tolist() == [*t.prefix_ids, *prompt, *answer, t.end_id]
        assert row.trained.tolist() == [False] * (len(t.prefix_ids) + len(prompt)) + [True] * (len(answer) + 1)


def test_what_is_learned_of_pairs():
    pair = [{"question": "ab", "answer": "cd"}]
    learned = lambda train_on: shown(encode(pair, train_on=train_on)[0])  # noqa: E731
    assert learned("assistant") == learned("last") == ("abcd$", "..cd$")
    assert learned("user") == ("abcd$", "ab...") and learned("user,assistant") == ("abcd$", "abcd$")
    assert learned("tool") == ("abcd$", ".....") and learned("all") == ("abcd$", None)
    with pytest.raises(UserError, match="data.train_on = 'lst'.*did you mean 'last'"):
        learned("lst")


def test_pairs_are_turns_only_where_a_template_is_named():
    own = chatml_bytes(CHATML)
    pair = [{"prompt": "a", "completion": "b"}]
    assert shown(encode(pair, tokenizer=own)[0]) == ("ab$", ".b$")
    expected = ("«user\na»\n«assistant\nb»\n", "." * len("«user\na»\n«assistant\n") + "b».")
    assert shown(encode(pair, tokenizer=own, template="default")[0]) == expected
    assert shown(encode(pair, template="chatml")[0]) == expected
    assert "without a chat template" in encoder(pair, tokenizer=own).describe()
    assert "chat template 'chatml'" in encoder(pair, template="chatml").describe()


def test_instructions_use_the_template_that_there_is():
    records = [
        {"instruction": "Add", "input": "1 {x}", "output": "3"},
        {"instruction": "Hi", "input": "", "output": "Ho"},
    ]
    with_input, without = (shown(row) for row in encode(records))
    text = (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd\n\n### Input:\n1 {x}\n\n### Response:"
    )
    assert with_input == (text + "3$", "." * len(text) + "3$")
    text = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHi\n\n### Response:"
    )
    assert without == (text + "Ho$", "." * len(text) + "Ho$")
    for settings in ({"tokenizer": chatml_bytes(CHATML)}, {"template": "chatml"}):
        with_input, without = (shown(row)[0] for row in encode(records, **settings))
        assert with_input == "«user\nAdd\n\n1 {x}»\n«assistant\n3»\n" and without == "«user\nHi»\n«assistant\nHo»\n"
    assert encoder(records).texts(records[1]) == ["Hi", "Ho"]


def test_conversations_of_either_form_are_the_same():
    openai = {
        "messages": [
            {"role": "system", "content": "s", "name": None, "tool_calls": None},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c"},
        ]
    }
    sharegpt = {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "ab", "weight": None},
            {"from": "gpt", "value": "c", "weight": 1},
        ]
    }
    beside = {"conversations": sharegpt["conversations"][1:], "system": "s"}
    start = "«system\ns»\n«user\nab»\n«assistant\n"
    expected = (start + "c»\n", "." * len(start) + "c».")
    for record in (openai, sharegpt, beside):
        assert shown(encode([record], template="chatml")[0]) == expected
        assert encoder([record], template="chatml").texts(record)[-2:] == ["ab", "c"]


def test_tools_reach_the_template():
    t = chatml_bytes(TOOLS)
    tool = {"type": "function", "function": {"name": "f"}}
    said = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"x": "é"}'}}]},
        {"role": "tool", "content": "7", "tool_call_id": "1"},
        {"role": "assistant", "content": "b"},
    ]  # fmt: skip
    turns = [
        {"from": "human", "value": "a"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": "é"}}'},
        {"from": "observation", "value": "7"},
        {"from": "gpt", "value": "b"},
    ]
    rows = [
        encode([{"messages": said, "tools": [tool]}], tokenizer=t)[0],
        encode([{"conversations": turns, "tools": json.dumps([tool])}], tokenizer=t)[0],
    ]
    text = bytes(i for i in rows[0].ids.tolist() if i < 256).decode()
    assert text.startswith(f"tools={json.dumps([tool])}\n") and 'assistant\nf({"x": "é"})\n' in text
    assert rows[0].ids.tolist() == rows[1].ids.tolist() and rows[0].trained.tolist() == rows[1].trained.tolist()
    learned = rows[0].ids[rows[0].trained].tolist()
    assert bytes(i for i in learned if i < 256).decode() == 'f({"x": "é"})b' and learned.count(258) == 2


def test_pairs_of_messages_are_one_conversation():
    record = {
        "prompt": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "completion": [{"role": "assistant", "content": "d"}],
    }
    text, learned = shown(encode([record], template="chatml")[0])
    assert text == "«user\na»\n«assistant\nb»\n«user\nc»\n«assistant\nd»\n" and learned.strip(".") == "d»"
    assert shown(encode([record], template="chatml", train_on="all")[0]) == (text, None)
    assert encoder([record], template="chatml").texts(record) == ["a", "b", "c", "d"]


def test_a_prompt_is_context_whatever_it_says():
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]
    record = {"prompt": [*said, said[0]], "completion": [{"role": "assistant", "content": "c", "weight": 1}]}
    assert shown(encode([record], template="chatml")[0])[1].strip(".") == "c»"
    pair = {"chosen": [*said, *record["completion"]], "rejected": [*said, {"role": "assistant", "content": "d"}]}
    assert shown(encode([pair], template="chatml")[0])[1].strip(".") == "c»"


def test_examples_are_the_same_on_every_day():
    dated = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
    record = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert shown(encode([record], tokenizer=chatml_bytes(dated))[0])[0].startswith("26 Jul 2024\n«user")


def test_conversations_need_a_template():
    record = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(UserError, match="the tokenizer has no chat template: choose one, such as data.template=chatml"):
        encoder([record])
    with pytest.raises(UserError, match="data.template = 'chatlm': expected one of .*did you mean 'chatml'"):
        encoder([record], template="chatlm")


def test_the_assistant_speaks_first_only_where_it_may():
    records = [{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}]
    with pytest.raises(UserError, match=r"^x.jsonl, line 1: messages\[0\]: the conversation starts with the assistant"):
        encode(records, template="chatml")
    row = encode(records, {"assistant_first": "yes"}, template="chatml")[0]
    assert shown(row) == ("«assistant\na»\n«user\nb»\n", "." * 11 + "a»" + "." * 10)


BAD = {
    "role": ({"role": "asistant", "content": "a"}, r"messages\[1\]: role = 'asistant': .*did you mean 'assistant'"),
    "neither": ("b", r"messages\[1\]: 'b', expected \{\"role\""),
    "from": ({"from": "gtp", "value": "a"}, r"messages\[1\]: from = 'gtp': .*did you mean 'gpt'"),
    "value": ({"from": "gpt", "text": "a"}, r"messages\[1\]: it has no \"value\""),
    "call": ({"from": "function_call", "value": "f()"}, r"messages\[1\]: value of a function_call: not JSON"),
    "content": ({"role": "assistant", "content": 3}, r"messages\[1\]: content is a int"),
    "image": ({"role": "user", "content": [{"type": "image", "url": "x"}]}, r"messages\[1\]: content\[0\] = "),
    "surrogate": ({"role": "assistant", "content": "\ud800"}, r"messages\[1\]: not Unicode"),
    "arguments": (
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
        r"messages\[1\]: tool_calls: arguments of f: not JSON",
    ),
    "tool calls": ({"role": "assistant", "tool_calls": ["f"]}, r"messages\[1\]: tool_calls: 'f', expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_message_that_is_wrong_is_named(name):
    message, expected = BAD[name]
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    records = [good] * 100 + [{"messages": [{"role": "user", "content": "a"}, message]}]
    with pytest.raises(UserError, match=f"^x.jsonl, line 101: {expected}"):
        encode(records, template="chatml")
    with pytest.raises(UserError, match=r"^x.jsonl, line 101: tools: (not JSON|a dict)"):
        encode(
            [{**good, "tools": None}] * 100 + [{**good, "tools": "[" if name == "role" else {"a": 1}}],
            template="chatml",
        )


def test_what_decides_the_ids_is_in_the_identity():
    pair, chat = {"prompt": "a", "completion": "b"}, {"messages": [{"role": "user", "content": "a"}]}
    made = [
        encoder([pair]),
        encoder([pair], train_on="all"),
        encoder([pair], template="chatml"),
        encoder([pair], template="chatml", tokenizer=chatml_bytes(CHATML)),  # there it is the tokenizer's own
        encoder([pair], template="gemma"),
        encoder([chat], template="chatml"),
        encoder([chat], {"assistant_first": "yes"}, template="chatml"),
        encoder([{"question": "a", "answer": "b"}]),
        encoder([{"text": "a"}]),
        encoder([{"text": "a", "label": "x"}]),
        encoder([{"text": "a", "label": "y"}]),
        encoder([{"text": "a", "label": 1}]),
    ]
    assert [e.identity.count("built in") for e in made[:5]] == [
        0,
        0,
        0,
        1,
        0,
    ]  # whose ids were others in earlier versions
    identities = [e.identity for e in made]
    assert len(set(identities)) == len(made) and all(isinstance(part, str) for i in identities for part in i)
    assert [pickle.loads(pickle.dumps(e)).identity for e in made] == identities


@named(kinds.ALL)
def test_an_encoder_can_be_sent_to_another_process(kind):
    t = tok.with_tokens(make(kind), [x for x in ("<|im_start|>", "<|im_end|>") if not make(kind).has(x)])
    records = [{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}]
    made = encoder(records, tokenizer=t, template="chatml")
    [row], [again] = (e.encode(records, [where(0)]) for e in (made, pickle.loads(pickle.dumps(made))))
    assert row.ids.tolist() == again.ids.tolist() and row.trained.tolist() == again.trained.tolist()
    assert row.trained.any() and formats.encoder(made.format, t, template="chatml").identity == made.identity
