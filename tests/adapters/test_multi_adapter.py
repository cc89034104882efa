"""Several adapters in one batch: each row its own."""

import dataclasses
import operator

import jax
import numpy as np
import pytest

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.adapters.adalora import AdaLora
from ptft_jax.adapters.bd_lora import BdLora
from ptft_jax.adapters.composed import Composed
from ptft_jax.adapters.gralora import Gralora
from ptft_jax.adapters.hira import Hira
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.miss import Miss
from ptft_jax.adapters.multi_adapter import MultiAdapter, of
from ptft_jax.adapters.oft import Oft
from ptft_jax.adapters.osf import Osf
from ptft_jax.adapters.prompt import Prompt
from ptft_jax.adapters.shira import Shira
from ptft_jax.adapters.vera import Vera
from ptft_jax.errors import UserError
from ptft_jax.model import decode
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten
from tests.adapters.common import moved
from tests.helpers import SPEC, optimizer_config, random_batch, train

TARGETS = ("blocks/attention/(query|value)", "blocks/mlp/down")
LORA = adapters.METHODS["lora"](configs.check({"tune": {"lora": {"rank": 2, "targets": TARGETS}}}).tune.lora)
DORA = adapters.METHODS["lora"](
    configs.check({"tune": {"lora": {"rank": 2, "dora": True, "targets": TARGETS}}}).tune.lora
)
IA3 = adapters.METHODS["ia3"](configs.check({}).tune.ia3)
OTHERS = {
    "pissa": dataclasses.replace(LORA, init="pissa"),
    "adalora": AdaLora(4, 2, 8.0, 0.0, 0.0, 0.3, 1, 0.85, 0.85, 0.1, TARGETS),
    "vera": Vera(16, 0.1, 0.0, 0, TARGETS),
    "oft": Oft(8, TARGETS),
    "shira": Shira(2, TARGETS),
    "miss": Miss(5, 0.0, TARGETS),
    "gralora": Gralora(4, 8.0, 2, 2, 0.0, TARGETS),
    "hira": Hira(3, 0.0, TARGETS),
    "bd_lora": BdLora(4, 8.0, 2, 0.0, TARGETS),
    "osf": Osf(0.5, TARGETS),
}
NAMES = ("a", "b", "c")
HEAVY = pytest.mark.heavy


def several(one, **changes):
    method = MultiAdapter(one, NAMES)
    model = Transformer(dataclasses.replace(SPEC, **changes), method)
    return method, model, moved(jax.jit(model.init)(jax.random.key(0)))


@pytest.mark.parametrize(
    "one",
    [LORA, DORA, IA3, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS.values())],
    ids=["lora", "dora", "ia3", *OTHERS],
)
def test_a_row_is_what_its_adapter_alone_makes_of_it(one):
    method, model, params = several(one)
    tokens, which = random_batch(0, rows=4)["inputs"], np.asarray([2, 0, 1, 2])
    together = jax.jit(model)(params, Inputs(tokens, adapters=which))
    alone = jax.jit(Transformer(model.spec, one))
    for row, number in enumerate(which):
        expected = alone(method.pick(params, number), tokens)[row]
        # The same products, in another order.
        np.testing.assert_allclose(together[row], expected, atol=2e-5)
    assert np.abs(together[0] - alone(method.pick(params, 0), tokens)[0]).max() > 1e-2


def test_dropout_is_that_of_the_row():
    one = dataclasses.replace(LORA, dropout=0.5)
    method, model, params = several(one)
    tokens, which = random_batch(0, rows=3)["inputs"], np.asarray([1, 1, 0])
    keys = jax.random.split(jax.random.key(5), 3)
    together = jax.jit(model)(params, Inputs(tokens, adapters=which, keys=keys))
    alone = jax.jit(Transformer(model.spec, one))
    for row, number in enumerate(which):
        np.testing.assert_allclose(
            together[row], alone(method.pick(params, number), Inputs(tokens, keys=keys))[row], atol=2e-5
        )


def test_gradients_reach_only_the_adapters_of_the_rows():
    _, model, params = several(LORA)
    tokens = random_batch(0, rows=2)["inputs"]

    def total(params):
        return model(params, Inputs(tokens, adapters=np.asarray([0, 2]))).var()

    for path, grad in flatten(jax.jit(jax.grad(total))(params)).items():
        if "/adapter/" in path:
            assert np.abs(grad[:, 0]).max() > 0 and np.abs(grad[:, 2]).max() > 0, path
            np.testing.assert_array_equal(grad[:, 1], 0.0)


def rows_of(batch, which):
    """The rows of a batch that have the adapter, and those of others with nothing to learn."""
    return {k: v for k, v in batch.items() if k != "adapters"} | {
        "weights": batch["weights"] * (batch["adapters"] == which)[:, None]
    }


@pytest.mark.parametrize(
    "optimizer, other, rounding",
    [  # sums of other rows' zeros, and in another order; Adafactor's first step divides each gradient by its own size
        pytest.param(dict(name="sgd", momentum=0.9, clip_norm=0.05), dict(), 2e-4, marks=pytest.mark.slow),
        pytest.param(dict(clip_norm=0.05, eps=1e-4), dict(devices=4, fsdp=2, micro=2), 2e-4, marks=pytest.mark.slow),
        pytest.param(dict(name="adafactor", clip_norm=0.05), dict(devices=4, kind="pmap"), 1e-2, marks=HEAVY),
    ],
    ids=str,
)
def test_each_is_trained_as_if_it_were_alone(optimizer, other, rounding):
    """By runs of one adapter on its rows alone: as many as the rows are, of whatever weight; and the others' data may be
    anything. Under a clipped norm, which is that of each by itself."""
    method = MultiAdapter(LORA, ("a", "b"))
    options = dict(
        rates=(*method.rates, (".*", 0.0)), optimizer=optimizer_config(**optimizer), dropout=0.0, ema=0.0, layers=2
    )
    spec = dataclasses.replace(SPEC, layers=2)
    base = moved(jax.jit(Transformer(spec, method).init)(jax.random.key(0)))
    which = np.asarray([0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1], np.int32)
    batches = [{**random_batch(i), "adapters": which} for i in range(3)]
    together = train(adapter=method, base=base, batches=batches, **options, **other).state.trainable
    for number in (0, 1):
        own = [rows_of(batch, number) for batch in batches]
        alone = train(adapter=LORA, base=method.pick(base, number), batches=own, **options).state.trainable
        start = flatten(method.pick(base, number))
        for path, array in flatten(alone).items():
            mine = flatten(together)[path][:, number]
            size = np.abs(np.asarray(array) - start[path]).max()
            np.testing.assert_allclose(mine, array, atol=rounding * size, rtol=0, err_msg=path)
    changed = [
        {**b, "inputs": np.where(which[:, None] == 1, (b["inputs"] * 7 + 3) % 64, b["inputs"])}
        | {"weights": np.where(which[:, None] == 1, b["weights"] * 30, b["weights"])}
        for b in batches
    ]
    after = train(adapter=method, base=base, batches=changed, **options, **other).state.trainable
    for path, array in flatten(after).items():
        np.testing.assert_allclose(array[:, 0], flatten(together)[path][:, 0], rtol=1e-6, atol=1e-9, err_msg=path)
        assert np.abs(array[:, 1] - flatten(together)[path][:, 1]).max() > 0


def test_adapters_start_apart():
    _, model, _ = several(LORA)
    a = flatten(jax.jit(model.init)(jax.random.key(0)))["blocks/mlp/down/adapter/lora_a"]
    assert a.shape[:2] == (SPEC.layers, 3) and not np.array_equal(a[:, 0], a[:, 1])


def test_generation_with_each_rows_adapter():
    method, model, params = several(LORA)
    prompts, which = [[3, 5, 2], [7], [1, 4]], [2, 0, 1]
    options = {"max_new_tokens": 6, "sampling": decode.Sampling(temperature=0.0)}
    together = decode.generate(model, params, prompts, adapters=which, **options)
    alone = Transformer(model.spec, LORA)
    for prompt, number, row in zip(prompts, which, together):
        assert row.ids == decode.generate(alone, method.pick(params, number), [prompt], **options)[0].ids


@pytest.mark.heavy
def test_each_is_trained_as_the_method_would_train_one():
    """AdaLoRA's penalty, and a budget for each adapter, however much more the others matter."""
    method = MultiAdapter(OTHERS["adalora"], NAMES)
    shapes = Transformer(SPEC, method).shapes()
    partition = Partition.of(shapes, (*method.rates, (".*", 0.0)))
    updates = method.updates(partition, 10)
    params, _ = partition.split(jax.tree.map(lambda a: jax.numpy.ones(a.shape), shapes))
    chain = updates.finished[0]
    state = chain.init(params)
    assert len(updates.gradients) == 1
    assert {a.shape for a in flatten(state.kept).values()} == {(SPEC.layers, 3, 4)}

    def slope(a):  # a hundred times larger from each adapter to the next
        draws = jax.random.uniform(jax.random.key(a.size), a.shape, minval=0.5)
        return draws * 100.0 ** np.arange(3).reshape(1, 3, *[1] * (a.ndim - 2))

    gradients = jax.tree.map(slope, params)
    for _ in range(7):  # the last pruning
        _, state = chain.update(params, state, params, gradients=gradients)
    kept = np.concatenate([np.moveaxis(a, 1, 0).reshape(3, -1) for a in flatten(state.kept).values()], axis=1)
    assert kept.sum(1).tolist() == [kept.shape[1] // 2] * 3
    alone = OTHERS["adalora"].updates(
        Partition.of(Transformer(SPEC, method.one).shapes(), (*method.rates, (".*", 0.0))), 10
    )
    for number in range(3):  # as it would be without the others
        one, slopes = (jax.tree.map(operator.itemgetter((slice(None), number)), t) for t in (params, gradients))
        state_1 = alone.finished[0].init(one)
        for _ in range(7):
            _, state_1 = alone.finished[0].update(one, state_1, one, gradients=slopes)
        found = np.concatenate([np.asarray(a).reshape(-1) for a in flatten(state_1.kept).values()])
        np.testing.assert_array_equal(kept[number], found)


def test_what_cannot_be():
    method, model, params = several(LORA)
    with pytest.raises(UserError, match="which row has which adapter is not said"):
        model(params, random_batch(0, rows=2)["inputs"])
    with pytest.raises(UserError, match="the model has one"):
        plain = Transformer(model.spec)
        plain(plain.init(jax.random.key(0)), Inputs(random_batch(0, rows=2)["inputs"], adapters=np.zeros(2, np.int32)))
    with pytest.raises(UserError, match="a method that changes layers, not for tune.prompt"):
        of(Prompt(4, "random"), NAMES)
    with pytest.raises(UserError, match="for one method that changes layers, not for several methods joined by"):
        of(Composed((LORA, IA3)), NAMES)
    with pytest.raises(UserError, match="'a' is there twice"):
        of(LORA, ("a", "b", "a"))
    for name in ("test", "a/b"):
        with pytest.raises(UserError, match=f"'{name}': expected letters"):
            of(LORA, ("a", name))
    with pytest.raises(UserError, match="choose one"):
        method.merge(params)
    with pytest.raises(UserError, match="no adapter 'd', only a, b, c"):
        method.number("d", "run")
    outside = MultiAdapter(dataclasses.replace(LORA, targets=("head",)), NAMES)
    with pytest.raises(UserError, match="into blocks alone, not into head"):
        outside.check(Transformer(dataclasses.replace(SPEC, tied=False)).shapes())
    assert isinstance(LORA, Lora)
