"""The length of a run as passes over its data, and spans of steps as shares of it."""

import json
from fractions import Fraction

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.config import spans
from ptft_jax.data.mixture import Mixture
from ptft_jax.errors import UserError
from ptft_jax.optim import schedules
from ptft_jax.params import phases
from ptft_jax.training.assembly import Run
from tests.helpers import quiet_train, stop_at, tiny_config


class Said:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def run_of(config, tmp_path):
    said = Said()
    return Run(config, tmp_path / "run", said), said.lines


@pytest.mark.parametrize("epochs", [0.01, 0.3, 1.0, 2.5, 3.0])
@pytest.mark.parametrize("rows, batch", [(1, 1), (30, 8), (100, 16), (64, 8), (7, 50)])
def test_steps_are_the_fewest_that_read_all_so_often(epochs, rows, batch):
    steps = next(n for n in range(1, 10**4) if n * batch >= Fraction(str(epochs)) * rows)
    assert spans.steps_of_epochs(epochs, rows, batch) == steps


@pytest.mark.parametrize(
    "span, steps, expected",
    [(0, 100, 0), (7, 100, 7), (1, 100, 1), (0.03, 100, 3), (0.03, 10, 1), (0.5, 7, 4), (0.999, 10, 10)],
)
def test_a_span_below_one_is_a_share(span, steps, expected):
    assert spans.steps_of(span, steps) == expected


SPANS = (
    "optimizer.warmup_steps",
    "eval.every",
    "samples.every",
    "checkpoint.every",
    "log.every",
    "tune.unfreeze_every",
)


@pytest.mark.parametrize("path", SPANS)
@pytest.mark.parametrize(
    "value, kept", [(0.25, 0.25), (3, 3.0), (3.0, 3.0), (1.5, None), (-0.1, None), (True, None), ("3", None)]
)
def test_values_of_spans(path, value, kept):
    section, name = path.split(".")
    if kept is None:
        with pytest.raises(UserError, match=f"config.{path} = "):
            configs.check({section: {name: value}})
        return
    found = configs.get(configs.check({section: {name: value}})._values, path)
    assert found == kept and type(found) is type(kept)
    config = configs.default()
    config[section][name] = value
    assert configs.get(configs.check(config).as_dict(), path) == kept


def test_epochs_set_the_steps(text_file, cache, tmp_path):
    changes = dict(
        training__epochs=3.0, optimizer__warmup_steps=0.1, eval__every=0.25, checkpoint__every=0.5, log__every=0.1
    )
    config = tiny_config(text_file, **changes)
    config.training.steps = configs.default().training.steps
    run, said = run_of(config, tmp_path)
    rows = sum(len(rows) for rows in run.data.sets)
    steps = -(-3 * rows // 8)
    assert run.config.training.steps == run.plan.steps == steps
    assert f"training.epochs = 3: {steps:,} steps of 8 rows; one epoch is {rows:,} rows of 32 tokens" in said
    assert run.data.drawn(steps)[0]["epochs"] == pytest.approx(steps * 8 / rows)
    quarter, half, tenth = (max(round(share * steps), 1) for share in (0.25, 0.5, 0.1))
    assert (run.plan.eval_every, run.plan.save_every, run.plan.log_every) == (quarter, half, tenth)
    rates = [float(run.trainer.learning_rate(step)) for step in range(steps)]
    assert int(np.argmax(rates)) == tenth
    # What is recorded says both, and is a config again.
    recorded = json.loads(json.dumps(run.config.as_dict()))
    assert recorded["training"]["epochs"] == 3.0 and recorded["optimizer"]["warmup_steps"] == 0.1
    assert run_of(recorded, tmp_path)[0].config.as_dict() == recorded


def test_both_are_a_contradiction(text_file, cache, tmp_path):
    with pytest.raises(
        UserError, match=r"training.steps = 12 and config.training.epochs = 3: give one of them; 3 epochs are \d+ steps"
    ):
        run_of(tiny_config(text_file, training__epochs=3.0), tmp_path)


def test_what_the_user_says_counts_not_the_recipe(text_file, cache, tmp_path):
    recipe = configs.suggest(tiny_config(text_file, optimizer__warmup_steps=5))  # 12 steps
    recipe.training.epochs = 0.02
    configs.own(recipe, ["training.epochs"])
    run, said = run_of(recipe, tmp_path)
    assert run.config.training.steps == run.data.steps != 12
    other = tiny_config(text_file, training__epochs=2.0)
    configs.suggest(other)
    other.training.steps = 9
    configs.own(other, ["training.steps"])
    run, said = run_of(other, tmp_path)
    assert run.config.training.steps == 9 and not run.config.training.epochs
    assert "training.steps = 9 in place of training.epochs = 2 (recipe)" in said


def test_a_warmup_that_does_not_fit(text_file, cache, tmp_path):
    config = tiny_config(text_file, training__epochs=0.02, optimizer__warmup_steps=500)
    config.training.steps = 1000
    with pytest.raises(UserError, match=r"optimizer.warmup_steps = 500: expected at most training.steps \d"):
        run_of(config, tmp_path)


def test_no_more_than_may_be_read(text_file, cache, tmp_path):
    run, _ = run_of(tiny_config(text_file, training__epochs=2.0, training__steps=1000, data__max_epochs=2.0), tmp_path)
    rows = len(run.data.sets[0])
    assert run.data.steps == 2 * rows // 8, "the last step would read some of them a third time"
    with pytest.raises(UserError, match="config.training.epochs = 3: expected at most data.max_epochs = 2"):
        run_of(tiny_config(text_file, training__epochs=3.0, training__steps=1000, data__max_epochs=2.0), tmp_path)
    with pytest.raises(UserError) as e:
        run_of(tiny_config(text_file, training__steps=1000, data__max_epochs=1.0), tmp_path)
    assert str(e.value).startswith("config.data.max_epochs = 1: nothing is left to draw at step")
    assert "mixture" not in str(e.value) and "training.epochs = 1" in str(e.value)


def test_of_a_mixture_all_rows_count():
    """Shares in a weight's points are the steps that they are of the run."""
    options = dict(batch_size=4, steps=40)
    sizes, names = [30, 50], ["a", "b"]
    shares = Mixture(names, [1.0, ((0, 1.0), (0.25, 3.0), (0.5, 0.0))], sizes, **options)
    steps = Mixture(names, [1.0, ((0, 1.0), (10, 3.0), (20, 0.0))], sizes, **options)
    for step in range(40):
        for a, b in zip(shares.rows(step), steps.rows(step)):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="the steps of b are not in increasing order"):
        Mixture(names, [1.0, ((0.5, 1.0), (10, 3.0))], sizes, **options)


def test_shares_in_phases_and_schedules():
    tune = configs.check({"tune": {"phases": ((0, "head"), (0.25, "last:1"), (30, "all"))}}).tune
    assert [phase.start for phase in phases.of_config(tune, 2, 40)] == [0, 10, 30]
    tune = configs.check({"tune": {"unfreeze_every": 0.1}}).tune
    assert [phase.start for phase in phases.of_config(tune, 2, 40)] == [0, 4, 8]
    for name in ("cosine", "linear", "wsd", "constant", "rsqrt"):
        share, whole = (
            schedules.from_config(
                configs.check({"optimizer": {"schedule": name, "warmup_steps": w}}).optimizer, 100, 1.0
            )
            for w in (0.05, 5)
        )
        assert [float(share(s)) for s in range(100)] == [float(whole(s)) for s in range(100)]


@pytest.mark.heavy
def test_a_run_of_epochs_goes_on(text_file, cache, tmp_path, monkeypatch):
    def config():
        return tiny_config(text_file, training__epochs=0.1, training__steps=1000, optimizer__warmup_steps=0.25)

    whole = quiet_train(config(), tmp_path / "whole")
    assert whole["step"] > 1
    with monkeypatch.context() as patch:
        stop_at(1, patch)
        assert not quiet_train(config(), tmp_path / "parts")["finished"]
    parts = quiet_train(config(), tmp_path / "parts")
    assert parts["step"] == whole["step"] and parts["after"] == whole["after"]

    def recipe():
        made = configs.suggest(tiny_config(text_file, optimizer__warmup_steps=100))
        made.training.epochs = 0.1
        configs.own(made, ["training.epochs"])
        return made

    with monkeypatch.context() as patch:  # its warm-up is shortened when the steps are counted
        stop_at(1, patch)
        quiet_train(recipe(), tmp_path / "recipe")
    assert quiet_train(recipe(), tmp_path / "recipe")["finished"]
    with pytest.raises(UserError, match="training.epochs: 0.1 -> 0.2"):
        quiet_train(
            tiny_config(text_file, training__epochs=0.2, training__steps=1000, optimizer__warmup_steps=0.25),
            tmp_path / "parts",
        )
