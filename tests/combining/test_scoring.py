"""Curves between two models: which points are asked for, and which is chosen where some losses are not finite."""

import math

import numpy as np
import pytest

from ptft_jax.combining import scoring
from ptft_jax.combining.combine import combine
from ptft_jax.errors import UserError
from ptft_jax.reporting import merge_page


@pytest.mark.parametrize(
    "text,expected",
    [
        ("0", (0.0,)),
        ("0, 0.25,1", (0.0, 0.25, 1.0)),
        ("0,0.1,...,0.3", (0.0, 0.1, 0.2, 0.3)),
        ("0.2,0.6,...,1", (0.2, 0.6, 1.0)),
        ("0,1,...,1", (0.0, 1.0)),
        ("0,0.001,...,1", tuple(round(n * 0.001, 12) for n in range(1001))),
    ],
)
def test_points_of_a_curve(text, expected):
    assert scoring.points(text) == expected


@pytest.mark.parametrize(
    "text,words",
    [
        ("0,half,1", "expected numbers such as 0,0.25,1, or 0,0.1,...,1"),
        ("", "expected numbers such as"),
        ("0,...,1", "expected numbers such as"),
        ("0,0.1,...,0.5,1", "expected numbers such as"),
        ("0,0.3,...,1", "expected numbers such as"),
        ("0,0.5,...,0.3", "expected numbers such as"),
        ("0.5,0.6,...,0", "expected numbers such as"),
        ("0,0.1,...,inf", "expected ascending numbers from 0 to 1"),
        ("0,0.1,...,nan", "expected ascending numbers from 0 to 1"),
        ("0,nan", "expected ascending numbers from 0 to 1"),
        ("-0.1,1", "expected ascending numbers from 0 to 1"),
        ("0,0.1,...,2", "expected ascending numbers from 0 to 1"),
        ("0.5,0.4,...,1", "expected ascending numbers from 0 to 1"),
        ("0.5,0.5,...,1", "expected ascending numbers from 0 to 1"),
        ("0,0.5,0.5", "expected ascending numbers from 0 to 1"),
        ("0,1e-9,...,1", "expected at most 1001 numbers"),
        ("0,1e-320,...,1", "expected at most 1001 numbers"),
        (",".join(str(n / 1001) for n in range(1002)), "expected at most 1001 numbers"),
    ],
)
def test_what_is_no_curve_is_said(text, words):
    with pytest.raises(UserError, match=f"(?s)--curve=.*{words}"):
        scoring.points(text)


NAN, INF = math.nan, math.inf
LINE = [{"x": np.full(1, value, np.float32)} for value in (0.0, 1.0)]


class Pretended:
    """What measures nothing, and says what it is told to of models at 0, 0.5 and 1."""

    def __init__(self, target, source):
        self.tables = {"validation": target, "source": source}

    def values(self, params, sets):
        return {f"{name}/nll": self.tables[name][round(2 * float(params["x"][0]))] for name in sets}


@pytest.mark.parametrize(
    "target,source,options,expected",
    [
        ((NAN, 3.0, 2.0), (1.0, 2.0, 3.0), dict(rule="target"), 1.0),
        ((3.0, -INF, INF), (1.0, 2.0, 3.0), dict(rule="target"), 0.0),
        ((3.0, 2.0, 1.0), (1.0, 1.0, NAN), dict(rule="target"), 1.0),
        ((NAN, 3.0, 1.0), (1.0, 2.0, NAN), dict(rule="sum"), 0.5),
        ((NAN, 3.0, 2.0), (1.0, 1.1, 1.2), dict(rule="budget", budget=0.15), 0.5),
        ((4.0, NAN, 2.0), (1.0, 1.0, INF), dict(rule="budget", budget=9.0), 0.0),
        ((NAN, NAN, NAN), (NAN, NAN, NAN), dict(alpha=0.5), 0.5),
    ],
)
def test_what_is_no_number_is_not_chosen(target, source, options, expected):
    found = scoring.curve(*LINE, (0.0, 0.5, 1.0), Pretended(target, source), **options)
    assert found.alpha == expected and len(found.rows) == 3
    made = {"curve": found.rows, "alpha": found.alpha}
    assert [row["chosen"] for row in merge_page.table(made)].count(True) == 1
    assert all(svg.startswith("<svg") for svg in merge_page.figures(made).values())


@pytest.mark.parametrize(
    "target,source,options,words",
    [
        ((NAN, INF, NAN), (1.0, 2.0, 3.0), dict(rule="target"), "--rule=target: none of the 3 models .* has validation/nll that"),
        ((1.0, NAN, 1.0), (NAN, 2.0, INF), dict(rule="sum"), "validation/nll and source/nll that are finite"),
        ((1.0, 1.0, 1.0), (NAN, 1.0, 1.0), dict(rule="budget", budget=1.0), "within the budget of 1"),
        ((1.0, 1.0, 1.0), (INF, 1.0, 1.0), dict(rule="budget", budget=1.0), "within the budget of 1"),
        ((NAN, 1.0, 1.0), (1.0, 2.0, 2.0), dict(rule="budget", budget=0.5), "within the budget of 0.5"),
    ],
)  # fmt: skip
def test_where_nothing_is_a_number_nothing_is_chosen(target, source, options, words):
    with pytest.raises(UserError, match=words):
        scoring.curve(*LINE, (0.0, 0.5, 1.0), Pretended(target, source), **options)


def test_options_are_refused_before_a_model_is_read(tmp_path):
    for options, words in ((dict(alpha=2.0), "--alpha=2.0"), (dict(curve="0,0.1,...,inf"), "--curve=0,0.1,...,inf")):
        with pytest.raises(UserError, match=words):
            combine("interpolate", [str(tmp_path / "nowhere")], tmp_path / "out", **options)
