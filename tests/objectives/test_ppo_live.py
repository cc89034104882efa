"""PPO beside the form that TRL had it in until its version 1 (`PPOTrainer`, which later ones lack), written down here in torch: padded
rectangles and masked means, where this package has answers one by one and sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.objectives.ppo import PPO
from tests.objectives.policy_batch import LENGTHS, MASK, batch, given, logs
from tests.objectives.test_ppo import MODEL

pytestmark = pytest.mark.live


def masked_mean(values, mask):
    return (values * mask).sum() / mask.sum()


def masked_whiten(values, mask):
    mean = masked_mean(values, mask)
    size = mask.sum()
    variance = masked_mean((values - mean) ** 2, mask) * size / (size - 1)
    return (values - mean) * (variance + 1e-8) ** -0.5


def by_torch(mine, values, old, old_values, behind, scores, gamma, lam, kl):
    """(loss, advantages, returns) of tensors [B, T]; scores [B]."""
    import torch

    mask = torch.tensor(MASK)
    rewards = -kl * (old - behind) * mask
    rewards[torch.arange(len(MASK)), torch.tensor(LENGTHS) - 1] += scores
    old_values, last, reversed_ = old_values * mask, 0.0, []
    for t in reversed(range(MASK.shape[1])):
        ahead = old_values[:, t + 1] if t < MASK.shape[1] - 1 else 0.0
        last = rewards[:, t] + gamma * ahead - old_values[:, t] + gamma * lam * last
        reversed_.append(last)
    advantages = torch.stack(reversed_[::-1], dim=1)
    returns = (advantages + old_values) * mask
    advantages = masked_whiten(advantages, mask) * mask
    near = torch.clamp(values, old_values - 0.2, old_values + 0.2)
    of_values = 0.5 * masked_mean(torch.max((values - returns) ** 2, (near - returns) ** 2), mask)
    ratio = torch.exp(mine - old)
    of_policy = masked_mean(torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 0.8, 1.2)), mask)
    return of_policy + 0.1 * of_values, advantages, returns


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.7)])
def test_advantages_loss_and_gradients(gamma, lam):
    import torch

    mine, values, old, old_values, behind = logs(0), logs(7, near=logs(5)), batch()["sampled"], logs(5), logs(2)
    scores = np.array([1.0, -0.5, 0.3, 0.0], np.float32)
    learned = [torch.tensor(a, requires_grad=True) for a in (mine, values)]
    rest = [torch.tensor(a) for a in (old, old_values, behind, scores)]
    loss, advantages, returns = by_torch(*learned, *rest, gamma, lam, 0.05)
    loss.backward()

    objective = given(
        PPO, average="token", clip_low=0.2, clip_high=0.2, value_clip=0.2, gamma=gamma, gae_lambda=lam, kl=0.05, kl_estimator="k1"
    )  # fmt: skip
    rewards = [-0.05 * (old - behind)[n, :length].astype(float) for n, length in enumerate(LENGTHS)]
    for row, score in zip(rewards, scores):
        row[-1] += score
    found = objective.estimated(rewards, [old_values[n, :k].astype(float) for n, k in enumerate(LENGTHS)], [True] * 4)
    padded = [np.stack([np.pad(a, (0, MASK.shape[1] - len(a))) for a in part]).astype(np.float32) for part in found]
    for ours, theirs in zip(padded, (advantages, returns)):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
    told = {"advantages": padded[0], "returns": padded[1], "values": old_values}
    rows = batch(**told, kl=np.zeros(4, np.float32), explained=np.zeros(4, np.float32), varied=np.zeros(4, np.float32))

    def ours(mine, values):
        found = objective.loss_of(MODEL, values, mine, rows)
        return found.total / found.weight

    found, gradients = jax.value_and_grad(ours, argnums=(0, 1))(jnp.asarray(mine), jnp.asarray(values))
    np.testing.assert_allclose(found, loss.item(), rtol=1e-4)
    for gradient, tensor in zip(gradients, learned):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-3, atol=1e-6)
        assert np.abs(gradient).max() > 1e-3
