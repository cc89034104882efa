"""What fine-tuning methods cost: python -m benchmarks.methods (torch and peft for the second part; --alone leaves it out).

First, every method of `tune.method` as it is by default beside full fine-tuning: operations and memory of the compiled
training step, from the compiler. Then full, LoRA, DoRA and IA3 beside PEFT on PyTorch, on the same layers of the same GPT-2-like
model, with AdamW and clipping, in float32 on the CPU: the two sides of a method take turns, a few steps each, so that a machine
whose speed drifts slows both, and the ratio of the medians is the result. PyTorch's memory is what has to be there at once at
the end of the forward pass (parameters, gradients, moments, what was saved for the backward pass), without temporaries.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import turns
from ptft_jax.verbs.command import prepare_jax

SHAPE = dict(vocab=1024, length=128, layers=3, width=128, heads=4)
ROWS, ROUNDS, STEPS, RANK = 8, 6, 3, 8
LAYERS = ("blocks/(attention/out|mlp/(up|down))",)
# What both sides adapt: in PyTorch queries, keys and values are one layer, so they are left out.
SAME: Mapping[str, Mapping[str, Any]] = {
    "full": {"method": "full"},
    "LoRA": {"method": "lora", "lora": {"rank": RANK, "targets": LAYERS}},
    "DoRA": {"method": "lora", "lora": {"rank": RANK, "targets": LAYERS, "dora": True}},
    "IA3": {
        "method": "ia3",
        "ia3": {"targets": ("blocks/(attention/out|mlp/down)",), "feedforward": ("blocks/mlp/down",)},
    },
}


def ours(tune: Mapping[str, Any], scan: bool = False) -> tuple[Callable[[], None], Callable[[], dict], int, int]:
    """(a function that runs STEPS steps, one that gives the cost of the compiled step, trained parameters, optimizer's
    bytes) of a method given as `config.tune`."""
    import jax

    from benchmarks import setup
    from ptft_jax.parallel import cost

    made = setup.trainer(SHAPE, ROWS, scan=scan, tune=tune)
    step, state, partition = made.program.train, made.init(0), made.partition
    batch = made.program.place(setup.batch(SHAPE, ROWS))
    moments = sum(a.nbytes for a in jax.tree.leaves(state.optimizer))

    def run() -> None:
        nonlocal state
        for _ in range(STEPS):
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    return run, lambda: cost.cost(cost.executable(step, state, batch)), partition.count(True), moments


def theirs(name: str) -> tuple[Callable[[], None], int]:
    """(a function that runs STEPS steps, bytes) of the same method by PEFT."""
    import numpy as np
    import peft
    import torch
    from torch.nn import functional as F

    from benchmarks import torch_gpt

    model = torch_gpt.GPT(**SHAPE, fused=True)
    targets = [f"blocks.{i}.{layer}" for i in range(SHAPE["layers"]) for layer in ("proj", "fc", "fc_out")]
    if name in ("LoRA", "DoRA"):
        adapt = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=targets, use_dora=name == "DoRA")
        model = peft.inject_adapter_in_model(adapt, model)
    elif name == "IA3":
        targets = [t for t in targets if not t.endswith(".fc")]
        last = [t for t in targets if t.endswith("fc_out")]
        model = peft.inject_adapter_in_model(peft.IA3Config(target_modules=targets, feedforward_modules=last), model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = torch.tensor(np.random.default_rng(0).integers(0, SHAPE["vocab"], (ROWS, SHAPE["length"] + 1)))

    def run() -> None:
        for _ in range(STEPS):
            loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

    run()
    saved: dict[int, int] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    own = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    moments = sum(t.nbytes for row in optimizer.state.values() for t in row.values() if torch.is_tensor(t))
    gradients = sum(p.nbytes for p in trained)
    return run, sum((own | saved).values()) + moments + gradients


def alone() -> None:
    """Every method with its defaults, from the compiler."""
    from ptft_jax import adapters

    print(f"{'method':<12}{'trained':>10}{'optimizer':>12}{'GFLOP':>8}{'of full':>9}{'peak MiB':>10}{'of full':>9}")
    full: dict[str, Any] = {}
    for name in ("full", *adapters.METHODS):
        run, cost, trained, moments = ours({"method": name}, scan=True)
        run()
        step = cost()
        full = full or step
        flops, peak = step["flops"], step["peak_bytes"]
        shown = f"{flops / 1e9:>8.2f}{flops / full['flops']:>9.0%}" if flops else f"{'-':>8}{'-':>9}"
        print(
            f"{name:<12}{trained:>10,}{moments / 2**20:>8.2f} MiB{shown}{peak / 2**20:>10.1f}{peak / full['peak_bytes']:>9.0%}"
        )


def beside() -> None:
    """Full, LoRA, DoRA and IA3 here and by PEFT, in turns."""
    print(f"\n{'method':<8}{'here':>18}{'PEFT':>20}{'times as fast':>15}{'here MiB':>10}{'PEFT MiB':>10}")
    for name, tune in SAME.items():
        run, cost, _, _ = ours(tune)
        other, memory = theirs(name)
        run()
        rows = turns.summary(turns.alternate({"here": run, "PEFT": other}, rounds=(ROUNDS, ROUNDS))).values()
        rows = [{key: value / STEPS * 1e3 for key, value in row.items()} for row in rows]
        shown = [f"{row['seconds']:.1f} ms ({row['low']:.0f}-{row['high']:.0f})" for row in rows]
        ratio = rows[1]["seconds"] / rows[0]["seconds"]
        peak = cost()["peak_bytes"] / 2**20
        print(f"{name:<8}{shown[0]:>18}{shown[1]:>20}{ratio:>15.2f}{peak:>10.1f}{memory / 2**20:>10.1f}")


def main() -> None:
    prepare_jax()
    alone()
    if "--alone" not in sys.argv[1:]:
        beside()


if __name__ == "__main__":
    main()
