"""A second stage starts from the first: parameters, tokenizer, lineage; adapters saved alone; errors that name the parent."""

import json
import shutil

import jax
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.evaluation import sequence
from ptft_jax.params.rules import flatten
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, checkpoint
from tests.helpers import happen, quiet_train, tiny_config


@pytest.fixture(scope="module")
def base(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    quiet_train(tiny_config(text_file, training__steps=24), folder)
    return folder


def child(text_file, parent, **changes):
    return tiny_config(text_file, init__from_=str(parent), **changes)


LORA = dict(tune__method="lora", tune__lora__rank=2, training__steps=8)


def params_of(reference):
    return flatten(jax.device_get(loading.load(str(reference)).params))


@pytest.mark.slow
@pytest.mark.heavy
def test_a_child_starts_where_its_parent_ended(text_file, tmp_path, base):
    summary = quiet_train(child(text_file, f"{base}@best", training__steps=8), tmp_path / "child")
    parent = Workdir(base).read_summary()
    for name in ("validation/nll", "test/nll"):
        assert summary["before"][name] == pytest.approx(parent["after"][name], abs=1e-6)
    # Forgetting is measured without being asked for: "source" is what the parent was trained on.
    assert summary["before"]["source/nll"] == pytest.approx(parent["after"]["validation/nll"], abs=1e-6)
    assert {"source/nll", "source_test/nll", "test/nll"} <= summary["after"].keys()
    lineage = json.loads((tmp_path / "child/lineage.json").read_text())
    assert [row["step"] for row in lineage] == [parent["best_step"]]
    _check_measures(summary, parent, params_of(f"{base}@best"), params_of(f"{tmp_path}/child@best"))
    config = child(text_file, tmp_path / "child@best", training__steps=2)
    _check_sequence(
        [tmp_path / "child", tmp_path / "grandchild"], [summary, quiet_train(config, tmp_path / "grandchild")]
    )
    lineage = json.loads((tmp_path / "grandchild/lineage.json").read_text())
    assert [row["workdir"] for row in lineage] == [str(tmp_path / "child"), str(base)]
    assert (tmp_path / "child/tokenizer.json").read_text() == (base / "tokenizer.json").read_text()


def _check_measures(summary, parent, start, end):
    """Gain, forgetting, drift and cost are what the runs' own figures and parameters say."""
    for name, key in (("target", "validation/nll"), ("target_test", "test/nll")):
        before, after = (summary[when][key] for when in ("before", "after"))
        assert summary["transfer"][name] == {"before": before, "after": after, "gain": before - after}
    source = summary["transfer"]["source"]
    learned = parent["before"]["validation/nll"] - source["before"]
    assert source["forgetting"] == summary["after"]["source/nll"] - summary["before"]["source/nll"]
    assert source["forgotten_share"] == pytest.approx(source["forgetting"] / learned)
    assert source["reference"]["of"].startswith("random parameters, measured by")
    _check_drift(summary["drift"], start, end)
    cost = summary["cost"]
    # The whole state and a batch are on every device, and matrix products take most of the operations.
    assert cost["devices"] == 8 and cost["argument_bytes"] > summary["trainable_bytes"] + summary["optimizer_bytes"]
    assert 0.5 < cost["flops"] * cost["devices"] / (summary["model_flops"] / summary["step"]) < 1.5


def _check_drift(rows, start, end):
    """Drift is the distance of two sets of plain parameters, part by part."""
    for row in rows:
        part, layer = row["part"].partition("[")[::2]
        pick = int(layer[:-1]) if layer else slice(None)
        pairs = [(start[p][pick], end[p][pick]) for p in start if p.split("/")[0] == part]
        norm = sum(float(np.sum(np.square(a))) for a, _ in pairs) ** 0.5
        distance = sum(float(np.sum(np.square(b - a))) for a, b in pairs) ** 0.5
        # Sums of float32 squares in another order; merging in another program rounds kernels' last bits.
        assert row["norm"] == pytest.approx(norm, rel=1e-5) and row["distance"] == pytest.approx(
            distance, rel=1e-4, abs=1e-6
        )
        assert row["relative"] == row["distance"] / row["norm"]
    assert [row["part"] for row in rows] == ["embed", "blocks[0]", "blocks[1]", "final_norm"]


def _check_sequence(workdirs, summaries):
    """Every stage on every task; here both tasks are the same text, which each run has measured itself."""
    found = sequence.measure(workdirs, say=lambda _: None)
    first, second = summaries
    expected = [first["before"]["test/nll"], first["after"]["test/nll"], second["after"]["test/nll"]]
    for row, value in zip(found["nll"]["matrix"], expected):
        # Other batches, on one device: float32 sums in another order.
        assert row == pytest.approx([value, value], abs=2e-5)
    assert found["nll"]["scores"]["backward"] == pytest.approx(expected[1] - expected[2], abs=4e-5)
    assert found["nll"]["scores"]["forward"] == pytest.approx(expected[0] - expected[1], abs=4e-5)
    assert 0 < found["accuracy"]["scores"]["average"] < 1
    with pytest.raises(UserError, match=r"starts from .*base@\d+, not from .*grandchild"):
        sequence.measure(workdirs[::-1], say=lambda _: None)


@pytest.mark.heavy
def test_the_parents_structure_need_not_be_repeated_but_must_not_be_contradicted(text_file, tmp_path, base):
    config = child(text_file, base, training__steps=2, optimizer__warmup_steps=0)
    config.model = type(config)(tiny_config(text_file).model)
    config.model.update(layers=4, width=128, heads=4, max_length=128)  # the defaults
    assert quiet_train(config, tmp_path / "run")["finished"]
    config.model.layers = 3
    with pytest.raises(UserError, match="config.model.layers = 3, but the parent .* has 2"):
        quiet_train(config, tmp_path / "other")


@pytest.mark.heavy
def test_lora_saves_what_trains_and_refers_to_its_base(text_file, tmp_path, base):
    summary = quiet_train(child(text_file, base, **LORA), tmp_path / "lora")
    step = Workdir(tmp_path / "lora").steps()[-1]
    saved = flatten(checkpoint.shapes(tmp_path / "lora", step))
    assert saved and all("/adapter/" in path for path in saved)
    meta = checkpoint.read_meta(tmp_path / "lora", step)
    assert meta["base"]["step"] == Workdir(base).steps()[-1]
    merged, plain = params_of(tmp_path / "lora"), params_of(base)
    assert merged.keys() == plain.keys()
    assert any(not np.array_equal(merged[p], plain[p]) for p in plain)
    np.testing.assert_array_equal(merged["embed/tokens/embedding"], plain["embed/tokens/embedding"])
    drift = summary["drift"]
    _check_drift(drift, plain, params_of(f"{tmp_path}/lora@best"))
    assert [row["relative"] > 0 for row in drift] == [False, True, True, False], "the adapters act on blocks alone"
    # A grandchild starts from the merged parameters.
    summary = quiet_train(
        child(text_file, tmp_path / "lora", training__steps=0, optimizer__warmup_steps=0), tmp_path / "merged"
    )
    assert summary["finished"] and not any("adapter" in p for p in flatten(checkpoint.shapes(tmp_path / "merged", 0)))
    for path, array in params_of(tmp_path / "merged").items():
        np.testing.assert_array_equal(array, merged[path])


@pytest.mark.heavy
def test_a_base_may_move_together_with_its_adapter_but_not_change(text_file, tmp_path, base):
    home = tmp_path / "home"
    shutil.copytree(base, home / "base")
    quiet_train(child(text_file, home / "base", **LORA), home / "lora")
    expected = params_of(home / "lora")
    home.rename(tmp_path / "moved")
    found = params_of(tmp_path / "moved/lora")
    assert all(np.array_equal(found[p], expected[p]) for p in expected)
    (tmp_path / "moved/base").rename(tmp_path / "moved/elsewhere")
    with pytest.raises(UserError, match="its base is not at"):
        params_of(tmp_path / "moved/lora")
    changed = tiny_config(text_file, training__steps=24, seed=1)
    quiet_train(changed, tmp_path / "moved/base")
    with pytest.raises(UserError, match="it is another model"):
        params_of(tmp_path / "moved/lora")


@pytest.mark.heavy
def test_lora_resumes_exactly(text_file, tmp_path, base):
    config = child(text_file, base, **LORA)
    whole = quiet_train(config, tmp_path / "whole")
    stopped = quiet_train(config, tmp_path / "part", max_seconds=1e-6)
    assert stopped["step"] == 0
    part = quiet_train(config, tmp_path / "part")
    assert part["after"] == whole["after"]
    sums = [checkpoint.read_meta(tmp_path / n, 8)["checksums"] for n in ("whole", "part")]
    assert sums[0] == sums[1]


@pytest.mark.heavy
def test_frozen_subset_in_a_run_is_bit_identical(text_file, tmp_path, base):
    rates = (("blocks[-1]/.*", 1.0), ("final_norm/.*", 0.5), (".*", 0.0))
    summary = quiet_train(child(text_file, base, tune__rates=rates, training__steps=8), tmp_path / "run")
    before, after = params_of(base), params_of(f"{tmp_path}/run@8")
    for path in before:
        if path.startswith("blocks/"):
            np.testing.assert_array_equal(before[path][0], after[path][0])
            assert not np.array_equal(before[path][1], after[path][1]), path
        else:
            assert np.array_equal(before[path], after[path]) != path.startswith("final_norm"), path
    assert summary["parameters"]["trainable"] < summary["parameters"]["frozen"]


def test_another_vocabulary_is_refused(text_file, tmp_path, base):
    config = child(text_file, base, tokenizer__kind="bpe", tokenizer__vocab_size=270)
    with pytest.raises(UserError, match="vocabulary \\(270 tokens\\) is not that of the parent .*257 tokens"):
        quiet_train(config, tmp_path / "run")


def test_a_damaged_parent_is_named(text_file, tmp_path, base):
    shutil.copytree(base, tmp_path / "base")
    step = Workdir(tmp_path / "base").steps()[-1]
    for file in (tmp_path / f"base/checkpoints/{step}/params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match=f"checkpoint {step} is damaged"):
        quiet_train(child(text_file, tmp_path / "base"), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.heavy
def test_an_average_is_what_children_start_from(text_file, tmp_path):
    quiet_train(tiny_config(text_file, training__ema_decay=0.5), tmp_path / "base")
    averaged, raw = params_of(tmp_path / "base"), flatten(loading.load(str(tmp_path / "base"), weights="raw").params)
    assert any(not np.array_equal(averaged[p], raw[p]) for p in raw)
    for weights, expected in (("auto", averaged), ("raw", raw)):
        config = child(
            text_file, tmp_path / "base", init__weights=weights, training__steps=0, optimizer__warmup_steps=0
        )
        quiet_train(config, tmp_path / weights)
        found = params_of(tmp_path / weights)
        assert all(np.array_equal(found[p], expected[p]) for p in expected)
    config = child(text_file, tmp_path / "raw", init__weights="ema")
    with pytest.raises(UserError, match="kept no average"):
        quiet_train(config, tmp_path / "none")


@pytest.mark.heavy
def test_runs_of_other_programs_equal_the_replicated_one(text_file, tmp_path):
    curves = {}
    for name, changes in {
        "jit": {}, "pmap": {"parallel__compile": "pmap"}, "parts": {"parallel__fsdp": 4, "parallel__tensor": 2}
    }.items():  # fmt: skip
        summary = quiet_train(tiny_config(text_file, **changes), tmp_path / name)
        curves[name] = [
            summary["before"]["validation/nll"],
            summary["after"]["validation/nll"],
            summary["after"]["test/nll"],
        ]
    # Sums in another order, through 12 steps at a high rate.
    np.testing.assert_allclose(curves["pmap"], curves["jit"], atol=2e-4)
    np.testing.assert_allclose(curves["parts"], curves["jit"], atol=2e-4)


@pytest.mark.heavy
def test_a_checkpoint_moves_to_another_mesh(text_file, tmp_path):
    """Saved from parameters split eight ways along two axes, read by one device and by a child that replicates."""
    quiet_train(tiny_config(text_file, parallel__fsdp=4, parallel__tensor=2), tmp_path / "split")
    summary = quiet_train(
        child(text_file, tmp_path / "split@best", training__steps=0, optimizer__warmup_steps=0), tmp_path / "copy"
    )
    assert summary["before"]["validation/nll"] == pytest.approx(
        Workdir(tmp_path / "split").read_summary()["after"]["validation/nll"], abs=1e-5
    )


@pytest.mark.slow
@pytest.mark.heavy
def test_a_pull_to_the_start_keeps_a_child_near_and_survives_a_resume(text_file, tmp_path, base):
    far = quiet_train(child(text_file, base, training__steps=8), tmp_path / "far")
    assert far["finished"]
    start = params_of(base)

    def distance(name):
        found = params_of(tmp_path / name)
        return sum(float(np.sum((found[p] - start[p]) ** 2)) for p in start) ** 0.5

    pulled = child(
        text_file,
        base,
        training__steps=8,
        tune__start_decay=30.0,
        tune__layer_decay=0.8,
        checkpoint__every=4,
        data__prefetch=0,
    )
    quiet_train(pulled, tmp_path / "near")
    assert distance("near") < 0.8 * distance("far")
    # Interrupted after the fourth step: where it started is known from the checkpoint.
    with pytest.MonkeyPatch.context() as patch:
        happen("sigterm@3", patch.setattr)
        stopped = quiet_train(pulled, tmp_path / "part")
    assert (stopped["reason"], stopped["step"]) == ("sigterm", 4)
    quiet_train(pulled, tmp_path / "part")
    sums = [checkpoint.read_meta(tmp_path / n, 8)["checksums"] for n in ("near", "part")]
    assert sums[0] == sums[1]
    with pytest.raises(UserError, match="config.tune.l2_sp = 0.1: .* init.from names none"):
        assembly.Run(tiny_config(text_file, tune__l2_sp=0.1), tmp_path / "none", Reporter(quiet=True))
