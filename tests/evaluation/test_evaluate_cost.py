"""Evaluations that take longer than training are said."""

import pytest

from ptft_jax.evaluation.evaluate import costly


@pytest.mark.parametrize(
    "validation, source, every, steps",
    [(30, 0, 10, ""), (31, 0, 10, "10"), (20, 40, 10, "20"), (9000, 0, 10, "3,000"), (9000, 0, 0, "")],
)
def test_evaluations_that_cost_more_than_the_steps_between_them_are_said(validation, source, every, steps):
    found = costly({"validation": [0] * validation, "source": [0] * source}, every)
    assert (f"about the cost of {steps} training steps" in found) if steps else not found
