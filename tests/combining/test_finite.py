"""What is combined is finite, and what comes of it is: every method, every place, at once with the name of the leaf."""

import json
import re

import numpy as np
import pytest

from ptft_jax.adapters.lora import A, B
from ptft_jax.combining.combine import ADAPTERS, METHODS, combine
from ptft_jax.errors import UserError
from ptft_jax.params import finite
from ptft_jax.params.rules import flatten
from ptft_jax.runs import source as restore
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import checkpoint
from tests.combining.test_combine import derived, trained, whole

LEAF = "blocks/mlp/up/kernel"
ADAPTED = "blocks/attention/value"


def changed(folder, name, of, change, **options):
    """A run like another with `change` made to its parameters, by path."""
    derived(folder, name, of, **options)
    old = checkpoint.read_meta(folder / name, 0)
    stored = flatten(checkpoint.shapes(folder / name, 0))
    params = {p: checkpoint.read_leaf(folder / name, 0, "params", p, leaf, old) for p, leaf in stored.items()}
    change(params)
    rewrite(folder / name, params, old)


def rewrite(workdir, params, meta):
    import shutil

    import jax
    import optax

    from ptft_jax.params.rules import unflatten
    from ptft_jax.runs import state as states

    shutil.rmtree(workdir / "checkpoints")
    state = states.create({}, {}, optax.identity(), jax.random.key(0), ema=False)
    checkpoints = checkpoint.Checkpoints(workdir, keep_latest=1, keep_best=1, mode="min")
    checkpoints.save(state, unflatten(params), meta, None)
    checkpoints.close()


@pytest.fixture(scope="module")
def runs(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finite")
    trained(text_file, folder, "base")
    trained(text_file, folder, "one", init__from_=str(folder / "base"))
    derived(folder, "two", "one", noise=0.02)

    def at(path, place, value):
        return lambda params: params[path].__setitem__(place, value)

    changed(folder, "nan", "one", at(LEAF, (1, 2, 3), np.nan))
    changed(folder, "infinite", "one", at("final_norm/scale", 0, -np.inf))
    changed(folder, "huge", "one", at(LEAF, (0, 0, 0), np.float32(3e38)))
    parent = restore.find(str(folder / "base"))
    fingerprint = checkpoint.read_meta(folder / "one", 0)["parent_fingerprint"]
    base = restore.base_reference(parent, folder / "lora", fingerprint, "auto", Workdir(folder / "one").read_config())
    shapes = {f"{ADAPTED}/{A}": (3, 32, 2), f"{ADAPTED}/{B}": (3, 2, 32)}
    tune = {"tune.method": "lora", "tune.lora.rank": 2, "tune.lora.targets": [ADAPTED]}
    derived(folder, "lora", "one", noise=0.1, shapes=shapes, config=tune, meta={"base": base})
    changed(folder, "lora_nan", "lora", at(f"{ADAPTED}/{B}", (2, 1, 0), np.nan))
    return folder


WHOLE = {"interpolate": {"alpha": 0.5}} | {
    name: {"density": 0.5} if "density" in kind.needs else {} for name, kind in METHODS.items() if name != "interpolate"
}


@pytest.mark.parametrize(
    "method,name",
    [
        ("interpolate", "nan"),
        ("soup", "infinite"),
        *(pytest.param(method, "nan", marks=pytest.mark.slow) for method in WHOLE if method != "interpolate"),
    ],
)
def test_a_parent_that_is_not_finite_is_named_with_its_leaf(runs, method, name):
    """TIES compares, and a comparison with a NaN is false: it would be lost without a word. Sums would hand it on."""
    leaf = {"nan": LEAF, "infinite": "final_norm/scale"}[name]
    names = [name] if method == "interpolate" else ["two", name]
    with pytest.raises(UserError, match=rf"(?s){name}@0: these have numbers that are not finite.*{leaf}: 1 of"):
        combine(method, [str(runs / n) for n in names], runs / "new", **WHOLE[method])
    assert not (runs / "new").exists()


@pytest.mark.parametrize("method", ADAPTERS)
def test_an_adapter_that_is_not_finite_is_named_with_its_leaf(runs, method):
    options = {"density": 0.5} if "density" in ADAPTERS[method].needs else {}
    with pytest.raises(UserError, match=rf"(?s)lora_nan@0: these have .*not finite.*{ADAPTED}/{B}: 1 of 192"):
        combine(method, [str(runs / "lora"), str(runs / "lora_nan")], runs / "new", adapter=True, **options)
    assert not (runs / "new").exists()


def test_an_adapter_that_is_not_finite_is_not_merged_either(runs):
    with pytest.raises(UserError, match=rf"(?s)lora_nan@0: these have .*not finite.*{ADAPTED}/{B}: 1 of 192"):
        combine("soup", [str(runs / "two"), str(runs / "lora_nan")], runs / "new")


LARGE = {
    "task": ("task", ["two"], {}), "ties": ("ties", ["two", "one"], {"density": 1.0}),
    "drop": ("dare_linear", ["two"], {"density": 0.5}), "prune": ("magnitude_prune", ["two"], {"density": 0.5}),
    "cat": ("cat", ["lora"], {"adapter": True}), "svd": ("svd", ["lora"], {"adapter": True}),
    "linear": ("linear", ["lora", "lora"], {"adapter": True}),
    "ties_svd": ("ties_svd", ["lora", "lora"], {"adapter": True, "density": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize(
    "name,weight", [*((name, 1e300) for name in LARGE), ("task", -1e45), ("linear", 1e45), ("ties_svd", -1e45)]
)
def test_a_result_that_is_not_finite_is_not_written(runs, name, weight, recwarn):
    method, names, options = LARGE[name]
    with pytest.raises(UserError, match="not finite.*"):
        combine(method, [str(runs / n) for n in names], runs / "new", weights=(weight,) * len(names), **options)
    assert not (runs / "new").exists() and not list(runs.glob(".new*"))
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]  # one message, and no others


def test_a_mean_of_large_numbers_is_finite(runs, tmp_path):
    """Their sum is not, in float32."""
    combine("soup", [str(runs / "huge")] * 3, tmp_path / "out")
    np.testing.assert_array_equal(whole(str(tmp_path / "out"))[LEAF], whole(str(runs / "huge"))[LEAF])


@pytest.mark.parametrize("order", [("small", "two"), ("two", "small")])
@pytest.mark.parametrize("method", ["soup", pytest.param("task", marks=pytest.mark.slow)])
def test_of_two_dtypes_the_wider_is_kept_and_said(runs, tmp_path, method, order):
    import ml_dtypes

    if not (runs / "small").exists():
        narrow = lambda params: params.update({p: a.astype(ml_dtypes.bfloat16) for p, a in params.items()})  # noqa: E731
        changed(runs, "small", "one", narrow, noise=0.5, config={"model.param_dtype": "bfloat16"})
    done = combine(method, [str(runs / n) for n in order], tmp_path / "out")
    found, (small, two, base) = whole(str(tmp_path / "out")), (whole(str(runs / n)) for n in ("small", "two", "base"))
    for path, array in found.items():
        a, b = (model[path].astype(np.float64) for model in (small, two))
        start = base[path].astype(np.float64)
        expected = (a + b) / 2 if method == "soup" else start + (a - start) + (b - start)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-7)
    [note] = done["notes"]
    assert "wider dtype" in note and "small@0 has bfloat16" in note and "two@0 has float32" in note
    assert json.loads((tmp_path / "out/combine.json").read_text())["notes"] == [note]
    assert Workdir(tmp_path / "out").read_config().model.param_dtype == "float32"
    alone = combine("soup", [str(runs / "small")] * 2, tmp_path / "alone")
    assert "notes" not in alone and whole(str(tmp_path / "alone"))[LEAF].dtype == ml_dtypes.bfloat16


def test_a_run_does_not_start_from_what_is_not_finite(runs, text_file, tmp_path):
    with pytest.raises(UserError, match=rf"(?s)config.init.from: .*nan@0: these have .*{re.escape(LEAF)}: 1 of"):
        trained(text_file, tmp_path, "child", init__from_=str(runs / "nan"))


def test_what_is_not_finite_is_counted():
    values = {"a": np.array([1.0, np.nan, np.inf]), "b": np.zeros(3, np.int32), "c": np.zeros((0, 2), np.float32)}
    with pytest.raises(UserError, match=r"here: .*\n  a: 2 of 3$"):
        finite.refuse(values, "here")
    finite.refuse({k: v for k, v in values.items() if k != "a"}, "here")
