"""Losses beside values and gradients of TRL's, as they are stored; live they are compared in test_preference_live and test_policy_live."""

import numpy as np
import pytest

from tests.objectives import pairs, policy_batch, stored

STORED = stored.read()
POLICIES = {f"policy {name}": objective for name, (_, objective) in policy_batch.VARIANTS.items()}
POLICIES["policy rloo"] = policy_batch.PRODUCT


def test_all_are_stored():
    assert set(STORED) == {*pairs.OURS, *pairs.WITHOUT, *POLICIES}


@pytest.mark.parametrize("name", STORED)
def test_losses_are_trls(name):
    mine, mask = pairs.logs(0)
    if name in POLICIES:
        loss, gradient = policy_batch.found(POLICIES[name])
        mask = policy_batch.MASK > 0
    elif name in pairs.OURS:
        loss, gradient = pairs.found(pairs.OURS[name], mine, pairs.logs(1)[0])
    else:
        loss, gradient = pairs.found(pairs.WITHOUT[name][0], mine)
    np.testing.assert_allclose(loss, STORED[name]["loss"], rtol=1e-5)
    expected = np.where(mask, STORED[name]["gradient"], 0)
    np.testing.assert_allclose(np.where(mask, gradient, 0), expected, rtol=2e-5, atol=1e-7)
    assert np.abs(expected).max() > 1e-3
