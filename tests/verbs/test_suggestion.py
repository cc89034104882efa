"""The length of rows that `ptft data stats` suggests."""

import types

import numpy as np
import pytest

from ptft_jax.verbs.data import statistics


@pytest.mark.parametrize(
    "most, lengths, suggested",
    [
        (0, [32, 64, 128, 256], 256),
        (100, [32, 64, 100], 100),
        (64, [32, 64], 64),
        (20, [20], 20),
        (4096, [32, 64, 128, 256], 256),
    ],
)
def test_no_length_that_the_model_has_not(most, lengths, suggested):
    sizes = np.full(40, 200)
    store = types.SimpleNamespace(offsets=np.concatenate([[0], np.cumsum(sizes)]), ids=np.zeros(sizes.sum()))
    builder = types.SimpleNamespace(slots=lambda n: n, overlap=0)
    table = statistics.rows_by_length(types.SimpleNamespace(store=store), builder, most)
    assert [row["length"] for row in table] == lengths
    found = statistics.suggestion(table, "best_fit", most)
    assert found["length"] == suggested
    assert (f"model.max_length={most}" in found["reason"]) is (0 < most < 200)
