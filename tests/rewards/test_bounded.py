"""Patterns and schemas: what they find, and that none hangs."""

import gc
import json
import subprocess
import threading
import time

import pytest

from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Task
from ptft_jax.rewards.patterns import Regex
from ptft_jax.rewards.schemas import JsonSchema


def task(*references, **record):
    return Task("", references or ("",), record, "a.jsonl, line 2")


@pytest.fixture
def regex():
    made = []

    def make(*args, **options):
        made.append(Regex(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_patterns(regex):
    assert regex(r"^<think>.*</think>", seconds=5).score("<think>x</think> 4", task()).value == 1
    assert regex("yes|no", seconds=5).score("perhaps", task()).value == 0
    first, last = (regex(r"answer is (\w+)", which=which, seconds=5) for which in ("first", "last"))
    text = "answer is A, no: answer is B"
    assert (first.score(text, task("A")).value, last.score(text, task("A")).value) == (1, 0)
    assert last.score(text, task("B")).value == 1
    assert "found 'A', not 'B'" in first.score(text, task("B")).reason


def test_a_pattern_that_backtracks_for_ever_ends_in_any_thread(regex):
    slow, found = regex("(?:a+)+$", seconds=0.3), []

    def score():
        found.append(slow.score("a" * 64 + "b", task()))
        found.append(slow.score("aaa", task()))

    began = time.monotonic()
    thread = threading.Thread(target=score)
    thread.start()
    thread.join(20)
    assert [f.value for f in found] == [0, 1] and "more than 0.3 seconds" in found[0].reason
    assert time.monotonic() - began < 10


def test_no_process_is_left(regex):
    pattern = regex("a", seconds=5)
    pattern.score("a", task())
    process = pattern._process._process
    pattern.close()
    assert process.returncode is not None
    other = Regex("a", seconds=5)
    other.score("a", task())
    process = other._process._process
    del other
    gc.collect()
    assert process.returncode is not None


@pytest.mark.parametrize(
    ("pattern", "message"), [("", "is ''"), ("(", "unterminated"), ("(a)(b)", r"has 2 groups: name the one")]
)
def test_bad_patterns(pattern, message):
    with pytest.raises(UserError, match=rf"config.rewards.regex.pattern.*{message}"):
        Regex(pattern)


SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "code": {"type": "string", "pattern": "^(a+)+$"}},
    "required": ["age"],
}


def test_schemas(tmp_path):
    pytest.importorskip("jsonschema")
    file = tmp_path / "s.json"
    file.write_text(json.dumps(SCHEMA))
    verifier = JsonSchema(schema=str(file), seconds=1.0)
    cases = {
        '{"age": 3}': 1,
        '```json\n{"age": 3}\n```': 1,
        '{"age": "3"}': 0,
        '{"age": 3} and more': 0,
        '{"age": NaN}': 0,
        '{"age": 1e999}': 0,
        '{"age": 3, "age": 4}': 0,
        "": 0,
        "[" * 100000: 0,
        json.dumps({"age": 1, "code": "a" * 64 + "b"}): 0,
        '{"age": 5}': 1,
    }
    found = {text: verifier.score(text, task()) for text in cases}
    verifier.close()
    assert {text: score.value for text, score in found.items()} == cases
    assert "age: '3' is not of type 'integer'" in found['{"age": "3"}'].reason
    assert "more than 1 seconds" in found[json.dumps({"age": 1, "code": "a" * 64 + "b"})].reason


def test_bad_schemas(tmp_path):
    pytest.importorskip("jsonschema")
    file = tmp_path / "s.json"
    for text, message in [
        ("{", "not JSON"),
        ('{"type": "nothing"}', "no JSON schema"),
        ('{"$ref": "https://example.com/s.json"}', "nothing is fetched"),
        ("[]", "expected a JSON schema"),
    ]:
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            JsonSchema(schema=str(file))
    with pytest.raises(UserError, match="both ''"):
        JsonSchema()
    with pytest.raises(UserError, match="cannot be read"):
        JsonSchema(schema=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match=r"a.jsonl, line 2: column 'schema'.* is missing \(did you mean 'schemas'"):
        JsonSchema(column="schema").check(task(schemas="{}"))
    JsonSchema(column="schema").check(task(schema='{"type": "integer"}'))


def test_the_worker_runs_alone():
    """It is a file that is run, so it must not need the package."""
    from ptft_jax.rewards import bounded

    code = (
        f"import runpy, sys; runpy.run_path({str(bounded._WORKER)!r}); print([m for m in sys.modules if 'ptft' in m])"
    )
    done = subprocess.run(["python3", "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
