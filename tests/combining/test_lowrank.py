"""Adapters as adapters again: exact sums, the nearest of a rank, and the names' meaning in PEFT."""

import itertools

import numpy as np
import pytest

from ptft_jax.combining import arithmetic, lowrank
from ptft_jax.combining.lowrank import Update

IN, OUT, LAYERS = 12, 9, 2


def updates(ranks=(3, 3), scales=(2.0, 0.5), lead=(LAYERS,)):
    rng = np.random.default_rng(1)
    return [
        Update(
            rng.normal(size=(*lead, IN, r)).astype(np.float32), rng.normal(size=(*lead, r, OUT)).astype(np.float32), s
        )
        for r, s in zip(ranks, scales)
    ]


def whole(update):
    return update.scale * (update.a.astype(np.float64) @ update.b)


def product(found):
    return found.a.astype(np.float64) @ found.b


@pytest.mark.parametrize("lead", [(), (LAYERS,), (LAYERS, 3)])
def test_concatenated_ranks_are_the_exact_sum(lead):
    two = updates((3, 1), lead=lead)
    found = lowrank.combine("cat", two, (1.5, -0.5), 4)
    assert found.a.shape == (*lead, IN, 4) and found.b.shape == (*lead, 4, OUT)
    # The factor that carries weight and scale is rounded to float32 once.
    np.testing.assert_allclose(product(found), 1.5 * whole(two[0]) - 0.5 * whole(two[1]), atol=1e-5)


def test_a_layer_that_an_adapter_lacks_adds_nothing():
    one = updates()[0]
    used = lowrank.padded([one, None], (3, 2), {"a": one.a.shape, "b": one.b.shape})
    found = lowrank.combine("cat", used, (2.0, 1.0), 5)
    assert found.a.shape[-1] == 5
    np.testing.assert_allclose(product(found), 2 * whole(one), atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 6, 8])
def test_svd_is_the_nearest_of_its_rank(rank):
    two, weights = updates(), (1.0, -0.7)
    found = lowrank.combine("svd", two, weights, rank)
    target = sum(w * whole(u) for u, w in zip(two, weights))
    u, s, v = np.linalg.svd(target)
    nearest = np.einsum("lir,lr,lro->lio", u[..., :rank], s[:, :rank], v[:, :rank])
    np.testing.assert_allclose(product(found), nearest, atol=1e-5)
    np.testing.assert_allclose(found.squared, (target**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(found.lost, (s[:, rank:] ** 2).sum(), rtol=1e-6, atol=1e-8)


def test_ways_on_updates_and_ways_on_factors():
    two, weights = updates(), (1.0, 0.5)
    found = lowrank.combine("ties_svd", two, weights, OUT, density=0.5)
    for layer in range(LAYERS):
        vectors = [arithmetic.trim(whole(u)[layer].astype(np.float32), 0.5) for u in two]
        np.testing.assert_allclose(product(found)[layer], arithmetic.ties(vectors, weights), atol=1e-5)
    found = lowrank.combine("linear", two, (1.0, -0.5), 3)
    a = np.sqrt(2.0) * two[0].a - np.sqrt(0.25) * two[1].a
    b = np.sqrt(2.0) * two[0].b + np.sqrt(0.25) * two[1].b
    np.testing.assert_allclose(found.a, a, atol=1e-6)
    np.testing.assert_allclose(found.b, b, atol=1e-6)


WEIGHTS = [(1.0, 1.0), (0.7, -0.4)]
DENSITY = 0.5


@pytest.mark.live
@pytest.mark.parametrize("way,weights", list(itertools.product(lowrank.WAYS, WEIGHTS)))
def test_as_peft_combines(way, weights, monkeypatch):
    """Two adapters of a torch layer, combined by PEFT and by us: the same update."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from peft.utils import merge_utils

    two = updates((3, 5) if way == "cat" or way.endswith("svd") else (3, 3), (4.0, 0.5), lead=())
    drawn = iter(())

    def pruned(tensor, density, rescale):  # what is dropped is ours to say
        return torch.from_numpy(next(drawn))

    monkeypatch.setattr(merge_utils, "random_pruning", pruned)
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(IN, OUT))
    configs = [
        peft.LoraConfig(r=u.rank, lora_alpha=u.scale * u.rank, target_modules=["0"], init_lora_weights=False)
        for u in two
    ]
    model = peft.PeftModel(layer, configs[0], adapter_name="first")
    model.add_adapter("second", configs[1])
    found = model.base_model.model[0]
    for name, u in zip(("first", "second"), two):
        found.lora_A[name].weight.data = torch.from_numpy(u.a.T.copy())
        found.lora_B[name].weight.data = torch.from_numpy(u.b.T.copy())
    rank = lowrank.rank_of(way, [u.rank for u in two])
    if "dare" in way:
        deltas = [("", [whole(u).astype(np.float32) for u in two])] if way.endswith("svd") else []
        deltas = deltas or [("a", [u.a for u in two]), ("b", [u.b for u in two])]
        places = [[p] if p else [] for p, _ in deltas]
        drawn = iter(
            arithmetic.drop(one, DENSITY, 3, "layer", *place, n).T.copy()
            for place, (_, both) in zip(places, deltas)
            for n, one in enumerate(both)
        )
    options = {} if way in ("cat", "svd", "linear") else {"density": DENSITY}
    model.base_model.add_weighted_adapter(["first", "second"], list(weights), "both", combination_type=way, **options)
    theirs = found.get_delta_weight("both").detach().numpy().T
    ours = product(lowrank.combine(way, two, weights, rank, density=DENSITY, seed=3, path="layer"))
    # PEFT computes in float32 throughout.
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
    assert np.abs(theirs).max() > 0.1


@pytest.mark.live
@pytest.mark.parametrize("rule", arithmetic.RULES)
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_as_peft_merges_vectors(rule, sign, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from peft.utils import merge_utils

    rng = np.random.default_rng(1)
    vectors = [rng.normal(size=(8, 5)).astype(np.float32) for _ in range(3)]
    weights = (1.0, -0.5, 0.25)
    prune = arithmetic.RULES[rule][0]
    ours = vectors
    if prune == "random":
        ours = [arithmetic.drop(v, DENSITY, 1, n) for n, v in enumerate(vectors)]
        drawn = iter(ours)
        monkeypatch.setattr(merge_utils, "random_pruning", lambda *_, **__: torch.from_numpy(next(drawn)))
    elif prune == "magnitude":
        ours = [arithmetic.trim(v, DENSITY) for v in vectors]
    options = {"density": DENSITY} if prune else {}
    options |= {"majority_sign_method": sign} if "ties" in rule else {}
    theirs = getattr(merge_utils, "task_arithmetic" if rule == "linear" else rule)(
        [torch.from_numpy(v) for v in vectors], torch.tensor(weights), **options
    )
    np.testing.assert_allclose(arithmetic.merge(rule, ours, weights, sign), theirs.numpy(), atol=1e-6)
