"""The loss of reward models beside TRL's: its own collator and `RewardTrainer.compute_loss`, in value and in every gradient."""

import collections
import functools
import types

import jax
import numpy as np
import pytest

from ptft_jax.objectives.reward import Reward
from ptft_jax.params.rules import flatten
from tests.interop.test_last_token_live import PAD, built
from tests.parity import compare

torch = pytest.importorskip("torch")
reward_trainer = pytest.importorskip("trl.trainer.reward_trainer")
pytestmark = pytest.mark.live
SIZES = ((3, 9), (12, 5), (1, 2), (7, 7))
MARGINS = (0.0, 0.7, -0.3, 2.0)


@functools.cache
def pairs():
    rng = np.random.default_rng(0)
    return [[rng.integers(3, 97, n).tolist() for n in sizes] for sizes in SIZES]


def of_trl(model, folder, center, margins):
    """(loss, metrics, gradients as our parameters are laid out) by TRL."""
    examples = [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in pairs()]
    if margins:
        examples = [{**example, "margin": margin} for example, margin in zip(examples, MARGINS)]
    inputs = dict(reward_trainer.DataCollatorForPreference(pad_token_id=PAD)(examples))
    same = types.SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    metrics = collections.defaultdict(lambda: collections.defaultdict(list))
    trainer = types.SimpleNamespace(
        model=model, args=types.SimpleNamespace(center_rewards_coefficient=center or None), accelerator=same,
        _metrics=metrics, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    loss = reward_trainer.RewardTrainer.compute_loss(trainer, model, inputs)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
    model.save_pretrained(folder)
    return float(loss), metrics["eval"], flatten(compare.load(folder)[1])


def packed():
    """Two pairs a row, a row with room for a third."""
    length, rows = 40, (pairs()[:2], pairs()[2:])
    out = {name: np.zeros((2, length), np.int32) for name in ("inputs", "positions", "segments")}
    for r, row in enumerate(rows):
        texts, at = [text for pair in row for text in pair], 0
        for n, text in enumerate(texts, 1):
            where = slice(at, at + len(text))
            out["inputs"][r, where], out["positions"][r, where] = text, np.arange(len(text))
            out["segments"][r, where], at = n, where.stop
    there = np.float32([[1, 1, 0], [1, 1, 0]])
    return out | {"pairs": there, "weights": there}


@pytest.mark.parametrize("name", ["gpt2-untied", "llama3", "gemma2", "qwen3"])
@pytest.mark.parametrize("center, margins", [(0.0, False), (0.1, True)], ids=str)
def test_loss_and_gradients_are_trls(name, center, margins, tmp_path):
    theirs = built(name, num_labels=1)
    theirs.save_pretrained(tmp_path / "model")
    model, params, _, _ = compare.load(tmp_path / "model")
    given = np.float32(MARGINS if margins else np.zeros(4)).reshape(2, 2)
    batch = packed() | {"margins": np.pad(given, ((0, 0), (0, 1)))}

    def loss_of(params):
        loss = Reward(center).loss(model, params, batch)
        return loss.total / loss.weight, loss.metrics

    (ours, metrics), slopes = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params)
    expected, logged, gradients = of_trl(theirs, tmp_path / "slopes", center, margins)
    assert float(ours) == pytest.approx(expected, rel=2e-5)
    for metric in ("accuracy", "margin"):
        total, weight = metrics[metric]
        assert float(total / weight) == pytest.approx(logged[metric][0], rel=1e-4)
    largest = max(np.abs(g).max() for g in gradients.values())
    for path, slope in flatten(slopes).items():
        np.testing.assert_allclose(slope, gradients[path], atol=3e-5 * largest, err_msg=path)
