"""Runs that learn from answers of their own by objectives of data: what they learn, how they go on, and what is refused."""

import json

import numpy as np
import pytest

from ptft_jax.config import files
from ptft_jax.errors import UserError
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import checkpoint
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly
from tests.e2e.test_rollouts import base, kept, policy_config, questions, refused, rollouts  # noqa: F401
from tests.helpers import quiet_train


def own_config(folder, source, name, **changes):
    verifiers = () if name in ("gkd", "sdft") else ("exact",)
    changes = {"objective__name": name, "objective__policy__verifiers": verifiers, **changes}
    if "init__from_" in changes:
        changes["eval__parent_data"] = False
    return policy_config(folder, source, **changes)


def killed_and_resumed(config, folder):
    """The summary of a run; it is the same where it fails in the middle of a rollout and goes on."""
    summary = quiet_train(config, folder / "whole")

    def fail(at):
        raise OSError("the disk of this process is gone")

    with pytest.raises(OSError):
        quiet_train(config, folder / "again", hooks=[(lambda at: at.step == 11, fail)])
    assert Workdir(folder / "again").steps()[-1] == 9  # in the middle of the rollout of steps 9 and 10
    quiet_train(config, folder / "again")
    assert kept(folder / "again") == kept(folder / "whole")
    assert rollouts(folder / "again") == rollouts(folder / "whole")
    sums = [checkpoint.read_meta(folder / run, 24)["checksums"] for run in ("whole", "again")]
    assert sums[0] == sums[1]
    return summary


KILLED = dict(training__steps=24, eval__every=24, checkpoint__every=3, objective__policy__updates=2)


@pytest.mark.heavy
def test_preferences_of_own_answers(base, tmp_path, cache):  # noqa: F811
    """It learns to answer rightly, and a run that fails in the middle of a rollout goes on as if it had not."""
    source = questions(tmp_path / "questions")
    config = own_config(
        tmp_path, source, "online_dpo", init__from_=str(base), data__batch_size=16, data__length=24,
        objective__preference__beta=0.3, objective__preference__sft=0.5, optimizer__learning_rate=5e-3, **KILLED,
    )  # fmt: skip
    summary = killed_and_resumed(config, tmp_path)
    steps = [row for row in kept(tmp_path / "whole") if row["kind"] == "train"]
    found = rollouts(tmp_path / "whole")
    rewards = [row["reward"] for row in steps]
    assert all(row["mismatch"] < 1e-4 for row in steps)
    assert np.mean(rewards[-8:]) > np.mean(rewards[:8]) + 0.08, rewards
    assert summary["last"]["validation/nll"] < summary["before"]["validation/nll"] - 0.1
    assert len(found) == 12 and steps[0]["accuracy"] == 0.5 and abs(steps[0]["margin"]) < 1e-5
    for step, (_, *rows) in zip(steps[::2], found):
        groups = [rows[n : n + 8] for n in range(0, 128, 8)]
        pairs = [sorted(r["use"] for r in group if r["use"]) for group in groups]
        assert all(pair in ([], ["chosen", "rejected"]) for pair in pairs)
        assert step["ties"] == pytest.approx(np.mean([not pair for pair in pairs]))
        assert all(r["reward"] == float(r["use"] == "chosen") for r in rows if r["use"])
    recipe = files.load(f"feedback/online_dpo:jsonl:{source}")
    recipe.init.from_, recipe.objective.policy.max_new_tokens, recipe.data.batch_size = str(base), 4, 8
    recipe.data.length = 24
    assert assembly.Run(recipe, tmp_path / "recipe", Reporter(quiet=True)).rollouts is not None


@pytest.mark.heavy
def test_a_pupil_of_its_own_answers(base, tmp_path, cache):  # noqa: F811
    """It comes nearer to its teacher; half of the rollouts are the data's."""
    source = questions(tmp_path / "questions")
    changes = dict(
        objective__distill__teacher=str(base), objective__on_policy__share=0.5, objective__policy__from_random=True
    )
    config = own_config(tmp_path, source, "gkd", optimizer__learning_rate=1e-2, **KILLED, **changes)
    killed_and_resumed(config, tmp_path)
    steps = [row for row in kept(tmp_path / "whole") if row["kind"] == "train"]
    written = [row["written"] for row in steps]
    assert written[::2] == written[1::2] and 0 < np.mean(written) < 1
    assert all(0 <= row["mismatch"] < 1e-4 if row["written"] else "mismatch" not in row for row in steps)
    assert len(rollouts(tmp_path / "whole")) == sum(written) / 2  # the others are of no file
    assert np.mean([row["kl"] for row in steps[-4:]]) < 0.6 * steps[0]["kl"]


@pytest.mark.slow
def test_a_rollout_without_a_right_answer_is_no_end(base, tmp_path, cache):  # noqa: F811
    source = questions(tmp_path / "questions")
    config = own_config(
        tmp_path, source, "expert_iteration", init__from_=str(base), objective__policy__verifiers=("regex",), training__steps=4,
        rewards__regex__pattern="never", training__micro_batches=2, objective__policy__temperature=0.7, objective__policy__top_p=0.8,
    )  # fmt: skip
    quiet_train(config, tmp_path / "run")
    steps = [row for row in kept(tmp_path / "run") if row["kind"] == "train"]
    assert [(row["kept"], row["unsolved"], row["grad_norm"]) for row in steps] == [(0, 1, 0)] * 4
    assert not any("loss" in row or "nll" in row for row in steps)
    assert all(0 <= row["mismatch"] < 1e-4 for row in steps)  # of the distribution that was sampled from
    found = [row for _, *rows in rollouts(tmp_path / "run") for row in rows]
    assert all(row["support"] for row in found)
    bounded = own_config(tmp_path, source, "expert_iteration", init__from_=str(base), objective__policy__verifiers=("regex",), rewards__regex__pattern="a", training__steps=4, objective__policy__max_mismatch=1e-9)  # fmt: skip
    with pytest.raises(UserError, match="apart, on average, .*objective.policy.max_mismatch = 1e-09"):
        quiet_train(bounded, tmp_path / "bounded")


@pytest.mark.slow
def test_a_model_that_teaches_itself(base, tmp_path, cache):  # noqa: F811
    """Shown demonstrations; by the average of its parameters the run goes on as if it had not failed, too."""
    source = questions(tmp_path / "questions")
    config = own_config(
        tmp_path, source, "sdft", init__from_=str(base), objective__on_policy__demonstration="{answer}{prompt}", training__ema_decay=0.9,
        objective__on_policy__teacher="average", objective__distill__divergence="reverse_kl", **KILLED | {"objective__policy__updates": 1},
    )  # fmt: skip
    killed_and_resumed(config, tmp_path)
    steps = [row for row in kept(tmp_path / "whole") if row["kind"] == "train"]
    assert steps[0]["kl"] > 0.1 and all(np.isfinite(row["loss"]) for row in steps)


def test_what_is_refused(tmp_path, cache):
    source = questions(tmp_path / "questions")

    def said(name, **changes):
        changes = {"objective__policy__from_random": True} | changes
        return refused(own_config(tmp_path, source, name, **changes), tmp_path / "run")

    expert, gkd = "expert_iteration", {"name": "gkd", "objective__distill__teacher": "nowhere"}
    assert "config.objective.policy.verifiers is ()" in said(expert, objective__policy__verifiers=())
    assert "expected at most objective.policy.samples = 8" in said(expert, objective__expert__keep=9)
    best = {"objective__expert__choice": "best"}
    assert "of 8 answers to a prompt all would be learned" in said(expert, **best)
    assert "nothing in this run reads it" in said(
        expert, objective__expert__above=0.5, objective__expert__keep=4, **best
    )
    assert "expected a multiple of objective.expert.keep = 3" in said(expert, objective__expert__keep=3)
    assert "or set objective.policy.from_random=True" in said(expert, objective__policy__from_random=False)
    assert "nothing in this run reads it" in said(expert, objective__policy__alike="drop")
    assert "it compares a model with its parent, and init.from names none" in said("online_dpo", data__length=32)
    assert "2 times in a row, leaves no room for objective.policy.max_new_tokens" in said("online_dpo", data__length=8)
    assert "asked about its own answers teaches itself nothing" in said("gkd")
    assert "config.objective.distill.teacher = 'nowhere': no such folder" in said(**gkd)
    sdft = dict(objective__policy__from_random=False)
    assert "leaves no room for objective.policy.max_new_tokens = 4 in the 32 tokens" in said("sdft", **sdft)
    dropped = said("sdft", **sdft, data__overlong="drop")
    assert "and with its demonstration (objective.on_policy.demonstration) in the 32 that the model sees" in dropped
    short = sdft | {"objective__on_policy__demonstration": "{answer}{prompt}"}
    assert "it compares a model with its parent, and init.from names none" in said("sdft", **short)
    average = short | {"objective__on_policy__teacher": "average", "objective__policy__from_random": True}
    assert "there is none: set training.ema_decay" in said("sdft", **average)
    weighed = {"training__ema_decay": 0.9, "objective__distill__data_weight": 0.1}
    assert "objective.distill.data_weight = 0.1 is set, but nothing in this run" in said("sdft", **average, **weighed)
    assert "is gone after a step: expected 1" in said(
        "sdft", **average, training__ema_decay=0.9, objective__policy__updates=2
    )


def test_prompts_whose_demonstration_is_too_long_are_left_out_where_that_is_asked(tmp_path, cache):
    rows = [{"prompt": ("x" * 12 if n % 3 else "a") + f"{n}>", "completion": "y"} for n in range(60)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = own_config(
        tmp_path, tmp_path / "long.jsonl", "sdft", data__overlong="drop", objective__policy__from_random=True, data__length=32,
        objective__on_policy__demonstration="{prompt}{answer}{prompt}", objective__on_policy__teacher="average", training__ema_decay=0.9,
    )  # fmt: skip
    run = assembly.Run(config, tmp_path / "run", Reporter(quiet=True))
    [rows] = run.data.sets
    asked = [run.prompts.asked(0, n)[0].prompt for n in range(len(rows))]
    assert len(asked) > 10 and all(prompt.startswith("a") for prompt in asked)
    assert run.prompts.longest == max(2 * len(prompt) + 1 for prompt in asked)
