"""Whole runs whose rows are divided by position: objectives, packed rows, and a run that goes on elsewhere."""

import json

import numpy as np
import pytest

from tests.helpers import quiet_train, stop_at, tiny_config

pytestmark = pytest.mark.slow
OBJECTIVES = {
    "causal_lm": dict(objective__chunk=6, model__positions="rotary", model__scan=True),
    "prefix_lm": dict(data__packing="best_fit", data__overlong="split"),
    "masked_lm": dict(model__causal=False, tokenizer__add=("[MASK]",)),
    "span_corruption": dict(tokenizer__add=tuple(f"<extra_id_{i}>" for i in range(4))),
}


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row.get("kind") == "train"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_do_not_depend_on_it(name, text_file, tmp_path):
    changes = dict(objective__name=name, training__steps=4, eval__every=2, **OBJECTIVES[name])
    found = {}
    for where, mesh in {"copied": {}, "parts": dict(parallel__context=4, parallel__fsdp=2)}.items():
        summary = quiet_train(tiny_config(text_file, **changes, **mesh), tmp_path / where)
        found[where] = [*losses(tmp_path / where).values(), summary["after"]["validation/nll"]]
    assert len(found["copied"]) == 5 and np.ptp(found["copied"][:4]) > 0.01, "it moves"
    np.testing.assert_allclose(found["parts"], found["copied"], atol=1e-4)


def test_a_run_that_was_killed_goes_on_on_another_mesh(text_file, tmp_path, monkeypatch):
    config = tiny_config(text_file, parallel__context=2, parallel__fsdp=4)
    quiet_train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        quiet_train(config, tmp_path / "parts")
    quiet_train(tiny_config(text_file, parallel__context=8), tmp_path / "parts")
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(whole) == 12 and parts.keys() == whole.keys()
    np.testing.assert_allclose(list(parts.values()), list(whole.values()), atol=2e-4)
