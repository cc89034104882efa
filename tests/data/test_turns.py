"""What is learned of a conversation is what its roles said, with what ends it, whatever the template and tokenizer."""

import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data import chat, turns
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.chat_templates import BUILT_IN, STOPS
from ptft_jax.data.turns import Conversation, TrainOn
from ptft_jax.errors import UserError
from tests.data import kinds
from tests.data.kinds import FRAGMENTS, named
from tests.data.test_chat import GEMMA, LLAMA3, REASONING, TOOL_CALL

CONTROL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"]  # fmt: skip
VERBATIM = (kinds.byte, kinds.gpt2, kinds.byte_level, kinds.llama3, kinds.tiktoken)
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
# Without generation blocks, as most are published. Those of the families are in test_chat.
PLAIN_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Its blocks leave the end of the turn out, and start after a space.
OUTSIDE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {% generation %}{{ m.content }}"
    "{% endgeneration %} {{ eos_token }}{% else %}[{{ m.role }}] {{ m.content }} [/]{% endif %}{% endfor %}"
)


@functools.cache
def with_control(kind):
    """A tokenizer of this kind with every control token of the built-in templates."""
    t = tok.from_files(kind(), kind.__name__)
    return tok.with_tokens(t, [text for text in CONTROL if not t.has(text)])


@functools.cache
def with_template(kind, source, control=True):
    t = with_control(kind) if control else tok.from_files(kind(), kind.__name__)
    return tok.from_files({**t.files(), "chat_template.jinja": source.encode()}, kind.__name__)


def encode(t, messages, train_on="assistant", template=None, control_tokens=False, **variables):
    made = chat.template(t, template)
    conversation = Conversation(messages, variables, "x, line 3", control_tokens=control_tokens)
    [row] = turns.encode(t, made, [conversation], TrainOn.parse(train_on))
    return row


def spelled(t, ids):
    """The text of ids, control tokens spelled out: of a kind whose tokens are bytes."""
    spelling = {i: text.encode() for text, i in t.special.items()}
    return b"".join(spelling.get(i) or t.token_bytes(i) for i in ids).decode("utf-8", errors="replace")


def learned(t, row):
    """The runs of learned tokens, as texts."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row.trained, [False]]).astype(int)))
    return [spelled(t, row.ids[a:b].tolist()) for a, b in zip(edges[::2], edges[1::2])]


TEXT = st.lists(st.sampled_from([*FRAGMENTS, *CONTROL, "assistant\n", "[/]"]), max_size=5).map("".join) | st.text(
    max_size=12
)


@st.composite
def conversations(draw, system=True):
    said = [draw(TEXT) for _ in range(draw(st.integers(1, 6)))]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    if system and draw(st.booleans()):
        messages = [{"role": "system", "content": draw(TEXT)}, *messages]
    return messages


def check_learned(t, row, name, messages):
    """The text from what the user said first, written down by hand and counted in bytes: a token is learned if one of its
    bytes is of what the assistant said or what ends it."""
    trim = str.strip if name != "chatml" else str
    start = {
        "chatml": "<|im_start|>{}\n",
        "llama3": "<|start_header_id|>{}<|end_header_id|>\n\n",
        "gemma": "<start_of_turn>{}\n",
    }[name]
    data, flags = b"", []
    for message in messages:
        if message["role"] == "system":
            continue
        answer = message["role"] == "assistant"
        header = start.format("model" if answer and name == "gemma" else message["role"]) if data else ""
        after = "" if name == "llama3" else "\n"
        for part, flag in ((header, False), (trim(message["content"]) + ENDS[name], answer), (after, False)):
            data += part.encode()
            flags += [flag] * len(part.encode())
    spelling = {i: text.encode() for text, i in t.special.items()}
    pieces = [spelling.get(i) or t.token_bytes(i) for i in row.ids.tolist()]
    whole = b"".join(pieces)
    assert whole.endswith(data)
    flags = [False] * (len(whole) - len(flags)) + flags
    edges = np.cumsum([0, *map(len, pieces)])
    assert row.trained.tolist() == [any(flags[a:b]) for a, b in zip(edges, edges[1:])]
    assert row.trained.any() == any(message["role"] == "assistant" for message in messages)


@named(VERBATIM)
@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=12, deadline=None)
@given(messages=conversations())
def test_what_is_learned_is_what_the_assistant_said_and_its_end(kind, name, messages):
    t = with_control(kind)
    row = encode(t, messages, template=name)
    check_learned(t, row, name, messages)
    assert row.ids.tolist() == chat.encode_chat(t, messages, template=name).tolist()


@named(VERBATIM)
@pytest.mark.parametrize("source", [PLAIN_CHATML, LLAMA3, GEMMA], ids=["chatml", "llama3", "gemma"])
@settings(max_examples=12, deadline=None)
@given(messages=conversations())
def test_a_template_without_marks_gives_the_same(kind, source, messages):
    t = with_template(kind, source)
    row = encode(t, messages)
    check_learned(t, row, {PLAIN_CHATML: "chatml", LLAMA3: "llama3", GEMMA: "gemma"}[source], messages)


# Llama 3's as it was published first, before dates and tools.
LLAMA3_FIRST = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    "name, published", [("chatml", PLAIN_CHATML), ("llama3", LLAMA3_FIRST), ("gemma", GEMMA)], ids=list(BUILT_IN)
)
@pytest.mark.parametrize("prompt", [False, True])
@settings(max_examples=12, deadline=None)
@given(messages=conversations())
def test_built_in_templates_give_the_published_texts(name, published, prompt, messages):
    t = with_template(kinds.llama3, published)
    assert chat.render(t, messages, prompt, template=name) == chat.render(t, messages, prompt)
    parts = [{**m, "content": [{"type": "text", "text": text} for text in (m["content"], "")]} for m in messages]
    assert chat.render(t, parts, prompt, template=name) == chat.render(t, messages, prompt)


def test_what_tools_said_has_a_role_of_its_own():
    said = [*CONVERSATION[:2], {"role": "tool", "content": "7"}]
    t = with_control(kinds.gpt2)
    assert chat.render(t, said, template="chatml").endswith("<|im_start|>tool\n7<|im_end|>\n")
    assert chat.render(t, said, template="llama3").endswith(
        "<|start_header_id|>ipython<|end_header_id|>\n\n7<|eot_id|>"
    )
    with pytest.raises(UserError, match="must alternate"):
        chat.render(t, said, template="gemma")


@named(kinds.ALL)
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_end_of_a_turn_is_learned_by_every_kind(kind, name):
    """With pad and end the same token, too."""
    t = with_control(kind)
    row = encode(t, CONVERSATION, template=name)
    end = t.special[ENDS[name]]
    assert t.stop_ids.count(end) == 1
    ends = np.flatnonzero(row.ids == end)
    last = row.trained & ~np.append(row.trained[1:], False)
    assert np.flatnonzero(last).tolist() == [i for i in ends.tolist() if row.trained[i]] and last.sum() == 2


CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "the cat?"},
    {"role": "assistant", "content": "sat on the mat"},
    {"role": "user", "content": "and the dog?"},
    {"role": "assistant", "content": "lay by the fire"},
]


def test_pad_is_eos():
    files = dict(kinds.byte_level())
    config = json.loads(files["tokenizer_config.json"]) | {"pad_token": "<|im_end|>"}
    t = tok.from_files(files | {"tokenizer_config.json": json.dumps(config).encode()}, "model")
    assert t.pad_id == t.end_id
    assert learned(t, encode(t, CONVERSATION, template="chatml")) == [
        "sat on the mat<|im_end|>",
        "lay by the fire<|im_end|>",
    ]


@named(kinds.ALL)
def test_there_is_never_a_second_bos(kind):
    """A template that writes BOS, a tokenizer that does, both, and neither."""
    t = with_control(kind)
    start = list(t.prefix_ids) or ([t.bos_id] if t.bos_id is not None else [])
    for name in BUILT_IN:
        ids = encode(t, CONVERSATION, template=name).ids.tolist()
        writes = t.prefix_ids or "bos_token" in BUILT_IN[name]
        assert sum(ids.count(i) for i in start) == (len(start) if writes else 0)
        assert not writes or ids[: len(start)] == start
        assert ids == chat.encode_chat(t, CONVERSATION, template=name).tolist()
    for source, writes in (("{{ bos_token }}" + PLAIN_CHATML, True), (PLAIN_CHATML, False)):
        own = with_template(kind, source)  # the tokenizer's own template alone says, as in transformers
        ids = encode(own, CONVERSATION).ids.tolist()
        assert ids.count(t.bos_id) == (1 if writes and t.bos_id is not None else 0)


def test_ends_that_blocks_leave_out_are_learned_with_the_space_before():
    t = with_template(kinds.llama2, OUTSIDE)
    row = encode(t, CONVERSATION)
    assert (row.ids[row.trained] == t.end_id).sum() == 2 and row.trained[-1] and row.ids[-1] == t.end_id
    assert t.decode(row.ids[row.trained]).split() == ["sat", "on", "the", "mat", "lay", "by", "the", "fire"]
    empty = encode(t, [*CONVERSATION[:4], {"role": "assistant", "content": ""}])
    assert empty.trained[-1] and empty.ids[-1] == t.end_id
    # What the user's text ends with is not the assistant's end: it is text, or where it is meant to be more, the user's.
    for meant, ends in ((False, 1), (True, 2)):
        said = [{"role": "user", "content": "a</s>"}, {"role": "assistant", "content": "b"}]
        row = encode(t, said, control_tokens=meant)
        assert (row.ids == t.end_id).sum() == ends and (row.ids[row.trained] == t.end_id).sum() == 1


def test_a_last_answer_that_nothing_ends_gets_the_end_token():
    endless = "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
    t = with_template(kinds.gpt2, endless)
    row = encode(t, CONVERSATION)
    assert learned(t, row) == ["sat on the mat\n", "lay by the fire\n<|endoftext|>"]
    assert encode(t, CONVERSATION[:4]).ids[-1] != t.end_id
    everything = encode(t, CONVERSATION, "all")
    assert everything.trained is None and everything.ids[-1] == t.end_id
    # A built-in template's end is a text where it is no token, at which generation stops.
    bare = tok.ByteTokenizer()
    row = encode(bare, CONVERSATION, template="chatml")
    assert learned(bare, row)[-1] == "lay by the fire" + STOPS["chatml"]


@pytest.mark.parametrize("source", [BUILT_IN["chatml"], PLAIN_CHATML], ids=["marked", "plain"])
def test_policies(source):
    t = with_template(kinds.gpt2, source)
    said = lambda train_on, messages=CONVERSATION: learned(t, encode(t, messages, train_on))  # noqa: E731
    first, second = "sat on the mat<|im_end|>", "lay by the fire<|im_end|>"
    user = ["<|im_start|>user\nthe cat?<|im_end|>", "<|im_start|>user\nand the dog?<|im_end|>"]
    assert said("assistant") == [first, second] and said("last") == [second]
    assert said("user") == user and said("assistant, user") == [user[0], first, user[1], second]
    assert said("tool") == []
    assert encode(t, CONVERSATION, "all").trained is None
    assert said("last", CONVERSATION[:4]) == [first], "a question after it is context"
    marked = [dict(message) for message in CONVERSATION]
    marked[2]["train"] = False
    assert said("assistant", marked) == [second] and said("last", marked) == [second]
    assert said("all", marked) == [
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nthe cat?<|im_end|>\n<|im_start|>assistant\n",
        "\n<|im_start|>user\nand the dog?<|im_end|>\n<|im_start|>assistant\nlay by the fire<|im_end|>\n",
    ]
    weighed = [dict(message) for message in CONVERSATION]
    weighed[4]["weight"], weighed[2]["weight"] = 0, 1
    assert said("assistant", weighed) == [first] and said("last", weighed) == []
    assert encode(t, weighed).ids.tolist() == encode(t, CONVERSATION).ids.tolist()


def test_what_cannot_be_done_is_named():
    t = with_template(kinds.gpt2, PLAIN_CHATML)
    for setting, expected in {
        "asistant": "'asistant': expected assistant, last, all, or roles .*did you mean 'assistant'",
        "assistant,tol": "'tol': expected .*did you mean 'tool'",
        "": "'': expected",
        "last,user": "'last': expected",
    }.items():
        with pytest.raises(UserError, match=f"data.train_on = '{setting}': {expected}"):
            TrainOn.parse(setting)
    bad = {
        "weight": ([{**CONVERSATION[2], "weight": 2}], r'messages\[0\]: "weight": 2: expected 0 or 1'),
        "train": ([{**CONVERSATION[2], "train": 1}], r'messages\[0\]: "train": 1: expected false or true'),
        "both": ([{**CONVERSATION[2], "train": True, "weight": 0}], "contradict"),
        "user": ([{**CONVERSATION[1], "train": True}], r"turns of user are not: data.train_on=assistant,user learns"),
        "first": ([CONVERSATION[0], CONVERSATION[2]], r"messages\[1\]: the conversation starts with the assistant"),
        "role": ([CONVERSATION[1], {"role": "bot", "content": ""}], r"messages\[1\]: role = 'bot'"),
        "none": ([], "messages: none"),
    }
    for messages, expected in bad.values():
        with pytest.raises(UserError, match=f"^x, line 3: .*{expected}"):
            encode(t, messages)
    conversation = Conversation([CONVERSATION[2]], {}, "x", assistant_first=True)
    [row] = turns.encode(t, chat.template(t), [conversation], TrainOn.parse("assistant"))
    assert learned(t, row) == ["sat on the mat<|im_end|>"]


def test_the_message_that_a_template_refuses_is_named():
    t = with_control(kinds.gpt2)
    for messages, index, reason in (
        ([CONVERSATION[1], CONVERSATION[3], CONVERSATION[4]], 1, "must alternate"),
        ([CONVERSATION[1], {"role": "assistant", "content": "", "tool_calls": [TOOL_CALL]}], 1, "has no tool calls"),
    ):
        with pytest.raises(UserError, match=rf"^x, line 3: messages\[{index}\]: chat template 'gemma'.*{reason}"):
            encode(t, messages, template="gemma")
    with pytest.raises(UserError, match="the built-in chatml template has no tools"):
        encode(t, CONVERSATION, template="chatml", tools=[TOOL_CALL])


def test_a_turn_that_cannot_be_told_is_refused():
    """Where earlier answers are shown otherwise than they were given, nothing is guessed."""
    t = with_template(kinds.gpt2, REASONING)
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
    with pytest.raises(
        UserError, match=r"messages\[1\]: where this turn ends cannot be told: .*drop earlier reasoning"
    ):
        encode(t, [CONVERSATION[1], thought, CONVERSATION[3], CONVERSATION[4]])
    prompted = PLAIN_CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    t = with_template(kinds.gpt2, prompted)
    with pytest.raises(UserError, match=r"messages\[2\]: where this turn starts cannot be told"):
        encode(t, CONVERSATION)
    # An answer that is not shown: what starts it is what starts the next.
    silent = "{% for m in messages if m.content %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    said = [CONVERSATION[1], {"role": "assistant", "content": ""}, CONVERSATION[2]]
    with pytest.raises(UserError, match=r"messages\[1\]: where this turn ends cannot be told"):
        encode(with_template(kinds.gpt2, silent), said)
    joined = "{% for m in messages %}{% if not loop.first %}|{% endif %}{{ m.content }}{% endfor %}."
    t = with_template(kinds.gpt2, joined)
    with pytest.raises(UserError, match=r"messages\[2\]: where this turn (starts|ends) cannot be told"):
        encode(t, CONVERSATION)


def test_whose_blocks_they_are_is_not_guessed():
    by_index = (
        "{% for i in range(messages|length) %}{% generation %}{{ messages[i].content }}{% endgeneration %}{% endfor %}"
    )
    t = with_template(kinds.gpt2, by_index)
    with pytest.raises(UserError, match="5 generation blocks for 2 messages of the assistant.*cannot be told"):
        encode(t, CONVERSATION, "last")
    answers = by_index.replace("{% generation", "{% if messages[i].role == 'assistant' %}{% generation")
    t = with_template(kinds.gpt2, answers.replace("{% endfor", "|{% endif %}{% endfor"))
    assert encode(t, CONVERSATION, "last").trained.sum() < encode(t, CONVERSATION).trained.sum()
    assert learned(t, encode(t, CONVERSATION, "last"))[0].startswith("lay by the fire")


# With generation blocks; what they leave out (ends, spaces) differs.
LIVE = {
    "chatml": BUILT_IN["chatml"],
    "llama3": BUILT_IN["llama3"],
    "gemma": BUILT_IN["gemma"],
    "tools": (
        "{%- if tools %}{{- '<|im_start|>system\n' }}{%- for tool in tools %}{{- tool | tojson }}{{- '\n' }}{%- endfor %}"
        "{{- '<|im_end|>\n' }}{%- endif %}\n"
        "{%- for message in messages %}\n"
        "    {%- if message.role == 'assistant' %}\n        {{- '<|im_start|>assistant\n' }}\n"
        "        {%- generation %}\n        {{- message.content }}\n"
        "        {%- for call in message.tool_calls or [] %}{{- '<tool_call>' + (call.function | tojson) }}{%- endfor %}\n"
        "        {{- '<|im_end|>' }}\n        {%- endgeneration %}\n        {{- '\n' }}\n"
        "    {%- else %}\n        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\n"
        "    {%- endif %}\n{%- endfor %}"
    ),
    "split": (
        "{% for m in messages %}<{{ m.role }}>\n{% if m.role == 'assistant' %}{% generation %}{{ m.content[:3] }}"
        "{% endgeneration %}|{% generation %}{{ m.content[3:] }}\n{{ eos_token }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    ),
}  # fmt: skip
VARIED = {
    "multi-turn": CONVERSATION,
    "unicode": [
        {"role": "user", "content": "你好 🙂🜁 naïve"},
        {"role": "assistant", "content": "🜁🜂 déjà-vu 🙂"},
        {"role": "user", "content": "e\u0301"},
        {"role": "assistant", "content": "ﬁn e\u0301"},
    ],
    "edges": [
        {"role": "user", "content": "\n\n a  "},
        {"role": "assistant", "content": "  \n b \t\n"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
    ],
    "control": [
        {"role": "user", "content": "<|im_end|>\n<|im_start|>assistant\nhaha<|im_end|></s><|eot_id|>"},
        {"role": "assistant", "content": "<|im_end|> {% endgeneration %} <|im_start|>user\n<end_of_turn>[SEP]"},
        {"role": "user", "content": "{% generation %}x{{ eos_token }}"},
        {"role": "assistant", "content": "<assistant>\n|<user>"},
    ],
    "tools": [
        {"role": "user", "content": "Call"},
        {"role": "assistant", "content": "Well.", "tool_calls": [TOOL_CALL]},
        {"role": "tool", "content": "7", "name": "f"},
        {"role": "assistant", "content": "Seven"},
    ],
}


# Not what transformers gets wrong: it marks nothing from a block on whose first character has no token, as white space
# has none in WordPiece.
PAIRS = [(kind, name) for kind in kinds.HUGGING_FACE for name in LIVE if (kind, name) != (kinds.wordpiece, "split")]


@pytest.mark.live
@pytest.mark.parametrize("kind, name", PAIRS, ids=[f"{kind.__name__}-{name}" for kind, name in PAIRS])
def test_the_mask_is_that_of_transformers(kind, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    t = with_template(kind, LIVE[name])
    for file, data in t.files().items():
        (tmp_path / file).write_bytes(data)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    compared = 0
    for messages in VARIED.values():
        for tools in (None, [TOOL_CALL]):
            try:
                expected = reference.apply_chat_template(
                    messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
                )
            except Exception as e:  # the template refuses: so must ours
                assert "built-in" in str(e) or "alternate" in str(e), e
                with pytest.raises(UserError, match="built-in|alternate"):
                    encode(t, messages, tools=tools)
                continue
            if kind is kinds.wordpiece and messages is VARIED["edges"]:
                continue
            # There, messages that spell control tokens become them.
            row = encode(t, messages, tools=tools, control_tokens=messages is VARIED["control"])
            assert row.ids.tolist() == expected["input_ids"]
            assert row.trained.astype(int).tolist() == expected["assistant_masks"], messages
            compared += 1
    assert compared >= 3
