"""Policy gradients beside TRL's, in value and gradient."""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.objectives.base import Context
from ptft_jax.objectives.policy import GRPO, RLOO
from tests.objectives.policy_batch import ADVANTAGES, LIMIT, MASK, PRODUCT, VARIANTS, batch, logs

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


def same(objective, compute, **settings):
    import torch

    values = torch.tensor(logs(0), requires_grad=True)
    loss = compute(trainer(values, **settings), None, inputs())
    loss.backward()

    def ours(mine):
        found = objective.loss_of(None, None, mine, batch(), Context(reference=jnp.asarray(logs(2))))
        return found.total / found.weight

    found, gradient = jax.value_and_grad(ours)(jnp.asarray(logs(0)))
    np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, values.grad.numpy(), rtol=1e-5, atol=1e-7)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_grpo_and_its_variants(name):
    from trl import GRPOTrainer

    settings, objective = VARIANTS[name]
    same(objective, GRPOTrainer._compute_loss, **settings)


def test_rloo():
    from trl import RLOOTrainer

    same(PRODUCT, RLOOTrainer._compute_loss, epsilon_low=0.2, epsilon_high=0.2)


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
