"""The training problem both sides are given: weights and batches from numpy alone, no framework involved."""

import numpy as np

SHAPE = dict(vocab=128, length=32, layers=2, width=48, heads=4)
ADAMW = dict(learning_rate=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, clip=1.0)
STEPS = 100


def weights():
    """{ptft_jax path: float32 array}, deliberately larger than an initialization, so that every part matters."""
    rng = np.random.default_rng(1234)
    s, d = SHAPE, SHAPE["width"]
    layers = s["layers"]

    def normal(*shape):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)

    flat = {
        "embed/tokens/embedding": normal(s["vocab"], d),
        "embed/positions/embedding": normal(s["length"], d),
        "final_norm/scale": 1 + normal(d),
        "final_norm/bias": normal(d),
    }
    for norm in ("attention_norm", "mlp_norm"):
        flat[f"blocks/{norm}/scale"] = 1 + normal(layers, d)
        flat[f"blocks/{norm}/bias"] = normal(layers, d)
    sizes = {f"attention/{n}": (d, d) for n in ("query", "key", "value", "out")}
    sizes |= {"mlp/up": (d, 4 * d), "mlp/down": (4 * d, d)}
    for name, (size_in, size_out) in sizes.items():
        flat[f"blocks/{name}/kernel"] = normal(layers, size_in, size_out)
        flat[f"blocks/{name}/bias"] = normal(layers, size_out)
    return flat


def batches():
    """100 (tokens, targets) pairs of a learnable sequence: mostly a fixed successor, sometimes noise."""
    rng = np.random.default_rng(99)
    successor = rng.permutation(SHAPE["vocab"])
    for _ in range(STEPS):
        rows = np.empty((8, SHAPE["length"] + 1), np.int64)
        rows[:, 0] = rng.integers(0, SHAPE["vocab"], 8)
        for t in range(SHAPE["length"]):
            noise = rng.random(8) < 0.2
            rows[:, t + 1] = np.where(noise, rng.integers(0, SHAPE["vocab"], 8), successor[rows[:, t]])
        yield rows[:, :-1], rows[:, 1:]
