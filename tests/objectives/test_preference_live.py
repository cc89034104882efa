"""Losses of pairs beside TRL's, in value and gradient."""

import types

import numpy as np
import pytest

from ptft_jax.objectives.dpo import DPO
from ptft_jax.objectives.reference_free import RRHF
from tests.objectives.pairs import LENGTHS, OURS, WITHOUT, found, logs

pytestmark = pytest.mark.live


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


def of_cpo(name):
    """Likewise by `CPOTrainer` and `ORPOTrainer`, of losses without a reference."""
    import torch
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    _, settings, per_token = WITHOUT[name]
    mine, mask = logs(0)
    values = torch.tensor(mine, requires_grad=True)
    sums = values.sum(dim=1) / (torch.tensor(mask).sum(dim=1) if per_token else 1)
    accelerator = types.SimpleNamespace(device=torch.device("cpu"))
    stub = types.SimpleNamespace(**({"alpha": 0.0, "label_smoothing": 0.0, "accelerator": accelerator} | settings))
    if name == "orpo":  # what its trainer takes off the cross-entropy
        loss = -ORPOTrainer.odds_ratio_loss(stub, *sums.chunk(2))[0].mean()
    else:
        loss = CPOTrainer.cpo_loss(stub, *sums.chunk(2))[0].mean()
    loss.backward()
    return loss.item(), values.grad.numpy()


def same(objective, loss, gradient, reference=None):
    mine, mask = logs(0)
    value, own = found(objective, mine, reference)
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    # A token that is no answer's counts for nothing in a sum over its row only because it is 0 there.
    np.testing.assert_allclose(own, np.where(mask, gradient, 0), rtol=2e-5, atol=1e-7)
    assert np.abs(own).max() > 1e-3


@pytest.mark.parametrize("name", OURS)
def test_losses_with_a_reference(name):
    same(OURS[name], *of_trl(name), reference=logs(1)[0])


@pytest.mark.parametrize("name", WITHOUT)
def test_losses_without_a_reference(name):
    same(WITHOUT[name][0], *of_cpo(name))


def test_stored_values_are_trls():
    """What `tests/objectives/test_stored.py` compares with: python -m tests.objectives.stored writes it."""
    from tests.objectives import stored

    kept, live = stored.read(), stored.made()
    assert kept.keys() == live.keys()
    for name, values in live.items():
        for part in ("loss", "gradient"):
            np.testing.assert_allclose(kept[name][part], values[part], rtol=1e-5, atol=1e-8, err_msg=name)


def test_losses_that_trl_has_not():
    """DPOP (Pal et al. 2024, equation 3) and RRHF (Yuan et al. 2023, equations 2 and 3), by torch's differentiation."""
    import torch

    mine, _ = logs(0)
    theirs = torch.tensor(logs(1)[0]).sum(dim=1).chunk(2)

    def by_torch(loss):
        values = torch.tensor(mine, requires_grad=True)
        result = loss(values)
        result.backward()
        return result.item(), values.grad.numpy()

    def dpop(values):
        chosen, rejected = (m - t for m, t in zip(values.sum(dim=1).chunk(2), theirs))
        return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected - 5.0 * torch.relu(-chosen))).mean()

    def rrhf(values):
        better, worse = (values.sum(dim=1) / torch.tensor(LENGTHS.T.reshape(-1))).chunk(2)
        return torch.relu(worse - better).mean()

    same(DPO(keep_chosen=5.0), *by_torch(dpop), reference=logs(1)[0])
    same(RRHF(), *by_torch(rrhf))
