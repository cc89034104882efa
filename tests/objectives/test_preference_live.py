"""Losses of pairs beside TRL's, in value and gradient."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.objectives.dpo import DPO, IPO
from ptft_jax.objectives.preference import Answers
from ptft_jax.objectives.reference_free import CPO, ORPO, SimPO

pytestmark = pytest.mark.live

LENGTHS = np.array([[4, 3], [3, 6], [1, 5], [7, 7]])
NAMES = ("sigmoid", "hinge", "robust", "exo_pair", "nca_pair", "apo_zero", "apo_down", "ipo", "sigmoid_norm")
# TRL's coefficient of the alpha divergence is 1 less the paper's alpha.
OURS = {
    "sigmoid": DPO(),
    "conservative": DPO(label_noise=0.1),
    "hinge": DPO(link="hinge"),
    "robust": DPO(link="robust", label_noise=0.1),
    "exo_pair": DPO(link="exo", label_noise=0.1),
    "nca_pair": DPO(link="nca"),
    "apo_zero": DPO(link="apo_zero"),
    "apo_down": DPO(link="apo_down"),
    "sigmoid_norm": DPO(normalize=True),
    "ipo": IPO(),
    "forward_kl": DPO(divergence_from="forward_kl"),
    "js_divergence": DPO(divergence_from="jensen_shannon"),
    "alpha_divergence": DPO(divergence_from="alpha", alpha=0.7),
}


def logs(seed):
    """Log-probabilities of tokens, float32 [2 pairs, T], the better answers first, and what is an answer's."""
    rng = np.random.default_rng(seed)
    mask = np.arange(8)[None] < LENGTHS.T.reshape(-1, 1)
    return np.where(mask, -rng.gamma(1.0, 1.0, mask.shape), 0).astype(np.float32), mask


def of_trl(name):
    """(loss, gradient by the log-probability of each token) by `DPOTrainer`, with the model's outputs given."""
    import collections

    import torch
    from trl import DPOTrainer

    mine, mask = logs(0)
    theirs, _ = logs(1)
    values = torch.tensor(mine, requires_grad=True)
    whole = torch.tensor(np.concatenate([np.zeros((len(mask), 1)), mask], axis=1), dtype=torch.long)
    reference = torch.tensor(theirs).sum(dim=1).chunk(2)
    other = torch.zeros_like(values)
    outputs = types.SimpleNamespace(
        log_probs=values, entropy=other, mean_logits=other, is_top1=other.bool(), loss=other.sum()
    )
    divergence = name if name in ("forward_kl", "js_divergence", "alpha_divergence") else "reverse_kl"
    plain = divergence != "reverse_kl" or name == "conservative"
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x, unwrap_model=lambda x: x
    )
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=False), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type=divergence, f_alpha_divergence_coef=0.3, beta=0.1,
        loss_types=["sigmoid" if plain else name], loss_weights=[1.0], use_weighting=False,
        label_smoothing=0.1 if name in ("conservative", "robust", "exo_pair") else 0.0,
        _metrics={"eval": collections.defaultdict(list), "train": collections.defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
        args=types.SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros_like(whole), "attention_mask": torch.ones_like(whole), "completion_mask": whole,
        "ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1],
    }  # fmt: skip
    loss = (
        DPOTrainer._compute_loss(
            types.SimpleNamespace(**vars(trainer)), lambda **_: outputs, inputs, return_outputs=False
        )
        if not plain or name != "conservative"
        else _conservative(torch, values, reference)
    )
    loss.backward()
    return float(loss), values.grad.numpy()


def _conservative(torch, values, reference):
    """As TRL's cDPO was: sigmoid with label smoothing, which version 1.16 has for pairs without a reference (CPO)."""
    from trl.experimental.cpo import CPOTrainer

    ratios = [mine - theirs for mine, theirs in zip(values.sum(dim=1).chunk(2), reference)]
    stub = types.SimpleNamespace(
        alpha=0.0, beta=0.1, label_smoothing=0.1, loss_type="sigmoid",
        accelerator=types.SimpleNamespace(device=torch.device("cpu")),
    )  # fmt: skip
    return CPOTrainer.cpo_loss(stub, *ratios)[0].mean()


def answers_of(values, reference=None):
    """Our form of log-probabilities [2 pairs, T], the better first."""
    sums = jnp.stack(jnp.split(values.sum(axis=1), 2), axis=-1)[None]
    theirs = jnp.zeros_like(sums)
    if reference is not None:
        theirs = jnp.stack(jnp.split(jnp.asarray(reference).sum(axis=1), 2), axis=-1)[None]
    return Answers(sums, sums, theirs, jnp.asarray(LENGTHS, jnp.float32)[None], None)


@pytest.mark.parametrize("name", OURS)
def test_losses_with_a_reference(name):
    mine, mask = logs(0)
    theirs, _ = logs(1)
    loss, gradient = of_trl(name)

    def ours(values):
        return OURS[name].pair_loss(answers_of(values, theirs)).mean()

    found, own = jax.value_and_grad(ours)(jnp.asarray(mine))
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    # A token that is no answer's counts for nothing in a sum over its row only because it is 0 there.
    np.testing.assert_allclose(np.where(mask, own, 0), np.where(mask, gradient, 0), rtol=2e-5, atol=1e-7)


WITHOUT = {
    "simpo": (SimPO(beta=2.5, margin=0.7), dict(beta=2.5, loss_type="simpo", simpo_gamma=0.7), True),
    "cpo": (CPO(beta=0.3, label_noise=0.2), dict(beta=0.3, loss_type="sigmoid", label_smoothing=0.2), False),
    "orpo": (ORPO(beta=0.4), dict(beta=0.4), True),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_losses_without_a_reference(name):
    import torch
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    objective, settings, per_token = WITHOUT[name]
    mine, mask = logs(0)
    values = torch.tensor(mine, requires_grad=True)
    sums = values.sum(dim=1) / (torch.tensor(mask).sum(dim=1) if per_token else 1)
    accelerator = types.SimpleNamespace(device=torch.device("cpu"))
    stub = types.SimpleNamespace(**({"alpha": 0.0, "label_smoothing": 0.0, "accelerator": accelerator} | settings))
    if name == "orpo":
        loss = -ORPOTrainer.odds_ratio_loss(stub, *sums.chunk(2))[
            0
        ].mean()  # what its trainer takes off the cross-entropy
    else:
        loss = CPOTrainer.cpo_loss(stub, *sums.chunk(2))[0].mean()
    loss.backward()
    found, own = jax.value_and_grad(lambda v: objective.pair_loss(answers_of(v)).mean())(jnp.asarray(mine))
    np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(np.where(mask, own, 0), np.where(mask, values.grad.numpy(), 0), rtol=2e-5, atol=1e-7)
