"""Exact match and F1 beside what SQuAD's evaluation gives, worked out by hand from its published rules."""

import pytest

from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Function, Score, Task, scored
from ptft_jax.rewards.combined import Combined
from ptft_jax.rewards.texts import F1, Exact, spaces, squad


def task(*references, **record):
    return Task("", references, record, "questions.jsonl, line 3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("a  an the", ""),
        ("An apple, a day.", "apple day"),
        ("U.S.A.", "usa"),  # punctuation goes first, so no article is seen in it
        ("there", "there"),
        ("Beyoncé's", "beyoncés"),
        ("10,000 km", "10000 km"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation is dropped
        ("the-end", "theend"),
    ],
)
def test_squad_normalization(text, expected):
    assert squad(text) == expected


def test_other_normalizations():
    assert spaces(" a\n\tb\u00a0c ") == "a b c"
    assert Exact("none").score("a ", task("a")).value == 0
    assert Exact().score(" 4\n", task("4")).value == 1
    assert Exact().score("-5", task("5")).value == 0  # SQuAD's would drop the sign
    assert Exact("squad").score("-5", task("5")).value == 1


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("the Denver Broncos", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos", "The Denver Broncos"], 0, 2 / 3),  # precision 1, recall 1/2
        ("denver denver", ["Denver Broncos"], 0, 0.5),  # counted as often as it stands there
        ("in Paris, France", ["Paris"], 0, 0.5),  # 1 of 3, 1 of 1
        ("Lyon", ["Paris"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("", [""], 1, 1),  # SQuAD 2.0: not answerable
        ("the", [""], 1, 1),
        ("Paris", [""], 0, 0),
    ],
)
def test_squad_scores(answer, references, exact, f1):
    assert Exact("squad").score(answer, task(*references)).value == exact
    assert F1().score(answer, task(*references)).value == pytest.approx(f1)


def test_characters_are_shared_where_there_are_no_spaces():
    assert F1().score("北京市", task("北京")).value == 0
    assert F1("characters").score("北京市", task("北京")).value == pytest.approx(0.8)


@pytest.mark.parametrize("verifier", [Exact("squad"), F1()])
@pytest.mark.parametrize("reference", ["A", "!", "the a"])
def test_a_reference_of_which_nothing_is_left_is_refused(verifier, reference):
    with pytest.raises(UserError, match=r"questions.jsonl, line 3: reference .*leaves nothing of it"):
        verifier.check(task(reference))
    Exact().check(task(reference))


def test_scores_that_are_none_are_refused():
    for bad in (float("nan"), float("inf"), "x", None):
        with pytest.raises(UserError, match="questions.jsonl, line 3: verifier 'mine'"):
            scored("mine", Function(lambda answer, task, bad=bad: bad), "", task(""))
    assert scored("mine", Function(lambda answer, task: (len(answer), "long")), "abc", task("")) == Score(3.0, "long")
    with pytest.raises(UserError, match="line 3: verifier 'mine' failed: ZeroDivisionError"):
        scored("mine", Function(lambda answer, task: 1 / 0), "", task(""))


def test_a_weighted_sum():
    parts = {"exact": Exact(), "f1": F1()}
    found = Combined(parts, {"exact": 2.0, "f1": -0.5}).score("Broncos", task("Denver Broncos"))
    assert found.value == pytest.approx(-1 / 3)
    assert found.reason.startswith("exact 0: ") and "; f1 0.666667: " in found.reason
    for weight in (0, "much"):
        with pytest.raises(UserError, match=r"rewards.combined.parts: the weight of 'exact'"):
            Combined(parts, {"exact": weight})
    with pytest.raises(UserError, match=r"rewards.combined.parts is \(\)"):
        Combined({}, {})
