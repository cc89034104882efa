"""Texts know where their characters come from, whatever a template does with them.

Told from outside: what is of the data is written in Greek, what is of the template in ASCII; both have cases and spaces are
the template's, so a character's alphabet says where it is from.
"""

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from ptft_jax.data import provenance, sandbox
from ptft_jax.data.provenance import TEMPLATE, UNKNOWN, Text

GREEK = "αβγδεζηθΑΒΓΔΕΖΗΘ"
LATIN = "abcdxyABCDXY<|>/\n ,;{}"
MIXED = st.lists(
    st.text(GREEK, min_size=1, max_size=3).map(lambda s: Text(s, "\2" * len(s)))
    | st.text(LATIN, min_size=1, max_size=3).map(provenance.lifted),
    max_size=6,
).map(lambda parts: provenance.lifted("").join(parts))
PLAIN = st.text(LATIN, max_size=2)
PIECE = st.text("αβab ,", min_size=1, max_size=2)
OPERATIONS = {
    "add": lambda t, a, n: t + a, "radd": lambda t, a, n: a + t, "twice": lambda t, a, n: t * (n % 3), "index": lambda t, a, n: t[n] if t else t,
    "slice": lambda t, a, n: t[n % 4 : -1], "reversed": lambda t, a, n: t[::-1], "strip": lambda t, a, n: t.strip(),
    "strip of": lambda t, a, n: t.strip(a or "x"), "lstrip": lambda t, a, n: t.lstrip(), "rstrip": lambda t, a, n: t.rstrip("αa"),
    "join": lambda t, a, n: t.join([a, "q", t]), "joined": lambda t, a, n: provenance.lifted(a).join(t), "characters": lambda t, a, n: list(t),
    "upper": lambda t, a, n: t.upper(), "lower": lambda t, a, n: t.lower(), "title": lambda t, a, n: t.title(),
    "capitalize": lambda t, a, n: t.capitalize(), "swapcase": lambda t, a, n: t.swapcase(), "casefold": lambda t, a, n: t.casefold(),
    "split": lambda t, a, n: t.split(), "split at": lambda t, a, n: t.split("a", n % 3), "rsplit": lambda t, a, n: t.rsplit(sep="α", maxsplit=n % 3),
    "rsplit spaces": lambda t, a, n: t.rsplit(None, 1), "lines": lambda t, a, n: t.splitlines(), "lines kept": lambda t, a, n: t.splitlines(True),
    "partition": lambda t, a, n: t.partition("β"), "rpartition": lambda t, a, n: t.rpartition("b"), "replace": lambda t, a, n: t.replace("a", a),
    "replace data": lambda t, a, n: t.replace("α", "zz", n), "replace by data": lambda t, a, n: provenance.lifted("zaza").replace("a", t),
    "ljust": lambda t, a, n: t.ljust(n + 5, "."), "rjust": lambda t, a, n: t.rjust(n + 5), "zfill": lambda t, a, n: t.zfill(n + 5),
    "without start": lambda t, a, n: t.removeprefix("α"), "without end": lambda t, a, n: t.removesuffix("a"),
}  # fmt: skip


def flat(value):
    return [value] if isinstance(value, str) else list(value)


def check(text):
    assert type(text) is Text and len(provenance.origin(text)) == len(text)
    for char, origin in zip(str.__str__(text), provenance.origin(text)):
        if origin != UNKNOWN and not char.isspace():
            assert (origin == TEMPLATE) == char.isascii(), (text, provenance.origin(text))


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=60, deadline=None)
@given(text=MIXED, other=PLAIN | MIXED, n=st.integers(-1, 4))
def test_what_str_does_is_done_and_followed(name, text, other, n):
    operation = OPERATIONS[name]
    bare = str.__str__(text), str.__str__(other)
    assert type(bare[0]) is str
    try:
        expected = operation(*bare, n)
    except (IndexError, ValueError) as e:
        with pytest.raises(type(e)):
            operation(text, other, n)
        return
    made = operation(text, other, n)
    assert made == expected and type(made) is (Text if isinstance(expected, str) else type(expected))
    for piece in flat(made):
        check(piece if isinstance(piece, Text) else provenance.lifted(piece))
        assert UNKNOWN not in provenance.origin(piece)


def test_characters_that_become_several():
    text = provenance.lifted("a") + Text("ßΐ", "\2\2") + "b"
    assert provenance.origin(text.upper()) == "\0" + "\2" * (len(text.upper()) - 2) + "\0"
    assert provenance.origin(text) == "\0\2\2\0"


def test_errors_are_those_of_str():
    text = Text("a", "\2")
    for bad in (
        lambda t: t + 1,
        lambda t: t.join([1]),
        lambda t: t.split(""),
        lambda t: t * "a",
        lambda t: t.replace(1, 2),
    ):
        with pytest.raises((TypeError, ValueError)) as ours:
            bad(text)
        with pytest.raises(type(ours.value)):
            bad("a")
    assert text + Markup("&") == "a" + Markup("&") and isinstance(text + Markup("&"), Markup)


@pytest.mark.parametrize(
    "options", [{}, {"indent": 2}, {"sort_keys": True}, {"ensure_ascii": True}, {"separators": (",", ":")}]
)
@settings(max_examples=40, deadline=None)
@given(
    value=st.recursive(
        st.text(GREEK + '"\\\n', max_size=3) | st.integers() | st.booleans() | st.none(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(GREEK + '"', max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_json_is_followed(options, value):
    said = provenance.said({"value": value}, ("a", "b", "c"), [])
    made = provenance.to_json({"k": said, "z": "lit"}, **{"ensure_ascii": False, **options})
    assert made == json.dumps({"k": {"value": value}, "z": "lit"}, **{"ensure_ascii": False, **options})
    for char, origin in zip(str(made), provenance.origin(made)):
        assert char in string.whitespace + '"\\,:[]{}' or char.isascii() or origin not in (TEMPLATE, UNKNOWN)
    if isinstance(made, Text):
        assert provenance.origin(made)[str(made).index("lit")] == TEMPLATE


# What a template may do with what it is given, and what it then has of it: all of X and nothing else is of the data.
FOLLOWED = {
    "written": "{{ m.content }}", "added": "{{ '<|' + m.content + '|>' }}", "joined": "{{ '<' ~ m.content ~ 1 ~ '>' }}",
    "percent": "{{ '<%s|%5s|%d>' % (m.content, m.content, 3) }}", "format": "{{ '<{}|{a}>'.format(m.content, a=m.content) }}",
    "macro": "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(m.content) }}", "caller": "{% macro f() %}({{ caller() }}){% endmacro %}{% call f() %}{{ m.content }}{% endcall %}",
    "set block": "{% set x %}<{{ m.content }}>{% endset %}{{ x }}", "filter block": "{% filter trim %}  <{{ m.content }}> {% endfilter %}",
    "replaced": "{{ '<aXb>' | replace('X', m.content) }}", "replaced by method": "{{ '<aXb>'.replace('X', m.content) }}",
    "join": "{{ [m.content, 'a', m.content] | join('|') }}", "join by data": "{{ ['a', 'b'] | join(m.content) }}",
    "join by method": "{{ '-'.join([m.content, 'x']) }}", "attribute": "{{ messages | map(attribute='content') | join(',') }}",
    "join attribute": "{{ messages | join('; ', attribute='content') }}", "split": "{{ (m.content ~ '</x>' ~ 'rest').split('</x>')[-1] ~ m.content.split('</x>')[0] }}",
    "characters": "{% for c in m.content %}[{{ c }}]{% endfor %}", "first": "{{ m.content | first }}{{ m.content | last }}{{ m.content | list | join }}",
    "slice": "{{ m.content[1:] ~ 'x' ~ m.content[0] ~ m.content[::-1] }}", "lower": "{{ m.content | lower }}{{ m.content.upper() }}",
    "indent": "{{ ('a\n' ~ m.content) | indent(2) }}", "title": "{{ m.content | title }}", "namespace": "{% set ns = namespace(x='<') %}{% set ns.x = ns.x + m.content %}{{ ns.x }}",
    "dict": "{% set d = {'a': m.content, 'b': 'c'} %}{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "default": "{{ m.name | default('none') }}{{ m.content | default('x') }}",
    "safe": "{{ m.content | safe }}", "escape": "{{ m.content | e }}", "json": "{{ {'a': m.content} | tojson }}", "string": "{{ m.content | string }}",
    "selected": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first }}", "cycle": "{{ cycler(m.content, 'x').next() }}",
    "mapped": "{{ [m.content, 'q'] | map('upper') | join }}", "sorted": "{{ [m.content, 'q'] | sort | join }}", "reversed": "{{ m.content | reverse }}",
    "loop": "{% for x in [1, 2] %}{{ loop.cycle(m.content, 'b') }}{% endfor %}", "inline": "{{ m.content if m.content else 'none' }}",
    "block": "{% block b %}{{ messages[0].content }}{% endblock %}{{ self.b() }}", "times": "{{ m.content * 2 }}", "padded": "{{ m.content.ljust(9, '.') }}{{ '%-9s|' % m.content }}",
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize("content", ["αβγ", "Αβ γ", "α"])
def test_templates_are_followed(name, content):
    source = "{% for m in messages %}" + FOLLOWED[name] + "{% endfor %}"
    template = sandbox.Template(source, "T")
    messages = [{"role": "user", "content": content}]
    paths = []
    given = provenance.said({"messages": messages}, (), paths, lambda path: path[2:] == ("role",))
    traced = template.trace(given)
    assert traced.text == template.render({"messages": messages}) and type(traced.text) is str
    assert len(traced.origin) == len(traced.text) and paths == [("messages", 0, "content")]
    for char, origin in zip(traced.text, traced.origin):
        assert char.isspace() or (origin == "\2" if not char.isascii() else origin == TEMPLATE), (
            traced.text,
            traced.origin,
        )


NOT_FOLLOWED = {
    "list": "{{ [m.content, 'a'] }}", "mixed json": "{{ [m.content ~ 'a'] | tojson }}", "safe and more": "{{ (m.content | safe) ~ ('<' | safe) + 'x' }}",
    "between": "{{ m.content.replace('', 'x') }}",
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_what_cannot_be_followed_is_never_the_templates(name):
    template = sandbox.Template("{% for m in messages %}" + NOT_FOLLOWED[name] + "{% endfor %}", "T")
    messages = [{"content": "αβγ"}]
    traced = template.trace(provenance.said({"messages": messages}, (), []))
    assert traced.text == template.render({"messages": messages})
    assert all(origin != TEMPLATE for char, origin in zip(traced.text, traced.origin) if not char.isascii())
    assert UNKNOWN in traced.origin or name == "safe and more"


def test_a_template_cannot_look_at_origins():
    template = sandbox.Template("{{ messages[0]._origin }}", "T")
    with pytest.raises(sandbox.UserError, match="may not look at str._origin"):
        template.trace(provenance.said({"messages": ["a"]}, (), []))
