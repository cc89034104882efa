"""Figures of transfer, from figures that are known; what is not known is said."""

import json
import math

import pytest

from ptft_jax import config as configs
from ptft_jax.evaluation import measured_sets, sequence, transfer
from ptft_jax.reporting.summary_tables import transfer_rows


def run(folder, source="text:a", start=5.0, run_id="r", parent=()):
    """The files of a run that measured `start` at step 0."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"data": {"source": source}}))
    (folder / "environment.json").write_text(json.dumps({"run_id": run_id}))
    (folder / "lineage.json").write_text(json.dumps(list(parent)))
    rows = [{"step": 0, "kind": "eval", "validation/nll": start}, {"step": 9, "kind": "eval", "validation/nll": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"workdir": str(folder), "step": 9, "run_id": run_id}


def test_what_was_learned_of_a_source_counts_from_the_first_run_that_saw_it(tmp_path):
    base = run(tmp_path / "base", "text:a", 5.0, "r0")
    first = run(tmp_path / "first", "text:b", 4.0, "r1", [base])
    again = run(tmp_path / "again", "text:b", 2.0, "r2", [first, base])
    lineage = [again, first, base]
    assert transfer.reference(lineage, "text:a", 257)["nll"] == 5.0
    found = transfer.reference(lineage, "text:b", 257)
    assert found["nll"] == 4.0 and "its parent" in found["of"] and str(tmp_path / "base") in found["of"]
    guess = transfer.reference(lineage, "text:c", 257)
    assert guess["nll"] == math.log(257) and "uniform guess of 257" in guess["of"]
    assert transfer.reference([{"workdir": "hf:x", "step": 0}], "text:a", 10)["nll"] == math.log(10)
    # Another run in the place of an ancestor says nothing of it.
    (tmp_path / "base/environment.json").write_text(json.dumps({"run_id": "other"}))
    assert transfer.reference(lineage, "text:a", 257)["nll"] == math.log(257)


def test_a_source_of_a_mixture_is_found_by_its_own_name(tmp_path):
    base = run(tmp_path / "base", "text:a", 5.0, "r0")
    config = {"data": {"source": "text:a", "mixture": [["text:a", 1.0], ["text:b.txt", 0.5]]}}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    row = {"step": 0, "kind": "eval", "validation/nll": 5.0, "validation_b/nll": 4.5}
    (tmp_path / "base/metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert transfer.reference([base], "text:b.txt", 257)["nll"] == 4.5
    assert transfer.reference([base], "text:a", 257)["nll"] == 5.0
    assert transfer.reference([base], "text:c", 257)["nll"] == math.log(257)


def test_the_test_split_has_a_start_of_its_own(tmp_path):
    base = run(tmp_path / "base", "text:a", 5.0, "r0")
    validation = transfer.reference([base], "text:a", 257, "test")
    assert validation["nll"] == 5.0 and validation["of"].endswith("at step 0, on its validation split")
    summary = {"before": {"validation/nll": 5.0, "test/nll": 4.8, "test_b/nll": 4.2}}
    (tmp_path / "base/summary.json").write_text(json.dumps(summary))
    found = transfer.reference([base], "text:a", 257, "test")
    assert found["nll"] == 4.8 and found["of"].endswith("at step 0")
    assert transfer.reference([base], "text:a", 257)["nll"] == 5.0
    config = {"data": {"source": "text:a", "mixture": [["text:a", 1.0], ["text:b.txt", 0.5]]}}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    assert transfer.reference([base], "text:b.txt", 257, "test")["nll"] == 4.2


STARTS = {"source": {"nll": 5.0, "of": "x"}, "source_test": {"nll": 6.0, "of": "y"}}


def test_gain_and_forgetting():
    before = {"validation/nll": 3.0, "source/nll": 2.0, "source_test/nll": 2.1}
    after = {"validation/nll": 2.5, "source/nll": 2.3, "source_test/nll": 2.4}
    found = transfer.measured(before, after, STARTS)
    assert found["target"] == {"before": 3.0, "after": 2.5, "gain": 0.5}
    assert "test was not evaluated" in found["target_test"]["missing"]
    assert found["source"]["forgetting"] == pytest.approx(0.3) and found["source"]["learned"] == 3.0
    assert found["source"]["forgotten_share"] == pytest.approx(0.1)
    assert found["source_test"]["reference"] == STARTS["source_test"]
    assert found["source_test"]["learned"] == pytest.approx(6.0 - 2.1)
    shown = transfer_rows(found)
    assert [r["nats per token"] for r in shown] == ["target", "source", "source, test"]
    assert "forgetting +0.3000, 10.0% of the 3.000 learned" in shown[1][""]
    unknown = transfer.measured({"validation/nll": 1.0}, {"validation/nll": 1.0}, STARTS)
    assert "config.eval.source" in unknown["source"]["missing"]
    nothing = transfer.measured({"source/nll": 5.5}, {"source/nll": 5.6}, STARTS)
    assert nothing["source"]["forgotten_share"] is None, "of nothing learned there is no share"


def test_scores_of_a_sequence_by_hand():
    """Equations 2 to 4 of Lopez-Paz & Ranzato 2017 on three tasks; row 0 is before the first."""
    matrix = [[0.1, 0.2, 0.3], [0.9, 0.4, 0.3], [0.7, 0.8, 0.5], [0.6, 0.6, 0.9]]
    found = sequence.scores(matrix)
    assert found["average"] == pytest.approx((0.6 + 0.6 + 0.9) / 3)
    assert found["backward"] == pytest.approx(((0.6 - 0.9) + (0.6 - 0.8)) / 2)
    assert found["forward"] == pytest.approx(((0.4 - 0.2) + (0.5 - 0.3)) / 2)
    turned = sequence.scores(matrix, less_is_better=True)
    assert turned["average"] == found["average"] and turned["backward"] == -found["backward"]
    assert turned["forward"] == -found["forward"]
    assert sequence.scores([[0.5], [0.7]]) == {"average": 0.7, "backward": None, "forward": None}
    with pytest.raises(ValueError, match="T \\+ 1 rows"):
        sequence.scores([[0.1, 0.2], [0.3, 0.4]])


def test_several_adapters_have_each_their_own():
    mixture = (("text:a.txt", 1.0), ("text:b.txt", 1.0))
    config = configs.check({"data": {"source": "text:b.txt", "mixture": mixture}, "tune": {"adapters": ("one", "two")}})
    roles = measured_sets.roles(config)
    assert roles["one"] == {
        "target": "validation_a",
        "target_test": "test_a",
        "source": "source_one",
        "source_test": "source_test_one",
    }
    assert (roles["two"]["target"], roles["two"]["source"]) == ("validation", "source_two")
    before = {"validation/nll": 2.0, "validation_a/nll": 3.0, "source_one/nll": 1.0, "source_two/nll": 1.0}
    after = {"validation/nll": 1.5, "validation_a/nll": 2.0, "source_one/nll": 1.1, "source_two/nll": 1.4}
    one, two = (transfer.measured(before, after, STARTS, roles[name]) for name in ("one", "two"))
    assert (one["target"]["gain"], two["target"]["gain"]) == (1.0, 0.5)
    assert one["source"]["forgetting"] == pytest.approx(0.1) and two["source"]["forgetting"] == pytest.approx(0.4)
    assert one["target_test"]["missing"].startswith("test_a was not evaluated")
    assert measured_sets.roles(configs.check({})) == {"": transfer.ROLES}
