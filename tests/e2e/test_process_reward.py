"""A process reward model by its recipe: learned from steps with labels, measured, and asked by verifiers."""

import json
import math

import jax
import numpy as np
import pytest

from ptft_jax.config import files
from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Task, scored_all
from ptft_jax.rewards.process_reward import ProcessReward
from ptft_jax.rewards.reward_model import RewardModel
from ptft_jax.runs import loading
from ptft_jax.runs.files import read_rows
from tests.helpers import quiet_train, stop_at, tiny_config

SIZES = dict(model__layers=1, model__max_length=48, data__length=48)


@pytest.mark.heavy
def test_steps_are_learned_and_reward_answers(tmp_path, cache, monkeypatch):
    """Of steps of which the wrong ones have a word of their own."""
    text = tmp_path / "text.txt"
    text.write_text("yes it is so, and no it is not.\n" * 200)
    quiet_train(tiny_config(text, training__steps=4, **SIZES), tmp_path / "parent")
    rng = np.random.default_rng(0)
    rows = []
    for n in range(200):
        labels = [bool(label) for label in rng.integers(0, 2, 1 + n % 3)]
        steps = [f"{rng.integers(9)} {'yes' if label else 'no'}" for label in labels]
        rows.append({"prompt": f"{n}?\n", "completions": steps, "labels": labels})
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = files.recipe(f"feedback/process_reward:jsonl:{tmp_path}/steps.jsonl")
    config.init.from_ = str(tmp_path / "parent")
    config.tune.method = "full"
    config.data.update(length=48, batch_size=8)
    config.optimizer.learning_rate = 1e-2
    config.training.steps = 64
    config.eval.update(every=8, tokens=0)
    config.checkpoint.every = 8
    config.log.update(every=1, tensorboard=False)
    with monkeypatch.context() as patch:
        stop_at(11, patch)
        quiet_train(config, tmp_path / "model")
    after = quiet_train(config, tmp_path / "model")["after"]
    assert after["test/accuracy"] > 0.9 and after["test/right_score"] > after["test/wrong_score"] + 0.8
    assert 0 <= after["test/ece"] < 0.1 and after["test/brier"] < 0.05

    loaded = loading.load(tmp_path / "model")
    apply = jax.jit(loaded.model)
    answer = "1 yes\n\n2 no\n3 yes"
    texts = [
        "7?\n1 yes\n",
        "7?\n1 yes\n2 no\n",
        "7?\n1 yes\n2 no\n3 yes\n",
    ]  # a step is scored at its end, by what comes before
    chances = [1 / (1 + math.exp(-float(apply(loaded.params, np.frombuffer(t.encode(), np.uint8)[None].astype(np.int32))[0, 0]))) for t in texts]  # fmt: skip
    task = Task("7?\n", (), {}, "x")
    for how, expected in (("product", math.prod(chances)), ("min", min(chances)), ("last", chances[-1])):
        verifier = ProcessReward(str(tmp_path / "model"), how=how, batch_size=2)
        found = scored_all("process_reward", verifier, [answer, "1 yes", ""], [task] * 3)
        assert found[0].value == pytest.approx(expected, rel=1e-4) and found[0].reason.startswith("3 steps: ")
        assert found[1].value == pytest.approx(chances[0], rel=1e-4) and 0 < found[2].value < 1
    with pytest.raises(UserError, match="it learned by objective.name='process_reward', and not by 'reward'"):
        RewardModel(str(tmp_path / "model"))
    with pytest.raises(UserError, match="process_reward.run: .*parent@4: it predicts tokens"):
        ProcessReward(str(tmp_path / "parent"))

    (tmp_path / "prompts.jsonl").write_text(
        "".join(f'{{"prompt": "{n}?\\n", "completion": "yes"}}\n' for n in range(40))
    )
    best = tiny_config(
        tmp_path, objective__name="expert_iteration", objective__expert__choice="best", objective__expert__keep=1, objective__policy__samples=4,
        objective__policy__verifiers=("process_reward",), objective__policy__max_new_tokens=6, rewards__process_reward__run=str(tmp_path / "model"),
        init__from_=str(tmp_path / "parent"), data__batch_size=8, training__steps=2, eval__every=2, eval__test=False, eval__parent_data=False,
        eval__answers__records=3, **SIZES,
    )  # fmt: skip
    best.data.source = f"jsonl:{tmp_path}/prompts.jsonl"
    quiet_train(best, tmp_path / "best")
    assert json.loads((tmp_path / "best/scorers.json").read_text())["process_reward"]["step"] > 0
    rows = [json.loads(line) for line in (tmp_path / "best/rollouts/000000.jsonl").read_text().splitlines()[1:]]
    for group in (rows[first : first + 4] for first in range(0, len(rows), 4)):
        assert max(row["reward"] for row in group) == next(row["reward"] for row in group if row["use"] == "kept")
    assert read_rows(tmp_path / "best/metrics.jsonl")
