"""What is in a compiled training step: nothing is computed, kept or exchanged for what is frozen.

Full fine-tuning is the control of every check: what a LoRA step must not have is found in it by the same means.
"""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest

from ptft_jax.adapters.base import ADDED
from ptft_jax.adapters.lora import Lora
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.optim import optimizers, schedules
from ptft_jax.parallel import cost, sharding
from ptft_jax.parallel import mesh as meshes
from ptft_jax.params import recipes
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten
from ptft_jax.runs import state as states
from ptft_jax.training.programs import JitProgram
from ptft_jax.training.step import Step
from tests.helpers import EVERYTHING, SPEC, optimizer_config

# No size is another's product: a contraction over the tokens of a device is a gradient of parameters.
ROWS, LENGTH, LAYERS = 16, 20, 2
LORA = Lora(
    rank=2,
    alpha=4.0,
    rank_stabilized=False,
    dropout=0.0,
    targets=("blocks/attention/(query|key|value|out)", "blocks/mlp/(up|down)"),
)
ONLY_LORA = ((ADDED, 1.0), (".*", 0.0))


@functools.cache
def programs(kind, scan=True, devices=1, tensor=1, context=1):
    """(parsed training step, its cost, its state's shapes) of a method, compiled from shapes alone."""
    mesh = meshes.make(1, 0, jax.devices()[:devices], tensor=tensor, context=context)
    spec = dataclasses.replace(SPEC, layers=LAYERS, max_length=LENGTH, scan=scan)
    adapter = LORA if kind == "lora" else None
    model = Transformer(spec, adapter, sharding.Rows(mesh))
    rates = {"full": EVERYTHING, "lora": ONLY_LORA}.get(kind) or recipes.rules(kind)
    partition = Partition.of(model.shapes(), rates)
    chain = optimizers.build(optimizer_config(), schedules.build("constant", 1e-3, warmup=0, total=1), partition)
    split = jax.eval_shape(partition.split, model.shapes())
    like = jax.eval_shape(functools.partial(states.create, optimizer=chain, ema=False), *split, rng=jax.random.key(0))
    by_path = sharding.of_params(model.shapes(), sharding.DEFAULT_RULES, mesh)
    program = JitProgram(Step(model, CausalLM(), partition, chain), mesh, sharding.of_state(like, by_path, mesh))
    batch = {k: jax.ShapeDtypeStruct((ROWS, LENGTH), t) for k, t in BATCH.items()}
    compiled = cost.executable(program.train, like, batch)
    return cost.parse(compiled.as_text()), cost.cost(compiled), like


BATCH = {"inputs": np.int32, "targets": np.int32, "weights": np.float32}


def weight_gradients(program, devices=1):
    """{sorted shape: times} of products that sum over a device's tokens in the backward pass."""
    found = collections.Counter()
    for dot in program.dots():
        if dot.contracted == ROWS * LENGTH // devices and "transpose" in dot.scope:
            found[tuple(sorted(dot.shapes[0]))] += dot.times
    return found


def kernels(state):
    """Sorted shapes of one layer's kernels, with that of the embedding."""
    flat = {**flatten(state.frozen), **flatten(state.trainable)}
    found = {tuple(sorted(a.shape[1:])) for p, a in flat.items() if p.endswith("/kernel")}
    return found | {tuple(sorted(flat["embed/tokens/embedding"].shape))}


# FLOPs of a forward pass, two a multiply-add: a block's kernels, its scores and mixing, the head, the adapters.
TOKENS = ROWS * LENGTH
KERNELS = 2 * TOKENS * (2 * 32 * 32 + 2 * 32 * 16 + 2 * 32 * 128)
ATTENTION = 2 * 2 * TOKENS * 32 * LENGTH
HEAD = 2 * TOKENS * 32 * 64
ADAPTERS = 2 * TOKENS * 2 * (2 * (32 + 32) + 2 * (32 + 16) + 2 * (32 + 128))
FORWARD = LAYERS * (KERNELS + ATTENTION) + HEAD


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.heavy)])
def test_a_lora_step_has_no_gradient_of_a_frozen_kernel(scan):
    lora, _, state = programs("lora", scan)
    full, _, _ = programs("full", scan)
    frozen = kernels(state)
    assert len(frozen) == 4, "attention's two sizes, the MLP's, the embedding's"
    assert weight_gradients(full).keys() == frozen, "the control: full fine-tuning has them all"
    found = weight_gradients(lora)
    assert not found.keys() & frozen
    assert sum(found.values()) == 2 * 6 * LAYERS and all(min(shape) == LORA.rank for shape in found)


def test_flops_are_those_that_the_shapes_say():
    """Scanned layers count as often as they run. A backward pass takes two products for each of the forward pass, and one
    for each with a frozen kernel."""
    full, unrolled, lora = (programs(*which)[0] for which in (("full",), ("full", False), ("lora",)))
    assert full.flops == unrolled.flops == 3 * FORWARD
    forward = FORWARD + LAYERS * ADAPTERS
    assert lora.flops == forward + LAYERS * (KERNELS + 2 * ATTENTION + 2 * ADAPTERS) + HEAD
    assert full.complete and lora.complete
    figures, apart = programs("full")[1], programs("full", False)[1]
    assert figures["flops"] == full.flops and figures["devices"] == 1
    assert figures["compiler_flops"] < full.flops < apart["compiler_flops"], "which takes a loop's body once"


def test_no_backward_pass_enters_frozen_layers_below():
    program, _, _ = programs("last:1")
    assert program.flops == FORWARD + HEAD + 2 * (KERNELS + ATTENTION)
    assert weight_gradients(program)[(32, 128)] == 2


@pytest.mark.heavy
def test_no_gradient_of_a_frozen_kernel_is_exchanged():
    def reduced(kind):
        program, _, state = programs(kind, devices=8)
        sums = [o for o in program.collectives() if o.kind in ("all-reduce", "reduce-scatter")]
        assert sums, "the loss is summed, at least"
        return {tuple(sorted(shape)) for o in sums for shape in o.shapes}, kernels(state)

    lora, frozen = reduced("lora")
    full, _ = reduced("full")
    assert full >= frozen, "the control"
    assert not lora & frozen and {(2, 32), (2, 128), (2, 16)} <= lora
    assert not weight_gradients(programs("lora", devices=8)[0], 8).keys() & frozen


def test_moments_are_kept_for_what_trains_alone():
    def size(tree):
        return sum(a.size for a in jax.tree.leaves(tree))

    for kind in ("lora", "full", "last:1"):
        _, figures, state = programs(kind)
        counters = size(state.optimizer) - 2 * size(state.trainable)
        assert 0 <= counters <= 4, kind
        # Everything is an argument once: parameters, moments, a batch; all but the batch comes out in its place.
        numbers = size((state.trainable, state.frozen)) + 2 * size(state.trainable) + 3 * TOKENS
        assert figures["argument_bytes"] == pytest.approx(4 * numbers, abs=64)
        assert figures["peak_bytes"] >= figures["argument_bytes"] + figures["temporary_bytes"]
    assert programs("lora")[1]["argument_bytes"] < 0.5 * programs("full")[1]["argument_bytes"]


def test_a_program_that_ran_is_not_compiled_again(caplog):
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y @ y, x))
    x = jax.numpy.ones((4, 4))
    with jax.log_compiles():
        step(x)
        assert "Compiling" in caplog.text, "the control"
        caplog.clear()
        compiled = cost.executable(step, x)
        assert "Compiling" not in caplog.text
    assert cost.cost(compiled)["flops"] == 3 * 2 * 4**3


def test_what_cannot_be_counted_is_said():
    def flops(trips):
        loop = jax.jit(lambda x, n: jax.lax.fori_loop(0, n, lambda _, y: y @ y, x))
        return cost.cost(loop.lower(jax.ShapeDtypeStruct((4, 4), np.float32), trips).compile())["flops"]

    assert flops(jax.ShapeDtypeStruct((), np.int32)) is None, "a loop of unknown length"
    library = """HloModule m
ENTRY %main (a: f32[2,3]) -> f32[2,2] {
  %a = f32[2,3]{1,0} parameter(0)
  ROOT %c = f32[2,2]{1,0} custom-call(%a, %a), custom_call_target="__cublas$gemm"
}
"""
    assert not cost.parse(library).complete
