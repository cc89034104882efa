"""Runs whose head is re-initialized: what trains beside it, and from where gain and forgetting count."""

import json

import numpy as np
import pytest

from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading
from tests.helpers import quiet_train, repeats, tiny_config

pytestmark = pytest.mark.heavy
FRESH = dict(init__fresh=("head/.*",), optimizer__warmup_steps=0)


def test_gain_and_forgetting_count_from_the_parent(text_file, tmp_path, cache):
    """And not from random numbers, which know nothing of what the parent had learned."""
    parent = quiet_train(tiny_config(text_file), tmp_path / "parent")
    new = dict(init__from_=str(tmp_path / "parent"), model__tied=False, training__steps=2, **FRESH)
    child = quiet_train(tiny_config(text_file, **new), tmp_path / "child")
    for theirs, ours in (("validation", "source"), ("test", "source_test"), ("validation", "validation")):
        assert child["before"][f"{ours}/nll"] == pytest.approx(parent["after"][f"{theirs}/nll"], abs=1e-5)
    start = json.loads((tmp_path / "child/metrics.jsonl").read_bytes().split(b"\n")[0])
    assert start["source/nll"] > child["before"]["source/nll"] + 0.5
    for name, set_ in (("source", "source/nll"), ("source_test", "source_test/nll")):
        found = child["transfer"][name]
        assert (
            found["forgetting"] == pytest.approx(child["after"][set_] - child["before"][set_])
            and found["learned"] > 0.5
        )
        assert found["forgotten_share"] == pytest.approx(found["forgetting"] / found["learned"])


@pytest.mark.parametrize("method", repeats(["full", "lora", "prompt"]))
def test_a_linear_probe_and_then_all_of_a_classifier(text_file, tmp_path, cache, method):
    """The first phase moves the new head alone."""
    objective = dict(model__causal=False, model__head="masked_lm", objective__name="masked_lm")
    parent = tiny_config(text_file, tokenizer__add=("[MASK]",), training__steps=4, model__max_length=40, **objective)
    quiet_train(parent, tmp_path / "parent")
    rows = [{"text": f"{'ab'[n % 2] * (n % 5 + 3)} {n}", "label": n % 2} for n in range(80)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = tiny_config(
        text_file, data__source=f"jsonl:{tmp_path}/x.jsonl", init__from_=str(tmp_path / "parent"), eval__parent_data=False,
        objective__name="classification", model__head="classes", model__classes=2, model__causal=False,
        model__max_length=40, tune__method=method, tune__phases=((0, "head"), (2, "all", 0.5)), training__steps=4,
        checkpoint__every=2, checkpoint__keep_latest=3, eval__every=2, **FRESH,
    )  # fmt: skip
    if method == "prompt":
        made.tune.prompt.length = 3
    summary = quiet_train(made, tmp_path / "run")
    assert np.isfinite(summary["last"]["validation/nll"])
    found = {step: flatten(loading.load(f"{tmp_path}/run@{step}").params) for step in (0, 2, 4)}
    moved = {(a, b): {p for p in found[a] if not np.array_equal(found[a][p], found[b][p])} for a, b in ((0, 2), (2, 4))}
    assert moved[0, 2] and all(path.startswith("head/") for path in moved[0, 2])
    assert any(not path.startswith("head/") for path in moved[2, 4])
