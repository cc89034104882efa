"""The loss of rated answers beside TRL's, in value and gradient."""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.objectives.base import Context
from ptft_jax.objectives.kto import KTO
from ptft_jax.objectives.preference import Answers

pytestmark = pytest.mark.live

LENGTHS = np.array([4, 3, 1, 7, 5])
LABELS = np.array([True, False, True, False, False])


def logs(seed):
    """Log-probabilities of tokens, float32 [answers, T], and what is an answer's."""
    rng = np.random.default_rng(seed)
    mask = np.arange(8)[None] < LENGTHS[:, None]
    return np.where(mask, -rng.gamma(1.0, 1.0, mask.shape), 0).astype(np.float32), mask


def of_trl(others, others_reference, beta, desirable, undesirable):
    """(loss, gradient by the log-probability of each token) by `KTOTrainer`, with the model's outputs given."""
    import torch
    from trl.trainer.kto_trainer import KTOTrainer

    mine, mask = logs(0)
    theirs, _ = logs(1)
    values, zeros = torch.tensor(mine, requires_grad=True), torch.zeros(mine.shape)
    outputs = types.SimpleNamespace(log_probs=values, entropy=zeros, mean_logits=zeros)
    whole = torch.tensor(np.concatenate([np.zeros((len(mask), 1)), mask], axis=1), dtype=torch.long)
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=False), aux_loss_enabled=False, precompute_ref_logps=True, calculate_KL=True,
        loss_type="kto", beta=beta, desirable_weight=desirable, undesirable_weight=undesirable, _tp_size=1,
        _metrics={"eval": collections.defaultdict(list)}, _total_train_tokens=0,
        accelerator=types.SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x),
        _compute_kl_logps=lambda model, batch: torch.tensor(others),
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros_like(whole), "attention_mask": torch.ones_like(whole), "completion_mask": whole,
        "label": torch.tensor(LABELS), "ref_logps": torch.tensor(theirs).sum(dim=1), "ref_KL_logps": torch.tensor(others_reference),
    }  # fmt: skip
    loss = KTOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)
    loss.backward()
    return float(loss), values.grad.numpy(), mask, mine, theirs


@pytest.mark.parametrize("shift", [1.5, -2.0])
def test_kto(shift):
    """Where the distance is above 0, and where it is cut."""
    rng = np.random.default_rng(2)
    others_reference = -rng.gamma(4.0, 1.0, len(LENGTHS)).astype(np.float32)
    others = (others_reference + shift + 0.3 * rng.standard_normal(len(LENGTHS))).astype(np.float32)
    settings = dict(beta=0.3, desirable=1.2, undesirable=0.7)
    loss, gradient, mask, mine, theirs = of_trl(others, others_reference, **settings)
    objective = KTO(**settings)
    there = jnp.ones((1, len(LENGTHS)))
    batch = {"pairs": there, "labels": jnp.where(jnp.asarray(LABELS), 1.0, -1.0)[None]}

    def ours(values):
        sums = jnp.stack([values.sum(axis=1), jnp.asarray(others)], axis=-1)[None]
        reference = jnp.stack([jnp.asarray(theirs).sum(axis=1), jnp.asarray(others_reference)], axis=-1)[None]
        lengths = jnp.broadcast_to(jnp.asarray(LENGTHS, jnp.float32)[None, :, None], sums.shape)
        answers = Answers(sums, sums, reference, lengths, None)
        object.__setattr__(objective, "_answers", lambda *_: answers)
        return objective.loss_of(None, None, None, batch, Context()).total / len(LENGTHS)

    found, own = jax.value_and_grad(ours)(jnp.asarray(mine))
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    np.testing.assert_allclose(np.where(mask, own, 0), np.where(mask, gradient, 0), rtol=2e-5, atol=1e-7)
