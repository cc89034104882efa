"""Numbers as answers have them: a table made by hand, with what users of other scorers found to go wrong."""

from fractions import Fraction

import pytest

from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Task
from ptft_jax.rewards.numbers import Number, find


def task(*references):
    return Task("", references, {}, "gsm.jsonl, line 7")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16 - 3 - 4 = 9\n9 * 2 = $18\n#### 18", 18),  # GSM8K's first test question
        ("#### 1,234", 1234),
        ("#### $1,234.50.", Fraction("1234.5")),
        ("#### -5", -5),
        ("#### −5 degrees", -5),  # U+2212
        ("####18\n\nQuestion: 7 apples\n#### 21", 18),  # it went on with a question of its own
        ("#### Step 1\nadd 2 and 3\n#### 5", 5),  # a heading, not the answer
        ("The answer is 18.", 18),
        ("He has 1,234,567 left.", 1234567),
        ("3 apples and 4 pears make 7 fruits", 7),
        ("x = 12-5", 5),  # a difference, not a sign
        ("so it is -5", -5),
        ("-$5", -5),
        ("$-5", -5),
        ("€ 20", 20),
        ("**42**", 42),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("1 1/2 cups", Fraction(3, 2)),
        ("1½", Fraction(3, 2)),
        ("½", Fraction(1, 2)),
        ("1.5e3", 1500),
        ("2 \\times 10^{3}", 2000),
        ("2.5 million people", 2500000),
        ("٤٢", 42),  # Arabic-Indic digits
        ("４２", 42),  # fullwidth
        ("12\u202f345", 12345),
        ("- 42", 42),  # of a list
        ("Answer - 42", 42),
        ("Total - 1,234", 1234),
        ("12 - 5", 5),
        ("x = - 5", 5),
        ("- $20", 20),
        ("the answer is...42", 42),
        ("#### 1. Set up\n2 + 16\n**Answer: 18**", 18),  # a heading with a number of its own
        ("\\boxed{12\\,\\text{cm}}", 12),
        ("\\boxed{5~\\mathrm{kg}}", 5),
        ("H2O", None),
        ("version 1.2.3", None),
        ("12/25/2020", None),
        ("10^3", None),
        ("5²", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("1/0", None),
        ("9" * 2000, None),
        ("1e99999", None),
        (r"\boxed{42}", 42),
        (r"first \boxed{1}, then \boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"\boxed{\dfrac34}", Fraction(3, 4)),
        (r"\boxed{-\frac{1}{2}}", Fraction(-1, 2)),
        (r"\boxed{3\frac{1}{2}}", Fraction(7, 2)),
        (r"\boxed{x = 5}", 5),
        (r"\boxed{1{,}000\text{ km}}", 1000),
        (r"\boxed{90^\circ}", 90),
        (r"\boxed{25\%}", 25),
        (r"\boxed 7", 7),
        (r"\fbox{8}", 8),
        (r"\boxed{\text{A}}", None),
        (r"There are 2 roots: \boxed{\sqrt{2}}", None),
        (r"\boxed{2\pi}", None),
        (r"\boxed{2x+1}", None),
        (r"\boxed{(1, 2)}", None),
        (r"\boxed{12", 12),
    ],
)
def test_the_number_of_an_answer(text, expected):
    found = find(text)
    assert (None if found is None else found.value) == expected


def test_where_it_is_looked_for():
    text = "It is 3.\n#### 4\n\\boxed{5} of 6"
    assert [find(text, where).value for where in ("auto", "hashes", "boxed", "last")] == [4, 4, 5, 6]
    assert find("4", "hashes") is None and find("4", "boxed") is None


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("18.0", "18", 1),
        ("1,000", "1000", 1),
        ("0.1", "1/10", 1),
        ("0.3333", "1/3", 0),
        ("50%", "50", 1),
        ("50%", "0.5", 1),
        ("0.5", "50 percent", 1),
        ("50%", "5000%", 0),
        ("0.5%", "50%", 0),
        ("18 dollars", "#### 18", 1),
        ("no idea", "18", 0),
        ("-18", "18", 0),
        ("12345678901234567890", "12345678901234567891", 0),  # equal as floats
    ],
)
def test_numbers_are_compared_as_numbers(answer, reference, expected):
    assert Number().score(answer, task(reference)).value == expected


def test_tolerance_and_several_references():
    assert Number(tolerance=0.001).score("0.3333", task("1/3")).value == 1
    assert Number(tolerance=0.0001).score("0.333", task("1/3")).value == 0
    assert Number().score("4", task("3", "4")).value == 1


def test_a_reference_without_a_number_is_refused():
    with pytest.raises(UserError, match="gsm.jsonl, line 7: reference 'nan' has no number"):
        Number().check(task("nan"))
