"""A reward model by its recipe: learned from pairs, stopped and continued, measured, exported; and heads on the last token in runs."""

import json

import jax
import numpy as np
import pytest

from ptft_jax.combining.combine import combine
from ptft_jax.config import files
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.model.inputs import Inputs
from ptft_jax.params.rules import flatten
from ptft_jax.reporting import run_report
from ptft_jax.rewards.base import Task
from ptft_jax.rewards.reward_model import RewardModel
from ptft_jax.runs import loading
from ptft_jax.runs.files import read_rows
from ptft_jax.verbs import export
from tests.helpers import TIMED, quiet_train, stop_at, tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A parent, and pairs of which the better answer is told by a word; every tenth the wrong way round."""
    out = tmp_path_factory.mktemp("reward")
    text = out / "text.txt"
    text.write_text("the cat sat on the mat, and the dog sat by the door.\n" * 200)
    quiet_train(tiny_config(text, training__steps=4, model__max_length=48), out / "parent")
    rng, rows = np.random.default_rng(0), []
    for n in range(200):
        good, bad = (f"{word} {'x' * rng.integers(1, 6)}" for word in ("yes", "no"))
        good, bad = (bad, good) if n % 10 == 0 else (good, bad)
        rows.append({"prompt": f"{n}? ", "chosen": good, "rejected": bad, "margin": (n % 3) / 10})
    (out / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def recipe(folder, **changes):
    config = files.recipe(f"feedback/reward:jsonl:{folder}/pairs.jsonl")
    config.init.from_ = str(folder / "parent")
    config.data.update(length=48, batch_size=8)
    config.optimizer.learning_rate = 2e-2
    config.training.update(steps=20, ema_decay=0.5)
    config.eval.update(every=10, tokens=0)
    config.checkpoint.every = 5
    config.log.update(every=1, tensorboard=False)
    for path, value in changes.items():
        section, _, name = path.rpartition("__")
        (config[section] if section else config)[name] = value
    return config


def curve(workdir):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_rows(workdir / "metrics.jsonl")]


@pytest.mark.heavy
def test_the_recipe_learns_is_resumed_and_leaves(folder, cache, monkeypatch):
    whole = quiet_train(recipe(folder), folder / "whole")
    assert whole["after"]["test/accuracy"] > 0.75 > whole["before"]["test/accuracy"]
    assert whole["after"]["test/margin"] > 0 and 0 < whole["after"]["test/brier"] < whole["before"]["test/brier"]
    assert np.isfinite(whole["after"]["test/ece"])
    with monkeypatch.context() as patch:
        stop_at(8, patch)
        quiet_train(recipe(folder), folder / "part")
    quiet_train(recipe(folder), folder / "part")
    assert curve(folder / "part")[-1] == curve(folder / "whole")[-1]
    one, two = (flatten(loading.load(f"{folder}/{name}@last").params) for name in ("whole", "part"))
    for path, array in one.items():
        np.testing.assert_array_equal(array, two[path], err_msg=path)
    run_report.write([folder / "whole"], folder / "report.html")
    page = (folder / "report.html").read_text()
    assert all(f"{split}/{name}" in page for split in ("validation", "test") for name in ("brier", "ece", "accuracy"))
    values = evaluate(loading.load(f"{folder}/whole"), f"jsonl:{folder}/pairs.jsonl", "test")
    assert values["accuracy"] == pytest.approx(whole["after"]["test/accuracy"])

    written = export.model(f"{folder}/whole", "hf", folder / "out", dtype="float32")
    assert "<|pad|>" in written["note"]  # bytes have one control token, and answers end with it
    there = loading.load(f"hf:{folder}/out")
    again = evaluate(there, f"jsonl:{folder}/pairs.jsonl", "test", objective="reward", length=48)
    for name in ("accuracy", "margin", "nll", "brier", "ece"):
        assert again[name] == pytest.approx(values[name], rel=1e-4), name
    # An answer's reward, by itself: read at its end.
    ids = np.asarray([*b"1? yes xx", 256], np.int32)
    scores = [jax.jit(m.model)(m.params, ids[None])[0, 0] for m in (there, loading.load(f"{folder}/whole"))]
    assert float(scores[0]) == pytest.approx(float(scores[1]), rel=1e-4)
    for reference in (f"hf:{folder}/out", f"{folder}/whole"):
        found = RewardModel(reference).score("yes xx", Task("1? ", (), {}, "x")).value
        assert found == pytest.approx(float(scores[0]), rel=1e-4)
    padded = Inputs(np.pad(ids, (0, 7), constant_values=257)[None], segments=np.pad(np.ones(10, int), (0, 7))[None])
    assert float(jax.jit(there.model)(there.params, padded)[0, 0]) == pytest.approx(float(scores[0]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["jit", "pmap", "micro-batches"])
def test_what_carries_a_run_out_changes_nothing(how, folder, cache):
    """Of rows with several pairs, over eight devices."""

    def losses(name, **more):
        quiet_train(recipe(folder, training__steps=3, eval__every=0, **more), folder / name)
        return [row["loss"] for row in read_rows(folder / f"{name}/metrics.jsonl") if row["kind"] == "train"]

    rows = {"data__batch_size": 16} if how == "micro-batches" else {}
    one = losses(f"{how} one", parallel__fsdp=1, **rows)
    more = {
        "jit": dict(parallel__fsdp=8),
        "pmap": dict(parallel__compile="pmap"),
        "micro-batches": dict(training__micro_batches=2, **rows),
    }
    np.testing.assert_allclose(losses(f"{how} other", **more[how]), one, rtol=2e-5)


@pytest.mark.heavy
def test_several_reward_models_are_one_reward(folder, cache, monkeypatch):
    """Each is asked at the step that it had when the run began, which goes on after it was stopped. Their average (Rame et al. 2024, WARM) is a
    reward model of the mean parameters."""
    for seed in (1, 2):
        quiet_train(recipe(folder, seed=seed, training__steps=4, eval__every=2), folder / f"member{seed}")
    members = [f"{folder}/member{seed}@last" for seed in (1, 2)]
    combine("soup", members, folder / "average")
    one, two, both = (loading.load(run) for run in (*members, str(folder / "average")))
    mean = jax.tree.map(lambda a, b: (a.astype(np.float64) + b) / 2, *map(jax.device_get, (one.params, two.params)))
    ids = np.asarray([*b"1? yes xx", 256], np.int32)
    expected = float(jax.jit(one.model)(jax.tree.map(np.float32, mean), ids[None])[0, 0])
    task = Task("1? ", (), {}, "x")
    assert RewardModel(str(folder / "average")).score("yes xx", task).value == pytest.approx(expected, rel=1e-5)
    assert both.source.config.objective.name == "reward"

    (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "{n}? ", "completion": "yes"}}\n' for n in range(40)))

    def config(**changes):
        made = tiny_config(
            folder, objective__policy__verifiers=("ensemble",), objective__policy__max_new_tokens=4, objective__policy__samples=4,
            init__from_=str(folder / "parent"), data__length=48, data__batch_size=8, eval__every=2, eval__test=False, eval__parent_data=False,
            checkpoint__every=2, eval__answers__records=3, model__max_length=48, rewards__ensemble__runs=tuple(members), **changes,
        )  # fmt: skip
        made.data.source = f"jsonl:{folder}/prompts.jsonl"
        return made

    def stepwise(name, count):
        rows = read_rows(folder / name / "metrics.jsonl")
        steps = [row for row in rows if row["kind"] == "train"]
        assert len(steps) == count and all(row["member_spread"] > 0 for row in steps)
        assert all(0 <= row["member_agreement"] <= 1 for row in steps)
        found = [row for row in rows if "validation/answers/ensemble" in row]
        assert found and all(row["validation/answers/ensemble_spread"] > 0 for row in found)

    policy = config(objective__name="grpo", training__steps=4, rewards__ensemble__how="uncertainty")
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        quiet_train(policy, folder / "policy")
    known = json.loads((folder / "policy/scorers.json").read_text())
    assert {key: row["step"] for key, row in known.items()} == {"ensemble/0": 4, "ensemble/1": 4}
    quiet_train(policy, folder / "policy")
    stepwise("policy", 4)
    quiet_train(config(objective__name="expert_iteration", objective__expert__choice="best", objective__expert__keep=1, training__steps=2), folder / "kept")  # fmt: skip
    stepwise("kept", 2)
