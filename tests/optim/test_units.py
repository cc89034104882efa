"""Optimizers that look at more than one number, against the same ones run on each layer's own parameters."""

import jax
import numpy as np
import optax
import pytest

from ptft_jax.optim import optimizers
from ptft_jax.params.apart import Apart
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten
from tests.helpers import EVERYTHING, optimizer_config

LAYERS = 5
# Above and below the 128 from which Adafactor factors, and a vector that a stack of layers makes a matrix of.
SHAPES = {
    "embed/tokens/embedding": (160, 130),
    "blocks/mlp/up/kernel": (LAYERS, 130, 140),
    "blocks/mlp/down/kernel": (LAYERS, 12, 6),
    "blocks/mlp/up/bias": (LAYERS, 140),
    "blocks/mlp/experts/up/kernel": (LAYERS, 3, 16, 8),
}
DEEP = {"blocks/mlp/up/bias": (200, 150), "blocks/mlp/down/kernel": (200, 12, 6), "embed/tokens/embedding": (16, 4)}
CUTS = {
    "whole": dict(),
    "cut by phases": dict(phases=[("one", (("blocks[1:3]/.*", 1.0), (".*", 0.0))), ("all", EVERYTHING)]),
    "cut by rules": dict(rates=(("blocks[:2]/.*", 0.0), (".*", 1.0))),
}


def problem(shapes, seed=0):
    """Parameters whose layers are of very different sizes, and gradients of three steps, too."""
    rng = np.random.default_rng(seed)

    def tree(spread):
        flat = {}
        for path, shape in shapes.items():
            size = 10.0 ** rng.uniform(-spread, spread, shape[:1] + (1,) * (len(shape) - 1))
            flat[path] = (rng.normal(size=shape) * (size if path.startswith("blocks") else 1)).astype(np.float32)
        return flat

    return tree(1.0), [tree(2.0) for _ in range(3)]


def reference(name, path):
    """The optimizer of one layer's parameter, without clipping, decay or rate: Optax's own."""
    if name == "muon" and path.endswith("/kernel") and path.startswith("blocks") and "experts" not in path:
        muon = optax.contrib.scale_by_muon(beta=0.9)
        return optax.chain(muon, optax.stateless(lambda u, _: 0.2 * max(u.shape) ** 0.5 * u))
    return {
        "adafactor": lambda: optax.chain(optax.adafactor(None), optax.scale(-1.0)),
        "muon": lambda: optax.scale_by_adam(0.9, 0.95),
        "adamw": lambda: optax.scale_by_adam(0.9, 0.95),
        "lion": lambda: optax.scale_by_lion(0.9, 0.95),
        "sgd": lambda: optax.trace(0.9),
    }[name]()


def by_layer(name, params, steps):
    """The updates of the last step by path, each layer (and the embedding) a problem of its own: {row: update}; of many layers,
    some."""
    out = {}
    for path, array in params.items():
        stacked, chain = path.startswith("blocks"), reference(name, path)
        update = jax.jit(chain.update)
        rows = range(0, len(array), max(len(array) // 6, 1)) if stacked else [...]
        out[path] = {}
        for row in rows:
            state = chain.init(array[row])
            for grads in steps:
                updates, state = update(grads[path][row], state, array[row])
            out[path][row] = np.asarray(updates)
    return out


@pytest.fixture(scope="module")
def expected():
    found = {}

    def of(name, deep):
        if (name, deep) not in found:
            found[name, deep] = by_layer(name, *problem(DEEP if deep else SHAPES))
        return found[name, deep]

    return of


@pytest.mark.parametrize(
    "name, cut, deep",
    [
        pytest.param(name, cut, False, marks=pytest.mark.slow if cut == "cut by phases" else ())
        for name in ("adafactor", "muon")
        for cut in CUTS
    ]
    + [
        pytest.param("adafactor", "whole", True, marks=pytest.mark.heavy),
        ("lion", "cut by phases", False),
        ("adamw", "cut by phases", False),
    ],
)
def test_a_layer_is_updated_as_if_it_were_alone(name, cut, deep, expected):
    params, steps = problem(DEEP if deep else SHAPES)
    options = {"rates": EVERYTHING} | CUTS[cut]
    partition = Partition.of(unflatten(params), options["rates"], phases=options.get("phases", ()))
    config = optimizer_config(name=name, clip_norm=0.0, weight_decay=0.0)
    phase = len(options.get("phases", ())) - 1 if "phases" in options else 0
    chain = optimizers.build(config, lambda _: 1.0, partition, phase=phase)
    mine, _ = partition.split(unflatten(params))
    state, update = chain.init(mine), jax.jit(chain.update)
    for grads in steps:
        updates, state = update(partition.split(unflatten(grads))[0], state, mine)
    for path, array in flatten(updates).items():
        leaf = next(f for f in partition.leaves if f.path == path)
        first, stop = leaf.layers or (0, len(array))
        # Float32 sums in another order; Muon's polynomials magnify them.
        tolerance = dict(atol=2e-3) if name == "muon" else dict(rtol=2e-5)
        compared = {row: a for row, a in expected(name, deep)[leaf.source].items() if row is ... or first <= row < stop}
        assert compared
        for row, theirs in compared.items():
            mine_now = array if row is ... else array[row - first]
            np.testing.assert_allclose(-mine_now, theirs, err_msg=f"{path} {row}", **tolerance)


@pytest.mark.heavy
def test_several_adapters_are_directed_apart():
    """Leaves [layers, adapters, ...]: each adapter's numbers are a unit of their own."""
    rng = np.random.default_rng(0)
    path, sizes = "blocks/mlp/up/adapter/lora_a", np.array([1e-3, 1.0, 1e3])[:, None, None]
    params = {path: rng.normal(size=(2, 3, 130, 140)).astype(np.float32)}
    grads = {path: (rng.normal(size=(2, 3, 130, 140)) * sizes).astype(np.float32)}
    partition = Partition.of(unflatten(params), EVERYTHING)
    config = optimizer_config(name="adafactor", clip_norm=0.0, weight_decay=0.0)
    chain = optimizers.build(config, lambda _: 1.0, partition, apart=Apart(3, frozenset({path})))
    tree = unflatten(params)
    updates, _ = jax.jit(chain.update)(unflatten(grads), chain.init(tree), tree)
    for layer, adapter in np.ndindex(2, 3):
        alone = optax.chain(optax.adafactor(None), optax.scale(-1.0))
        own = params[path][layer, adapter]
        theirs, _ = alone.update(grads[path][layer, adapter], alone.init(own), own)
        np.testing.assert_allclose(-flatten(updates)[path][layer, adapter], theirs, rtol=2e-5)


@pytest.mark.live
def test_adafactor_is_that_of_transformers():
    """On every layer's own matrix; it factors all matrices, so only those that both factor are compared."""
    import torch
    from transformers.optimization import Adafactor

    params, steps = problem({"blocks/mlp/up/kernel": (3, 130, 140), "embed/tokens/embedding": (160, 130)})
    config = optimizer_config(name="adafactor", clip_norm=0.0, weight_decay=0.0)
    chain = optimizers.build(config, lambda _: 1e-2, Partition.of(unflatten(params), EVERYTHING))
    mine = unflatten(params)
    state = chain.init(mine)
    rows = {path: list(a) if path.startswith("blocks") else [a] for path, a in params.items()}
    theirs = {path: [torch.nn.Parameter(torch.tensor(a)) for a in arrays] for path, arrays in rows.items()}
    optimizer = Adafactor(
        [p for ps in theirs.values() for p in ps], lr=1e-2, scale_parameter=True, relative_step=False, warmup_init=False,
        eps=(1e-30, 1e-3), clip_threshold=1.0, decay_rate=-0.8, beta1=None, weight_decay=0.0,
    )  # fmt: skip
    for grads in steps:
        updates, state = chain.update(unflatten(grads), state, mine)
        mine = optax.apply_updates(mine, updates)
        for path, tensors in theirs.items():
            for tensor, grad in zip(tensors, grads[path] if path.startswith("blocks") else [grads[path]]):
                tensor.grad = torch.tensor(grad)
        optimizer.step()
    for path, array in flatten(mine).items():
        found = np.stack([t.detach().numpy() for t in theirs[path]])
        np.testing.assert_allclose(array, found.reshape(array.shape), rtol=2e-5, atol=1e-7, err_msg=path)


# Clipping.

SHARED, ADDED = "embed/tokens/embedding", "blocks/mlp/up/adapter/lora_a"


def test_each_adapter_is_clipped_by_its_own_norm():
    """By numpy: of three adapters one is above the bound, and what they share is another group."""
    rng = np.random.default_rng(1)
    grads = {
        ADDED: (rng.normal(size=(2, 3, 4, 5)) * np.array([0.01, 10.0, 0.02])[:, None, None]).astype(np.float32),
        SHARED: (5 * rng.normal(size=(6, 4))).astype(np.float32),
    }
    partition = Partition.of(unflatten(grads), EVERYTHING)
    config = optimizer_config(name="sgd", momentum=0.0, clip_norm=1.0, weight_decay=0.0)
    chain = optimizers.build(config, lambda _: 1.0, partition, apart=Apart(3, frozenset({ADDED})))
    updates, _ = chain.update(unflatten(grads), chain.init(unflatten(grads)), unflatten(grads))
    found = flatten(updates)
    for n in range(3):
        own = grads[ADDED][:, n]
        np.testing.assert_allclose(-found[ADDED][:, n], own / max(np.linalg.norm(own), 1.0), rtol=1e-6)
    np.testing.assert_allclose(-found[SHARED], grads[SHARED] / max(np.linalg.norm(grads[SHARED]), 1.0), rtol=1e-6)
