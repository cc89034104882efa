"""Policy gradients beside TRL's, in value and gradient."""

import collections
import types

import numpy as np
import pytest

from ptft_jax.objectives.policy import GRPO, RLOO, Reinforce
from tests.objectives.policy_batch import ADVANTAGES, LIMIT, MASK, PRODUCT, VARIANTS, batch, found, given, logs

pytestmark = pytest.mark.live


def trainer(values, **settings):
    """What a loss of TRL reads of its trainer, with the log-probabilities of tokens given."""
    import torch

    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        num_processes=1,
        reduce=lambda x, **_: x,
    )
    plain = dict(
        _get_per_token_logps_and_entropies=lambda *_, **__: (values, torch.zeros_like(values), None),
        accelerator=accelerator, model=types.SimpleNamespace(training=False), aux_loss_enabled=False, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, importance_sampling_level="token", beta=0.0, epsilon_low=1e9, epsilon_high=1e9, use_vllm=False,
        vllm_importance_sampling_correction=False, current_gradient_accumulation_steps=1, max_completion_length=LIMIT,
        _entropy_bonus_enabled=False, _metrics={"eval": collections.defaultdict(list)},
        args=types.SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
    )  # fmt: skip
    return types.SimpleNamespace(**(plain | settings))


def inputs():
    import torch

    nothing = torch.zeros((len(MASK), 0), dtype=torch.long)
    mask = torch.tensor(MASK)
    return {
        "prompt_ids": nothing, "prompt_mask": nothing, "completion_ids": torch.zeros(MASK.shape, dtype=torch.long),
        "completion_mask": mask, "advantages": torch.tensor(ADVANTAGES), "old_per_token_logps": torch.tensor(batch()["sampled"]),
        "old_logps": torch.tensor(batch()["sampled"]).sum(dim=1), "ref_per_token_logps": torch.tensor(logs(2)),
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip


def of_trl(compute, **settings):
    """(loss, its gradient by the log-probability of each token)."""
    import torch

    values = torch.tensor(logs(0), requires_grad=True)
    loss = compute(trainer(values, **settings), None, inputs())
    loss.backward()
    return loss.item(), values.grad.numpy()


def of_variant(name):
    from trl import GRPOTrainer, RLOOTrainer

    if name == "rloo":
        return of_trl(RLOOTrainer._compute_loss, epsilon_low=0.2, epsilon_high=0.2)
    return of_trl(GRPOTrainer._compute_loss, **VARIANTS[name][0])


def same(objective, expected, slope):
    loss, gradient = found(objective)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_grpo_and_its_variants(name):
    same(VARIANTS[name][1], *of_variant(name))


def test_rloo():
    same(PRODUCT, *of_variant("rloo"))


def test_reinforce():
    """By torch's differentiation of the mean over answers of the sum of their tokens' log-probabilities, times the advantage; where the model
    is the one that wrote them (Williams 1992)."""
    import torch

    values = torch.tensor(logs(0), requires_grad=True)
    loss = -(values.sum(dim=1) * torch.tensor(ADVANTAGES)).mean()
    loss.backward()
    objective = given(Reinforce, ratio="product")
    _, gradient = found(objective, sampled=logs(0))
    np.testing.assert_allclose(gradient * MASK, values.grad.numpy() * MASK, rtol=1e-5, atol=1e-7)
    rewards = np.array([[0.0, 1.0], [3.0, 0.5]])
    others = (rewards.sum() - rewards) / 3
    np.testing.assert_allclose(objective.advantages(rewards), rewards - others)


def test_advantages_divide_by_the_deviation_of_trl():
    import torch
    from trl.trainer.utils import nanstd

    rewards = np.array([[0.0, 1.0, 1.0, 0.5], [2.0, 2.0, 2.0, 2.0]])
    of_group = nanstd(torch.tensor(rewards), dim=1).numpy()[:, None]
    ahead = rewards - rewards.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(GRPO().advantages(rewards), ahead / (of_group + 1e-4), rtol=1e-6)
    of_all = float(nanstd(torch.tensor(rewards)))
    np.testing.assert_allclose(GRPO(scale="batch").advantages(rewards), ahead / (of_all + 1e-4), rtol=1e-6)
    np.testing.assert_allclose(RLOO().advantages(rewards)[0], [-5 / 6, 0.5, 0.5, -1 / 6])
