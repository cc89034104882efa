"""Small problems that several tests share."""

import dataclasses
import itertools
import signal
import threading
import types

import jax
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.adapters import multi_adapter
from ptft_jax.adapters.base import is_added
from ptft_jax.data import batches as data_batches
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.causal_lm import CausalLM
from ptft_jax.optim import optimizers, schedules
from ptft_jax.parallel import mesh as meshes
from ptft_jax.parallel import sharding
from ptft_jax.parallel.compile import to_host
from ptft_jax.params import precision, recipes
from ptft_jax.params.partition import Partition
from ptft_jax.regularization.regularizers import Regularization
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import state as states
from ptft_jax.training import assembly, loop
from ptft_jax.training.step import Step
from ptft_jax.training.termination import Termination
from ptft_jax.training.trainer import Compiled

VOCAB, LENGTH, ROWS = 64, 16, 16
SPEC = ModelSpec(vocab_size=VOCAB, max_length=LENGTH, layers=3, width=32, heads=4, kv_heads=2)
LLAMA = dict(norm="rms", activation="silu", gated=True, positions="rotary", biases=(), tied=False)
EVERYTHING = ((".*", 1.0),)
TERMS = ("distill", "smooth", "bregman", "l2_sp", "ewc", "balance", "expert_most", "router_entropy", "router_z")
OBJECTIVE = CausalLM(z_loss=1e-3, label_smoothing=0.1)
TIMED = ("time", "step_seconds", "tokens_per_second")  # of a row of metrics.jsonl, what two equal runs differ in


def random_batch(seed, rows=ROWS, length=LENGTH):
    """Random tokens; a third of the targets weigh nothing, unevenly over rows."""
    rng = np.random.default_rng(seed)
    return {
        "inputs": rng.integers(0, VOCAB, (rows, length)).astype(np.int32),
        "targets": rng.integers(0, VOCAB, (rows, length)).astype(np.int32),
        "weights": (rng.random((rows, length)) > rng.random((rows, 1)) * 0.6).astype(np.float32),
    }


def optimizer_config(**changes):
    """The fields of config.optimizer that build an optimizer."""
    base = dict(
        name="adamw", b1=0.9, b2=0.95, eps=1e-8, moments="plain", momentum=0.9, weight_decay=0.1, clip_norm=1.0,
        decay_rules=(("(.*/)?(bias|scale)", 0.0), (".*", 1.0)),
    )  # fmt: skip
    return types.SimpleNamespace(**(base | changes))


# Float32 sums in another order: a few units in the last place of losses near 4, through three optimizer steps.
ROUNDING = 5e-6


@dataclasses.dataclass
class Trained:
    losses: np.ndarray
    grad_norms: np.ndarray
    evaluated: float
    start: states.TrainState
    state: states.TrainState
    partition: Partition
    terms: list[dict[str, float]]  # of `regularization` and `balance`, a step

    def assert_equal_to(self, other):
        """Asserts that losses, gradients and evaluations are those of another, but for the order of sums."""
        np.testing.assert_allclose(self.losses, other.losses, atol=ROUNDING, rtol=0)
        np.testing.assert_allclose(self.grad_norms, other.grad_norms, rtol=1e-5)
        np.testing.assert_allclose(self.evaluated, other.evaluated, atol=ROUNDING, rtol=0)


def train(
    *, devices=1, fsdp=1, expert=1, context=1, tensor=1, kind="jit", micro=1, rates=EVERYTHING, adapter=None, ema=0.9, steps=3, batches=None,
    optimizer=None, objective=OBJECTIVE, rate=1e-2, base=None, regularization=None, phases=(), fisher=None, kept="float32",
    balance=None, total=10, memory="device", **spec,
):  # fmt: skip
    """A few training steps of a tiny model with dropout, on a mesh of the first `devices` devices.

    `regularization` may also be a function of the partition; `phases` are of one recipe a step; `fisher` fills the state's; `kept` is
    `training.state_dtype`; the rate goes down to 0 over `total` steps.
    """
    mesh = meshes.make(0, fsdp, jax.devices()[:devices], expert=expert, context=context, tensor=tensor)
    described = dataclasses.replace(SPEC, **({"dropout": 0.1} | spec))
    model = Transformer(
        described, adapter, sharding.Rows(mesh) if kind == "jit" else None, value_head=objective.value_head
    )
    shapes = model.shapes()
    partition = Partition.of(
        shapes, rates, phases=[(name, recipes.rules(name)) for name in phases], kept=precision.Kept(kept, is_added)
    )
    regularization = regularization(partition) if callable(regularization) else regularization or Regularization()
    schedule = schedules.build("linear", rate, warmup=1, total=total)
    own = {} if adapter is None else adapter.updates(partition, steps)._asdict()
    apart = multi_adapter.apart(adapter, partition)
    steps_of = []
    for phase in range(max(len(phases), 1)):
        pull = regularization.start_decay
        chain = optimizers.build(
            optimizer or optimizer_config(), schedule, partition, phase=phase, start_decay=pull, apart=apart, **own
        )
        frozen = partition.frozen_in(phase)
        steps_of.append(Step(model, objective, partition, chain, micro, ema, regularization, frozen, apart, balance))

    rules = sharding.DEFAULT_RULES
    compiled = Compiled(model, partition, list(enumerate(steps_of)), mesh, compiled=kind, rules=rules, memory=memory)
    program = compiled.program

    def create():
        state = compiled.create(
            lambda key: model.init(key) if base is None else base, jax.random.key(0), rng=jax.random.key(7)
        )
        if fisher is None:
            return state
        filled = jax.tree.map(lambda f: f + fisher, program.whole(state).fisher)
        return program.adopt(dataclasses.replace(program.whole(state), fisher=filled))

    start = jax.device_get(jax.tree.map(_plain, program.whole(create())))
    state, losses, norms, terms = create(), [], [], []
    batches = batches or [random_batch(i) for i in range(steps)]
    for number, batch in enumerate(batches):
        state, metrics = program.at(number)(state, program.place(batch))
        host = to_host(metrics)
        losses.append(host["loss"][0] / host["loss"][1])
        norms.append(host["grad_norm"])
        terms.append({k: host[k][0] / host[k][1] for k in TERMS if k in host})
    measured = {
        name: values for name, values in batches[0].items() if name != "advantages"
    }  # sampled answers have no nll
    total, weight = to_host(program.evaluate(state, program.place(measured)))["nll"]
    whole = program.whole(state)
    return Trained(np.array(losses), np.array(norms), total / weight, start, whole, partition, terms)


def _plain(x):
    return jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def on_look(patch, before):
    """`before` is called with the number of each look whether the run has to leave, counted from 1."""
    numbers, checking = itertools.count(1), Termination.checking

    def watched(self):
        check = checking(self)
        return lambda: (before(next(numbers)), check())

    patch.setattr(Termination, "checking", watched)


def repeats(values, *kept):
    """Parameters of a test: those that are `kept` in its tier, and the others, which repeat it, in the slow one."""
    return [v if v in kept else pytest.param(v, marks=pytest.mark.slow) for v in values]


def stop_at(step, monkeypatch):
    """The next run is asked to stop after so many steps, as by its time limit."""
    asked = iter(["max_seconds" if n == step else "" for n in range(step + 1)])
    monkeypatch.setattr(loop.Loop, "_interrupted", lambda self: next(asked, ""))


def happen(event, patch=setattr):
    """Lets something happen to this process when it reads a batch: sigterm@STEP, kill@STEP, error@STEP, hang@STEP or nan@STEP.

    With data.prefetch = 0 a batch is read when the step before it has begun, so that a run stopped by sigterm@STEP always
    ends after STEP + 1 steps; batches that are read ahead are read at a moment that nobody knows.
    """
    what, _, at = event.partition("@")
    read_batch = data_batches.Batches.__getitem__

    def patched(self, step):
        batch = read_batch(self, step)
        if step == int(at):
            if what == "error":
                raise OSError("the disk of this process is gone")
            if what == "nan":
                return batch | {"weights": np.full_like(batch["weights"], np.nan)}
            if what == "hang":
                threading.Event().wait()
            signal.raise_signal({"sigterm": signal.SIGTERM, "kill": signal.SIGKILL}[what])
        return batch

    patch(data_batches.Batches, "__getitem__", patched)


def tiny_config(text_file, **changes):
    """A run of seconds on a text file, on eight devices; `changes` are dotted fields with "__" for the dots."""
    config = configs.default()
    config.model.update(layers=2, width=32, heads=2, max_length=32, scan=False)
    config.data.update(source=f"text:{text_file}", length=32, batch_size=8)
    config.optimizer.update(learning_rate=1e-2, warmup_steps=2)
    config.training.steps = 12
    config.eval.update(every=4, tokens=512)
    config.log.update(every=1, tensorboard=False)
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = config
        for key in parents:
            section = section[key]
        section[last] = value
    return config


def quiet_train(config, workdir, **options):
    """`run.train` without anything on the terminal."""
    return assembly.train(config, workdir, reporter=Reporter(quiet=True), **options)
