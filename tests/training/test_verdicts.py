"""What is said of runs whose better answers fall, and whose answers grow or do not end."""

import json

import pytest

from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.objectives.dpo import DPO
from ptft_jax.objectives.own_answers import ExpertIteration, OnlineDPO
from ptft_jax.objectives.reference_free import SimPO
from ptft_jax.training.hooks import Moment
from ptft_jax.training.verdicts import of_answers, of_training, watch

BEFORE = {"validation/chosen_log_prob": -9.0, "validation/margin": 0.0, "validation_b/chosen_log_prob": -5.0}


@pytest.mark.parametrize("objective", [DPO(), SimPO()], ids=["dpo", "simpo"])
def test_better_answers_that_fall_are_said_of_each_set(objective):
    after = {"validation/chosen_log_prob": -13.0, "validation/margin": 2.5, "validation_b/chosen_log_prob": -4.0}
    [said] = objective.remarks(BEFORE, after)
    assert (
        "validation/chosen_log_prob went from -9 to -13 nats" in said and "validation/margin went from 0 to 2.5" in said
    )
    assert "objective.preference.sft" in said
    [other] = objective.remarks(
        BEFORE, {**after, "validation/chosen_log_prob": -9.0, "validation_b/chosen_log_prob": -6.0}
    )
    assert "validation_b/chosen_log_prob went from -5 to -6" in other
    up = {name: value + 1 for name, value in BEFORE.items()} | {"source/chosen_log_prob": -99.0}
    assert objective.remarks(BEFORE | {"source/chosen_log_prob": 0.0}, up) == objective.remarks({}, after) == []
    assert objective.remarks(BEFORE, BEFORE | {"training/chosen_shift": -1.0}) == []  # validation knows better


def test_answers_of_the_model_itself_are_judged_by_their_training():
    objective = OnlineDPO(inner=DPO())
    rows = [{"kind": "train", "step": n, "chosen_shift": float(n > 5), "margin": 0.5} for n in range(20)]
    rows += [{"kind": "train", "step": 20, "chosen_shift": -1.0}, {"kind": "eval", "step": 20, "chosen_shift": -99.0}]
    trained = of_training(rows)  # 21 steps: the last three
    assert trained == {"training/chosen_shift": pytest.approx(1 / 3), "training/margin": 0.5} and of_training([]) == {}
    assert objective.remarks({"validation/nll": 1.0}, trained) == []
    [said] = objective.remarks({"validation/nll": 1.0}, {"training/chosen_shift": -2.0, "training/margin": 0.5})
    assert "training/chosen_shift is -2 nats per answer, while training/margin is 0.5" in said
    assert ExpertIteration(inner=CausalLM()).remarks({}, {"training/chosen_shift": -2.0}) == []


def test_it_is_said_once_while_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"kind": "eval", "step": 3, "validation/chosen_log_prob": -9.0}) + "\n")
    said = []
    assert watch(CausalLM(), tmp_path, 3, {}, said.append) == []
    [hook] = watch(DPO(), tmp_path, 3, {"validation/margin": 0.0}, said.append)
    for step, value in ((6, -8.0), (9, -10.0), (12, -11.0)):
        moment = Moment(step, first=False, last=False, evaluates=True)
        moment.evaluated = {"validation/chosen_log_prob": value, "validation/margin": 1.0}
        assert hook.when(moment)
        hook.do(moment)
    [one] = said
    assert "step 9: the better answers became less probable: validation/chosen_log_prob went from -9 to -10" in one
    for at in (dict(first=True, last=False), dict(first=False, last=True)):
        assert not hook.when(Moment(3, evaluates=True, **at))  # there is nothing yet; the end says it itself


def test_answers_that_grow_or_do_not_end():
    names = ("validation/answers/length", "validation/answers/ended", "answers/length", "validation/answers/exact")

    def said(*values):
        return of_answers(dict(zip(names, (10.0, 0.9, 10.0, 1.0))), dict(zip(names, values)))

    assert said(14.0, 0.85, 7.0, 0.0) == [] and of_answers({}, {"answers/length": 3.0}) == []
    longer, cut = said(20.0, 0.5, 10.0, 0.0)
    assert "answers became 2 times as long: validation/answers/length went from 10 to 20 tokens" in longer
    assert "answers end by themselves less often: validation/answers/ended went from 0.9 to 0.5" in cut
    [shorter] = said(10.0, 0.95, 4.0, 0.0)
    assert "answers became 2.5 times shorter: answers/length" in shorter
