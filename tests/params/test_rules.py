"""Path rules: order, layers, and errors that say what would be right."""

import pytest

from ptft_jax.errors import UserError
from ptft_jax.params.rules import assign, flatten, refuse_idle, unflatten

SHAPES = {"embed/tokens/embedding": (9, 4), "blocks/mlp/up/kernel": (3, 4, 8), "final_norm/scale": (4,)}


def test_first_match_wins_and_layers_can_be_addressed():
    rules = (("blocks[-1]/.*", 1), ("blocks[:1]/mlp/.*", 2), ("blocks/.*", 3), (".*", 0))
    got = assign(rules, SHAPES, "f")
    assert got == {"embed/tokens/embedding": [0], "blocks/mlp/up/kernel": [2, 3, 1], "final_norm/scale": [0]}


@pytest.mark.parametrize(
    "rules, words",
    [
        ((("blocks/mpl/.*", 1), (".*", 0)), "f: rule 1 'blocks/mpl/.*' matches no parameter"),
        ((("blocks[3:]/.*", 1), (".*", 0)), "the model has 3 layers"),
        (((".*", 1), ("embed/.*", 0)), "rule 2 'embed/.*' never applies"),
        ((("embed/.*", 1),), "no rule covers these parameters"),
        ((("blocks[:2]/.*", 1), ("embed/.*|final_norm/.*", 0)), "no rule covers.*\n  blocks/mlp/up/kernel"),
        ((("embed/(", 1), (".*", 0)), "is not a regular expression"),
    ],
)
def test_rules_that_say_nothing_or_too_little(rules, words):
    with pytest.raises(UserError, match=words):
        assign(rules, SHAPES, "f")


def test_a_typo_is_answered_with_the_nearest_path():
    with pytest.raises(UserError, match="did you mean 'final_norm/scale'"):
        assign((("final_nrm/scale", 1), (".*", 0)), SHAPES, "f")


def test_a_last_catch_all_may_be_idle():
    got = assign((("(embed|blocks|final_norm)/.*", 1), (".*", 0)), SHAPES, "f")
    assert {value for row in got.values() for value in row} == {1}


def test_a_rule_may_repeat_what_earlier_ones_said():
    got = assign((("embed/.*", 1), ("embed/tokens/.*", 1), (".*", 0)), SHAPES, "f")
    assert got["embed/tokens/embedding"] == [1]


def test_flatten_is_undone_by_unflatten():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree


def test_a_rule_for_a_tied_head_says_that_it_is_tied():
    tied = {"embed/tokens/embedding": (4, 2), "final_norm/scale": (2,)}
    words = r"matches no parameter \(the head is tied, model.tied: it is embed/tokens/embedding\)"
    for pattern in ("head/.*", "head/kernel", ".*head.*"):
        with pytest.raises(UserError, match=words):
            assign(((pattern, 1.0), (".*", 0.0)), tied, "f")
        with pytest.raises(UserError, match=words):
            refuse_idle((pattern,), tied, "f", "parameter")
    for shapes in (
        {**tied, "head/classes/kernel": (2, 3)},
        {**tied, "head/scores/kernel": (2, 4)},
        {"final_norm/scale": (2,)},
    ):
        with pytest.raises(UserError) as found:
            refuse_idle(("head/kernel",), shapes, "f", "parameter")
        assert "tied" not in str(found.value)
