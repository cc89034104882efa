"""What becomes of calls, whatever a model writes and a tool does."""

import json
import os

import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.tools.calculator import Calculator, value
from ptft_jax.tools.toolbox import chosen

PLUGINS = ("tests.tools.given",)


def box(*use, **settings):
    config = configs.default(PLUGINS)
    config.tools.update(use=use, **settings)
    return chosen(configs.check(config))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2 + 3 * 4", "14"),
        ("1,234 − 34", "1200"),
        ("0.1+0.2", "0.3"),
        ("1/3", "0.333333333333"),
        ("10**20/3", "3.33333333333E+19"),
        ("7//2 + -7%3", "5"),
        ("2^10 × 1", "1024"),
        ("(-1)**1001", "-1"),
    ],
)
def test_arithmetic(text, said):
    assert Calculator().call(text) == Calculator().call(expression=text) == said


@pytest.mark.parametrize(
    "text",
    ["9**9**9", "9**9**9**9", "2**0.5", "1/0", "0**-1", "1e999", "(1", "", "True", "1j", "x", "(" * 199, "9" * 201, "1or 2", "[1]*9", "f(1)"],
)  # fmt: skip
def test_what_is_no_arithmetic_or_too_much_is_a_failed_call(text):
    """And ends at once."""
    with pytest.raises((ValueError, ArithmeticError)):
        value(text)
    [result] = box("calculator").results(text)
    assert result.failed and result.text.startswith("error: ") and result.tool == "calculator"


def test_calls_in_json():
    tools = box("calculator", "following", form="json")
    add = {"name": "calculator", "arguments": {"expression": "1+1"}}
    texts = lambda written: [(r.text, r.failed) for r in tools.results(written)]  # noqa: E731
    assert texts(json.dumps(add)) == texts(json.dumps(add | {"arguments": '{"expression": "1+1"}'})) == [("2", False)]
    assert texts(json.dumps({"name": "calculator", "parameters": {"expression": "1+1"}})) == [("2", False)]
    for none in ("", None, {}):
        [(text, failed)] = texts(json.dumps({"name": "calculator", "arguments": none}))
        assert failed and "expected the argument 'expression', got none" in text
    both = json.dumps([add, {"name": "following", "arguments": {"letter": "h"}}])
    assert texts(both) == [("2", False), ("a", False)]
    many = texts(json.dumps([add] * 9))
    assert many == [("2", False)] * 4 + [("error: more than 4 calls at once", True)]
    for written, why in {
        "{": "the call is not JSON", "[]": "expected {", "3": "expected {", '{"name": "calculator", "arguments": 3}': "the arguments are no object",
        '{"name": "add"}': "no tool 'add': expected of calculator, following", '{"name": "calculator"}': "ValueError: expected the argument 'expression'",
        '{"name": "calculator", "arguments": "{"}': "the arguments are not JSON", "[" * 100_000: "the call is not JSON",
    }.items():  # fmt: skip
        [(text, failed)] = texts(written)
        assert failed and text.startswith(f"error: {why}"), (written[:40], text)
    [(text, failed)] = texts(None)
    assert failed and text == "error: no call begins with <tool_call>"


def test_a_tool_that_fails_hangs_ends_or_says_too_much():
    """Each call has a result, in bounded time and size; the process goes on, or another takes its place."""
    tools = box("unruly", form="json", seconds=1.0, characters=20)

    def called(what):
        [result] = tools.results(json.dumps({"name": "unruly", "arguments": {"what": what}}))
        return result.text, result.failed, result.cut

    pid, *fine = called("pid")
    assert fine == [False, False] and int(pid) != os.getpid()
    assert called("raise") == ("error: KeyError: 'no", True, False)
    assert called("exit") == ("error: SystemExit: e", True, False)
    assert called("huge") == ("é" * 20, False, True)
    assert called("fine") == ('{"said": ["fine"]}', False, False) and called("pid")[0] == pid
    for what in ("object", "surrogate"):
        assert called(what)[1:] == (True, False)
    assert called("pid")[0] == pid
    assert called("end") == ("error: it ended with", True, False)
    assert called("hang") == ("error: it took more ", True, False)
    again = called("pid")[0]
    assert again != pid
    tools.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(again), 0)


@pytest.mark.parametrize(
    ("use", "settings", "message"),
    [
        (("calculater",), {}, r"config.tools.use: no tool 'calculater': expected of calculator, .*did you mean 'calculator'"),
        (("calculator", "calculator"), {}, "'calculator' is named twice"),
        (("calculator", "following"), {}, "names 2 tools, and a call that is a text does not say which: set tools.form='json'"),
        (("calculator",), {"call": ("[",)}, r"config.tools.call = \('\[',\): expected two texts"),
        (("calculator",), {"call": ("|", "|")}, "a call begins as it ends"),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_used(use, settings, message):
    with pytest.raises(UserError, match=message):
        box(*use, **settings)
