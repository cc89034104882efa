"""An objective that needs its parent's parameters: that of docs/plugins.md, against the formula; and where there is no parent."""

import functools
import re

import jax
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.config import plugins
from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading
from ptft_jax.training import reference as references
from ptft_jax.training.trainer import Trainer
from tests.helpers import quiet_train, random_batch, tiny_config
from tests.processes import ROOT

PAGE = (ROOT / "docs/plugins.md").read_text()
(NEAR,) = re.findall(r"`mypkg/near.py`:\n\n```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def near(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "near_of_the_page.py").write_text(NEAR)
    yield {"plugins": ("near_of_the_page",), "objective__name": "near_lm", "model__layers": 1}
    plugins.tables.cache_clear()


@pytest.mark.parametrize(
    "changes, tuned, words",
    [
        ({}, False, "it compares a model with its parent, and init.from names none"),
        ({"init__fresh": ("head/.*",)}, True, "init.fresh re-initializes:\n  head/"),
        ({"tokenizer__add": ("<|x|>",)}, True, "the parent knows no tokens of tokenizer.add"),
        (
            {"tune__method": "prompt", "data__length": 8},
            True,
            "with tune.method = 'prompt' a run does not start as its parent",
        ),
    ],
)
def test_a_parent_that_is_none(near, changes, tuned, words):
    config = tiny_config("unread", **near, **({"init__from_": "parent"} if tuned else {}), **changes)
    if "init__fresh" in changes:
        config.model.tied = False
    with pytest.raises(UserError, match=f"^config.objective.name = 'near_lm': .*{words}"):
        Trainer(config.to_dict(), vocab_size=257, tuned=tuned, encode=lambda text: [1])


def kl_of(model, params, others, batch):
    """KL(params || others) of what is predicted, summed by weight, in numpy."""
    logits = [np.asarray(jax.jit(model)(p, batch["inputs"]), np.float64) for p in (params, others)]
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits)
    return (batch["weights"] * (np.exp(log_p) * (log_p - log_q)).sum(-1)).sum()


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_the_divergence_is_its_formula(near, method):
    """Of the parameters before each update from those of step 0, which stay as they are; in training and evaluation, in the
    parts of a batch as in the whole."""
    config = tiny_config("unread", **near, init__from_="parent", tune__method=method, optimizer__warmup_steps=0)
    config.training.micro_batches = 2 if method == "full" else 1
    config.data.batch_size, config.parallel.replica = 16, 8
    trainer = Trainer(config.to_dict(), vocab_size=257, tuned=True)
    state = trainer.init()
    batch = random_batch(0, rows=16, length=32)
    begun = jax.device_get((state.trainable, state.frozen))
    start = trainer.partition.merge(*begun)
    placed = trainer.program.place(batch)
    for step in range(3):
        whole = jax.device_get(trainer.partition.merge(state.trainable, state.frozen))
        expected = kl_of(trainer.model, whole, start, batch)
        measured = trainer.program.evaluate(state, placed)
        state, trained = trainer.program.train(state, placed)
        for metrics in (measured, trained):
            np.testing.assert_allclose(float(metrics["kl"][0]), expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(float(metrics["loss"][0]), float(metrics["nll"][0]) + 0.1 * expected, rtol=1e-5)
        assert (expected > 1e-3) == (step > 0)
    for path, array in flatten(begun[0]).items():
        np.testing.assert_array_equal(flatten(state.anchor)[path], array)


@pytest.mark.heavy
def test_a_run(near, text_file, tmp_path):
    """Its last evaluation is what `ptft eval` finds, which reads the parent again; the parent itself is at no distance."""
    small = functools.partial(tiny_config, text_file, eval__every=0, optimizer__warmup_steps=0, eval__tokens=256)
    quiet_train(small(model__layers=1, training__steps=1), tmp_path / "parent")
    changes = {"init__from_": str(tmp_path / "parent"), "training__steps": 3, "tune__method": "lora"}
    summary = quiet_train(small(**near, **changes), tmp_path / "child")
    before, after = (summary[when]["validation/kl"] for when in ("before", "after"))
    assert abs(before) < 1e-6 < 1e-4 < after
    loaded = loading.load(str(tmp_path / "child"))
    found = evaluate(loaded, tokens=256, batch_size=8)
    for name in ("loss", "nll", "kl"):
        assert found[name] == pytest.approx(summary["after"][f"validation/{name}"], rel=1e-4)
    (tmp_path / "parent").rename(tmp_path / "away")
    with pytest.raises(UserError, match="the parent of .*child@3 = .*parent@1.: no such folder"):
        evaluate(loaded, tokens=256, batch_size=8)


def test_rows_are_asked_in_parts_of_a_step():
    """Of batches of 3, 3 and 1 rows in twos: each row once and in order, the last batch filled up."""
    batches = [
        {"inputs": np.arange(first, stop)[:, None] * np.ones(4, int)} for first, stop in ((0, 3), (3, 6), (6, 7))
    ]
    made = [batch["inputs"][:, 0].tolist() for batch in references._cut(batches, 2)]
    assert made == [[0, 1], [2, 3], [4, 5], [6, 0]]
    config = configs.check({"data": {"batch_size": 48}, "training": {"micro_batches": 4}}, complete=False)
    assert references.rows_at_once(config, 3) == 4


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("distill", {"distill": {"teacher": "theirs"}}, "asked once, of rows without adapters: train a run for each"),
        ("kto", {"preference": {"precompute": True}}, "each step asks the reference: set it to False"),
    ],
)
def test_several_adapters_are_not_asked_once(name, settings, words):
    values = {"objective": {"name": name, **settings}, "tune": {"method": "lora", "adapters": ("a", "b")}}
    config = configs.check(values, complete=False)
    with pytest.raises(UserError, match=words):
        references.check(config, objectives.build(config.objective), None, True)
