"""The table of metrics that a run ends with."""

from ptft_jax.reporting.summary_tables import before_and_after


def test_what_was_not_measured_is_a_dash_and_nothing_stands_twice():
    before = {"validation/loss": 5.5, "validation/nll": 5.5, "source/loss": 2.0, "source/nll": 2.0}
    after = {
        "validation/loss": 3.5, "validation/nll": 3.5, "source/loss": 2.25, "source/nll": 2.0, "test/loss": 3.0, "test/nll": 3.0,
        "test/accuracy": 0.5, "class/loss": 0.1,
    }  # fmt: skip
    assert before_and_after(before, after) == [
        {"metric": "validation/nll", "before": 5.5, "after": 3.5},
        {"metric": "source/loss", "before": 2.0, "after": 2.25},
        {"metric": "source/nll", "before": 2.0, "after": 2.0},
        {"metric": "test/nll", "before": "-", "after": 3.0},
        {"metric": "test/accuracy", "before": "-", "after": 0.5},
        {"metric": "class/loss", "before": "-", "after": 0.1},
    ]
