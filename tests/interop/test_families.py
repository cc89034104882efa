"""Logits of every family equal those of transformers, in both directions."""

import numpy as np
import pytest

from tests.parity.families import CASES, build

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_logits_equal_those_of_transformers(case, tmp_path):
    pytest.importorskip("transformers")
    from tests.parity import compare

    torch_model = build(case)
    torch_model.save_pretrained(tmp_path / "theirs")
    for what, ours, theirs in compare.logits(case, torch_model, tmp_path / "theirs"):
        difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert difference <= 1e-4, (what, difference)
