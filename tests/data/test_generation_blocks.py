"""What generation blocks make is found in the text, or the template is refused: never guessed, never forged."""

import threading

import pytest

from ptft_jax.data import sandbox
from ptft_jax.errors import UserError

UNMARKED = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
MARKED = "{% for m in messages %}<{% generation %}{{ m.content }}{% endgeneration %}>{% endfor %}"
ENTANGLED = {
    "macro": ("{% macro f(m) %}{% generation %}{{ m }}{% endgeneration %}{% endmacro %}{{ f('a') }}", "macro"),
    "set": ("{% set x %}{% generation %}a{% endgeneration %}{% endset %}{{ x }}", "a set"),
    "filter": ("{% filter upper %}{% generation %}a{% endgeneration %}{% endfilter %}", "filter block"),
    "recursive": ("{% for m in [1] recursive %}{% generation %}a{% endgeneration %}{% endfor %}", "recursive loop"),
    "nested": ("{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}", "one inside another"),
    "break": ("{% for m in [1] %}{% generation %}a{% break %}{% endgeneration %}{% endfor %}", "left before its end"),
    "continue": (
        "{% for m in [1] %}{% generation %}a{% continue %}{% endgeneration %}{% endfor %}",
        "left before its end",
    ),
}


def test_blocks_are_followed_where_they_are_and_told_by_their_message():
    messages = [{"content": text} for text in ("a", "", "<generation>", "{% endgeneration %}")]
    template = sandbox.Template(MARKED, "T")
    text, generated = template.render_marked({"messages": messages})
    assert text == template.render({"messages": messages}) == "<a><><<generation>><{% endgeneration %}>"
    assert [text[g.start : g.end] for g in generated] == [m["content"] for m in messages]
    assert all(g.values[0] is m for g, m in zip(generated, messages))
    assert template.marks and not sandbox.Template(UNMARKED, "T").marks


@pytest.mark.parametrize("name", ENTANGLED)
def test_blocks_that_cannot_be_followed_are_refused(name):
    source, expected = ENTANGLED[name]
    template = sandbox.Template(source, "T")
    assert template.render({}).lower().startswith("a"), "without marks it renders"
    with pytest.raises(UserError, match=f"T: its generation blocks cannot be followed: .*{expected}"):
        template.render_marked({})


def test_blocks_are_followed_in_several_threads():
    template = sandbox.Template(MARKED, "T")
    wrong = []

    def work(n):
        messages = [{"content": str(n) * (i % 7)} for i in range(50)]
        for _ in range(10):
            text, generated = template.render_marked({"messages": messages})
            if [text[g.start : g.end] for g in generated] != [m["content"] for m in messages]:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
