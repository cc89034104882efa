"""Methods on linear layers beside PEFT's own, trained with: the same logits, gradients, rates and budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.adapters.adalora import AdaLora
from ptft_jax.adapters.dora import Dora
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.oft import Oft
from ptft_jax.adapters.rank_budget import LEFT, RIGHT, SINGULAR, Allocation, Schedule
from ptft_jax.adapters.vera import Vera, shared
from ptft_jax.interop.peft_modules import ROOT, modules, named
from ptft_jax.model.transformer import Transformer
from ptft_jax.params import recipes
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten
from tests.interop.test_peft_live import TOKENS, bases, close  # noqa: F401 (a fixture)

pytestmark = pytest.mark.live
LINEAR = ("blocks/(attention|mlp)/.*",)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# VeRA's matrices are cut from the largest layer there, and scaled to each layer here: the same where the inputs are.
FROM_WIDTH = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
WEIGHTS = np.random.default_rng(1).normal(size=(2, 24, 97)).astype(np.float32)


def low_rank(*more):
    """Our leaves and theirs, the latter as [in, R] and so on by transposing."""
    ours = {"lora_a": "lora_A.default.weight", "lora_b": "lora_B.default.weight"}
    return ours | ({"magnitude": "lora_magnitude_vector.default.weight"} if more else {})


CASES = {  # ours, theirs by class and options, names of their leaves by ours
    "lora": (Lora(4, 8.0, False, 0.0, LINEAR), "LoraConfig", dict(r=4, lora_alpha=8), low_rank()),
    "rslora": (Lora(4, 8.0, True, 0.0, LINEAR), "LoraConfig", dict(r=4, lora_alpha=8, use_rslora=True), low_rank()),
    "pissa": (
        Lora(4, 8.0, False, 0.0, LINEAR, "pissa"),
        "LoraConfig",
        dict(r=4, lora_alpha=8, init_lora_weights="pissa"),
        low_rank(),
    ),
    "olora": (
        Lora(4, 8.0, False, 0.0, LINEAR, "olora"),
        "LoraConfig",
        dict(r=4, lora_alpha=8, init_lora_weights="olora"),
        low_rank(),
    ),
    "dora of pissa": (
        Dora(4, 8.0, True, 0.0, LINEAR, "pissa"),
        "LoraConfig",
        dict(r=4, lora_alpha=8, init_lora_weights="pissa", use_rslora=True, use_dora=True),
        low_rank("magnitude"),
    ),
    "adalora": (
        AdaLora(6, 3, 8.0, 0.0, 0.1, 0.3, 10, 0.85, 0.85, 0.1, LINEAR),
        "AdaLoraConfig",
        dict(init_r=6, target_r=3, lora_alpha=8, total_step=100, orth_reg_weight=0.0),
        {"left": "lora_A.default", "singular": "lora_E.default", "right": "lora_B.default"},
    ),
    "vera": (
        Vera(20, 0.1, 0.0, 3, ("blocks/attention/(query|key|value)", "blocks/mlp/(gate|up)")),
        "VeraConfig",
        dict(r=20),
        {"vera_d": "vera_lambda_d.default", "vera_b": "vera_lambda_b.default"},
    ),
    "oft": (
        Oft(8, LINEAR),
        "OFTConfig",
        dict(oft_block_size=8, r=0, use_cayley_neumann=False),
        {"skew": "oft_R.default.weight"},
    ),
}


def theirs_of(kind, torch_model):
    import peft as theirs
    import torch

    torch.manual_seed(0)
    options = dict(CASES[kind][2], target_modules=FROM_WIDTH if kind == "vera" else ALL)
    adapted = theirs.get_peft_model(torch_model, getattr(theirs, CASES[kind][1])(**options)).eval()
    if kind == "vera":
        a, b = (torch.from_numpy(np.array(m).T.copy()) for m in shared(3, 20, *_widest(adapted)))
        with torch.no_grad():
            adapted.base_model.vera_A["default"].copy_(a)
            adapted.base_model.vera_B["default"].copy_(b)
    return adapted


def _widest(adapted):
    return adapted.base_model.vera_A["default"].shape[1], adapted.base_model.vera_B["default"].shape[0]


def collected(kind, adapted, names, base, of):
    """Our flat leaves from `of(parameter)` of each of theirs: stacked over layers, in our layout."""
    leaves, parameters = {}, dict(adapted.named_parameters())
    for name, module, _ in named(modules(names, flatten(base))):
        (path,) = module.layers
        for ours, theirs in CASES[kind][3].items():
            if f"{ROOT}{name}.{theirs}" in parameters:
                array = of(parameters[f"{ROOT}{name}.{theirs}"]).detach().float().numpy()
                array = array.reshape(-1) if ours in ("singular", "magnitude") else array
                turned = array if ours == "skew" else array.T
                leaves.setdefault(f"{path}/adapter/{ours}", []).append(turned)
    return {path: np.stack(rows) for path, rows in leaves.items()}


@pytest.mark.parametrize("kind", CASES)
def test_logits_and_gradients(kind, bases):  # noqa: F811
    import torch

    torch_model, plain, base, names, *_ = bases("llama-biases")
    before = torch_model(input_ids=torch.from_numpy(TOKENS)).logits.detach().numpy()
    adapted = theirs_of(kind, torch_model)
    method = CASES[kind][0]
    start = collected(kind, adapted, names, base, lambda p: p)
    model = Transformer(plain.spec, method)
    made = flatten(jax.jit(model.init)(jax.random.key(0), base))
    if kind in ("pissa", "olora", "dora of pissa"):
        for path in [p for p in made if p.endswith("/start_a")]:
            other, layer = path.replace("start_a", "start_b"), path.removesuffix("/adapter/start_a")
            ours, theirs = (f[path.replace("start", s)] @ f[other.replace("start", s)] for f, s in ((made, "start"), (start, "lora")))  # fmt: skip
            # The factors are the same up to signs, their products up to rounding: the same start. Where the last singular
            # value that is taken is near the first that is not, rounding turns the space between them (Davis and Kahan).
            np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), err_msg=layer)
            made[path], made[other] = start[path.replace("start", "lora")], start[other.replace("start", "lora")]
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                spread = 0.2 * parameter.abs().mean() if "magnitude" in name else 0.1
                parameter.add_(torch.randn(parameter.shape) * spread)
    leaves = collected(kind, adapted, names, base, lambda p: p)
    assert leaves.keys() == {p for p in made if "/adapter/" in p and "start" not in p}
    assert {p: a.shape for p, a in leaves.items()} == {p: made[p].shape for p in leaves}

    adapted = adapted.double()
    logits = adapted(input_ids=torch.from_numpy(TOKENS)).logits
    (logits * torch.from_numpy(WEIGHTS)).sum().backward()
    gradients = collected(kind, adapted, names, base, lambda p: p.grad)

    def forward(chosen):
        return model(unflatten({**made, **chosen}), TOKENS)

    ours, back = jax.jit(lambda c: (forward(c), jax.vjp(forward, c)[1](jnp.asarray(WEIGHTS))[0]))(leaves)
    expected = logits.detach().numpy()
    assert close(before, expected) > 1e-2, "the adapter does nothing"
    assert close(ours, expected) <= 1e-4
    for path, gradient in back.items():
        # As in test_peft_live.py; theirs divides AdaLoRA's scale by rank + 1e-5.
        assert close(gradient, gradients[path]) <= 3e-4, path


def test_rates_of_lora_plus(bases):  # noqa: F811
    import torch
    from peft.optimizers import create_loraplus_optimizer

    torch_model, plain, base, names, *_ = bases("llama-biases")
    adapted = theirs_of("lora", torch_model)
    optimizer = create_loraplus_optimizer(adapted, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    rates = {id(p): group["lr"] / 1e-3 for group in optimizer.param_groups for p in group["params"]}
    method = Lora(4, 8.0, False, 0.0, LINEAR, b_ratio=16.0)
    partition = Partition.of(Transformer(plain.spec, method).shapes(), (*method.rates, (".*", 0.0)))
    ours = flatten(partition.multipliers())
    theirs = collected("lora", adapted, names, base, lambda p: torch.tensor([[rates[id(p)]]]))
    assert ours.keys() == theirs.keys()
    assert {p: float(r.mean()) for p, r in theirs.items()} == pytest.approx(ours)
    assert set(ours.values()) == {1.0, 16.0}


def test_importance_and_budget(bases):  # noqa: F811
    import torch

    torch_model, _, base, names, *_ = bases("llama-biases")
    adapted = theirs_of("adalora", torch_model)
    allocator = adapted.base_model.rankallocator
    allocator.peft_config.tinit, allocator.peft_config.tfinal, allocator.peft_config.deltaT = 5, 20, 3
    layers = tuple(p.removesuffix("/kernel") for p in flatten(base) if p.endswith("/kernel") and p != "head/kernel")
    schedule = Schedule(5, 80, 3)
    ours = Allocation(layers, schedule, 0.5, 0.85, 0.85, 0.0)

    start, target = allocator.init_bgt, allocator.target_bgt
    assert start == 6 * 3 * 7 and target == 3 * 3 * 7
    steps = np.arange(1, 80)  # theirs fixes the ranks at 80, whether or not it is a third step
    expected = [allocator.budget_schedule(int(t)) for t in steps]
    prunes = np.asarray(jax.vmap(schedule.prunes)(steps))
    assert prunes.tolist() == [bool(mask) for _, mask in expected] and bool(schedule.prunes(80))
    budgets = np.asarray(jax.vmap(lambda t: schedule.budget(t, start, target))(steps))
    assert budgets.tolist() == [budget for budget, _ in expected]

    torch.manual_seed(2)
    state = None
    for _ in range(4):
        with torch.no_grad():
            for p in adapted.parameters():
                if p.requires_grad:
                    p.copy_(torch.randn(p.shape))
                    p.grad = torch.randn(p.shape) * (1 + torch.rand(1))  # layers that matter more, and less
        allocator.update_ipt(adapted.base_model.model)
        params, gradients = (unflatten(collected("adalora", adapted, names, base, of)) for of in (lambda p: p, lambda p: p.grad))  # fmt: skip
        state = ours.init(params) if state is None else state
        _, state = ours.update(params, state, params, gradients=gradients)
    entries = {p: flatten(state.sensitivity)[p] * a for p, a in flatten(state.uncertainty).items()}
    scores = ours.scores(entries)
    for step in (6, 30, 79):
        budget = int(schedule.budget(step, start, target))
        pattern = allocator.mask_to_budget(adapted.base_model.model, budget)
        kept = ours.most(scores, jnp.asarray(step))
        for name, module, layer in named(modules(names, flatten(base))):
            (path,) = module.layers
            if f"{path}/{SINGULAR}" in kept:
                # theirs masks everything up to the score in the place that the budget leaves out
                assert kept[f"{path}/{SINGULAR}"][layer].tolist() == pattern[f"{name}.lora_E.default"], (name, step)
        assert sum(int(k.sum()) for k in kept.values()) == budget == sum(map(sum, pattern.values()))
    assert {p.rsplit("/", 2)[-2] + "/" + p.rsplit("/", 1)[-1] for p in entries} == {LEFT, SINGULAR, RIGHT}


@pytest.mark.parametrize("recipe", ["norms", "biases"])
def test_recipes_of_full_fine_tuning(recipe, bases):  # noqa: F811
    """LN tuning as PEFT does it, and BitFit, which it has not: torch's gradients of every bias."""
    import peft as theirs
    import torch

    torch_model, plain, base, names, *_ = bases("llama-biases")
    if recipe == "norms":
        targets = ["input_layernorm", "post_attention_layernorm", "norm"]
        torch_model = theirs.get_peft_model(torch_model, theirs.LNTuningConfig(target_modules=targets))
    else:
        for name, parameter in torch_model.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
    torch_model = torch_model.double()
    logits = torch_model(input_ids=torch.from_numpy(TOKENS)).logits
    (logits * torch.from_numpy(WEIGHTS)).sum().backward()
    found = {
        name.removeprefix(ROOT).replace("ln_tuning_layers.default.", ""): p.grad.float().numpy()
        for name, p in torch_model.named_parameters()
        if p.requires_grad
    }
    partition = Partition.of(plain.shapes(), recipes.rules(recipe))
    trainable, frozen = partition.split(base)
    by_ours = {tensor.ours: tensor for tensor in names}
    expected = {}
    for path in flatten(trainable):
        tensor = by_ours[path]
        if tensor.stacked:
            expected[path] = np.stack([found.pop(tensor.name(layer)) for layer in range(plain.spec.layers)])
        else:
            expected[path] = found.pop(tensor.theirs)
    assert not found, "theirs trains more"
    weights = jnp.asarray(WEIGHTS)
    gradients = jax.jit(jax.grad(lambda t: jnp.sum(plain(partition.merge(t, frozen), TOKENS) * weights)))(trainable)
    for path, gradient in flatten(gradients).items():
        assert close(gradient, expected[path]) <= 3e-4, path
