"""Runs whose parameters are kept narrow: they continue, what trains loses nothing, and older ones are not touched."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.combining.models import Reader
from ptft_jax.errors import UserError
from ptft_jax.params.rules import flatten
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading
from ptft_jax.runs import source as restore
from ptft_jax.training import assembly, checkpoint
from ptft_jax.training.step import Step
from tests.helpers import quiet_train, repeats, stop_at, tiny_config
from tests.interop import small

BFLOAT = dict(model__param_dtype="bfloat16", training__steps=4, eval__every=0, training__ema_decay=0.9)


def sums(workdir, step=4):
    return checkpoint.read_meta(workdir, step)["checksums"]


def dtypes(workdir, step=4, item="params"):
    return {path: array.dtype.name for path, array in flatten(checkpoint.shapes(workdir, step, item)).items()}


@pytest.fixture(scope="module")
def whole(text_file, tmp_path_factory):
    """Everything trains, `model.param_dtype="bfloat16"`."""
    folder = tmp_path_factory.mktemp("precision")
    quiet_train(tiny_config(text_file, **BFLOAT), folder / "whole")
    return folder


@pytest.mark.slow
@pytest.mark.heavy
def test_a_run_with_narrow_parameters_continues_exactly_and_is_compiled_once(whole, text_file, monkeypatch):
    traced, gradients = [], Step._gradients
    monkeypatch.setattr(Step, "_gradients", lambda *args: traced.append(0) or gradients(*args))
    with monkeypatch.context() as m:
        stop_at(2, m)
        assert quiet_train(tiny_config(text_file, **BFLOAT), whole / "part")["step"] == 2
    quiet_train(tiny_config(text_file, **BFLOAT), whole / "part")
    assert sums(whole / "part") == sums(whole / "whole") and len(traced) == 2, "once a launch"
    assert not (whole / "part/checkpoints-damaged").exists()


@pytest.mark.heavy
def test_where_nothing_is_frozen_it_changes_nothing(whole, text_file):
    quiet_train(tiny_config(text_file, **BFLOAT | dict(model__param_dtype="float32")), whole / "wide")
    assert sums(whole / "wide") == sums(whole / "whole")
    said = []
    reporter = Reporter(quiet=True)
    reporter.say = said.append
    assembly.Run(tiny_config(text_file, **BFLOAT), whole / "said", reporter)
    assert any("nothing is" in line and "training.state_dtype='float32'" in line for line in said)


@pytest.mark.heavy
def test_a_state_in_bfloat16_continues_exactly(whole, text_file, monkeypatch):
    options = {**BFLOAT, "training__state_dtype": "bfloat16"}
    quiet_train(tiny_config(text_file, **options), whole / "narrow")
    with monkeypatch.context() as m:
        stop_at(2, m)
        quiet_train(tiny_config(text_file, **options), whole / "narrow-part")
    quiet_train(tiny_config(text_file, **options), whole / "narrow-part")
    assert sums(whole / "narrow-part") == sums(whole / "narrow")
    for item in ("params", "ema"):
        assert set(dtypes(whole / "narrow", item=item).values()) == {"bfloat16"}
    # A child keeps what trains in float32 again, and starts from these very numbers.
    child = tiny_config(text_file, init__from_=f"{whole}/narrow", init__weights="raw", training__steps=0)
    child.optimizer.warmup_steps = 0
    quiet_train(child, whole / "child")
    assert set(dtypes(whole / "child", 0).values()) == {"float32"}
    theirs = loading.load(f"{whole}/narrow", weights="raw").params
    for path, array in flatten(loading.load(f"{whole}/child").params).items():
        np.testing.assert_array_equal(np.float32(array), np.float32(flatten(theirs)[path]))


def earlier(folder, text_file):
    """A workdir as earlier versions left it: parameters, start and averages in bfloat16, moments as a step made them."""
    config = tiny_config(text_file, **BFLOAT)
    run = assembly.Run(config, folder, Reporter(quiet=True))
    state, _ = run.start.state()
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (state.trainable, state.ema))
    state = dataclasses.replace(state, step=jnp.int32(2), trainable=narrow[0], ema=narrow[1])
    folder.mkdir(parents=True)
    checkpoints = checkpoint.Checkpoints(folder, keep_latest=1, keep_best=1, mode="min")
    meta = {
        "data": run.data.key, "vocab_size": run.trainer.model.spec.vocab_size, "base": None, "before": {}, "selected": None,
        "parent_fingerprint": "", "select_mode": "min", "seconds": 0.0, "best": [None, -1, 0], "metrics": {},
    }  # fmt: skip
    checkpoints.save(state, state.trainable, meta, None)
    checkpoints.close()
    values = run.config.as_dict()
    del values["training"]["state_dtype"]
    (folder / "config.json").write_text(json.dumps(values))
    for name, data in run.tokenizer.files().items():
        (folder / name).write_bytes(data)
    return config, narrow[0]


@pytest.mark.heavy
def test_a_run_of_an_earlier_version_is_a_parent_and_is_not_touched(text_file, tmp_path):
    config, params = earlier(tmp_path / "old", text_file)
    before = {p: p.read_bytes() for p in sorted((tmp_path / "old").rglob("*")) if p.is_file()}
    with pytest.raises(UserError) as error:
        quiet_train(config, tmp_path / "old")
    for words in ("embed/tokens/embedding: dtype bfloat16, expected float32", "by init.from", "nothing was changed"):
        assert words in str(error.value)
    assert {p: p.read_bytes() for p in sorted((tmp_path / "old").rglob("*")) if p.is_file()} == before
    child = tiny_config(text_file, init__from_=f"{tmp_path}/old", init__weights="raw", model__param_dtype="bfloat16")
    run = assembly.Run(child, tmp_path / "child", Reporter(quiet=True))
    start, _ = run.start.state()
    for path, array in flatten(start.trainable).items():
        assert array.dtype == jnp.float32
        np.testing.assert_array_equal(array, np.float32(flatten(params)[path]), err_msg=path)


# What starts from other parameters.


def made(text_file, parent, **changes):
    config = tiny_config(text_file, init__from_=f"hf:{parent}", model__param_dtype="bfloat16", **changes)
    config.model.update(layers=4, width=128, heads=4, max_length=128)  # the defaults: the parent's take their place
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.folder(tmp_path_factory.mktemp("hf") / "base")


RATES = (("blocks/.*/adapter/lora_.*", 1.0), ("blocks[-1]/(attention_norm|mlp_norm)/.*", 1.0), (".*", 0.0))
STARTS = {
    "full": {},
    "the last block": dict(tune__train="last:1"),
    "lora": dict(tune__method="lora"),
    "pissa and norms": dict(tune__method="lora", tune__lora__init="pissa", tune__rates=RATES),
    "lora on nf4": dict(tune__method="lora", tune__quantize__format="nf4"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", repeats(STARTS, "pissa and norms"))
def test_what_trains_starts_from_the_parents_own_numbers(name, folder, text_file, tmp_path):
    """And what is frozen from them rounded once; what is quantized from the rounded ones."""
    run = assembly.Run(made(text_file, folder, **STARTS[name]), tmp_path / "run", Reporter(quiet=True))
    state, _ = run.start.state()
    theirs = flatten(small.params_of(small.LLAMA))
    own = flatten(state.trainable) | flatten(state.frozen)
    for leaf in run.trainer.partition.leaves:
        array = own[leaf.path]
        if leaf.source not in theirs:  # added, or quantized
            assert array.dtype in (jnp.float32, jnp.uint8)
            continue
        source = theirs[leaf.source]
        expected = source if leaf.layers is None else source[slice(*leaf.layers)]
        assert array.dtype == (jnp.float32 if leaf.trains else jnp.bfloat16), leaf.path
        np.testing.assert_array_equal(array, expected.astype(array.dtype), err_msg=leaf.path)
    if name == "pissa and norms":
        for path, array in own.items():
            if path.endswith("lora_a"):
                np.testing.assert_array_equal(array, own[path.replace("lora_a", "start_a")])
    if "nf4" in name:
        narrow = {p: a.astype(jnp.bfloat16) for p, a in theirs.items()}
        for path, array in flatten(run.trainer.adapter.encode(_nested(narrow))).items():
            if path.endswith("kernel/codes"):
                np.testing.assert_array_equal(own[path], array)


def _nested(flat):
    from ptft_jax.params.rules import unflatten

    return unflatten(flat)


@pytest.mark.heavy
@pytest.mark.parametrize("name", repeats(["the last block", "pissa and norms", "lora on nf4"]))
def test_a_run_is_loaded_as_it_was_trained(name, folder, text_file, tmp_path):
    """Of a stack in which only some layers train, too: with what was learned in float32, and the rest as it was frozen."""
    config = made(
        text_file, folder, training__steps=2, eval__every=0, eval__test=False, eval__tokens=256, **STARTS[name]
    )
    summary = quiet_train(config, tmp_path / "run")
    from ptft_jax.evaluation.standalone import evaluate

    merged = name == "pissa and norms"  # merged into bfloat16 kernels, rounded there
    found = evaluate(loading.load(f"{tmp_path}/run@2"), "", "validation", tokens=256, batch_size=8)
    assert found["nll"] == pytest.approx(summary["last"]["validation/nll"], abs=2e-2 if merged else 2e-5)
    if merged:
        source = restore.find(f"{tmp_path}/run@2")
        whole = flatten(source.parameters(run_layout, merged=False))
        scale = flatten(checkpoint.shapes(tmp_path / "run", 2))
        stored = next(p for p in scale if p.endswith("attention_norm/scale"))
        assert whole["blocks/attention_norm/scale"].dtype == jnp.float32 and stored.startswith("blocks[")


def run_layout(path, shape):
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.mark.slow
@pytest.mark.heavy
def test_the_parent_of_a_fully_tuned_run_is_found_by_its_fingerprint(folder, text_file, tmp_path):
    quiet_train(made(text_file, folder, training__steps=1, optimizer__warmup_steps=0, eval__every=0), tmp_path / "run")
    reader = Reader()
    found = reader.parent(reader.run(f"{tmp_path}/run"))
    for path, array in flatten(small.params_of(small.LLAMA)).items():
        np.testing.assert_array_equal(found.leaves[path], array)
