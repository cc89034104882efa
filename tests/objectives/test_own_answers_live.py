"""Pairs of a model's own answers beside TRL's online DPO, in value and gradient: a step of its trainer on the same ids."""

import collections
import types

import jax
import numpy as np
import pytest

from ptft_jax.objectives.base import Context
from tests.objectives.test_own_answers import TABLES, Bigram, built
from tests.training.test_best_answers import answers, paired, used

pytestmark = pytest.mark.live

PROMPTS = ([5, 6, 7], [8, 9])
ANSWERS = ([1, 2, 0], [3, 0], [4, 4], [6, 2, 0])  # those of the first prompt, then of the second
REWARDS = [0.2, 0.7, 1.0, -1.0]


def trl_step(beta):
    """The loss of TRL's step, and its gradient by the table."""
    import torch
    from trl.experimental.online_dpo import OnlineDPOTrainer

    table, behind = (torch.tensor(t, requires_grad=n == 0) for n, t in enumerate(TABLES))
    models = [lambda ids, attention_mask, t=t: types.SimpleNamespace(logits=t[ids]) for t in (table, behind)]
    order = [0, 2, 1, 3]  # TRL has the first answers to all prompts, then the second ones

    def padded(rows, left):
        size = max(map(len, rows))
        lined = [[0] * (size - len(r)) + list(r) if left else list(r) + [0] * (size - len(r)) for r in rows]
        mask = [[0] * (size - len(r)) + [1] * len(r) if left else [1] * len(r) + [0] * (size - len(r)) for r in rows]
        return torch.tensor(lined), torch.tensor(mask)

    written = (*padded([*PROMPTS, *PROMPTS], True), *padded([ANSWERS[n] for n in order], False), None)
    found = []
    trainer = types.SimpleNamespace(
        args=types.SimpleNamespace(
            use_vllm=False, missing_eos_penalty=None, loss_type="sigmoid", torch_empty_cache_steps=None, optim="", n_gpu=1,
            gradient_accumulation_steps=1,
        ),
        eos_token_ids=[0], ref_model=models[1], max_length=64, beta=beta, reward_funcs=[None], stats=collections.defaultdict(list),
        processing_class=types.SimpleNamespace(batch_decode=lambda ids, **_: [""] * len(ids)),
        accelerator=types.SimpleNamespace(gather_for_metrics=lambda x: x, backward=lambda loss: (found.append(loss), loss.backward())),
        _generate=lambda *_: written,
        _calculate_rewards_from_functions=lambda **_: torch.tensor([REWARDS[n] for n in order]),
    )  # fmt: skip
    trainer._forward = types.MethodType(OnlineDPOTrainer._forward, trainer)
    models[0].train = lambda: None
    OnlineDPOTrainer.training_step(trainer, models[0], {"prompt": ["a", "b"]})
    return float(found[0].detach()), table.grad.numpy()


def test_a_step_is_trls():
    rows = answers(REWARDS, ids=ANSWERS)
    for n, row in enumerate(rows):
        row["ids"], row["prompt_tokens"] = [*PROMPTS[n // 2], *ANSWERS[n]], len(PROMPTS[n // 2])
    choosing = paired(2, 2, length=16)
    used(choosing, rows)
    batch, objective = choosing._batch(0, rows, None), built(name="online_dpo", preference={"beta": 0.4})

    def mean(table):
        loss = objective.loss(Bigram(), table, batch, Context(reference=TABLES[1]))
        return loss.total / loss.weight

    value, gradient = jax.jit(jax.value_and_grad(mean))(TABLES[0])
    expected, slope = trl_step(0.4)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)
    assert np.abs(slope).max() > 0.01
