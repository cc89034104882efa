"""Losses of pairs of a whole model beside TRL's `DPOTrainer`: its own collator's rows, padded on either side, against packed ones here."""

import collections
import dataclasses
import types

import jax
import numpy as np
import pytest

from ptft_jax.objectives.base import Context
from ptft_jax.objectives.dpo import DPO, IPO
from ptft_jax.objectives.reference_free import SimPO
from ptft_jax.params.rules import flatten
from tests.objectives.test_preference import packed
from tests.parity import compare, families

torch = pytest.importorskip("torch")
dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer")
add_fused_lm_head = pytest.importorskip("trl.trainer.utils").add_fused_lm_head
pytestmark = pytest.mark.live
PAD, BETA = 2, 0.5
# Of the prompt, of the better answer, of the worse.
SIZES = ((3, 4, 2), (2, 3, 6), (5, 1, 5), (1, 7, 7))
CASES = {
    "dpo": (DPO(beta=BETA), {}),
    "ipo": (IPO(beta=BETA), dict(loss_types=["ipo"])),
    "ld-dpo": (DPO(beta=BETA, tail_weight=0.25), dict(ld_alpha=0.25)),
    "simpo": (SimPO(beta=BETA, margin=0.7), None),
}


def pairs():
    rng = np.random.default_rng(0)
    return [[rng.integers(3, 97, n).tolist() for n in sizes] for sizes in SIZES]


def built(seed, folder):
    """A small Llama of transformers, and it here."""
    case = next(case for case in families.CASES if case.name == "llama3")
    torch.manual_seed(seed)
    theirs = families.build(dataclasses.replace(case, fields={**case.fields, "pad_token_id": PAD}))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    add_fused_lm_head(theirs, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))  # as the trainer does
    return theirs.eval(), compare.load(folder)[:2]


def rows(side):
    """The collator's batch, padded on the right as it is, or on the left."""
    examples = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), pair)) for pair in pairs()]
    batch = dict(dpo_trainer.DataCollatorForPreference(pad_token_id=PAD)(examples))
    if side == "left":
        for n, size in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
            for values in batch.values():
                values[n] = torch.roll(values[n], values.shape[1] - size)
    return batch


def of_trl(model, reference, batch, settings):
    if settings is None:  # SimPO is another trainer's
        return of_simpo(model, batch)
    same = types.SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x, unwrap_model=lambda x: x
    )
    metrics = {mode: collections.defaultdict(list) for mode in ("eval", "train")}
    plain = dict(
        model=model, ref_model=reference, accelerator=same, aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=False, beta=BETA,
        f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0], use_weighting=False, label_smoothing=0.0,
        _metrics=metrics, _total_train_tokens=0, _tp_size=1, args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
    )  # fmt: skip
    return dpo_trainer.DPOTrainer._compute_loss(types.SimpleNamespace(**plain | settings), model, batch, False)


def of_simpo(model, batch):
    from trl.experimental.cpo import CPOTrainer

    ids, mask = batch["input_ids"], batch["attention_mask"]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, :-1].log_softmax(dim=-1)
    taken = logits.gather(-1, ids[:, 1:, None])[..., 0] * batch["completion_mask"][:, 1:]
    means = taken.sum(dim=1) / batch["completion_mask"][:, 1:].sum(dim=1)
    stub = types.SimpleNamespace(
        alpha=0.0, label_smoothing=0.0, accelerator=types.SimpleNamespace(device="cpu"), beta=BETA, loss_type="simpo", simpo_gamma=0.7
    )  # fmt: skip
    return CPOTrainer.cpo_loss(stub, *means.chunk(2))[0].mean()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CASES)
def test_packed_and_accumulated_it_is_theirs_padded(name, side, tmp_path):
    """Value and every gradient, of two pairs in a row, and added up over two micro-batches."""
    objective, settings = CASES[name]
    model, (ours, params) = built(0, tmp_path / "model")
    reference, (_, behind) = built(1, tmp_path / "reference")
    given = [[(np.array(prompt + answer), len(prompt)) for answer in answers] for prompt, *answers in pairs()]
    context = Context(reference=behind if objective.needs_reference else None)

    def total(params, batch):
        loss = objective.loss(ours, params, batch, context)
        return loss.total, loss.weight

    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    parts = [step(params, packed([given[n : n + 2]])) for n in (0, 2)]
    count = sum(float(weight) for (_, weight), _ in parts)
    assert count == 4
    value = sum(float(part) for (part, _), _ in parts) / count
    slopes = jax.tree.map(lambda a, b: (a + b) / count, *(gradient for _, gradient in parts))

    loss = of_trl(model, reference, rows(side), settings)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
    model.save_pretrained(tmp_path / "slopes")
    assert value == pytest.approx(loss.item(), rel=5e-5)
    expected = flatten(compare.load(tmp_path / "slopes")[1])
    largest = max(np.abs(g).max() for g in expected.values())
    assert largest > 1e-3
    for path, slope in flatten(slopes).items():
        np.testing.assert_allclose(slope, expected[path], atol=1e-4 * largest, err_msg=path)
