"""A run with each fine-tuning method, from its base to what can be done with it afterwards."""

import jax
import numpy as np
import pytest

from ptft_jax.adapters.base import ADDED, is_added
from ptft_jax.adapters.osf import Osf
from ptft_jax.adapters.shira import Shira
from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.model.decode import Sampling, generate
from ptft_jax.params.rules import flatten
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, checkpoint
from ptft_jax.verbs import export
from tests.helpers import quiet_train, stop_at, tiny_config


@pytest.fixture(scope="module")
def base(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    config = tiny_config(text_file, model__max_length=36, model__scan=True, training__steps=6)
    config.eval.update(test=False, tokens=256)
    quiet_train(config, folder)
    return folder


METHODS = {
    "lora": {},
    "dora": dict(
        tune__lora__dora=True,
        tune__lora__rank=2,
        tune__lora__dropout=0.1,
        tune__lora__targets=("blocks/mlp/(up|down)",),
    ),
    "qlora": dict(tune__quantize__format="nf4", tune__quantize__block=16, tune__lora__rank=2),
    "pissa": dict(tune__lora__init="pissa", tune__lora__rank=2, tune__lora__targets=("blocks/mlp/up",)),
    "adalora": dict(
        tune__adalora__rank=4,
        tune__adalora__target_rank=2,
        tune__adalora__delta_t=1,
        tune__adalora__targets=("blocks/mlp/(up|down)",),
    ),
    "vera": dict(tune__vera__rank=16, tune__vera__targets=("blocks/mlp/(up|down)",)),
    "oft": dict(tune__oft__block_size=8, tune__oft__targets=("blocks/mlp/(up|down)",)),
    "shira": dict(tune__shira__rank=2, tune__shira__targets=("blocks/mlp/(up|down)",)),
    "miss": dict(tune__miss__rank=5, tune__miss__targets=("blocks/mlp/(up|down)",)),
    "gralora": dict(
        tune__gralora__rank=4, tune__gralora__hybrid_rank=2, tune__gralora__targets=("blocks/mlp/(up|down)",)
    ),
    "hira": dict(tune__hira__rank=4),
    "bd_lora": dict(tune__bd_lora__rank=4),
    "osf": dict(tune__osf__targets=("blocks/mlp/(up|down)",)),
    "ia3": {},
    "prompt": dict(tune__prompt__length=4),
    "text": dict(tune__prompt__length=4, tune__prompt__init="text", tune__prompt__text="the cat sat"),
    "p_tuning": dict(tune__p_tuning__length=4, tune__p_tuning__encoder="lstm", tune__p_tuning__hidden=8),
    "prefix": dict(tune__prefix__length=4, tune__prefix__reparameterize=8),
    "gated_prefix": dict(tune__gated_prefix__length=4, tune__gated_prefix__layers=1),
    "bottleneck+prefix": dict(
        tune__prefix__length=2,
        tune__prefix__reparameterize=8,
        tune__bottleneck__size=8,
        tune__bottleneck__form="houlsby",
        tune__bottleneck__dropout=0.1,
    ),
    "lora+p_tuning": dict(tune__p_tuning__length=4, tune__p_tuning__hidden=8),
}
RATES = {"pissa": 1e-2, "adalora": 3e-2, "vera": 1e-1, "ia3": 3e-2, "prompt": 0.3, "text": 0.3}
METHOD = {"dora": "lora", "pissa": "lora", "qlora": "lora", "text": "prompt"}
RECENT = ("shira", "miss", "gralora", "hira", "bd_lora", "osf")
MERGED = ("lora", "dora", "qlora", "pissa", "adalora", "vera", "oft", *RECENT, "ia3")
FIXED = {"pissa": ".*/adapter/start_[ab]", "shira": Shira.fixed, "osf": Osf.fixed}
UNCHANGED = (*(name for name in MERGED if name != "qlora"), "gated_prefix")  # where the start is the base
SLOW = ("pissa", "adalora", "vera", "oft", *RECENT[1:], "text", "p_tuning", "prefix", "gated_prefix", "lora+p_tuning")


def child(text_file, base, name, **changes):
    method = METHOD.get(name, name)
    options = {
        "tune__method": method,
        "training__steps": 6,
        "model__max_length": 36,
        "model__scan": True,
        **METHODS[name],
        **changes,
    }
    config = tiny_config(text_file, init__from_=str(base), **options)
    config.eval.update(test=False, tokens=256, every=3)
    config.optimizer.learning_rate = RATES.get(name, 1e-2)
    return config


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("shira", marks=pytest.mark.heavy),  # whole numbers among what was added
        pytest.param("dora", marks=pytest.mark.heavy),  # lora: tests/e2e/test_finetune.py
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("prompt", "ia3", "bottleneck+prefix")),
        *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW),
    ],
)
def test_a_run(name, text_file, tmp_path, base):
    kept = name not in MERGED
    samples = dict(samples__prompts=("the cat",), samples__max_new_tokens=4) if kept else {}
    config = child(text_file, base, name, **samples)
    summary = quiet_train(config, tmp_path / "run")
    before, after = (summary[k]["validation/nll"] for k in ("before", "after"))
    started = next(r["validation/nll"] for r in Workdir(tmp_path / "run").read_metrics() if r["kind"] == "eval")
    assert after < started
    # Gain counts from the parent, also where what is added changes the model before anything is learned.
    assert before == pytest.approx(Workdir(base).read_summary()["last"]["validation/nll"], abs=1e-6)
    assert (started == pytest.approx(before, abs=1e-6)) == (name in UNCHANGED)
    saved = flatten(checkpoint.shapes(tmp_path / "run", 6))
    assert saved and all(is_added(path) for path in saved)
    loaded = loading.load(f"{tmp_path}/run@best")
    leaves = set(flatten(loaded.params))
    assert any(map(is_added, leaves)) == kept
    if "p_tuning" in name or "prefix" in name:  # without the network that made them
        last = {p.rsplit("/", 1)[1] for p in leaves if is_added(p) and "mlp/" not in p and "attention/adapter" not in p}
        kinds = {"prompt", "gate"} if "gated" in name else {"keys", "values"} if "prefix" in name else {"prompt"}
        assert last - {"lora_a", "lora_b"} == kinds
    # As the loop measured it with the adapter apart: merging costs float32 rounding.
    assert evaluate(loaded, "", "validation", tokens=256)["nll"] == pytest.approx(after, abs=2e-5)
    drift = {row["part"]: row["distance"] for row in summary["drift"]}
    moved = {part for part, distance in drift.items() if distance}
    where = {"blocks[0]", "blocks[1]"} if not kept or "lora+" in name else set()
    assert moved == where | ({"added"} if kept else set()), "what can be merged counts where it acts"
    if not kept:  # a plain model by now
        return
    taken = 0 if name == "gated_prefix" else 2 if name == "bottleneck+prefix" else 4
    most = loaded.model.spec.max_length
    with pytest.raises(UserError, match=f"--length = {most + 1}: the model sees at most {most - taken} tokens"):
        evaluate(loaded, "", "validation", length=most + 1)
    rows = generate(loaded.model, loaded.params, [[1, 2, 3]], max_new_tokens=3, sampling=Sampling(temperature=0))
    assert len(rows[0].ids) <= 3
    assert len((tmp_path / "run/samples.jsonl").read_text().splitlines()) >= 2
    with pytest.raises(UserError, match="additions are no part of a plain model"):
        export.model(str(tmp_path / "run"), "hf", tmp_path / "out", dtype="float32")


@pytest.mark.parametrize(
    "method, changes, words",
    [
        ("gated_prefix", dict(tune__gated_prefix__layers=1, tune__rates=((".*/prefix/.*", 1.0), (".*", 0.0))), "gated_prefix.layers = 1: config.tune.rates says all rates.*blocks\\[-1:\\]"),
        ("lora", dict(tune__lora__targets=("embed/tokens",), tune__lora__dropout=0.5), "tune.lora.dropout = 0.5 has no effect"),
        ("lora", dict(tune__lora__targets=("embed/tokens", "blocks/mlp/up"), tune__lora__b_ratio=4.0), "tune.lora.b_ratio = 4 is for layers; embed/tokens"),
        ("adalora", dict(tune__adalora__rank=4, tune__adalora__target_rank=4, tune__adalora__delta_t=3), "tune.adalora.delta_t = 3 has no effect"),
        ("prefix", dict(tune__prefix__length=4, samples__prompts=("ab",), samples__max_new_tokens=34), "config.samples: the model sees at most 36 tokens and starts with 4 learned vectors"),
    ],
)  # fmt: skip
def test_what_would_have_no_effect_or_fail_later_is_refused(method, changes, words, text_file, tmp_path, base):
    config = child(text_file, base, "ia3", tune__method=method, **changes)
    with pytest.raises(UserError, match=words):
        assembly.Run(config, tmp_path / "run", Reporter(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_prompt_is_no_base_for_another_run(text_file, tmp_path, base):
    quiet_train(child(text_file, base, "prompt", training__steps=0, optimizer__warmup_steps=0), tmp_path / "prompt")
    with pytest.raises(UserError, match="config.init.from: .*tune.method='prompt', which cannot be merged"):
        quiet_train(child(text_file, tmp_path / "prompt", "lora"), tmp_path / "child")
    loaded = loading.load(str(tmp_path / "prompt"))
    with pytest.raises(UserError, match="cannot be merged into the parameters of a plain model"):
        loaded.source.adapter.merge(loaded.params)


@pytest.mark.heavy
def test_a_run_on_a_quantized_base(text_file, tmp_path, base):
    summary = quiet_train(child(text_file, base, "qlora"), tmp_path / "run")
    plain, after = (summary[k]["validation/nll"] for k in ("before", "after"))
    assert plain == pytest.approx(Workdir(base).read_summary()["last"]["validation/nll"], abs=1e-6)
    started = next(r["validation/nll"] for r in Workdir(tmp_path / "run").read_metrics() if r["kind"] == "eval")
    assert after < started and 1e-5 < abs(started - plain) < 0.05  # another function, but near
    assert summary["parameters"]["frozen"] == Workdir(base).read_summary()["parameters"]["trainable"]
    saved = flatten(checkpoint.shapes(tmp_path / "run", 6))
    assert saved and all("/adapter/" in path for path in saved)

    run = f"{tmp_path}/run@best"
    loaded = loading.load(run)  # stays quantized
    assert flatten(loaded.params)["blocks/mlp/up/kernel/codes"].dtype == np.uint8
    assert evaluate(loaded, "", "validation", tokens=256)["nll"] == pytest.approx(after, abs=2e-5)
    assert len(generate(loaded.model, loaded.params, [[1, 2, 3]], max_new_tokens=3, sampling=Sampling())[0].ids) <= 3
    merged = {into: loading.load(run, merge_into=into) for into in ("dequantized", "original")}
    losses = {into: evaluate(m, "", "validation", tokens=256)["nll"] for into, m in merged.items()}
    assert losses["dequantized"] == pytest.approx(after, abs=2e-5)
    assert abs(losses["original"] - after) > 1e-5

    with pytest.raises(UserError, match="a base in nf4.*chosen by config.init.merge_into"):
        quiet_train(child(text_file, run, "lora"), tmp_path / "child")
    with pytest.raises(UserError, match="a base in nf4.*chosen by --merge_into"):
        export.model(run, "hf", tmp_path / "hf", dtype="float32")
    with pytest.raises(UserError, match="config.init.merge_into = 'original': .* has no quantized base"):
        quiet_train(child(text_file, base, "lora", init__merge_into="original"), tmp_path / "child")
    config = child(text_file, run, "lora", init__merge_into="dequantized", training__steps=1)
    config.optimizer.warmup_steps = 0
    assert quiet_train(config, tmp_path / "child")["before"]["validation/nll"] == pytest.approx(after, abs=2e-5)
    loading.load(str(tmp_path / "child"))  # by what was chosen


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(tune__method="full"), "tune.quantize.format = 'nf4': tune.method = 'full' trains the kernels"),
        (dict(tune__rates=((".*", 1.0),)), "config.tune.rates: these are of quantized kernels"),
        (
            dict(init__fresh=("blocks/mlp/up/kernel",)),
            "config.init.fresh: .*quantized kernels, which cannot train(.|\\n)*blocks/mlp/up/kernel",
        ),
        (dict(init__from_=""), "without init.from there is no base to quantize"),
    ],
    ids=str,
)
def test_impossible_runs_on_a_quantized_base(changes, words, text_file, tmp_path, base):
    config = child(text_file, base, "qlora")
    for path, value in changes.items():
        section, name = path.split("__")
        config[section][name] = value
    with pytest.raises(UserError, match=words):
        assembly.Run(config, tmp_path / "run", Reporter(quiet=True))


@pytest.mark.parametrize("name", ["lora", "adalora", "oft"])
def test_kernels_do_not_train_beside_what_is_added_to_them(name, text_file, tmp_path, base):
    config = child(text_file, base, name)
    config.tune.rates = ((".*", 1.0),)
    words = f"config.tune.rates: these train, and so does what tune.{name} adds .*\n.*blocks/.*/kernel(.|\n)*tune.method='full'"
    with pytest.raises(UserError, match=words):
        assembly.Run(config, tmp_path / "run", Reporter(quiet=True))
    # Other layers' kernels, and biases of the same ones, may.
    config.tune.rates = (
        ("blocks[0]/(.*/kernel|attention/query/bias)", 1.0),
        ("blocks[1]/.*/adapter/.*", 1.0),
        (".*", 0.0),
    )
    assembly.Run(config, tmp_path / "run", Reporter(quiet=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_continues_exactly(name, text_file, tmp_path, base, monkeypatch):
    """With some layers' adapters frozen, and those of others at another rate."""
    rates = (("blocks[0]/.*", 0.0), ("blocks/.*/adapter/.*", 0.5), (".*/adapter/.*", 1.0), (".*", 0.0))
    if name in ("prompt", "text", "p_tuning"):
        rates = rates[2:]
    elif name in MERGED:
        rates = rates[:2] + rates[3:]
    else:
        rates = (rates[0], (ADDED, 1.0), rates[3])
    if name in FIXED:
        rates = ((FIXED[name], 0.0), *rates)
    rates = () if name == "gated_prefix" else rates  # it has layers of its own
    config = child(text_file, base, name, tune__rates=rates, training__ema_decay=0.5, checkpoint__every=2)
    whole = quiet_train(config, tmp_path / "whole")
    with monkeypatch.context() as m:
        stop_at(3, m)
        assert quiet_train(config, tmp_path / "part")["step"] == 3
    part = quiet_train(config, tmp_path / "part")
    assert part["after"] == whole["after"]
    sums = [checkpoint.read_meta(tmp_path / n, 6)["checksums"] for n in ("whole", "part")]
    assert sums[0] == sums[1]
    if name in MERGED:
        into = "original" if name == "qlora" else ""
        tuned = flatten(jax.device_get(loading.load(f"{tmp_path}/whole@6", merge_into=into).params))
        parent = flatten(jax.device_get(loading.load(str(base)).params))
        moved = [path for path in parent if not np.array_equal(parent[path], tuned[path])]
        assert moved and all(path.startswith("blocks/") for path in moved)
        for path in moved:
            assert not np.array_equal(parent[path][1], tuned[path][1]), path
