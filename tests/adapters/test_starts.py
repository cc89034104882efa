"""LoRA from other starts (PiSSA, OLoRA, Gaussian), and with other rates (LoRA+)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.adapters.dora import Dora
from ptft_jax.adapters.lora import Lora, as_lora, difference, initial
from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten
from tests.adapters.common import built, check_merge, check_programs, check_start, check_training, only
from tests.helpers import LLAMA, SPEC, random_batch

TARGETS = ("blocks/attention/(query|value)", "blocks/mlp/.*")


def lora(init, kind=Lora, **changes):
    return dataclasses.replace(kind(4, 8.0, False, 0.1, TARGETS, init), **changes)


KERNEL = jax.random.normal(jax.random.key(0), (12, 7))


@pytest.mark.parametrize("kernel", [KERNEL, KERNEL.T], ids=["tall", "wide"])
@pytest.mark.parametrize("stabilized", [False, True])
def test_pissa_starts_at_the_best_approximation_of_its_rank(kernel, stabilized):
    method = lora("pissa", rank_stabilized=stabilized)
    a, b = initial(method, kernel, jax.random.key(0))
    singular = np.linalg.svd(kernel, compute_uv=False)
    # Eckart and Young: no product of rank 4 is nearer, in both norms.
    rest = np.linalg.svd(kernel - method.scale * a @ b, compute_uv=False)
    np.testing.assert_allclose(rest[0], singular[4], rtol=1e-4)
    np.testing.assert_allclose((rest**2).sum(), (singular[4:] ** 2).sum(), rtol=1e-4)
    np.testing.assert_allclose(a.T @ a, b @ b.T, atol=1e-5)  # the values are shared out evenly


@pytest.mark.parametrize("kernel", [KERNEL, KERNEL.T], ids=["tall", "wide"])
def test_olora_starts_at_a_qr_decomposition(kernel):
    a, b = initial(lora("olora"), kernel, jax.random.key(0))
    np.testing.assert_allclose(b @ b.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(np.triu(a.T), a.T)  # R is upper triangular
    # The first inputs' weights are wholly in the span of as many vectors of Q.
    np.testing.assert_allclose((a @ b)[:4], kernel[:4], atol=1e-5)


def test_a_gaussian_start():
    a, b = initial(lora("gaussian"), jnp.zeros((4000, 7)), jax.random.key(0))
    assert np.std(a) == pytest.approx(1 / 4, rel=0.05) and abs(a.mean()) < 0.01 and np.abs(a).max() > 0.7
    assert not b.any()


SLOW = pytest.mark.slow


@pytest.mark.parametrize("init, kind", [("pissa", Dora), *(pytest.param(*p, marks=SLOW) for p in (("pissa", Lora), ("olora", Lora), ("olora", Dora)))])  # fmt: skip
def test_a_start_changes_nothing_and_merges(init, kind):
    check_start(lora(init, kind))
    check_merge(lora(init, kind), **LLAMA)


@pytest.mark.heavy
@pytest.mark.parametrize("init", ["pissa", pytest.param("olora", marks=SLOW)])
def test_training(init):
    check_training(lora(init))


@SLOW
@pytest.mark.parametrize("method", [lora("pissa"), lora("olora", Dora), lora("gaussian", b_ratio=16.0)], ids=str)
def test_every_way_of_running_it_is_the_same(method):
    check_programs(method)


def test_it_is_the_model_whose_base_lost_what_the_adapter_starts_with():
    """What PiSSA describes: a base without its principal part, which a LoRA adapter holds. Same logits, same gradients."""
    method = lora("pissa", dropout=0.0)
    model, plain = Transformer(SPEC, method), Transformer(SPEC, lora("uniform", dropout=0.0))
    flat = flatten(jax.jit(model.init)(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(flat))
    noise = {p: 0.1 * jax.random.normal(k, flat[p].shape) for k, p in zip(keys, flat) if "/lora_" in p}
    ours = {p: a + noise.get(p, 0.0) for p, a in flat.items()}
    theirs = {p: a for p, a in ours.items() if "/start_" not in p}
    for path in flat:
        if path.endswith("start_a"):
            layer = path.removesuffix("/adapter/start_a")
            taken = method.scale * flat[path] @ flat[f"{layer}/adapter/start_b"]
            theirs[f"{layer}/kernel"] = theirs[f"{layer}/kernel"] - taken
    tokens = random_batch(0, rows=2)["inputs"]

    weights = jax.random.normal(jax.random.key(2), (2, 16, SPEC.vocab_size))
    chosen = {p: a for p, a in ours.items() if "/lora_" in p}

    def both(model, flat):
        logits, back = jax.vjp(lambda c: model(unflatten({**flat, **c}), tokens), chosen)
        return logits, back(weights)[0]

    one, other = jax.jit(lambda: both(model, ours))(), jax.jit(lambda: both(plain, theirs))()
    # Another order of float32 sums; the logits are of order 1.
    np.testing.assert_allclose(one[0], other[0], atol=2e-5)
    for path, gradient in one[1].items():
        np.testing.assert_allclose(gradient, other[1][path], atol=2e-4 * np.abs(other[1][path]).max(), err_msg=path)


def test_small_changes_are_not_lost_in_a_narrow_type():
    """A change of 1e-3 beside products of order 100, in bfloat16: taken apart it stays, as a difference it would not."""
    a0, b0 = (jax.random.normal(k, s) * 10 for k, s in zip(jax.random.split(jax.random.key(0)), ((8, 4), (4, 8))))
    a = a0 + 1e-3
    left, right = (m.astype(jnp.bfloat16) for m in difference(a, b0, a0, b0))
    exact = np.asarray(a - a0, np.float64) @ np.asarray(b0, np.float64)
    got = np.asarray(jnp.dot(left, right), np.float64)
    np.testing.assert_allclose(got, exact, atol=0.02 * np.abs(exact).max())


@pytest.mark.parametrize("init", ["uniform", "olora"])
def test_lora_plus_is_a_rate_of_its_own_for_b(init):
    method = lora(init, Dora, b_ratio=16.0)
    rates = flatten(Partition.of(Transformer(SPEC, method).shapes(), only(method)).multipliers())
    assert {p.rsplit("/", 1)[1] for p in rates} == {"lora_a", "lora_b", "magnitude"}
    assert rates == {path: 16.0 if path.endswith("lora_b") else 1.0 for path in rates}


@pytest.mark.parametrize("kind", [Lora, pytest.param(Dora, marks=SLOW)])
def test_as_plain_lora(kind):
    model, params, _ = built(lora("pissa", kind))
    method, flat = as_lora(model.adapt, flatten(params))
    assert type(method) is kind and (method.rank, method.scale) == (8, model.adapt.scale)
    assert not any("start" in path for path in flat)
    tokens = random_batch(0, rows=2)["inputs"]
    expected = jax.jit(model)(params, tokens)
    got = jax.jit(Transformer(model.spec, method))(unflatten(flat), tokens)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_the_start_may_not_train():
    method = lora("pissa")
    partition = Partition.of(Transformer(SPEC, method).shapes(), ((".*/adapter/.*", 1.0), (".*", 0.0)))
    with pytest.raises(
        UserError,
        match=r"(?s)tune.rates: these are fixed, as tune.lora made them.*start_a.*put \('\.\*/adapter/start_\[ab\]', 0.0\)",
    ):
        method.updates(partition, 10)


def test_a_ratio_that_other_rates_would_silence():
    rates = (("blocks[0]/.*", 0.0), (".*/adapter/.*", 1.0), (".*", 0.0))
    tune = configs.check({"tune": {"method": "lora", "rates": rates, "lora": {"b_ratio": 16.0}}}).tune
    with pytest.raises(UserError, match=r"b_ratio = 16: .* put \('\.\*/adapter/lora_b', 16\) first in tune.rates"):
        adapters.rates(tune)


def test_rates_of_their_own():
    assert lora("pissa").learning_rate == 2e-5 and lora("uniform").learning_rate == 2e-4
