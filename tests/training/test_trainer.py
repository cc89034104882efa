"""A trainer is built from a config alone, and is the one that a run trains with."""

import contextlib
import gc
import sys

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import ptft_jax as pt
from ptft_jax.parallel import mesh as meshes
from ptft_jax.params.rules import flatten
from ptft_jax.reporting.progress import Reporter
from ptft_jax.training.assembly import Run
from ptft_jax.training.trainer import Trainer
from tests.helpers import quiet_train, tiny_config
from tests.processes import run as run_process


def made(**changes):
    """A config that names no data."""
    return tiny_config("", data__source="", **changes)


def batch(config, seed=0):
    rows, length = config.data.batch_size, config.data.length
    tokens = np.random.default_rng(seed).integers(0, 256, (rows, length + 1)).astype(np.int32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": np.ones((rows, length), np.float32)}


@contextlib.contextmanager
def counted_programs():
    """A list that gets an entry for each program that is compiled meanwhile."""
    found = []

    def heard(event, seconds, **_):
        if event.startswith("/jax/core/compile/backend_compile"):
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(training__ema_decay=0.9),
        dict(parallel__fsdp=4),
        dict(parallel__compile="pmap"),
        dict(model__experts=4, model__gated=True, model__biases=("norm",)),
    ],
    ids=str,
)
def test_it_needs_no_data_and_makes_no_array(changes):
    gc.collect()  # what earlier tests left goes now, and not in between
    before = len(jax.live_arrays())
    trainer = Trainer(made(**changes), vocab_size=256)
    assert len(jax.live_arrays()) == before
    model = trainer.model.spec
    assert flatten(trainer.shapes)["embed/tokens/embedding"].shape == (256, model.width)
    # Adam keeps two moments of what trains, and the average is a third.
    trained = sum(leaf.bytes for leaf in trainer.partition.leaves if leaf.trains)
    moments = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(trainer.state_like.optimizer) if a.ndim)
    assert moments == 2 * trained
    average = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(trainer.state_like.ema))
    assert average == (trained if "training__ema_decay" in changes else 0)


def test_its_state_is_the_runs(text_file, tmp_path):
    """Of the same config and seed, bit for bit; and one step from there is the run's first."""
    config = tiny_config(text_file, training__steps=1, optimizer__warmup_steps=0, checkpoint__keep_latest=2)
    run = Run(config, tmp_path / "run", Reporter(quiet=True))
    trainer = Trainer(config, vocab_size=run.tokenizer.vocab_size)
    ours, (theirs, _) = trainer.init(), run.start.state()
    for path, array in flatten(theirs.trainable).items():
        np.testing.assert_array_equal(flatten(ours.trainable)[path], array)
    assert (jax.random.key_data(ours.rng) == jax.random.key_data(theirs.rng)).all()
    rows = trainer.program.place(next(iter(run.batches(start=0))))
    trainer.program.ahead(trainer.state_like, run.forms, 0)
    trainer.program.wait()
    with counted_programs() as compiled:
        state, metrics = trainer.program.train(ours, rows)
    assert not compiled, "what was compiled ahead is what the step runs"
    summary = quiet_train(config, tmp_path / "run")
    loaded = pt.load(f"{tmp_path}/run@1")
    for path, array in flatten(loaded.params).items():
        np.testing.assert_array_equal(flatten(state.trainable)[path], array)
    assert summary["step"] == int(state.step) == 1 and float(metrics["loss"][1]) > 0


@pytest.mark.heavy
def test_a_step_of_it_is_plain_gradient_descent():
    """Without momentum, decay and clipping: the parameters minus the rate times the gradient of the mean loss, taken here."""
    config = made(
        optimizer__name="sgd", optimizer__momentum=0.0, optimizer__clip_norm=0.0, optimizer__weight_decay=0.0,
        optimizer__learning_rate=0.5, optimizer__warmup_steps=0, optimizer__schedule="constant", model__dropout=0.0,
    )  # fmt: skip
    trainer, rows = Trainer(config, vocab_size=256), batch(config)
    state = trainer.init(3)
    params = trainer.partition.merge(state.trainable, state.frozen)

    def loss(params):
        logits = trainer.model.logits(params, trainer.model.hidden(params, jnp.asarray(rows["inputs"])))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(rows["targets"])[..., None], -1)
        return -chosen.mean()

    expected = jax.tree.map(lambda p, g: np.asarray(p - 0.5 * g), params, jax.grad(loss)(params))
    state, _ = trainer.program.train(state, trainer.program.place(rows))
    after = flatten(trainer.partition.merge(state.trainable, state.frozen))
    for path, array in flatten(expected).items():
        np.testing.assert_allclose(after[path], array, rtol=1e-5, atol=1e-6)


def test_its_step_is_traced_for_devices_that_are_simulated():
    """Lowered from forms alone, for a mesh whose devices are not the default ones."""
    config = made(parallel__fsdp=2)
    trainer = Trainer(config, vocab_size=256, mesh=meshes.make(1, 2, jax.devices()[:2]))
    rows = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in batch(config).items()}
    lowered = trainer.program.train.lower(trainer.state_like, rows)
    assert "num_partitions = 2" in lowered.as_text()


def test_a_size_that_is_missing_is_named():
    with pytest.raises(pt.UserError, match="config.model.vocab_size = 0: without a tokenizer"):
        Trainer(made())
    assert Trainer(made(model__vocab_size=300)).model.spec.vocab_size == 300


def test_importing_it_makes_no_devices():
    """A trainer for a topology must not take the machine's own accelerators."""
    code = (
        "import ptft_jax as pt; pt.Trainer\n"
        "from jax._src import xla_bridge as bridge\n"
        "print('backends', bridge.backends_are_initialized())"
    )
    done = run_process(sys.executable, "-c", code)
    assert done.stdout.strip() == "backends False", done.stderr


@pytest.mark.parametrize(("method", "rate"), [("full", 1e-3), ("lora", 2e-4)])
def test_a_rate_that_is_not_given_is_the_methods(method, rate):
    """As docs/training.md and docs/methods.md have them: 1e-3 for pre-training, 2e-4 for LoRA."""
    config = made(optimizer__learning_rate=0.0, optimizer__schedule="constant", optimizer__warmup_steps=0)
    config.tune.method = method
    trainer = Trainer(config, vocab_size=256, tuned=method != "full")
    assert float(trainer.learning_rate(3)) == pytest.approx(rate)
