"""Several reward models as one, beside rewards worked out by hand."""

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.evaluation import names
from ptft_jax.objectives.policy import MEMBERS, of_members
from ptft_jax.rewards.base import Function, Unscored, named, scored_all
from ptft_jax.rewards.choosing import chosen
from ptft_jax.rewards.combined import Combined
from ptft_jax.rewards.ensemble import Ensemble, agreeing, spread
from ptft_jax.training.answer_facts import add_up, compare_members
from tests.rewards.test_models import ANSWERS, END, READ, TABLE, by_hand, task, written

READS = {"one": READ, "two": np.roll(READ, 3)}


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Models as that of `by_hand`, each with a head of its own."""
    norms = {f"blocks/{name}/scale": 1 for name in ("attention_norm", "mlp_norm")} | {"final_norm/scale": 1}
    attention = {f"blocks/attention/{name}/kernel": np.eye(8) for name in ("value", "out")}
    folder = tmp_path_factory.mktemp("members")
    return [
        written(
            folder / name, {**norms, **attention, "embed/tokens/embedding": TABLE, "head/classes/kernel": read[:, None]}, head="classes", classes=1
        )
        for name, read in READS.items()
    ]  # fmt: skip


def test_the_number_is_of_all_members(members):
    ids = [[*b"1+1=", *answer.encode(), END] for answer in ANSWERS]
    both = np.array([[by_hand(row, read) for read in READS.values()] for row in ids])
    mean, away = both.mean(axis=1), np.abs(both[:, 0] - both[:, 1]) / 2
    expected = {"mean": mean, "min": both.min(axis=1), "uncertainty": mean - 1.5 * away}
    tasks = [task()] * len(ANSWERS)
    for how, values in expected.items():
        more = {"deviations": 1.5} if how == "uncertainty" else {}
        found = scored_all("ensemble", Ensemble(members, how=how, batch_size=4, **more), ANSWERS, tasks)
        np.testing.assert_allclose([score.value for score in found], values, rtol=2e-5, atol=1e-5)
        np.testing.assert_allclose([score.members for score in found], both, rtol=2e-5, atol=1e-5)
    assert spread(score.members for score in found) == pytest.approx(away.mean(), rel=1e-4)
    sums = Combined({"ensemble": Ensemble(members), "long": Function(lambda a, t: len(a))}, {"long": -1, "ensemble": 2})
    [score] = scored_all("combined", sums, ANSWERS[:1], tasks[:1])
    assert sums.several and score.value == pytest.approx(2 * mean[0] - 1, rel=1e-4) and len(score.members) == 2


def test_an_answer_without_one_of_the_scores_has_none(members):
    verifier = Ensemble(members, unscored="drop")
    found = scored_all("ensemble", verifier, ["2", "x" * 80], [task()] * 2)
    assert not isinstance(found[0], Unscored) and isinstance(found[1], Unscored)
    with pytest.raises(UserError, match=r"line 3: verifier 'ensemble': 85 tokens.*rewards.ensemble.unscored='drop'"):
        scored_all("ensemble", Ensemble(members), ["x" * 80], [task()])
    assert set(verifier.models()) == {"ensemble/0", "ensemble/1"} and len(verifier.notes()) == 2


def test_what_is_no_ensemble(members):
    with pytest.raises(UserError, match=r"ensemble.runs names 1 reward model: expected two or more"):
        Ensemble(members[:1])
    with pytest.raises(UserError, match=r"ensemble.runs\[2\]: hf:.*one is named twice"):
        Ensemble([*members, members[0]])
    with pytest.raises(
        UserError, match="ensemble.deviations = 2: nothing is taken off with rewards.ensemble.how='min'"
    ):
        Ensemble(members, how="min", deviations=2.0)
    with pytest.raises(UserError, match=r"config.rewards.ensemble.runs\[1\] = 'runs/none'"):
        Ensemble([members[0], "runs/none"])


def test_each_is_asked_at_the_step_that_is_pinned(members):
    rewards = {"ensemble": {"runs": ("runs/none", members[1])}}
    config = configs.check({"rewards": rewards})
    pinned = {"ensemble/0": members[0]}
    [verifier] = chosen(("ensemble",), config, "objective.policy.verifiers", pinned=pinned).values()
    assert [model.name for model in verifier.models().values()] == members
    for where in (config.rewards, rewards):
        assert named(where, "ensemble/1") == ("ensemble.runs[1]", members[1])
        assert named(where, "ensemble/2")[1] is None


def test_how_often_models_prefer_the_same_answer():
    group = [(3.0, 1.0, 1.0), (2.0, 0.0, 0.0), (1.0, 2.0, 0.0)]
    # (1, 2): all three prefer the first: 3 of 3. (1, 3): > < >: 1 of 3. (2, 3): > < =: 0 of 1.
    assert agreeing(group) == (4, 7)
    assert agreeing(group[:1]) == agreeing([()] * 3) == (0, 0)
    rows = [{"scores": {"ensemble": {"value": 0.0, "members": list(one)}}, "tokens": 1} for one in group]
    rows += [{"scores": {"ensemble": {"value": None}}, "tokens": 1}] * 1
    rows += [{"scores": {"ensemble": {"value": 1.0, "members": [1.0, 1.0]}}, "tokens": 1}] * 2
    rows += [
        {"scores": {"ensemble": {"value": 5.0, "members": [9.0, 1.0]}, "judge": {"value": None}}, "tokens": 1}
    ] * 3  # no part of either
    rows = [dict(row) for row in rows]
    add_up(rows, 4, 0)
    compare_members(rows, 3)
    batch = {name: np.array([row[name] for row in rows], np.float32) for name in (*MEMBERS, "unscored")}
    found = of_members(batch)
    share, mean = found["member_agreement"], found["member_spread"]
    assert float(share[0] / share[1]) == pytest.approx(4 / 7)
    assert float(mean[0] / mean[1]) == pytest.approx(sum(np.std(one) for one in group) / 5, rel=1e-6)
    assert names.known("validation/answers/ensemble_spread") == ""
