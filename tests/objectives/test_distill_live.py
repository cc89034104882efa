"""What is learned from a teacher beside TRL's generalized Jensen-Shannon divergence, in value and gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.objectives.distill import Distill

pytestmark = pytest.mark.live

SETTINGS = {
    0.0: ("forward_kl", 0.5),
    0.3: ("jensen_shannon", 0.3),
    0.5: ("jensen_shannon", 0.5),
    1.0: ("reverse_kl", 0.5),
}


class Given:
    """A model whose parameters are the logits."""

    context_parts = 1

    def run(self, params, inputs):
        return (params,)

    def logits(self, params, hidden):
        return hidden


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", SETTINGS)
def test_generalized_jensen_shannon(beta, temperature):
    import torch
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    rng = np.random.default_rng(0)
    student, teacher = (2 * rng.standard_normal((2, 5, 11)).astype(np.float32) for _ in range(2))
    weights = np.float32([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]])
    values = torch.tensor(student, requires_grad=True)
    labels = torch.tensor(np.where(weights > 0, 1, -100))
    loss = GKDTrainer.generalized_jsd_loss(values, torch.tensor(teacher), labels, beta, temperature)
    loss.backward()

    name, share = SETTINGS[beta]
    objective = Distill(divergence_from=name, beta=share, temperature=temperature, data_weight=0.0)
    batch = {"inputs": np.zeros((2, 5), np.int32), "targets": np.zeros((2, 5), np.int32), "weights": weights}

    def ours(logits, objective):
        made = batch | objective.reference_of(Given(), jnp.asarray(teacher), batch)
        found = objective.loss(Given(), logits, made)
        return found.total / found.weight / temperature**2

    for top in (0, 11):  # both are all tokens
        found, slope = jax.value_and_grad(ours)(jnp.asarray(student), dataclasses.replace(objective, top=top))
        np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
        np.testing.assert_allclose(slope, values.grad.numpy(), rtol=1e-4, atol=1e-7)
