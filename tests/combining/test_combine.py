"""Finished runs combined: what comes out is what the formulas say, and a run that every other verb takes."""

import dataclasses
import functools
import json
import pathlib
import shutil
import types

import jax
import numpy as np
import optax
import pytest

from ptft_jax.adapters.lora import A, B
from ptft_jax.combining import arithmetic, lowrank, models, scoring
from ptft_jax.combining.combine import ADAPTERS, METHODS, combine
from ptft_jax.data import cache
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import Measurement, evaluate
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.reporting import run_report
from ptft_jax.runs import loading
from ptft_jax.runs import source as restore
from ptft_jax.runs import state as states
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import checkpoint
from tests.helpers import quiet_train, repeats, tiny_config

RUN = dict(model__scan=True, model__layers=3, training__steps=0, optimizer__warmup_steps=0)


def trained(text_file, folder, name, **changes):
    config = tiny_config(text_file, **{**RUN, **changes})
    config.eval.update(test=False, tokens=64)
    quiet_train(config, folder / name)


def derived(folder, name, of, *, noise=0.0, ema=False, shapes=None, config=None, meta=None, lineage=None):
    """A run like another, without the training: with noise on its parameters or others of `shapes`, and other settings
    and records."""
    there, here = folder / of, folder / name
    shutil.copytree(there, here, ignore=shutil.ignore_patterns("checkpoints"))
    rng = np.random.default_rng(sum(name.encode()))
    old = checkpoint.read_meta(there, 0)
    stored = flatten(checkpoint.shapes(there, 0))
    params = {p: checkpoint.read_leaf(there, 0, "params", p, leaf, old) for p, leaf in stored.items()}
    params = {p: np.zeros(shape, np.float32) for p, shape in shapes.items()} if shapes else params
    params = {p: a + noise * rng.normal(size=a.shape).astype(np.float32) for p, a in params.items()}
    averaged = unflatten({p: a * 0.5 for p, a in params.items()}) if ema else {}
    state = dataclasses.replace(states.create({}, {}, optax.identity(), jax.random.key(0), ema=False), ema=averaged)
    values = json.loads((there / "config.json").read_text())
    for path, value in (config or {}).items():
        *parents, last = path.split(".")
        functools.reduce(dict.__getitem__, parents, values)[last] = value
    (here / "config.json").write_text(json.dumps(values))
    checkpoints = checkpoint.Checkpoints(here, keep_latest=1, keep_best=1, mode="min")
    checkpoints.save(state, unflatten(params), {**old, "config": values, **(meta or {})}, None)
    checkpoints.close()
    if lineage:
        chain = json.loads((there / "lineage.json").read_text())
        (here / "lineage.json").write_text(json.dumps([{**chain[0], **lineage}]))


@dataclasses.dataclass(frozen=True)
class Runs:
    """A base, runs that were fine-tuned from it in several ways, and references to them."""

    folder: pathlib.Path

    def __getattr__(self, name):
        return str(self.folder / name)


@pytest.fixture(scope="module")
def runs(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    upper = folder / "upper.txt"
    upper.write_text(text_file.read_text().upper())
    trained(text_file, folder, "base")
    tuned = {"init__from_": str(folder / "base"), "optimizer__learning_rate": 1e-2}
    some = (("blocks[-1]/.*", 1.0), (".*", 0.0))  # checkpoints hold the stack in two parts
    trained(upper, folder, "start", **tuned, tune__rates=some)
    derived(folder, "one", "start", noise=0.02)
    derived(folder, "two", "start", noise=0.02, ema=True)
    parent = restore.find(str(folder / "base"))
    fingerprint = checkpoint.read_meta(folder / "start", 0)["parent_fingerprint"]
    base = restore.base_reference(parent, folder / "lora", fingerprint, "auto", Workdir(folder / "start").read_config())
    value = {f"blocks/attention/value/{A}": (3, 32, 3), f"blocks/attention/value/{B}": (3, 3, 32)}
    up = {f"blocks/mlp/up/{A}": (3, 32, 3), f"blocks/mlp/up/{B}": (3, 3, 128)}
    for name, shapes, targets in (
        ("lora", value, "blocks/attention/value"),
        ("wide", value | up, "blocks/.*/(value|up)"),
    ):
        tune = {"method": "lora", "rates": [], "lora.rank": 3, "lora.targets": [targets]}
        config = {f"tune.{key}": value for key, value in tune.items()}
        derived(folder, name, "start", noise=0.1, shapes=shapes, config=config, meta={"base": base})
    both = {path: (shape[0], 2, *shape[1:]) for path, shape in value.items()}
    config = {
        f"tune.{key}": value
        for key, value in (tune | {"adapters": ["a", "b"], "lora.targets": ["blocks/attention/value"]}).items()
    }
    config["data.mixture"] = [[f"text:{path}", 1.0] for path in (upper, text_file)]
    derived(folder, "several", "start", noise=0.1, shapes=both, config=config, meta={"base": base})
    return Runs(folder)


def whole(reference):
    return {path: np.array(array) for path, array in flatten(loading.load(reference).params).items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)


@pytest.mark.heavy
@pytest.mark.parametrize("name", repeats(["base", "two", "lora", "several#b"], "two", "lora", "several#b"))
def test_leaves_are_read_one_by_one_as_all_at_once(runs, name):
    model = models.Reader().open(restore.find(getattr(runs, name)))
    assert not isinstance(model.leaves, models.Held)
    expected = whole(getattr(runs, name))
    assert_equal({path: model.leaves[path] for path in model.leaves.shapes}, expected)
    assert model.leaves.fingerprint() == restore.parameters_fingerprint(loading.load(getattr(runs, name)).params)


@pytest.mark.heavy
@pytest.mark.parametrize("name,alpha", [("one", 0.0), ("one", 1.0), ("lora", 1.0), ("two", 0.3)])
def test_a_model_between_a_run_and_its_parent(runs, tmp_path, name, alpha):
    done = combine("interpolate", [getattr(runs, name)], tmp_path / "out", alpha=alpha)
    parent, child = whole(runs.base), whole(getattr(runs, name))
    expected = {p: arithmetic.interpolate(parent[p], child[p], alpha) for p in parent}
    assert_equal(whole(done["out"]), expected)
    assert done["base"] == f"{runs.base}@0" and done["alpha"] == alpha


@pytest.mark.heavy
def test_a_curve_is_measured_and_chosen_from(runs, tmp_path):
    done = combine("interpolate", [runs.one], tmp_path / "out", curve="0,0.5,1", rule="sum", tokens=256)
    rows = done["curve"]
    parent, child = loading.load(runs.base), loading.load(runs.one)
    for data, key in (("", "validation"), (parent.source.data.source, "source")):
        measurement = Measurement(child, data, "validation", tokens=256)
        for row, params in ((rows[0], parent.params), (rows[-1], child.params)):
            measured = measurement.values(params)
            assert {f"{key}/{k}": v for k, v in measured.items()} == {k: v for k, v in row.items() if k.startswith(key)}
    total = {row["alpha"]: row["validation/nll"] + row["source/nll"] for row in rows}
    assert done["alpha"] == min(total, key=total.get)
    at = next(row for row in rows if row["alpha"] == done["alpha"])
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["after"]["source/nll"] == at["source/nll"]
    assert summary["before"]["validation/nll"] == rows[0]["validation/nll"]
    assert evaluate(loading.load(str(out)), "", "validation", tokens=256)["nll"] == at["validation/nll"]
    assert "its parent's data" in (out / "curve.svg").read_text() and (out / "trade.svg").exists()
    run_report.write([out, runs.folder / "one"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"interpolate at {done['alpha']:g} of {runs.one}@0 on {runs.base}@0" in page and page.count("<svg") >= 3


class Pretended:
    """What measures nothing, and says what it is told to of models along a line."""

    def __init__(self, target, source):
        self.tables = {"validation": target, "source": source}

    def values(self, params, sets):
        return {f"{name}/nll": self.tables[name][float(params["x"][0])] for name in sets}


@pytest.mark.parametrize(
    "options,expected",
    [
        (dict(rule="target"), 1.0), (dict(rule="sum"), 0.5), (dict(rule="budget", budget=0.3), 0.25),
        (dict(rule="budget", budget=0.0), 0.0), (dict(rule="budget", budget=9.0), 1.0), (dict(alpha=0.75), 0.75),
    ],
)  # fmt: skip
def test_rules_choose_from_a_curve(options, expected):
    target = {0.0: 5.0, 0.25: 4.0, 0.5: 3.0, 0.75: 2.9, 1.0: 2.5}
    source = {0.0: 1.0, 0.25: 1.3, 0.5: 1.6, 0.75: 2.0, 1.0: 4.0}
    line = [{"x": np.full(1, value, np.float32)} for value in (0.0, 1.0)]
    found = scoring.curve(*line, (0.25, 0.5, 1.0), Pretended(target, source), **options)
    assert found.alpha == expected
    alphas = {0.25, 0.5, 1.0} | ({0.0} if options.get("rule") == "budget" else set()) | {options.get("alpha", 0.5)}
    assert [row["alpha"] for row in found.rows] == sorted(alphas)


@pytest.mark.heavy
def test_soups(runs, tmp_path):
    done = combine("soup", [runs.one, runs.two, runs.lora], tmp_path / "soup")
    three = [whole(name) for name in (runs.one, runs.two, runs.lora)]
    assert_equal(whole(done["out"]), {p: arithmetic.mean([m[p] for m in three]) for p in three[0]})
    same = combine("soup", [runs.two] * 3, tmp_path / "same")
    assert_equal(whole(same["out"]), three[1])
    weighted = combine("soup", [runs.one, runs.two], tmp_path / "weighted", weights=(3.0, 1.0))
    expected = {p: (0.75 * three[0][p].astype(np.float64) + 0.25 * three[1][p]).astype(np.float32) for p in three[0]}
    assert_equal(whole(weighted["out"]), expected)
    assert weighted["weights"] == (0.75, 0.25)
    made = json.loads((tmp_path / "soup/combine.json").read_text())
    assert [entry["workdir"] for entry in made["runs"]] == [runs.one, runs.two, runs.lora] and made["base"] is None
    chain = json.loads((tmp_path / "soup/lineage.json").read_text())
    assert [entry["workdir"] for entry in chain] == [runs.one, runs.two, runs.lora, runs.base]
    assert chain[3]["fingerprint"] == restore.parameters_fingerprint(loading.load(runs.base).params)


@pytest.mark.heavy
def test_slerp_goes_along_the_arc_of_each_layer(runs, tmp_path):
    done = combine("slerp", [runs.one, runs.two], tmp_path / "out", alpha=0.25)
    first, second, found = whole(runs.one), whole(runs.two), whole(done["out"])
    for path, array in found.items():
        layers = len(array) if path.startswith("blocks/") else 1
        for a, b, c in zip(*(m.reshape(layers, -1).astype(np.float64) for m in (first[path], second[path], array))):
            cosine = np.clip(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30), -1, 1)
            angle = np.arccos(cosine)
            flat = 0.75 * a + 0.25 * b
            arc = (np.sin(0.75 * angle) * a + np.sin(0.25 * angle) * b) / np.sin(angle) if angle > 1e-4 else flat
            np.testing.assert_allclose(c, arc, rtol=1e-5, atol=1e-7, err_msg=path)
    ends = combine("slerp", [runs.one, runs.two], tmp_path / "end", alpha=1.0)
    assert_equal(whole(ends["out"]), second)


def test_a_greedy_soup_keeps_what_is_no_worse():
    values = {"a": 0.0, "b": 1.0, "c": 2.0, "d": -9.0}
    made = [
        models.Model(types.SimpleNamespace(name=n), models.Held({"x": np.full(2, v, np.float32)}))
        for n, v in values.items()
    ]
    soup, steps = scoring.greedy(made, lambda params: abs(float(params["x"][0]) - 1.2), 1)
    # b alone is 0.2 away; with c it would be 0.3, with a 0.7, with d 5.2.
    assert [(row["run"], row["kept"]) for row in steps] == [("b", True), ("c", False), ("a", False), ("d", False)]
    assert soup["x"].tolist() == [1, 1] and [row["soup"] for row in steps] == pytest.approx([0.2, 0.3, 0.7, 5.2])
    soup, steps = scoring.greedy(made, lambda params: -abs(float(params["x"][0]) - 1.5), -1)
    # b and c are as good; of equals the first given comes first, and the other is kept as it makes the mean better.
    assert [(row["run"], row["kept"]) for row in steps] == [("b", True), ("c", True), ("a", False), ("d", False)]
    assert soup["x"].tolist() == [1.5, 1.5]


@pytest.mark.heavy
def test_a_greedy_soup_follows_the_algorithm(runs, tmp_path):
    """Algorithm 1 of Wortsman et al. 2022, once more."""
    names = [runs.base, runs.one, runs.two, runs.lora]
    done = combine("greedy_soup", names, tmp_path / "out", data=f"text:{runs.folder}/upper.txt", tokens=256)
    flat = {name: whole(name) for name in names}
    measurement = Measurement(loading.load(runs.base), f"text:{runs.folder}/upper.txt", "validation", tokens=256)

    def value(ingredients):
        params = {p: arithmetic.mean([flat[name][p] for name in ingredients]) for p in flat[runs.base]}
        return measurement.values(unflatten(params))["nll"]

    ordered = sorted(names, key=lambda name: value([name]))
    kept = []
    for name in ordered:
        if not kept or value([*kept, name]) <= value(kept):
            kept.append(name)
    assert [row["run"] for row in done["steps"]] == [f"{name}@0" for name in ordered]
    assert [row["run"] for row in done["steps"] if row["kept"]] == [f"{name}@0" for name in kept]
    expected = {p: arithmetic.mean([flat[name][p] for name in kept]) for p in flat[runs.base]}
    assert_equal(whole(done["out"]), expected)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["after"]["validation/nll"] == value(kept)


@pytest.mark.heavy
def test_task_vectors(runs, tmp_path):
    one = combine("task", [runs.one], tmp_path / "one")
    assert_equal(whole(one["out"]), whole(runs.one))
    away = combine("task", [runs.two, runs.lora], tmp_path / "away", weights=(0.5, -1.0))
    base, two, lora = (whole(name) for name in (runs.base, runs.two, runs.lora))
    assert_equal(whole(away["out"]), {p: arithmetic.task(base[p], [two[p], lora[p]], (0.5, -1.0)) for p in base})
    config = Workdir(tmp_path / "away").read_config()
    assert config.init.from_ == f"{runs.base}@0" and config.tune.method == "full" and config.training.steps == 0


@pytest.mark.heavy
@pytest.mark.parametrize(
    "method,trim",
    [
        pytest.param("ties", "model", marks=pytest.mark.slow),
        ("magnitude_prune", "layer"),
        ("dare_ties", ""),
    ],
)
def test_pruned_task_vectors(runs, tmp_path, method, trim):
    random = arithmetic.RULES[method][0] == "random"
    options = dict(seed=5) if random else dict(trim=trim)
    weights, density = (1.0, -0.5), 0.3
    done = combine(method, [runs.one, runs.two], tmp_path / "out", density=density, weights=weights, **options)
    if random:
        other = combine(method, [runs.one, runs.two], tmp_path / "other", density=density, weights=weights, seed=6)
        assert other["fingerprint"] != done["fingerprint"]
    base, *children = (whole(name) for name in (runs.base, runs.one, runs.two))
    vectors = [{p: arithmetic.vector(base[p], child[p]) for p in base} for child in children]
    if not random and trim == "model":
        for v in vectors:
            flat = np.sort(np.abs(np.concatenate([a.ravel() for a in v.values()])))
            least = flat[-int(density * flat.size)]
            v.update({p: np.where(np.abs(a) >= least, a, 0) for p, a in v.items()})
    for p in base:
        layers = range(len(base[p])) if p.startswith("blocks/") else [...]
        for at in layers:
            two = [v[p][at] for v in vectors]
            if random:
                two = [arithmetic.drop(v, density, 5, p, 0 if at is ... else at, n) for n, v in enumerate(two)]
            elif trim == "layer":
                two = [arithmetic.trim(v, density) for v in two]
            base[p][at] = (base[p][at].astype(np.float64) + arithmetic.merge(method, two, weights)).astype(np.float32)
    assert_equal(whole(done["out"]), base)


@pytest.mark.heavy
@pytest.mark.parametrize("way", ["cat", "svd", "ties_svd"])
def test_adapters_make_an_adapter(runs, tmp_path, way):
    options = {"density": 0.5} if way == "ties_svd" else {}
    weights = (1.0, -0.5)
    done = combine(way, [runs.lora, runs.wide], tmp_path / "out", adapter=True, weights=weights, **options)
    assert done["rank"] == {"cat": 6, "svd": 3, "ties_svd": 3}[way]
    saved = flatten(checkpoint.shapes(tmp_path / "out", 0))
    assert len(saved) == 4 and all("/adapter/" in path for path in saved)
    merged, base = whole(done["out"]), whole(runs.base)
    two = [whole(runs.lora), whole(runs.wide)]
    for p in base:
        exact = sum(w * (m[p].astype(np.float64) - base[p]) for m, w in zip(two, weights))
        got = merged[p].astype(np.float64) - base[p]
        if way == "cat":  # what float32 rounds of kernels of this size
            np.testing.assert_allclose(got, exact, atol=5e-7)
        elif not np.any(exact):
            assert not np.any(got)
        elif way == "svd":
            u, s, v = np.linalg.svd(exact)
            nearest = np.einsum("lir,lr,lro->lio", u[..., :3], s[:, :3], v[:, :3])
            np.testing.assert_allclose(got, nearest, atol=5e-7)
    if way == "svd":
        assert 0 < done["lost"] < 1
    source = restore.find(done["out"])
    assert source.adapter.scale == 1.0 and source.adapter.rank == done["rank"]
    assert json.loads((tmp_path / "out/lineage.json").read_text())[0]["workdir"] == runs.base


@pytest.mark.heavy
def test_one_of_several_adapters_is_an_adapter(runs, tmp_path):
    names = [f"{runs.several}#a", f"{runs.several}#b"]
    done = combine("cat", names, tmp_path / "out", adapter=True)
    base, found, a, b = (whole(name) for name in (runs.base, done["out"], *names))
    for p in base:
        np.testing.assert_allclose(found[p], a[p] + b[p] - base[p], atol=5e-7)
    assert done["runs"] == [f"{runs.several}@0#a", f"{runs.several}@0#b"]


@pytest.mark.heavy
def test_one_adapter_is_scaled_and_cut(runs, tmp_path):
    combine("cat", [runs.lora], tmp_path / "half", adapter=True, weights=(0.5,))
    base, tuned, half = (whole(str(name)) for name in (runs.base, runs.lora, tmp_path / "half"))
    for p in base:
        np.testing.assert_allclose(half[p] - base[p], 0.5 * (tuned[p] - base[p]), atol=2e-7)
    assert combine("svd", [runs.lora], tmp_path / "cut", adapter=True, rank=1)["rank"] == 1
    assert combine("svd", [runs.lora], tmp_path / "whole", adapter=True)["lost"] < 1e-6


@pytest.mark.heavy
def test_a_combined_model_goes_on(text_file, runs, tmp_path):
    """It is fine-tuned, moved with its base, combined again, and its adapter exported."""
    combine("cat", [runs.lora, runs.wide], tmp_path / "adapter", adapter=True)
    combine("task", [runs.one], tmp_path / "plain")
    for name in ("adapter", "plain"):
        trained(text_file, tmp_path, f"{name}_on", init__from_=str(tmp_path / name), eval__parent_data=False)
        chain = json.loads((tmp_path / f"{name}_on/lineage.json").read_text())
        assert chain[0]["workdir"] == str(tmp_path / name) and chain[1]["workdir"] == runs.base
    again = combine("interpolate", [str(tmp_path / "adapter")], tmp_path / "again", alpha=0.0)
    assert_equal(whole(again["out"]), whole(runs.base))
    more = combine("task", [str(tmp_path / "plain_on")], tmp_path / "more", base=runs.base, weights=(2.0,))
    base, on = whole(runs.base), whole(str(tmp_path / "plain_on"))
    assert_equal(whole(more["out"]), {p: arithmetic.task(base[p], [on[p]], (2.0,)) for p in base})


# What cannot be


@pytest.fixture(scope="module")
def others(text_file, runs):
    folder, strange = runs.folder, "0123456789abcdef"
    derived(folder, "elsewhere", "base", noise=0.1)
    derived(folder, "wider", "base", config={"model.width": 48})
    elsewhere = {"workdir": runs.elsewhere, "fingerprint": strange}
    derived(folder, "stranger", "one", lineage=elsewhere)
    base = checkpoint.read_meta(folder / "lora", 0)["base"]
    derived(folder, "stranger_lora", "lora", meta={"base": {**base, **elsewhere}})
    derived(folder, "dora", "lora", config={"tune.lora.dora": True})
    derived(folder, "thin", "lora", config={"tune.lora.rank": 2})
    derived(folder, "prompt", "lora", config={"tune.method": "prompt"})
    derived(folder, "unfinished", "two")
    (folder / "unfinished/summary.json").unlink()
    files = tok.train_bpe([(folder / "upper.txt").read_text()], 300).files()
    derived(folder, "relabelled", "two", meta={"tokenizer": {name: cache.digest(data) for name, data in files.items()}})
    for name, data in files.items():
        (folder / "relabelled" / name).write_bytes(data)
    return runs


BAD = {
    "one run": ("soup", ["one"], {}, "--method=soup combines 2 or more of --run, not 1"),
    "two runs": ("interpolate", ["one", "two"], {}, "--method=interpolate combines 1 of --run, not 2"),
    "no such method": ("lerp", ["one"], {}, "--method=lerp: expected one of whole models: interpolate, slerp, soup"),
    "slerp of three": ("slerp", ["one", "two", "lora"], {}, "--method=slerp combines 2 of --run, not 3"),
    "beyond the arc": ("slerp", ["one", "two"], dict(alpha=1.5), r"--alpha=1.5: expected a number from 0 \(the first run\)"),
    "weightless": ("soup", ["one", "two"], dict(weights=(1.0, -1.0)), "--weights=1.0,-1.0: expected a sum above 0"),
    "misspelt": ("tis", ["one"], {}, r"did you mean 'ties'\?"),
    "of adapters": ("cat", ["lora", "wide"], {}, "which is for adapters: give --adapter"),
    "of models": ("soup", ["lora", "wide"], dict(adapter=True), "which is for whole models"),
    "too few weights": ("task", ["one", "two"], dict(weights=(1.0,)), "--weights=1.0: expected 2, a number for each --run"),
    "unread": ("greedy_soup", ["one", "two"], dict(weights=(1.0, 1.0)), "--weights is set, but --method=greedy_soup does not read"),
    "unread by DARE": ("dare_ties", ["one", "two"], dict(density=0.3, trim="layer"), "--trim is set, but --method=dare_ties does not"),
    "no density": ("ties", ["one", "two"], {}, "--density is missing"),
    "density": ("ties", ["one", "two"], dict(density=0.0), "--density=0.0: expected a share above 0, at most 1"),
    "alpha": ("interpolate", ["one"], dict(alpha=1.5), "--alpha=1.5: expected a number from 0"),
    "both": ("interpolate", ["one"], dict(alpha=0.5, rule="sum", curve="0,1"), "--alpha and --rule both choose"),
    "no curve": ("interpolate", ["one"], dict(rule="sum"), "--rule=sum chooses from a curve"),
    "budget": ("interpolate", ["one"], dict(curve="0,1", budget=0.1), "--budget, in nats .* goes with --rule=budget"),
    "rule": ("interpolate", ["one"], dict(curve="0,1", rule="targt"), r"did you mean 'target'\?"),
    "sign": ("ties", ["one", "two"], dict(density=0.5, sign="most"), "--sign=most: expected one of total, frequency"),
    "no parent": ("interpolate", ["base"], {}, "--base is missing: .*base@0 did not start from another model"),
    "structure": ("soup", ["one", "wider"], {}, r"wider@0 and .*one@0 are different models[^\n]*\n.*model.width: 48 and 32"),
    "tokenizer": ("soup", ["one", "relabelled"], {}, "different tokenizers"),
    "other base": ("task", ["one", "stranger"], {}, "a task vector is .* one base, here .*base@0 [^\n]*\n.*stranger@0 started from .*elsewhere@0"),
    "wrong base": ("task", ["one"], dict(base="elsewhere"), "elsewhere@0 has the fingerprint .* it is another model"),
    "other adapter": ("cat", ["lora", "stranger_lora"], dict(adapter=True), "stranger_lora@0 is for the base .*elsewhere@0"),
    "no adapter": ("cat", ["lora", "one"], dict(adapter=True), "one@0 is no adapter for another model"),
    "dora": ("cat", ["lora", "dora"], dict(adapter=True), "without dora .*\n.*lora@0: tune.method='lora'\n.*dora@0: tune.method='lora' with dora"),
    "ranks": ("linear", ["thin", "wide"], dict(adapter=True), "--method=linear adds factors of one shape, but the ranks are 2, 3"),
    "rank": ("svd", ["lora", "wide"], dict(adapter=True, rank=7), "--rank=7: the updates together have rank 6 at most"),
    "rank above": ("cat", ["wide"] * 11, dict(adapter=True), "adapters of rank 33, above the size of blocks/"),
    "prompt": ("soup", ["one", "prompt"], {}, "tune.method='prompt', which cannot be merged"),
    "unfinished": ("soup", ["one", "unfinished"], {}, "the run has not finished.*unfinished@0 means this checkpoint"),
    "there already": ("soup", ["one", "two"], dict(out="base"), "base: is there already"),
    "nothing there": ("soup", ["one", "tow"], {}, r"no such folder .*tow \(did you mean 'two'\?\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, others):
    method, names, options, message = BAD[name]
    folder = others.folder
    options = {**options, **({"base": str(folder / options["base"])} if "base" in options else {})}
    out = folder / options.pop("out", "new")
    with pytest.raises(UserError, match=f"(?s){message}"):
        combine(method, [str(folder / n) for n in names], out, **options)
    assert not (folder / "new").exists()


def test_an_unfinished_run_by_its_step(others, tmp_path):
    combine("soup", [f"{others.unfinished}@0", others.unfinished + "@0"], tmp_path / "out")
    assert_equal(whole(str(tmp_path / "out")), whole(others.unfinished))


def test_every_method_is_offered():
    from ptft_jax.verbs import combine as verb

    assert set(arithmetic.RULES) - {"linear"} < set(METHODS) and set(ADAPTERS) == set(lowrank.WAYS)
    read = {name for kind in (*METHODS.values(), *ADAPTERS.values()) for name in kind.reads}
    assert read == set(verb.OPTIONS)


def test_an_adapter_on_a_quantized_base_is_not_merged_without_a_word(runs, tmp_path):
    derived(runs.folder, "nf4", "lora", config={"tune.quantize.format": "nf4", "tune.quantize.block": 16})
    with pytest.raises(
        UserError, match="nf4@0 was trained on a base in nf4: first write a plain model of it by ptft export"
    ):
        combine("soup", [runs.nf4, runs.one], tmp_path / "soup")
    with pytest.raises(
        UserError, match=r"nf4@0: tune.method='lora' on a base in nf4 \(block=16, double=True, targets="
    ):
        combine("cat", [runs.nf4, runs.lora], tmp_path / "cat", adapter=True)
    derived(runs.folder, "coarse", "lora", config={"tune.quantize.format": "nf4", "tune.quantize.block": 32})
    with pytest.raises(UserError, match=r"coarse@0: tune.method='lora' on a base in nf4 \(block=32"):
        combine("cat", [runs.nf4, runs.coarse], tmp_path / "cat", adapter=True)


def test_adapters_on_one_quantized_base_are_an_adapter_on_it(runs, tmp_path):
    how = {"tune.quantize.format": "nf4", "tune.quantize.block": 16}
    for name in ("q1", "q2"):
        derived(runs.folder, name, "lora", noise=0.1, config=how)
    combine("cat", [runs.q1, runs.q2], tmp_path / "out", adapter=True, weights=(1.0, -0.5))
    read = functools.partial(loading.load, merge_into="dequantized")
    one, two, both = (flatten(read(ref).params) for ref in (runs.q1, runs.q2, str(tmp_path / "out")))
    base = flatten(restore.find(str(tmp_path / "out")).adapter._dense(flatten(loading.load(runs.base).params)))
    path = "blocks/attention/value/kernel"
    expected = one[path] - 0.5 * (two[path] - base[path])
    np.testing.assert_allclose(both[path], expected, atol=1e-5)
    assert np.abs(both[path] - one[path]).max() > 1e-2
    kept = loading.load(str(tmp_path / "out"))
    assert kept.model.quantization is not None and kept.source.config.tune.lora.rank == 6


def test_adapters_that_began_away_from_zero_add_what_they_learned(runs, tmp_path):
    """PiSSA's factors began at a part of the kernel: what a run adds to the base is their product less that at the start."""
    a, b = "blocks/attention/value/adapter/{}_a", "blocks/attention/value/adapter/{}_b"
    leaves = {a.format(part): (3, 32, 3) for part in ("lora", "start")} | {
        b.format(part): (3, 3, 32) for part in ("lora", "start")
    }
    meta = {"base": checkpoint.read_meta(runs.folder / "lora", 0)["base"]}
    for name in ("p1", "p2"):
        config = {"tune.lora.init": "pissa"}
        derived(runs.folder, name, "lora", noise=0.1, shapes=leaves, config=config, meta=meta)
    path = "blocks/attention/value/kernel"
    for way, options in (("cat", {}), ("svd", {"rank": 15})):
        out = tmp_path / way
        combine(way, [runs.p1, runs.p2, runs.lora], out, adapter=True, weights=(1.0, 2.0, -1.0), **options)
        base, *each, made = (whole(ref)[path] for ref in (runs.base, runs.p1, runs.p2, runs.lora, str(out)))
        expected = base + sum(w * (one - base) for w, one in zip((1.0, 2.0, -1.0), each))
        np.testing.assert_allclose(made, expected, atol=1e-5)
        lora = restore.find(str(out)).config.tune.lora
        assert (lora.init, lora.rank) == ("uniform", 15)  # 2 * 3 + 2 * 3 + 3
