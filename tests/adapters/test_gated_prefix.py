"""Gated prefixes: the start, the closed form, the layers that train, packing, generation."""

import numpy as np
import pytest

from ptft_jax.adapters.bottleneck import Bottleneck
from ptft_jax.adapters.composed import Composed
from ptft_jax.adapters.gated_prefix import GatedPrefix
from ptft_jax.adapters.lora import Lora
from ptft_jax.errors import UserError
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten
from tests.adapters.common import check_generation, check_packed, check_programs, check_start
from tests.helpers import LLAMA, SPEC, train

N = 4
QUERY_VALUE = Lora(2, 4.0, False, 0.0, ("blocks/attention/(query|value)",))
GATES = "blocks/attention/prefix/gate"


def test_a_new_prefix_changes_nothing():
    check_start(GatedPrefix(N, 0), **LLAMA, query_key_norm="all")


def test_packed_rows_of_parallel_blocks():
    check_packed(GatedPrefix(N, 0), positions="rotary", parallel=True, window=4)


def test_generation_beside_bottlenecks():
    check_generation(Composed((GatedPrefix(N, 0), Bottleneck("houlsby", 6, "relu", 0.0, 0.0))), parallel=True)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(GatedPrefix(N, 2), id="alone", marks=pytest.mark.slow),
        pytest.param(Composed((QUERY_VALUE, GatedPrefix(N, 2))), id="lora", marks=pytest.mark.heavy),
    ],
)
def test_the_last_layers_train(method):
    got = train(adapter=method, rates=(*method.rates, (".*", 0.0)), steps=2)
    assert got.partition.table()[0]["group"] == "trainable"
    paths = {leaf.path: leaf.trains for leaf in got.partition.leaves if "/prefix/" in leaf.path}
    assert paths == {
        f"blocks[{c}]/attention/prefix/{n}": c != "0:1" for c in ("0:1", "1:3") for n in ("prompt", "gate")
    }
    after = flatten(got.state.trainable)
    assert np.all(after["blocks[1:3]/attention/prefix/gate"] != 0)
    frozen = flatten(got.state.frozen)
    assert np.all(np.asarray(frozen["blocks[0:1]/attention/prefix/gate"]) == 0)
    for path, array in flatten(got.start.frozen).items():
        np.testing.assert_array_equal(array, frozen[path], err_msg=path)
    if isinstance(method, Composed):  # in all layers
        lower = [p for p in after if p.startswith("blocks[0:1]/")]
        assert len(lower) == 4 and all("lora" in p for p in lower)


def test_impossible_prefixes():
    with pytest.raises(
        UserError, match="tune.gated_prefix.layers = 3: expected fewer than the model's 3, or 0 for all"
    ):
        GatedPrefix(N, 3).check(Transformer(SPEC).shapes())
    from ptft_jax.adapters.prefix import Prefix

    with pytest.raises(UserError, match="another method of config.tune.method changes blocks/attention already"):
        Transformer(SPEC, Composed((Prefix(N, 0), GatedPrefix(N, 0)))).shapes()


@pytest.mark.slow
def test_every_way_of_running_it_is_the_same():
    check_programs(GatedPrefix(N, 0), **LLAMA)
