"""Chat templates give what transformers gives, refuse what is malformed, and cannot do harm."""

import functools
import json
import time

import pytest

from ptft_jax.data import chat, sandbox
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.budget import BUDGET
from ptft_jax.errors import UserError
from tests.data import kinds

CHATML = (
    "{%- if tools %}\n<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n"
    "{%- endif -%}\n"
    "{% for message in messages %}\n"
    "{% if loop.first and messages[0]['role'] != 'system' %}\n"
    "{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}\n"
    "{{'<|im_start|>' + message['role'] + '\\n'}}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\n"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}\n{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}\n"
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
    "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = '' %}\n{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
    "{{- 'Today Date: ' + date_string + '\\n\\n' }}\n{{- system_message }}{{- '<|eot_id|>' }}\n"
    "{%- for message in messages %}\n"
    "    {%- if message.tool_calls %}{{- message.tool_calls[0].function | tojson(indent=4) }}\n"
    "    {%- elif message.role == 'tool' or message.role == 'ipython' %}\n"
    "        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}\n"
    "        {%- if message.content is mapping or message.content is iterable and message.content is not string %}\n"
    "            {{- message.content | tojson }}\n        {%- else %}{{- message.content }}{%- endif %}\n"
    "        {{- '<|eot_id|>' }}\n"
    "    {%- else %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}\n"
    "    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% else %}{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}\n"
    "{%- set user_messages = loop_messages | selectattr('role', 'equalto', 'user') | list %}\n"
    "{%- set ns = namespace(index=0) %}\n"
    "{%- for message in loop_messages %}\n"
    "    {%- if not (message.role == 'tool' or (message.tool_calls is defined and message.tool_calls is not none)) %}\n"
    "        {%- if (message['role'] == 'user') != (ns.index % 2 == 0) %}\n"
    "            {{- raise_exception('After the optional system message, roles must alternate') }}\n"
    "        {%- endif %}\n        {%- set ns.index = ns.index + 1 %}\n    {%- endif %}\n{%- endfor %}\n"
    "{{- bos_token }}\n{%- for message in loop_messages %}\n    {%- if message['role'] == 'user' %}\n"
    "        {%- if loop.last and system_message is defined %}\n"
    "            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}\n"
    "        {%- else %}\n            {{- '[INST] ' + message['content'] + '[/INST]' }}\n        {%- endif %}\n"
    "    {%- elif message['role'] == 'assistant' and message.content %}\n"
    "        {{- ' ' + message['content'] | trim + eos_token }}\n"
    "    {%- elif message.tool_calls is defined %}\n        {%- for call in message.tool_calls %}\n"
    "            {%- set out = call.function | tojson %}{{- out[:-1] ~ ', \"id\": \"' ~ call.id ~ '\"}' }}\n"
    "            {%- if not loop.last %}{{- ', ' }}{%- else %}{{- eos_token }}{%- endif %}\n        {%- endfor %}\n"
    "    {%- elif message['role'] == 'tool' %}{{- '[TOOL_RESULTS] ' + message.content|string + '[/TOOL_RESULTS]' }}\n"
    "    {%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}\n    {%- endif %}\n{%- endfor %}"
)
# What reasoning models do: looking back through the conversation, splitting answers, macros.
REASONING = (
    "{%- macro show(content, upper=false) -%}{{ content|upper if upper else content }}{%- endmacro -%}\n"
    "{%- set ns = namespace(last=messages|length - 1, looking=true) %}\n"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}\n"
    "    {%- if ns.looking and message.role == 'user' and not(message.content.startswith('<tool>')) %}\n"
    "        {%- set ns.looking = false %}{%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- for message in messages %}\n    {%- if message.role == 'system' %}{%- continue %}{%- endif %}\n"
    "    {%- set content = message.content if message.content is string else '' %}\n"
    "    {%- if '</think>' in content %}\n"
    "        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n"
    "        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n"
    "        {%- if loop.index0 > ns.last %}{{- '<think>' + thought + '</think>' }}{%- endif %}\n    {%- endif %}\n"
    "    {{- '%s: ' % show(message.role, true) }}{{ show(content) ~ '\\n' }}\n"
    "    {%- for key, value in message.items() if key not in ['role', 'content'] %}{{- key }}={{ value|tojson }};{% endfor %}\n"
    "{%- endfor %}\n{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{%- endif %}"
)
# As models with tools have them, in short.
TOOLS = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}{%- for tool in tools %}{{- tool | tojson ~ '\n' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- endif %}{%- for m in messages %}{%- if m.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' + m.content + "
    "'\n</tool_response><|im_end|>\n' }}{%- else %}{{- '<|im_start|>' + m.role + (' name=' + m.name if m.name else '') + '\n' }}"
    "{%- if m.reasoning_content %}{{- '<think>\n' + m.reasoning_content.strip('\n') + '\n</think>\n\n' }}{%- endif %}"
    '{{- m.content }}{%- for call in m.tool_calls or [] %}{{- \'\n<tool_call>\n{"name": "\' ~ call.function.name ~ \'", "arguments": \' ~ '
    "(call.function.arguments | tojson) ~ '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
TEMPLATES = {
    "tools": TOOLS,
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "reasoning": REASONING,
}
TOOL_CALL = {"id": "abc", "type": "function", "function": {"name": "f", "arguments": {"x": "<é>", "y": [1, None]}}}
CONVERSATIONS = {
    "one": [{"role": "user", "content": "Hi"}],
    "answered": [{"role": "user", "content": "  Hi\n"}, {"role": "assistant", "content": " Hello, <b>you</b>! "}],
    "system": [
        {"role": "system", "content": "Be kind.\n"},
        {"role": "user", "content": "你好 🙂 <|im_end|></s>"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
        {"role": "user", "content": "And?"},
    ],
    "tools": [
        {"role": "user", "content": "Call"},
        {"role": "assistant", "content": "", "tool_calls": [TOOL_CALL]},
        {"role": "tool", "content": "7", "name": "f"},
        {"role": "assistant", "content": "Seven"},
    ],
    "calls": [
        {"role": "user", "content": "Call", "name": "ann"},
        {"role": "assistant", "content": "I call.", "tool_calls": [TOOL_CALL, TOOL_CALL]},
    ],
}


@functools.cache
def templated(kind, name):
    files = dict(kind())
    config = json.loads(files.get("tokenizer_config.json", b"{}")) | {"chat_template": TEMPLATES[name]}
    return tok.from_files({**files, "tokenizer_config.json": json.dumps(config).encode()}, "model")


def test_chatml_is_what_it_says():
    t = tok.with_tokens(tok.ByteTokenizer(), ["<|im_start|>", "<|im_end|>"])
    messages = CONVERSATIONS["answered"][1:]
    text = chat.render(t, messages, True, template="chatml")
    assert text == "<|im_start|>assistant\n Hello, <b>you</b>! <|im_end|>\n<|im_start|>assistant\n"
    ids = chat.encode_chat(t, messages, True, template="chatml").tolist()
    assert ids == [257, *b"assistant\n Hello, <b>you</b>! ", 258, 10, 257, *b"assistant\n"]
    assert t.stop_ids == (256, 258)
    with pytest.raises(UserError, match="bytes: the tokenizer has no chat template: choose one"):
        chat.render(t, messages)
    with pytest.raises(UserError, match=r"template = 'chatlm': .*did you mean 'chatml'"):
        chat.render(t, messages, template="chatlm")


def test_there_is_one_bos():
    for kind, name in ((kinds.llama3, "llama3"), (kinds.llama2, "mistral")):
        t = templated(kind, name)
        assert t.prefix_ids == (t.bos_id,)
        assert chat.encode_chat(t, CONVERSATIONS["system"]).tolist().count(t.bos_id) == 1
        ids = chat.encode_chat(t, CONVERSATIONS["one"], template="chatml").tolist()
        assert ids[0] == t.bos_id and ids.count(t.bos_id) == 1


def test_templates_by_name_and_from_a_file():
    files = dict(kinds.byte_level())
    both = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b{{ tools }}"}]
    files["tokenizer_config.json"] = json.dumps(
        json.loads(files["tokenizer_config.json"]) | {"chat_template": both}
    ).encode()
    t = tok.from_files(files, "model")
    one = CONVERSATIONS["one"]
    assert chat.render(t, one) == "a" and chat.render(t, one, template="tool_use", tools=[1]) == "b[1]"
    t = tok.from_files(t.files() | {"chat_template.jinja": b"c"}, "model")
    assert chat.render(t, one) == "c" and chat.render(t, one, template="tool_use") == "bNone"
    compiled = chat.template(t)
    assert chat.render(t, one, template=compiled) == "c"


BAD_MESSAGES = {
    "none": ([], "messages: none"),
    "a text": ("hi", "messages: str, expected a list"),
    "no message": ([{"role": "user", "content": "a"}, "b"], r"messages\[1\]: 'b'"),
    "no role": ([{"content": "a"}], r"messages\[0\]: role = None"),
    "role": ([{"role": "asistant", "content": "a"}], r"messages\[0\]: role = 'asistant': .*did you mean 'assistant'"),
    "no content": ([{"role": "user"}], r"messages\[0\]: it has no content"),
    "content": ([{"role": "user", "content": 3}], r"messages\[0\]: content is a int"),
    "part": ([{"role": "user", "content": [{"type": "image"}]}], r"messages\[0\]: content\[0\] = "),
    "object": ([{"role": "user", "content": "a", "x": object()}], r"messages\[0\]: not JSON"),
    "number": ([{"role": "user", "content": "a", "x": float("nan")}], r"messages\[0\]: not JSON"),
    "order": ([{"role": "assistant", "content": "a"}], "the template refuses this conversation: .*must alternate"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_malformed_conversations_are_named(name):
    messages, expected = BAD_MESSAGES[name]
    with pytest.raises(UserError, match=expected):
        chat.render(templated(kinds.byte_level, "mistral"), messages)


NESTED = "{% set ns = namespace(x=(1,), y=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% set ns.y = (ns.y, ns.y) %}{% endfor %}"
GROWING = "{{% set ns = namespace(x='aaaaaaaaaa') %}}{{% for i in range(60) %}}{}{{% endfor %}}"
LONG = "{% set s = 'a' * 100000 %}"
MUCH = "more work than a chat template may"
HARMFUL = {
    # What the budget is kept with, which no template can spell
    "own filters": ("{% for i in range(5)|each turn(-100) %}{% endfor %}", "expected token"),
    "former names": ("{% for i in range(5)|_each(-100) %}{% endfor %}", "No filter named '_each'"),
    # Python's internals
    "class": ("{{ ''.__class__.__mro__ }}", "may not look at str.__class__"),
    "globals": ("{{ raise_exception.__globals__ }}", "may not look at function.__globals__"),
    "init": ("{{ cycler.__init__.__globals__.os }}", "may not look at type.__init__"),
    "item": ("{{ ''['__class__'] }}", "may not look at str.__class__"),
    "context": ("{{ self._TemplateReference__context }}", "may not look at TemplateReference"),
    "attr": ("{{ messages|attr('__class__') }}", "No filter named 'attr'"),
    "map": ("{{ messages|map(attribute='__class__')|list }}", "may not look at dict.__class__"),
    "format": ("{{ '{0.__class__}'.format(messages) }}", "may not look at list.__class__"),
    "format_map": ("{{ '{a.__class__}'.format_map({'a': 1}) }}", "may not"),
    "namespace": ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "a namespace has no '__class__'"),
    "change": ("{{ messages.append(1) }}", "may not look at list.append"),
    "read": ("{% include '/etc/passwd' %}", "stands alone"),
    "import": ("{% import 'os' as os %}", "stands alone"),
    # work without end
    "loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", MUCH),
    "range": ("{{ range(10 ** 12)|list }}", "Range too big"),
    "macro": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "macros": ("{% macro f(n) %}{% if n %}{% set a = f(n - 1) %}{% set b = f(n - 1) %}{% endif %}{% endmacro %}{{ f(60) }}", MUCH),
    "recursive": ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion"),
    "slices": (LONG + "{% for i in range(99999) %}{% set y = s[0:] %}{% endfor %}", MUCH),
    "sorts": ("{% for i in range(99999) %}{% set y = range(99999)|sort %}{% endfor %}", MUCH),
    "power": ("{{ 10 ** (10 ** 8) }}", "huge numbers"),
    "squares": ("{% set ns = namespace(x=2) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}", "huge numbers"),
    "round": ("{{ 1.5|round(10 ** 9, 'ceil') }}", "huge numbers"),
    "compare": (NESTED + "{{ ns.x == ns.y }}", MUCH),
    "test": (NESTED + "{{ ns.x is eq(ns.y) }}", MUCH),
    "hash": (NESTED + "{{ {ns.x: 1} }}", MUCH),
    "key": (NESTED + "{{ messages[0][ns.x] }}", MUCH),
    "get": (NESTED + "{{ messages[0].get(ns.x) }}", MUCH),
    "dict": (NESTED + "{{ dict([(ns.x, 1)]) }}", MUCH),
    "changed": (NESTED + "{% for j in [1, 2] %}{{ loop.changed(ns.x) }}{% endfor %}", MUCH),
    "unique": (NESTED + "{{ [ns.x]|unique|list }}", MUCH),
    "sum": ("{{ ([[1] * 1000] * 1000)|sum(start=[])|length }}", "values that are not numbers"),
    "source": ("a" * 300_000, "300000 characters long"),
    "parentheses": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
    # memory
    "times": ("{{ 'a' * 10 ** 10 }}", MUCH),
    "list": ("{{ [1] * 10 ** 10 }}", MUCH),
    "concat": (GROWING.format("{% set ns.x = ns.x ~ ns.x %}"), MUCH),
    "plus": (GROWING.format("{% set ns.x = ns.x + ns.x %}"), MUCH),
    "block": (GROWING.format("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"), MUCH),
    "data": ("{% set x %}{% for i in range(99999) %}" + "a" * 200_000 + "{% endfor %}{% endset %}", MUCH),
    "replace": (GROWING.format("{% set ns.x = ns.x|replace('a', ns.x) %}"), MUCH),
    "replaced": (GROWING.format("{% set ns.x = ns.x.replace('a', ns.x) %}"), MUCH),
    "join": (LONG + "{{ range(99999)|join(s) }}", MUCH),
    "joined": (LONG + "{{ s.join([''] * 99999) }}", MUCH),
    "joins": (LONG + "{{ ([s] * 99999)|join }}", MUCH),
    "nested": (NESTED + "{{ ns.x }}", MUCH),
    "json": (NESTED + "{{ ns.x|tojson }}", MUCH),
    "indented": ("{{ [1, 2]|tojson(indent=10 ** 10) }}", MUCH),
    "separators": ("{{ ([1] * 99999)|tojson(separators=('a' * 99999, 'b')) }}", MUCH),
    "indent": ("{{ 'a'|indent(10 ** 10, true) }}", MUCH),
    "ljust": ("{{ 'a'.ljust(10 ** 10) }}", MUCH),
    "center": ("{{ 'a'.center(10 ** 10) }}", "may not call str.center"),
    "width": ("{{ '{:10000000000}'.format(1) }}", "a width that is large"),
    "widths": ("{{ '{:{}}'.format(1, 10 ** 10) }}", "a width that is large"),
    "percent": ("{{ '%10000000000d' % 1 }}", "a width that is large"),
    "star": ("{{ '%*d' % (10 ** 10, 1) }}", "a width that is large"),
    "bytes": ("{{ (5).to_bytes(10 ** 10, 'big') }}", "may not call to_bytes"),
    "lipsum": ("{{ lipsum(10 ** 9) }}", "'lipsum' is undefined"),
    # mistakes
    "syntax": ("a\n{% for %}", "line 2: "),
    "division": ("a\nb{{ 1 / 0 }}", "line 2: ZeroDivisionError"),
    "undefined": ("{{ foo.bar }}", "'foo' is undefined"),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.heavy) if n == "sorts" else n for n in HARMFUL])
def test_a_harmful_template_fails_cleanly(name, monkeypatch):
    if name not in ("macros", "sorts", "compare", "sum"):  # the slowest for what they pay show how long it can take
        monkeypatch.setattr(sandbox, "BUDGET", BUDGET // 20)
    source, expected = HARMFUL[name]
    began = time.process_time()
    with pytest.raises(UserError, match=f"the template.*{expected}"):
        sandbox.Template(source, "the template").render({"messages": CONVERSATIONS["one"]})
    assert time.process_time() - began < 10


def test_long_conversations_are_rendered():
    """A budget for harm is none for length: thousands of turns, or a very long one."""
    many = [{"role": ("user", "assistant")[i % 2], "content": f"word {i} " * 20} for i in range(2001)]
    long = [{"role": "user", "content": "word " * 2_000_000}]
    assert len(long[0]["content"]) < BUDGET
    for name in TEMPLATES:
        t = templated(kinds.byte_level, name)
        files = t.files() | {
            "tokenizer_config.json": json.dumps(
                {**json.loads(t.files()["tokenizer_config.json"]), "bos_token": "<|im_start|>"}
            ).encode()
        }
        t = tok.from_files(files, "model")
        assert len(chat.render(t, many)) > 2001 * 20 * 6
        assert chat.render(t, long).count("word") == 2_000_000


@pytest.mark.live
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", [kinds.llama3, kinds.llama2, kinds.byte_level], ids=lambda kind: kind.__name__)
def test_conversations_as_transformers_renders_them(name, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    t = templated(kind, name)
    for file, data in t.files().items():
        (tmp_path / file).write_bytes(data)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    compared = 0
    for messages in CONVERSATIONS.values():
        for prompt in (False, True):
            for extra in ({}, {"enable_thinking": False, "tools": [TOOL_CALL], "date_string": "1 May 2025"}):
                options = {"add_generation_prompt": prompt, **extra}
                try:
                    expected = reference.apply_chat_template(messages, tokenize=False, **options)
                except Exception as e:  # the template refuses: so must ours
                    with pytest.raises(UserError, match="template"):
                        chat.render(t, messages, **options)
                    assert "alternate" in str(e) or "supported" in str(e) or "undefined" in str(e), e
                    continue
                assert chat.render(t, messages, **options) == expected
                ids = reference.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
                spells = messages is CONVERSATIONS["system"]  # control tokens, which there become them
                assert chat.encode_chat(t, messages, control_tokens=spells, **options).tolist() == ids
                compared += 1
    assert compared >= 8


def test_a_template_may_be_a_file(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    tokenizer = tok.ByteTokenizer()
    assert chat.render(tokenizer, [{"role": "user", "content": "hi"}], template=str(path)) == "[user]hi"
    with pytest.raises(UserError, match=r"template = '.*none.jinja': cannot be read"):
        chat.template(tokenizer, str(tmp_path / "none.jinja"))
