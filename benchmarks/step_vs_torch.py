"""Training throughput beside PyTorch, in one run: python -m benchmarks.step_vs_torch (needs torch).

Both train the same GPT-2-like model with AdamW and clipping on the same random tokens, in float32 on the CPU. The two
take turns, a few steps each, so that a machine whose speed drifts slows both; the ratio of the medians is the result.
"""

from __future__ import annotations

import statistics
import time

from ptft_jax.verbs.command import prepare_jax

SHAPE = dict(vocab=1024, length=128, layers=3, width=128, heads=4)
ROWS, ROUNDS, STEPS = 16, 8, 5


def ours():
    """A function that runs STEPS steps."""
    import jax
    import numpy as np

    from ptft_jax import config as configs
    from ptft_jax.model.spec import ModelSpec
    from ptft_jax.model.transformer import Transformer
    from ptft_jax.objectives.causal_lm import CausalLM
    from ptft_jax.optim import optimizers, schedules
    from ptft_jax.params.partition import Partition
    from ptft_jax.runs import state as states
    from ptft_jax.training.step import Step

    s = SHAPE
    model = Transformer(ModelSpec(s["vocab"], s["length"], s["layers"], s["width"], s["heads"], scan=False))
    partition = Partition.of(model.shapes(), ((".*", 1.0),))
    config = configs.check(configs.default()).optimizer
    optimizer = optimizers.build(config, schedules.build("constant", 1e-3, warmup=0, total=1), partition)
    params = model.init(jax.random.key(0))
    state = states.create(*partition.split(params), optimizer, jax.random.key(1), ema=False)
    step = jax.jit(Step(model, CausalLM(), partition, optimizer).train, donate_argnums=0)
    rows = np.random.default_rng(0).integers(0, s["vocab"], (ROWS, s["length"] + 1))
    weights = np.ones((ROWS, s["length"]), np.float32)
    batch = jax.device_put({"tokens": rows[:, :-1], "targets": rows[:, 1:], "weights": weights})

    def run():
        nonlocal state
        for _ in range(STEPS):
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    return run


def torchs():
    """The same in eager PyTorch, with its fused attention and fused AdamW."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from tests.parity import torch_gpt

    model = torch_gpt.GPT(**SHAPE, fused=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = torch.tensor(np.random.default_rng(0).integers(0, SHAPE["vocab"], (ROWS, SHAPE["length"] + 1)))

    def run():
        for _ in range(STEPS):
            loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return run


def main() -> None:
    prepare_jax()
    sides = {"ptft_jax": ours(), "torch": torchs()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(ROUNDS + 1):  # the first warms up and compiles
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            if round_:
                seconds[name].append((time.perf_counter() - began) / STEPS)
    tokens = ROWS * SHAPE["length"]
    medians = {name: statistics.median(row) for name, row in seconds.items()}
    for name, median in medians.items():
        spread = f"{min(seconds[name]) * 1e3:.0f} to {max(seconds[name]) * 1e3:.0f}"
        print(f"{name:<10} {median * 1e3:6.1f} ms a step ({spread}), {tokens / median:,.0f} tokens/s")
    print(f"ptft_jax is {medians['torch'] / medians['ptft_jax']:.2f} times as fast as torch")


if __name__ == "__main__":
    main()
