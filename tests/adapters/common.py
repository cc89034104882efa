"""What holds for every method that adapts layers."""

import dataclasses

import jax
import numpy as np

from ptft_jax.adapters.base import ADDED, is_added
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.model.decode import Sampling, generate
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.precision import floating
from ptft_jax.params.rules import flatten, unflatten
from tests.helpers import SPEC, random_batch, train


def only(method):
    """The rules of a run of the method: of its leaves what trains, and nothing else."""
    return (*method.rates, (".*", 0.0))


def moved(params, seed=1, size=0.3):
    """The parameters with random adapters: what training might have made of their start."""
    flat = flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(flat))
    noise = {p: size * jax.random.normal(k, a.shape) for k, (p, a) in zip(keys, flat.items())}
    return unflatten({p: a + noise[p] if is_added(p) and floating(a) else a for p, a in flat.items()})


def built(method, **changes):
    """A model with the method, parameters with random adapters and biases, and the model without it."""
    model = Transformer(dataclasses.replace(SPEC, **changes), method)
    flat = flatten(moved(jax.jit(model.init)(jax.random.key(0))))
    for number, path in enumerate(flat):
        if path.endswith("/bias"):
            flat[path] = jax.random.normal(jax.random.key(number), flat[path].shape)
    return model, unflatten(flat), Transformer(model.spec)


def dense(method, params):
    """The parameters of a plain model that a method adapts: a quantized base's are its dequantized ones."""
    base = unflatten({p: a for p, a in flatten(params).items() if not is_added(p)})
    return method.decode(base) if isinstance(method, QuantizedBase) else base


def check_merge(method, **changes):
    """Merged parameters are a plain model's, and its logits those of the adapted one."""
    model, params, plain = built(method, **changes)
    merged = jax.jit(method.merge)(params)
    assert {p: a.shape for p, a in flatten(merged).items()} == {p: a.shape for p, a in flatten(plain.shapes()).items()}
    tokens = random_batch(0, rows=2)["inputs"]
    adapted, run = jax.jit(model)(params, tokens), jax.jit(plain)
    scale = np.abs(adapted).max()
    # One matrix product against several: float32 rounding, relative to the largest logit.
    np.testing.assert_allclose(adapted / scale, run(merged, tokens) / scale, atol=1e-5)
    assert np.abs(adapted - run(dense(method, params), tokens)).max() > 3e-3 * scale, "the adapter does nothing"


def check_start(method, **changes):
    """A new adapter on given parameters leaves the logits as they are; on a quantized base, as those of its kernels. A
    moved one does not."""
    spec = dataclasses.replace(SPEC, **changes)
    model, plain = Transformer(spec, method), Transformer(spec)
    base = jax.jit(plain.init)(jax.random.key(3))
    params = jax.jit(model.init)(jax.random.key(0), base)
    if isinstance(method, QuantizedBase):
        base = method.decode(method.encode(base))
    kept = flatten(dense(method, params))
    for path, array in flatten(base).items():
        np.testing.assert_array_equal(array, kept[path])
    tokens = random_batch(0, rows=2)["inputs"]
    run, expected = jax.jit(model), jax.jit(plain)(base, tokens)
    # Rounding of |W| / |W|, at most.
    np.testing.assert_allclose(run(params, tokens), expected, atol=2e-6)
    assert np.abs(run(moved(params), tokens) - expected).max() > 1e-3, "the adapter does nothing"


def check_training(method, rates=None, steps=2, **changes):
    """Trainable leaves move, frozen ones stay bit for bit."""
    got = train(adapter=method, rates=rates or only(method), steps=steps, **changes)
    before, after = flatten(got.start.trainable), flatten(got.state.trainable)
    assert before and all(is_added(path) for path in before)
    for path, array in before.items():
        assert not np.array_equal(array, after[path]), f"{path} did not move"
    for path, array in flatten(got.start.frozen).items():
        np.testing.assert_array_equal(array, flatten(got.state.frozen)[path], err_msg=path)
    return got


def check_packed(method, **changes):
    """Sequences in one packed row get the logits that they get alone."""
    model, params, _ = built(method, **{"max_length": 32, "init_std": 0.3, **changes})
    a, b = random_batch(0, rows=1, length=6)["inputs"], random_batch(1, rows=1, length=9)["inputs"]
    positions, segments = np.array([[*range(6), *range(9), 0]]), np.array([[1] * 6 + [2] * 9 + [0]])
    run = jax.jit(model)
    tokens = np.concatenate([a, b, np.zeros((1, 1), np.int32)], axis=1)
    packed = run(params, Inputs(tokens, positions=positions, segments=segments))
    np.testing.assert_allclose(packed[:, :6], run(params, a), atol=5e-5)
    np.testing.assert_allclose(packed[:, 6:15], run(params, b), atol=5e-5)
    assert np.isfinite(packed).all()


def check_generation(method, **changes):
    """What is generated with a cache is what the model finds likeliest without one."""
    model, params, _ = built(method, **{"max_length": 48, "init_std": 0.3, **changes})
    prompts = [[1, 2, 3], [11, 5] * 9]
    rows = generate(model, params, prompts, max_new_tokens=10, sampling=Sampling(temperature=0))
    forward = jax.jit(model)
    for prompt, row in zip(prompts, rows):
        text = np.zeros((1, model.max_tokens), np.int32)
        text[0, : len(prompt)] = prompt
        for n in range(len(prompt), len(prompt) + 10):
            text[0, n] = int(np.argmax(forward(params, text)[0, n - 1]))
        assert row.ids == text[0, len(prompt) : len(prompt) + 10].tolist()


def check_programs(method, **changes):
    """The same losses sharded, in micro-batches, unrolled; per device; with some layers' adapters frozen."""
    shapes = flatten(Transformer(dataclasses.replace(SPEC, **changes), method).shapes())
    in_blocks = any(is_added(path) and path.startswith("blocks/") for path in shapes)
    rates = (((f"blocks[0]/{ADDED}", 0.0),) if in_blocks else ()) + only(method)
    one = train(adapter=method, rates=rates, **changes)
    for other in (dict(devices=8, fsdp=2, tensor=2, micro=2, scan=False), dict(devices=8, kind="pmap")):
        got = train(adapter=method, rates=rates, **other, **changes)
        # Sums in another order, over three steps (as tests/parallel/test_invariance.py).
        np.testing.assert_allclose(got.losses, one.losses, atol=5e-6, rtol=0, err_msg=str(other))
        np.testing.assert_allclose(got.grad_norms, one.grad_norms, rtol=1e-4, err_msg=str(other))
