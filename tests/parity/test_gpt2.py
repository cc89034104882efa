"""The GPT-2-like model and its AdamW curve against PyTorch: stored values here, live with torch installed."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.optim import optimizers, schedules
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.runs import state as states
from ptft_jax.training.step import Step
from tests.parity import make_golden, problem


def ours():
    import jax

    s, a = problem.SHAPE, problem.ADAMW
    spec = ModelSpec(s["vocab"], s["length"], s["layers"], s["width"], s["heads"])
    model = Transformer(spec)
    params = unflatten({k: jnp.asarray(v) for k, v in problem.weights().items()})
    assert {k: v.shape for k, v in flatten(params).items()} == {k: v.shape for k, v in flatten(model.shapes()).items()}
    partition = Partition.of(params, ((".*", 1.0),))
    config = types.SimpleNamespace(
        name="adamw",
        b1=a["betas"][0],
        b2=a["betas"][1],
        eps=a["eps"],
        moments="plain",
        weight_decay=a["weight_decay"],
        decay_rules=(("(.*/)?(bias|scale)", 0.0), (".*", 1.0)),
        clip_norm=a["clip"],
    )
    schedule = schedules.build("constant", a["learning_rate"], warmup=0, total=problem.STEPS)
    optimizer = optimizers.build(config, schedule, partition)
    step = Step(model, CausalLM(), partition, optimizer)
    state = states.create(*partition.split(params), optimizer, jax.random.key(0), ema=False)
    batches = list(problem.batches())
    logits = model(params, jnp.asarray(batches[0][0]))
    train, losses = jax.jit(step.train), []
    for tokens, targets in batches:
        batch = {"inputs": tokens, "targets": targets, "weights": np.ones(tokens.shape, np.float32)}
        state, metrics = train(state, batch)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return {"logits": np.asarray(logits)[::3, ::7, ::17].flatten(), "losses": losses}


def close(mine, theirs):
    # Logits are of order 1 to 10: 1e-4 absolute is rounding of float32 through two layers. Losses: the 1e-4.
    np.testing.assert_allclose(mine["logits"], theirs["logits"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(mine["losses"], theirs["losses"], atol=1e-4, rtol=0)
    assert theirs["losses"][-1] < theirs["losses"][0] - 1, "the problem must be learnable, or equality says little"


def test_equals_stored_torch_values():
    close(ours(), json.loads(make_golden.GOLDEN.read_text()))


@pytest.mark.live
def test_equals_torch_live():
    pytest.importorskip("torch")
    theirs = make_golden.compute()
    close(ours(), theirs)
    stored = json.loads(make_golden.GOLDEN.read_text())
    np.testing.assert_allclose(theirs["losses"], stored["losses"], atol=1e-4)
