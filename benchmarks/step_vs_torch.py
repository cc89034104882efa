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

    from benchmarks import setup

    made = setup.trainer(SHAPE, ROWS)
    step, state = made.program.train, made.init(0)
    batch = made.program.place(setup.batch(SHAPE, ROWS))

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
        print(f"{name:<10} {median * 1e3:6.1f} ms per step ({spread}), {tokens / median:,.0f} tokens/s")
    print(f"ptft_jax is {medians['torch'] / medians['ptft_jax']:.2f} times as fast as torch")


if __name__ == "__main__":
    main()
