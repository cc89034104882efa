"""F1 and the table of classes beside a count by hand; counts that add up over batches."""

import fractions

import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.objectives import counts

# What is, and what was said. By hand: cat 2 of 3 found, 3 said; dog 1 of 2, 2 said; owl 1 of 1, 2 said; eel 0 of 1, none said.
IS = ["cat", "cat", "cat", "dog", "dog", "owl", "eel"]
SAID = ["cat", "cat", "dog", "dog", "owl", "owl", "cat"]
NAMES = ("cat", "dog", "owl", "eel", "ant")  # no ant is there, and none was said


def tables(there, named, weights=None):
    logits = np.eye(len(NAMES), dtype=np.float32)[[NAMES.index(name) for name in named]]
    targets = np.asarray([NAMES.index(name) for name in there], np.int32)
    weights = np.ones(len(there)) if weights is None else np.asarray(weights)
    return counts.tables(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(weights, jnp.float32))


def test_f1_is_that_of_a_count_by_hand():
    found = counts.f1(tables(IS, SAID)[counts.BY_CLASS])
    each = {
        "cat": fractions.Fraction(2 * 2, 3 + 3),
        "dog": fractions.Fraction(2, 4),
        "owl": fractions.Fraction(2, 3),
        "eel": 0,
    }
    assert found["f1_macro"] == pytest.approx(float(sum(each.values()) / 4))
    assert found["f1_weighted"] == pytest.approx(float(sum(each[name] for name in IS) / 7))


def test_the_table_has_a_row_for_what_is_and_a_column_for_what_was_said():
    found = counts.shown(np.asarray(tables(IS, SAID)[counts.CONFUSION]), NAMES[:4])
    expected = [[sum(pair == (a, b) for pair in zip(IS, SAID)) for b in NAMES] for a in NAMES]
    assert found == {"classes": [*NAMES[:4], "4"], "counts": expected}


def test_counts_add_up_over_batches_and_padding_counts_nothing():
    whole = tables(IS, SAID)
    parts = [tables(IS[:2], SAID[:2]), tables([*IS[2:], "ant"], [*SAID[2:], "cat"], [1, 1, 1, 1, 1, 0])]
    for name in (counts.BY_CLASS, counts.CONFUSION):
        np.testing.assert_array_equal(sum(part[name] for part in parts), whole[name])
    means = np.mean([counts.f1(part[counts.BY_CLASS])["f1_macro"] for part in parts])
    assert abs(means - counts.f1(whole[counts.BY_CLASS])["f1_macro"]) > 0.1, "a mean of means is another figure"


def test_of_very_many_classes_there_is_no_table():
    found = counts.tables(jnp.zeros((2, counts.MOST + 1)), jnp.asarray([0, 3]), jnp.ones(2))
    assert counts.CONFUSION not in found and counts.f1(found[counts.BY_CLASS])["f1_weighted"] == pytest.approx(1 / 3)
    assert np.isnan(counts.f1(np.zeros((3, 4)))["f1_macro"])
