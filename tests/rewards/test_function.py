"""Functions of plugins: whatever they do, the run goes on or says why not."""

import os

import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Score, Task, Unscored, scored_all
from ptft_jax.rewards.choosing import chosen

TASK = Task("1?", (), {"n": 1}, "x.jsonl, line 7")


def made(name, **settings):
    config = configs.default(("tests.rewards.given",))
    config.rewards.function.update(settings)
    return chosen((name,), configs.check(config), "eval.answers.verifiers")[name]


def test_a_function_that_fails_hangs_or_ends_its_process():
    """No score is an error with the place of the record, or is counted; the next answer has one."""
    for name, unscored in (("unruly", "drop"), ("own", "raise")):
        verifier = made(name, seconds=1.0, unscored=unscored)

        def score(answer, verifier=verifier, name=name):
            [found] = scored_all(name, verifier, [answer], [TASK])
            return found

        first = score("four")
        assert first == Score(4.0, first.reason) and int(first.reason) != os.getpid()
        for answer, words in (("raise", "KeyError: 'nothing here'"), ("exit", "SystemExit: enough"), ("text", "ValueError: could not convert")):  # fmt: skip
            with pytest.raises(UserError, match=f"x.jsonl, line 7: verifier '{name}' failed: {words}"):
                score(answer)
        assert score("four") == first  # in the same process
        for answer, words in (("hang", "it took more than 1 seconds"), ("end", "it ended without a result")):
            if unscored == "drop":
                assert score(answer) == Unscored(words)
            else:
                with pytest.raises(UserError, match=f"x.jsonl, line 7: verifier 'own' gave no score: {words}: set rewards.function.seconds"):  # fmt: skip
                    score(answer)
        again = score("four")
        assert again.value == 4.0 and again.reason != first.reason
        verifier.close()
        with pytest.raises(ProcessLookupError):
            os.kill(int(again.reason), 0)


def test_a_function_that_no_other_process_can_find():
    with pytest.raises(UserError, match="verifier 'inner' cannot be called in a process of its own .*'package.module:name'"):  # fmt: skip
        made("inner").score("", TASK)
